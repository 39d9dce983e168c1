"""Writes a document's text and its blocks side by side, for formats whose text does not stand in the file as it is read; pure."""

from services.ingester.parsing.blocks import Block, BlockKind, LineUnit, PageUnit, ParsedDocument
from shared.errors import ParserLimit
from shared.text import one_line, storable

# Some 40,000 pages. A table of 1,000,000 rows has 80 million, and takes 600 MB to read; more would not fit into one child's
# memory anyway.
CHARACTERS_MAX = 128 * 1024 * 1024
BLOCKS_MAX = 2_000_000
LINES_MAX = 4_000_000
TITLE_CHARACTERS_MAX = 300
METADATA_CHARACTERS_MAX = 1000
METADATA_NAME_CHARACTERS_MAX = 100
METADATA_ENTRIES_MAX = 100
MEDIA_TYPE_CHARACTERS_MAX = 200
# A longer one is a paragraph in large type; it would stand beside each of its chunks.
HEADING_CHARACTERS_MAX = 300
LEVEL_MAX = 6
# So many pieces become one: each takes 50 bytes besides its characters, and a row has two.
_PARTS_MAX = 8192
_INVISIBLE = "\N{SOFT HYPHEN}\N{ZERO WIDTH SPACE}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}"


def folded(text: str) -> str:
    """Return a text on one line, without what is not seen: soft hyphens and spaces of no width."""
    if text.isprintable() and "  " not in text:  # the only white space that can be printed is a blank
        return text.strip(" ")
    return " ".join(without_invisible(text).split())


def refuse_endless(text: str) -> None:
    """Raise ParserLimit for a text that is longer than any document, or has more lines."""
    if len(text) > CHARACTERS_MAX:
        raise ParserLimit(f"the file holds more than {CHARACTERS_MAX:,} characters of text: split it")
    if text.count("\n") > LINES_MAX:
        raise ParserLimit(f"the file holds more than {LINES_MAX:,} lines: split it")


def without_invisible(text: str) -> str:
    """Return a text without soft hyphens and spaces of no width."""
    if not text.isascii():
        for sign in _INVISIBLE:  # a search for each is ten times as fast as a pattern for all
            text = text.replace(sign, "")
    return text


class TextWriter:
    """Collects blocks in order. What is empty is left out; what cannot be stored is replaced and counted."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0
        self._replaced_count = 0

    @property
    def blocks(self) -> list[Block]:
        """What was written."""
        return self._blocks

    def add(
        self,
        kind: BlockKind,
        text: str,
        *,
        level: int = 0,
        page: int | None = None,
        line: int | None = None,
        context: str = "",
        is_joined: bool = False,
    ) -> None:
        """Write one block; a joined one stands on the next line, another after an empty line.

        `line` is the number of the text's first line, also where that is empty and left out.
        Raises: ParserLimit when the text becomes longer than any document, or has more blocks.
        """
        body, replaced = storable(text.strip())
        if not body:
            return
        if kind is BlockKind.HEADING and len(body) > HEADING_CHARACTERS_MAX:
            kind, level = BlockKind.PROSE, 0
        separator = "" if not self._length else "\n" if is_joined else "\n\n"
        start = self._length + len(separator)
        end = self._length = start + len(body)
        if end > CHARACTERS_MAX:
            raise ParserLimit(f"the file holds more than {CHARACTERS_MAX:,} characters of text: split it")
        if len(self._blocks) >= BLOCKS_MAX:
            raise ParserLimit(f"the file holds more than {BLOCKS_MAX:,} rows and paragraphs: split it")
        self._parts += [separator, body]
        if len(self._parts) >= _PARTS_MAX:
            self._text.append("".join(self._parts))
            self._parts.clear()
        self._replaced_count += replaced
        heading = folded(body) if kind is BlockKind.HEADING else ""
        if line is not None and len(body) < len(text):
            line += text.count("\n", 0, len(text) - len(text.lstrip()))
        self._blocks.append(
            Block(kind, start, end, min(level, LEVEL_MAX) if level else 0, heading, page, line, context)
        )

    @property
    def main_heading(self) -> str | None:
        """The heading of the highest level, if there is only one: of several chapters none names the document."""
        headings = [block for block in self._blocks if block.kind is BlockKind.HEADING]
        highest = min((block.level for block in headings), default=0)
        names = [block.heading for block in headings if block.level == highest]
        return names[0] if len(names) == 1 else None

    def document(
        self,
        title: str | None,
        metadata: dict[str, str],
        *,
        replaced_before: int = 0,
        page_unit: PageUnit = PageUnit.PAGE,
        line_unit: LineUnit = LineUnit.LINE,
        page_labels: dict[int, str] | None = None,
    ) -> ParsedDocument:
        """Return what was written. `replaced_before` characters were replaced when the file was decoded."""
        kept = {key: _line(value, METADATA_CHARACTERS_MAX) for key, value in metadata.items()}
        return ParsedDocument(
            text="".join([*self._text, *self._parts]),
            blocks=self._blocks,
            title=_line(title or "", TITLE_CHARACTERS_MAX) or None,
            metadata={key: value for key, value in kept.items() if value},
            replaced_character_count=self._replaced_count + replaced_before,
            page_unit=page_unit,
            line_unit=line_unit,
            page_labels={page: _line(label, TITLE_CHARACTERS_MAX) for page, label in (page_labels or {}).items()},
        )


def _line(text: str, length_max: int) -> str:
    return one_line(storable(folded(text))[0], length_max)
