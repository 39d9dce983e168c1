"""ODS: the cells of each sheet, read from the container directly and without building a table.

Rows and cells that repeat are written as often as they say, within a bound: a file of a thousand bytes may ask for a
sheet full of them. Remarks on cells, deleted cells and pictures are not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.cell_values import clock_text, moment_text, number_text
from services.ingester.parsing.office import child, whole_number
from services.ingester.parsing.opendocument_parts import CONTENT, metadata_of, part_or_none, refuse_locked
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
from services.ingester.parsing.xml_stream import SEPARATOR, read_pieces
from shared.errors import CorruptFile, ParserLimit

# What cells and rows that repeat may come to in one file; in a person's it is some thousands.
REPEATED_CELLS_MAX = 1_000_000
HIDING_STYLES_MAX = 10_000
_OFFICE = f"urn:oasis:names:tc:opendocument:xmlns:office:1.0{SEPARATOR}"
_TABLE = f"urn:oasis:names:tc:opendocument:xmlns:table:1.0{SEPARATOR}"
_STYLE = f"urn:oasis:names:tc:opendocument:xmlns:style:1.0{SEPARATOR}"
_SKIPPED = frozenset(["annotation", "tracked-changes", "dde-links"])
_BREAKS = frozenset(["p", "h", "s", "tab", "line-break"])
_PLAIN_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
_CLOCK = re.compile(r"PT(\d{1,9})H(\d{1,2})M(\d{1,2})(?:[.,]\d+)?S")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A sheet begins."""

    name: str
    is_hidden: bool


