"""What every parser returns; pure."""

from dataclasses import dataclass, field
from enum import StrEnum


class BlockKind(StrEnum):
    """How a block may be divided: prose between sentences, lines between lines, a row not at all."""

    HEADING = "heading"
    PROSE = "prose"
    LINES = "lines"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class Block:
    """A span of the document's text. Units: characters."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    heading: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The text of a file and its blocks, in order and without overlap.

    `title` comes from the content, never from the path, so that a rename embeds nothing.
    """

    text: str
    blocks: list[Block]
    title: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    replaced_character_count: int = 0
