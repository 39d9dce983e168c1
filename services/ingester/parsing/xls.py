"""XLS, the workbooks of Excel before 2007: cells as xlrd finds them, numbers as they are stored.

Rows end with their last cell, so a far corner costs what one row costs. Which number is a day is known; which is a share
of a hundred is not.
"""

import struct
from collections.abc import Iterator

import xlrd
from xlrd.compdoc import CompDoc, CompDocError

from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.cell_values import DAYS_TO_1904, NumberFormat, Shown, number_text
from services.ingester.parsing.spreadsheet import Sheet, refuse_more_sheets, spreadsheet_document
from services.ingester.parsing.tables import Row
from services.ingester.parsing.writer import folded
from shared.errors import CorruptFile, EncryptedFile

STREAMS = ("Workbook", "Book")
_RECORD_LOCKED = 0x2F
_RECORD_END = 0x0A
# What xlrd lets through when a record is not what it should be.
_DAMAGE = (
    xlrd.XLRDError,
    CompDocError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
_DAY, _TIME, _MOMENT = (NumberFormat(shown) for shown in (Shown.DATE, Shown.TIME, Shown.MOMENT))


class _Nowhere:
    """Takes the remarks that xlrd would print."""

    def write(self, _: str) -> None:
        """Forget."""

    def flush(self) -> None:
        """Do nothing."""


def parse_xls(content: bytes) -> ParsedDocument:
    """Read a workbook.

    Raises: CorruptFile · EncryptedFile · EmptyDocument · ParserLimit.
    """
    try:
        book = xlrd.open_workbook(file_contents=content, logfile=_Nowhere(), on_demand=True, ragged_rows=True)
        return spreadsheet_document(_sheets(book), {})
    except _DAMAGE as error:
        if _is_locked(content):
            raise EncryptedFile from None
        raise CorruptFile(
            f"the workbook cannot be read ({type(error).__name__}: {error}): open it in its program and save it as XLSX"
        ) from None


def _sheets(book: xlrd.Book) -> Iterator[Sheet]:
    for number, name in enumerate(book.sheet_names(), start=1):
        refuse_more_sheets(number - 1)
        sheet = book.sheet_by_index(number - 1)
        book.unload_sheet(number - 1)  # from now on only the one who reads it keeps it
        yield Sheet(number, name, sheet.visibility != 0, _rows(sheet, DAYS_TO_1904 if book.datemode else 0))


def _rows(sheet: xlrd.sheet.Sheet, days_to_epoch: int) -> Iterator[Row]:
    for line in range(1, sheet.nrows + 1):
        texts = [
            _text(kind, value, days_to_epoch)
            for kind, value in zip(sheet.row_types(line - 1), sheet.row_values(line - 1), strict=True)
        ]
        columns = [column for column, text in enumerate(texts) if text]
        if columns:
            yield Row(line, columns, [texts[column] for column in columns])


def _text(kind: int, value: str | float, days_to_epoch: int) -> str:
    if kind == xlrd.XL_CELL_TEXT:
        return folded(str(value))
    if kind == xlrd.XL_CELL_NUMBER:
        return number_text(float(value))
    if kind == xlrd.XL_CELL_DATE:
        moment = float(value)
        number_format = _TIME if 0 < moment < 1 else _DAY if moment.is_integer() else _MOMENT
        return number_text(moment, number_format, days_to_epoch=days_to_epoch)
    if kind == xlrd.XL_CELL_BOOLEAN:
        return "TRUE" if value else "FALSE"
    if kind == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(value, "#ERROR"))
    return ""


def _is_locked(content: bytes) -> bool:
    """Whether a workbook that cannot be read has the record that says why: what follows it is encrypted."""
    try:
        container = CompDoc(content, logfile=_Nowhere())
        memory, at, length = next(
            found for name in STREAMS if (found := container.locate_named_stream(name))[0] is not None
        )
        end = at + length
        while at < end:
            record, size = struct.unpack_from("<HH", memory, at)
            if record in (_RECORD_LOCKED, _RECORD_END):
                return bool(record == _RECORD_LOCKED)
            at += 4 + size
    except (StopIteration, *_DAMAGE):
        pass
    return False
