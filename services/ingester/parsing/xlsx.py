"""XLSX: the cells of each sheet as Excel shows them, read from the container directly and without building a table.

A sheet costs what its cells cost, not what its size would: one cell in the last corner of a sheet is one cell. (A
library that lays out the whole range asks for 400 GB there, and ends the process.) Formulas are read as the values that
the program stored for them; pictures, text boxes and comments are not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.cell_values import (
    DAYS_TO_1904,
    GENERAL,
    NumberFormat,
    built_in_format,
    moment_text,
    number_text,
    read_format,
)
from services.ingester.parsing.office import Relation, properties, relations, target, whole_number
from services.ingester.parsing.spreadsheet import (
    COLUMNS_MAX,
    ROWS_MAX,
    Sheet,
    archive_has_pictures,
    refuse_more_cells,
    refuse_more_sheets,
    spreadsheet_document,
)
from services.ingester.parsing.tables import Row
from services.ingester.parsing.writer import folded
from services.ingester.parsing.xml_stream import SEPARATOR, read_elements, read_pieces
from shared.errors import CorruptFile, ParserLimit

_MAIN_PART = "xl/workbook.xml"
SHARED_TEXTS_MAX = 4_000_000
# Excel itself has no more.
FORMATS_MAX = 65_536
_INTEGER_DIGITS_MAX = 15
_TRUE = ("1", "true")
# Characters that XML cannot hold, and the carriage returns of cells that were typed under Windows.
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")


@dataclass(slots=True)
class _SheetEntry:
    name: str
    relation_id: str
    is_hidden: bool


@dataclass(slots=True)
class _Workbook:
    """Collects what the main part says: the sheets in their order, and which day is the first."""

    sheets: list[_SheetEntry] = field(default_factory=list)
    days_to_epoch: int = 0

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "sheet":
            refuse_more_sheets(len(self.sheets))
            identity = next((text for key, text in attributes.items() if key.endswith(f"{SEPARATOR}id")), "")
            is_hidden = attributes.get("state", "visible") != "visible"
            self.sheets.append(_SheetEntry(attributes.get("name", ""), identity, is_hidden))
        elif tag == "workbookPr" and attributes.get("date1904", "").lower() in _TRUE:
            self.days_to_epoch = DAYS_TO_1904

    def end(self, tag: str) -> None:
        pass

    def characters(self, text: str) -> None:
        pass


class _Formats:
    """Collects the format of each style of cells."""

    def __init__(self) -> None:
        self.formats: list[NumberFormat] = []
        self._codes: dict[str, NumberFormat] = {}
        self._is_inside = False

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "numFmt" and len(self._codes) < FORMATS_MAX:
            self._codes[attributes.get("numFmtId", "")] = read_format(attributes.get("formatCode", ""))
        elif tag == "cellXfs":
            self._is_inside = True
        elif tag == "xf" and self._is_inside and len(self.formats) < FORMATS_MAX:
            number = attributes.get("numFmtId", "0")
            self.formats.append(self._codes.get(number) or built_in_format(whole_number(number)))

    def end(self, tag: str) -> None:
        if tag == "cellXfs":
            self._is_inside = False

    def characters(self, text: str) -> None:
        pass


class _SharedTexts:
    """Collects the texts that cells refer to by number, without the readings that stand beside characters."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._parts: list[str] = []
        self._is_text = False
        self._is_reading = False

    def begin(self, tag: str, _: dict[str, str]) -> None:
        if tag == "t":
            self._is_text = not self._is_reading
        elif tag == "rPh":
            self._is_reading = True
        elif tag == "si":
            self._parts = []

    def end(self, tag: str) -> None:
        if tag == "t":
            self._is_text = False
        elif tag == "rPh":
            self._is_reading = False
        elif tag == "si":
            if len(self.texts) >= SHARED_TEXTS_MAX:
                raise ParserLimit(f"the workbook has more than {SHARED_TEXTS_MAX:,} different texts: split it")
            self.texts.append(_one_line("".join(self._parts)))

    def characters(self, text: str) -> None:
        if self._is_text:
            self._parts.append(text)


