"""What every parser returns; pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class BlockKind(StrEnum):
    """How a block may be divided: prose between sentences, lines between lines, a row not at all."""

    HEADING = "heading"
    PROSE = "prose"
    LINES = "lines"
    ROW = "row"


class PageUnit(StrEnum):
    """What a `page` of a document is."""

    PAGE = "page"
    SLIDE = "slide"
    SHEET = "sheet"
    CELL = "cell"


class LineUnit(StrEnum):
    """What a `line` of a document is."""

    LINE = "line"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class Block:
    """A span of the document's text. Units: characters.

    `page` and `line` count from 1 as the file's own program shows them; where a block has several lines of text, the
    lines after its first one follow it in the file. `context` is what its chunks have to know besides their headings,
    and what nobody quotes: the names of a table's columns.
    """

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    heading: str = ""
    page: int | None = None
    line: int | None = None
    context: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that lies within the file and becomes a document of its own. `pieces` decodes it, a bounded piece at a time."""

    name: str
    pieces: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The text of a file and its blocks, in order and without overlap.

    `title` comes from the content, never from the path, so that a rename embeds nothing. `page_labels` are the names of
    pages that are not their numbers: those of sheets, the "iv" of a preface.
    """

    text: str
    blocks: list[Block]
    title: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    replaced_character_count: int = 0
    page_unit: PageUnit = PageUnit.PAGE
    line_unit: LineUnit = LineUnit.LINE
    page_labels: dict[int, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
