"""DOCX: paragraphs, headings, items, rows, notes and text boxes in the order in which they are read.

The parts are read from the container directly: a document whose picture is missing, or that has macros, or was saved in
the strict form, is read as any other, and no picture is ever unpacked.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from lxml import etree

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.docx_styles import Numbering, Style, level_of, read_numbering, read_styles
from services.ingester.parsing.office import (
    CONTEXT_CHARACTERS_MAX,
    child,
    local,
    properties,
    read_part,
    related,
    target,
    value,
)
from services.ingester.parsing.tables import SAMPLE_ROWS, column_names
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter, folded, without_invisible
from shared.errors import CorruptFile, NeedsOcr
from shared.text import one_line

_MAIN_PART = "word/document.xml"
# Deleted and moved text, what Word shows elsewhere, readings beside characters, and the second form of a drawing.
_SKIPPED = frozenset(["del", "moveFrom", "pPr", "rPr", "rt", "instrText", "delText", "tbl", "sdtPr"])
_CONTAINERS = frozenset(["sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo", "body"])
_CHARACTERS = {"tab": " ", "ptab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_CONTENTS_STYLES = ("toc ", "table of figures")
# As programs draw them now, and as they did before.
_PICTURES = frozenset(["blip", "imagedata"])
_NOTE_KINDS = {"footnoteReference": "footnotes", "endnoteReference": "endnotes"}


@dataclass(slots=True)
class _Paragraph:
    """What a paragraph says, and what hangs on it."""

    text: str
    boxes: list[etree._Element] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def parse_docx(content: bytes) -> ParsedDocument:
    """Read a word-processor document.

    Raises: CorruptFile · EncryptedFile · NeedsOcr · ParserLimit.
    """
    archive = Archive(content)
    main_name = target(archive, "", "officeDocument") or _MAIN_PART
    main = read_part(archive, main_name)
    if main is None:
        raise CorruptFile("the document has no text part: open and save it again in the program that made it")
    reader = _Reader(
        read_styles(related(archive, main_name, "styles")),
        read_numbering(related(archive, main_name, "numbering")),
        {kind: _read_notes(related(archive, main_name, kind)) for kind in _NOTE_KINDS.values()},
    )
    body = child(main, "body")
    if body is not None:
        reader.read(body)
    if not reader.writer.blocks and any(local(element) in _PICTURES for element in main.iter()):
        raise NeedsOcr(
            "the document holds pictures and no text: save it as PDF and run OCR on that "
            "(for example `ocrmypdf IN OUT`), then drop the result"
        )
    metadata = properties(archive)
    titles = map(meaningful_title, (reader.title, metadata.pop("title", None)))
    return reader.writer.document(next(filter(None, titles), reader.writer.main_heading), metadata)


def _read_notes(root: etree._Element | None) -> dict[str, etree._Element]:
    return {} if root is None else {value(note, "id"): note for note in root if value(note, "type") in ("", "normal")}


def _elements(container: etree._Element) -> Iterator[etree._Element]:
    """Return paragraphs, tables and rows of a container, looking through what only wraps them."""
    stack = list(reversed(container))
    while stack:
        element = stack.pop()
        if local(element) in _CONTAINERS:
            if not _is_table_of_contents(element):
                stack.extend(reversed(element))
        else:
            yield element


def _is_table_of_contents(element: etree._Element) -> bool:
    properties = child(element, "sdtPr")
    part = child(properties, "docPartObj")
    return part is not None and value(child(part, "docPartGallery"), "val") == "Table of Contents"


def _paragraph(element: etree._Element) -> _Paragraph:
    """Collect the text of a paragraph as it reads when all changes are accepted."""
    parts: list[str] = []
    paragraph = _Paragraph("")
    stack = list(reversed(element))
    while stack:
        node = stack.pop()
        name = local(node)
        if name in _SKIPPED:
            continue
        if name == "t":
            parts.append(node.text or "")
        elif name in _CHARACTERS:
            parts.append(_CHARACTERS[name])
        elif name == "txbxContent":
            paragraph.boxes.append(node)
        elif name in _NOTE_KINDS:
            paragraph.notes.append((_NOTE_KINDS[name], value(node, "id")))
        elif name == "AlternateContent":  # two forms of one drawing
            stack.extend(node[:1])
        elif name != "r" or not _is_hidden(node):
            stack.extend(reversed(node))
    text = "".join(parts)
    if "\n" not in text:
        paragraph.text = folded(text)
        return paragraph
    lines = [" ".join(line.split()) for line in without_invisible(text).split("\n")]
    paragraph.text = "\n".join(line for line in lines if line)
    return paragraph


def _is_hidden(run: etree._Element) -> bool:
    vanish = child(child(run, "rPr"), "vanish")
    return vanish is not None and value(vanish, "val") not in ("0", "false", "off")


def _cells(row: etree._Element) -> list[etree._Element]:
    return [cell for cell in _elements(row) if local(cell) == "tc"]


def _column_names(table: etree._Element, rows: list[etree._Element]) -> tuple[int, str]:
    """Return how many rows stand above the first with values, and what they name the columns.

    Rows that are printed again on each page are such; where there are none, what the first rows hold has to tell, unless
    the table says that its first row is as any other.
    """
    repeated = [row for row in takewhile(_is_repeated, rows) if len(_cells(row)) > 1]
    if repeated:
        names = " | ".join(filter(None, map(_words, _cells(repeated[-1]))))
        return rows.index(repeated[-1]) + 1, one_line(names, CONTEXT_CHARACTERS_MAX)
    if value(child(child(table, "tblPr"), "tblLook"), "firstRow") in ("0", "false"):
        return 0, ""
    sample = [[] if len(cells := _cells(row)) == 1 else list(map(_words, cells)) for row in rows[: SAMPLE_ROWS + 1]]
    found = column_names(sample)
    return (0, "") if found is None else (found[0] + 1, found[1])


def _is_repeated(row: etree._Element) -> bool:
    mark = child(child(row, "trPr"), "tblHeader")
    return mark is not None and value(mark, "val") not in ("0", "false", "off")


def _words(cell: etree._Element) -> str:
    return folded(" ".join(_paragraph(element).text for element in _elements(cell) if local(element) == "p"))


class _Reader:
    """Writes what the elements of a document say. Nesting is bounded: the XML parser takes no more than 256 levels."""

    def __init__(
        self, styles: dict[str, Style], numbering: Numbering, notes: dict[str, dict[str, etree._Element]]
    ) -> None:
        self.writer = TextWriter()
        self.title: str | None = None
        self._styles = styles
        self._numbering = numbering
        self._notes = notes
        self._waiting: deque[etree._Element] = deque()
        self._is_in_note = False
        self._was_item = False

    def read(self, container: etree._Element) -> None:
        """Write the paragraphs and tables of a container."""
        for element in _elements(container):
            if local(element) == "p":
                self._read_paragraph(element)
            elif local(element) == "tbl":
                self._read_table(element)

    def _read_paragraph(self, element: etree._Element) -> None:
        paragraph = _paragraph(element)
        properties = child(element, "pPr")
        style = self._styles.get(value(child(properties, "pStyle"), "val"), Style())
        if style.name.startswith(_CONTENTS_STYLES):
            return
        level = level_of(properties, style)
        if style.name == "title":
            self.title = self.title or folded(paragraph.text)
            level = level or 1
        if paragraph.text and level:
            self.writer.add(BlockKind.HEADING, folded(paragraph.text), level=level)
            self._was_item = False
        elif paragraph.text:
            marker = self._numbering.marker(child(properties, "numPr"), style)
            self.writer.add(BlockKind.PROSE, marker + paragraph.text, is_joined=self._was_item and bool(marker))
            self._was_item = bool(marker)
        self._read_attached(paragraph)

    def _read_attached(self, paragraph: _Paragraph) -> None:
        """Write the notes and text boxes of a paragraph behind it, each note once.

        A note that a note refers to waits until that one is read: an author may write a chain of them without end.
        """
        for kind, identity in paragraph.notes:
            note = self._notes[kind].pop(identity, None)
            if note is not None:
                self._waiting.append(note)
        while self._waiting and not self._is_in_note:
            self._is_in_note = True
            self.read(self._waiting.popleft())
            self._is_in_note = False
        for box in paragraph.boxes:
            self.read(box)

    def _read_table(self, table: etree._Element) -> None:
        is_joined = False
        self._was_item = False
        rows = [row for row in _elements(table) if local(row) == "tr" and child(child(row, "trPr"), "del") is None]
        header_count, names = _column_names(table, rows)
        for place, row in enumerate(rows):
            cells = _cells(row)
            if len(cells) == 1:  # a frame around text
                self.read(cells[0])
                is_joined = False
                continue
            is_joined = self._read_row(cells, names if place >= header_count else "", is_joined=is_joined)

    def _read_row(self, cells: list[etree._Element], context: str, *, is_joined: bool) -> bool:
        """Write a row, then what its cells hold besides words; return whether the next row may stand right below."""
        inner = [[e for e in _elements(cell) if local(e) in ("p", "tbl")] for cell in cells]
        paragraphs = [[_paragraph(e) for e in elements if local(e) == "p"] for elements in inner]
        words = [folded(" ".join(paragraph.text for paragraph in cell)) for cell in paragraphs]
        if any(words):
            self.writer.add(BlockKind.ROW, " | ".join(words), context=context, is_joined=is_joined)
        count = len(self.writer.blocks)
        for elements, cell in zip(inner, paragraphs, strict=True):
            for paragraph in cell:
                self._read_attached(paragraph)
            for element in elements:
                if local(element) == "tbl":
                    self._read_table(element)
        return len(self.writer.blocks) == count