@dataclass(slots=True)
class _Cell:
    """What a cell holds, how often, and the parts of the text that it shows."""

    attributes: dict[str, str]
    count: int
    parts: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Write what the cell shows, but numbers and days in one way wherever the file comes from."""
        shown = folded("".join(self.parts))
        value = self.attributes.get(f"{_OFFICE}value", "")
        match self.attributes.get(f"{_OFFICE}value-type", ""):
            case "float" if value and not _PLAIN_NUMBER.fullmatch(shown):
                return _number(value) or shown
            case "percentage" if value and not shown:
                return _number(value, factor=100) + "%"
            case "currency" if value and not shown:
                return _number(value)
            case "date":
                return moment_text(self.attributes.get(f"{_OFFICE}date-value", "")) or shown
            case "time":
                clock = _CLOCK.fullmatch(self.attributes.get(f"{_OFFICE}time-value", ""))
                return clock_text(*map(int, clock.groups())) if clock else shown
            case "boolean":
                return self.attributes.get(f"{_OFFICE}boolean-value", "").upper() or shown
            case _:
                return shown or folded(self.attributes.get(f"{_OFFICE}string-value", ""))


def _number(value: str, *, factor: int = 1) -> str:
    try:
        return number_text(float(value) * factor)
    except ValueError:
        return folded(value)


class _Rows:
    """Collects sheets and their rows; whoever reads takes them away. A table within a cell is text of that cell."""

    def __init__(self) -> None:
        self._done: list[_Opened | Row] = []
        self._skipped_depth = 0
        self._table_depth = 0
        self._style = ""
        self._hiding: set[str] = set()
        self._line = 1
        self._rows_count = 1
        self._column = 0
        self._columns: list[int] = []
        self._cells: list[str] = []
        self._cell: _Cell | None = None
        self._repeated_count = 0

    def take(self) -> list[_Opened | Row]:
        done, self._done = self._done, []
        return done

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag in _SKIPPED:
            self._skipped_depth += 1
        elif self._skipped_depth:
            return
        elif tag == "table":
            self._table_depth += 1
            if self._table_depth == 1:
                self._line = 1
                style = attributes.get(f"{_TABLE}style-name", "")
                self._done.append(_Opened(attributes.get(f"{_TABLE}name", ""), style in self._hiding))
        elif self._table_depth > 1 or tag in _BREAKS:
            if self._cell is not None and (tag in _BREAKS or tag == "table-cell"):
                self._cell.parts.append(" ")
        elif self._table_depth:
            self._begin_within_table(tag, attributes)
        elif tag == "style":
            self._style = attributes.get(f"{_STYLE}name", "")
        elif tag == "table-properties" and attributes.get(f"{_TABLE}display") == "false":
            self._hide(self._style)

    def _hide(self, style: str) -> None:
        if len(self._hiding) < HIDING_STYLES_MAX:
            self._hiding.add(style)

    def _begin_within_table(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "table-row":
            self._rows_count = max(1, whole_number(attributes.get(f"{_TABLE}number-rows-repeated", "1"), 1))
            self._column = 0
            self._columns, self._cells = [], []
        elif tag in ("table-cell", "covered-table-cell"):
            count = max(1, whole_number(attributes.get(f"{_TABLE}number-columns-repeated", "1"), 1))
            self._cell = _Cell(attributes, count)

    def end(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipped_depth -= 1
        elif self._skipped_depth:
            return
        elif tag == "table":
            self._table_depth -= 1
        elif self._table_depth == 1 and self._cell is not None and tag in ("table-cell", "covered-table-cell"):
            self._end_cell(self._cell, is_covered=tag != "table-cell")
        elif self._table_depth == 1 and tag == "table-row":
            self._end_row()

    def _end_cell(self, cell: _Cell, *, is_covered: bool) -> None:
        """Add a cell as often as it stands there; what lies under a merged one is not seen."""
        text = "" if is_covered else cell.text()
        count = min(cell.count, COLUMNS_MAX - self._column)
        if text:
            refuse_more_cells(self._column)
            self._count_repeated(count - 1)
            self._columns.extend(range(self._column, self._column + count))
            self._cells.extend([text] * count)
        self._column = min(self._column + cell.count, COLUMNS_MAX)
        self._cell = None

    def _end_row(self) -> None:
        count = min(self._rows_count, ROWS_MAX + 1 - self._line)
        if self._cells:
            if not count:
                raise ParserLimit(f"a sheet has more than {ROWS_MAX:,} rows: split it")
            self._count_repeated((count - 1) * len(self._cells))
            self._done += [Row(line, self._columns, self._cells) for line in range(self._line, self._line + count)]
        self._line += count

    def _count_repeated(self, count: int) -> None:
        self._repeated_count += count
        if self._repeated_count > REPEATED_CELLS_MAX:
            raise ParserLimit(
                f"cells of the spreadsheet repeat more than {REPEATED_CELLS_MAX:,} times: clear those that nobody needs"
            )

    def characters(self, text: str) -> None:
        if self._cell is not None and not self._skipped_depth:
            self._cell.parts.append(text)


def parse_ods(content: bytes) -> ParsedDocument:
    """Read a spreadsheet.

    Raises: CorruptFile · EncryptedFile · NeedsOcr · EmptyDocument · ParserLimit.
    """
    archive = Archive(content)
    refuse_locked(archive)
    part = archive.read(CONTENT)
    if part is None:
        raise CorruptFile("the spreadsheet has no content: open and save it again in the program that made it")
    metadata = metadata_of(child(part_or_none(archive, "meta.xml"), "meta"))
    return spreadsheet_document(_sheets(part), metadata, has_pictures=archive_has_pictures(archive, "Pictures/"))


def _sheets(part: bytes) -> Iterator[Sheet]:
    """Return the sheets, the rows of each collected: they stand in one part, one sheet behind the other."""
    collected = _Rows()
    opened: _Opened | None = None
    rows: list[Row] = []
    number = 0
    for _ in read_pieces(CONTENT, part, collected):
        for found in collected.take():
            if isinstance(found, Row):
                rows.append(found)
                continue
            if opened is not None:
                yield Sheet(number, opened.name, opened.is_hidden, iter(rows))
            refuse_more_sheets(number)
            opened, rows, number = found, [], number + 1
    if opened is not None:
        yield Sheet(number, opened.name, opened.is_hidden, iter(rows))
