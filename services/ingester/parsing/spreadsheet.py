"""Spreadsheets as their readers (`xlsx`, `ods`, `xls`) see them → a document: sheets under their names, rows whole; pure.

Hidden sheets are read: they are hidden from a view, not from who has the file. A sheet keeps its number among all that
the workbook has, empty ones included, for that is where its tab stands.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import BlockKind, LineUnit, PageUnit, ParsedDocument
from services.ingester.parsing.tables import Row, write_table
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter, folded
from shared.errors import CorruptFile, EmptyDocument, NeedsOcr, ParserLimit

# Each is a part that may be read; people's workbooks have a few dozen.
SHEETS_MAX = 1000
ROWS_MAX = 1_048_576
COLUMNS_MAX = 16_384
# What programs call a sheet that nobody gave a name.
_UNNAMED = re.compile(
    r"(?:sheet|tabelle|feuil(?:le)?|hoja|foglio|planilha|folha|blad|ark|arkusz|list|munkalap|taulukko|sayfa|лист|аркуш"
    r"|工作表|シート|시트)[ _]?\d*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet of a workbook. `number` counts from 1. Order: rows stand as in the file."""

    number: int
    name: str
    is_hidden: bool
    rows: Iterator[Row]


def refuse_more_sheets(count: int) -> None:
    """Bound the sheets of a workbook that has `count` already.

    Raises: ParserLimit.
    """
    if count >= SHEETS_MAX:
        raise ParserLimit(f"the workbook has more than {SHEETS_MAX:,} sheets: split it")


def refuse_more_cells(count: int) -> None:
    """Bound the cells of a row that has `count` already.

    Raises: CorruptFile.
    """
    if count >= COLUMNS_MAX:
        raise CorruptFile(f"a row has more than {COLUMNS_MAX:,} cells: open and save the file in a spreadsheet program")


def archive_has_pictures(archive: Archive, folder: str) -> bool:
    """Whether a spreadsheet has something in the folder where its kind keeps pictures."""
    return any(name.startswith(folder) for name in archive.names)


def spreadsheet_document(
    sheets: Iterable[Sheet], properties: dict[str, str], *, has_pictures: bool = False
) -> ParsedDocument:
    """Write the sheets that hold something, each under its name; one that stands alone only if it has one.

    `properties` is what the file says of itself, its title among it.

    Raises: NeedsOcr · EmptyDocument · ParserLimit, and what reading a sheet raises.
    """
    writer = TextWriter()
    seen: list[Sheet] = []
    captions: list[str | None] = []
    filled = _filled(sheets, seen)
    sheet = next(filled, None)
    while sheet is not None:
        is_named = _UNNAMED.fullmatch(folded(sheet.name)) is None
        # Whether another follows is asked only where it matters: its part is unpacked for that.
        following = None if is_named or captions else next(filled, None)
        if is_named or captions or following is not None:
            writer.add(BlockKind.HEADING, folded(sheet.name), level=1, page=sheet.number)
        captions.append(write_table(writer, sheet.rows, page=sheet.number))
        sheet = following or next(filled, None)
    if not captions and has_pictures:
        raise NeedsOcr(
            f"the spreadsheet has pictures and no text on its {len(seen)} sheets: save it as PDF and run OCR on that "
            "(for example `ocrmypdf IN OUT`), then drop the result"
        )
    if not captions:
        raise EmptyDocument(f"the spreadsheet has no text on its {len(seen)} sheets: nothing was stored")
    claimed = [properties.get("title"), captions[0] if len(captions) == 1 else None, writer.main_heading]
    counts = {"sheets": len(seen), "sheets_hidden": sum(sheet.is_hidden for sheet in seen)}
    return writer.document(
        next(filter(None, map(meaningful_title, claimed)), None),
        {key: text for key, text in properties.items() if key != "title"}
        | {key: str(count) for key, count in counts.items() if count},
        page_unit=PageUnit.SHEET,
        line_unit=LineUnit.ROW,
        page_labels={sheet.number: sheet.name for sheet in seen},
    )


def _filled(sheets: Iterable[Sheet], seen: list[Sheet]) -> Iterator[Sheet]:
    """Return the sheets that have a row, and note all."""
    for sheet in sheets:
        seen.append(sheet)
        first = next(sheet.rows, None)
        if first is not None:
            yield Sheet(sheet.number, sheet.name, sheet.is_hidden, chain([first], sheet.rows))