class _Rows:
    """Collects the rows of a sheet; whoever reads takes them away."""

    def __init__(self, texts: list[str], formats: list[NumberFormat], days_to_epoch: int) -> None:
        self._texts = texts
        self._formats = formats
        self._days_to_epoch = days_to_epoch
        self._done: list[Row] = []
        self._line = 0
        self._column = -1
        self._columns: list[int] = []
        self._cells: list[str] = []
        self._type = ""
        self._style = ""
        self._parts: list[str] = []
        self._is_text = False
        self._is_reading = False
        self._letters: dict[str, int] = {}

    def take(self) -> list[Row]:
        done, self._done = self._done, []
        return done

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "c":
            self._column = self._column_of(attributes.get("r", ""))
            self._type = attributes.get("t", "n")
            self._style = attributes.get("s", "")
            self._parts = []
        elif tag in ("v", "t"):
            self._is_text = not self._is_reading
        elif tag == "rPh":
            self._is_reading = True
        elif tag == "row":
            line = whole_number(attributes.get("r", ""))
            self._line = line if 0 < line <= ROWS_MAX else min(self._line + 1, ROWS_MAX)
            self._column = -1
            self._columns, self._cells = [], []

    def end(self, tag: str) -> None:
        if tag == "c":
            if self._parts and (text := self._text("".join(self._parts))):
                refuse_more_cells(len(self._cells))
                self._columns.append(self._column)
                self._cells.append(text)
                self._parts = []
        elif tag in ("v", "t"):
            self._is_text = False
        elif tag == "rPh":
            self._is_reading = False
        elif tag == "row" and self._cells:
            self._done.append(_in_order(Row(self._line, self._columns, self._cells)))
            self._columns, self._cells = [], []

    def characters(self, text: str) -> None:
        if self._is_text:
            self._parts.append(text)

    def _column_of(self, reference: str) -> int:
        """Return the column of `AB12`, from 0; a cell that says nothing stands behind the one before."""
        letters = reference.rstrip("0123456789")
        column = self._letters.get(letters)
        if column is None:
            column = _column_number(letters)
            if 0 <= column < COLUMNS_MAX:
                self._letters[letters] = column
        return column if 0 <= column < COLUMNS_MAX else min(self._column + 1, COLUMNS_MAX - 1)

    def _text(self, raw: str) -> str:
        match self._type:
            case "s":
                place = whole_number(raw.strip(), -1)
                return self._texts[place] if 0 <= place < len(self._texts) else ""
            case "n":
                return self._number(raw.strip())
            case "b":
                return "TRUE" if raw.strip() in _TRUE else "FALSE"
            case "d":
                return moment_text(raw)
            case _:  # a text of its own, a formula's, an error's name
                return _one_line(raw)

    def _number(self, raw: str) -> str:
        style = whole_number(self._style)
        number_format = self._formats[style] if 0 <= style < len(self._formats) else GENERAL
        if number_format is GENERAL and raw.isdecimal() and raw.isascii() and len(raw) <= _INTEGER_DIGITS_MAX:
            return raw
        try:
            value = float(raw)
        except ValueError:
            return _one_line(raw)
        return number_text(value, number_format, days_to_epoch=self._days_to_epoch)


def parse_xlsx(content: bytes) -> ParsedDocument:
    """Read a workbook.

    Raises: CorruptFile · EncryptedFile · NeedsOcr · EmptyDocument · ParserLimit.
    """
    archive = Archive(content)
    main_name = target(archive, "", "officeDocument") or _MAIN_PART
    main = archive.read(main_name)
    if main is None:
        raise CorruptFile("the workbook has no main part: open and save it again in the program that made it")
    workbook = _Workbook()
    read_elements(main_name, main, workbook)
    related = relations(archive, main_name)
    by_kind = {relation.kind: relation.target for relation in related.values()}
    texts, formats = _SharedTexts(), _Formats()
    for kind, handler in (("sharedStrings", texts), ("styles", formats)):
        part = archive.read(by_kind[kind]) if kind in by_kind else None
        if part is not None:
            read_elements(by_kind[kind], part, handler)
    rows = _RowReader(archive, related, texts.texts, formats.formats, workbook.days_to_epoch)
    sheets = (
        Sheet(number, entry.name, entry.is_hidden, rows.of(entry.relation_id))
        for number, entry in enumerate(workbook.sheets, start=1)
    )
    has_pictures = archive_has_pictures(archive, "xl/media/")
    return spreadsheet_document(sheets, properties(archive), has_pictures=has_pictures)


@dataclass(slots=True)
class _RowReader:
    """Opens the parts of sheets, each once: however often an author refers to it, its text counts once."""

    archive: Archive
    related: dict[str, Relation]
    texts: list[str]
    formats: list[NumberFormat]
    days_to_epoch: int
    seen: set[str] = field(default_factory=set)

    def of(self, relation_id: str) -> Iterator[Row]:
        """Return the rows of a sheet. One of charts alone has none, and no more has one of macros, which has no part.

        Raises: CorruptFile when the sheet's part is missing.
        """
        if not relation_id:
            return
        relation = self.related.get(relation_id)
        if relation is None or (relation.kind == "worksheet" and not self.archive.has(relation.target)):
            raise CorruptFile("a sheet of the workbook is missing: open and save it again in the program that made it")
        if relation.kind != "worksheet" or relation.target in self.seen:
            return
        self.seen.add(relation.target)
        part = self.archive.read(relation.target) or b""
        collected = _Rows(self.texts, self.formats, self.days_to_epoch)
        for _ in read_pieces(relation.target, part, collected):
            yield from collected.take()


def _one_line(text: str) -> str:
    if "_x" in text:
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return folded(text)


def _column_number(letters: str) -> int:
    number = 0
    for letter in letters[:4]:
        if not "A" <= letter <= "Z":
            return -1
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _in_order(row: Row) -> Row:
    """Put cells into the order of their columns, in which every program but an author's own writes them."""
    if all(left < right for left, right in zip(row.columns, row.columns[1:], strict=False)):
        return row
    places = sorted(range(len(row.columns)), key=row.columns.__getitem__)
    return Row(row.line, [row.columns[place] for place in places], [row.cells[place] for place in places])
