"""Spreadsheets become rows as their program shows them; what an author does to a file costs no more than the file."""

import datetime as dt
import io
import random
import zipfile
from collections.abc import Callable

import openpyxl
import pytest
import xlwt
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import ParsedDocument, parse
from services.ingester.parsing.blocks import LineUnit, PageUnit
from services.ingester.parsing.cell_values import (
    GENERAL,
    NumberFormat,
    Shown,
    built_in_format,
    number_text,
    read_format,
)
from services.ingester.parsing.ods import REPEATED_CELLS_MAX, parse_ods
from services.ingester.parsing.registry import ODS, XLS, XLSX
from services.ingester.parsing.spreadsheet import COLUMNS_MAX, ROWS_MAX, SHEETS_MAX
from services.ingester.parsing.xls import parse_xls
from services.ingester.parsing.xlsx import parse_xlsx
from services.ingester.parsing.xml_stream import NAMES_MAX, NESTING_MAX, PIECE_BYTES
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, ParserLimit, PermanentError, UnsupportedFormat
from tests.unit.parsing_checks import HEADING, ROW, check, headings_of

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_STRICT = "http://purl.oclc.org/ooxml/spreadsheetml/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def _zip(parts: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def _relations(*targets: tuple[str, str]) -> str:
    entries = "".join(
        f'<Relationship Id="r{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, start=1)
    )
    return f'<Relationships xmlns="{_PACKAGE}">{entries}</Relationships>'


def _xlsx(
    rows: str,
    *,
    shared: str = "",
    styles: str = "",
    sheets: str = '<sheet name="Data" r:id="r1"/>',
    namespace: str = _MAIN,
) -> bytes:
    """Write a workbook by hand, for what no library writes."""
    return _zip(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": _relations(("officeDocument", "xl/workbook.xml")),
            "xl/workbook.xml": f'<workbook xmlns="{namespace}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": _relations(
                ("worksheet", "worksheets/sheet1.xml"),
                ("sharedStrings", "sharedStrings.xml"),
                ("styles", "styles.xml"),
                ("worksheet", "worksheets/missing.xml"),
                ("chartsheet", "chartsheets/sheet1.xml"),
            ),
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{namespace}"><sheetData>{rows}</sheetData></worksheet>',
            "xl/sharedStrings.xml": f'<sst xmlns="{namespace}">{shared}</sst>',
            "xl/styles.xml": f'<styleSheet xmlns="{namespace}">{styles}</styleSheet>',
        }
    )


def _ods(tables: str, *, styles: str = "", meta: str = "", manifest: str = "") -> bytes:
    names = "".join(
        f' xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{prefix}:1.0"'
        for prefix in ("office", "table", "text", "style", "meta", "manifest")
    )
    names += ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
    return _zip(
        {
            "mimetype": ODS,
            "META-INF/manifest.xml": f"<manifest:manifest{names}>{manifest}</manifest:manifest>",
            "meta.xml": f"<office:document-meta{names}><office:meta>{meta}</office:meta></office:document-meta>",
            "content.xml": f"<office:document-content{names}><office:automatic-styles>{styles}</office:automatic-styles>"
            f"<office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body></office:document-content>",
        }
    )


def _saved(book: openpyxl.Workbook | xlwt.Workbook) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _parsed(name: str, content: bytes) -> ParsedDocument:
    document = parse(name, content)[1]
    check(document)
    assert (document.page_unit, document.line_unit) == (PageUnit.SHEET, LineUnit.ROW)
    return document


def _rows(document: ParsedDocument) -> list[tuple[int | None, int | None, str]]:
    return [
        (block.page, block.line, document.text[block.start : block.end])
        for block in document.blocks
        if block.kind is ROW
    ]


def _cells(rows: str, *, shared: str = "", styles: str = "", namespace: str = _MAIN) -> list[str]:
    document = _parsed("a.xlsx", _xlsx(rows, shared=shared, styles=styles, namespace=namespace))
    return [text for _, _, text in _rows(document)]


def _book() -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sales Q3"
    for row in (["Product", "Price", "Share", "Since", "Sold"], ["Tea", 12, 0.345, dt.date(2024, 3, 5), True]):
        sheet.append(row)
    sheet.append(["Soup", 2.5, 1, dt.datetime(2024, 3, 5, 14, 30), False])
    for cell in sheet["C"][1:]:
        cell.number_format = "0.0%"
    return book


def test_cells_are_read_as_a_person_sees_them() -> None:
    content = _saved(_book())
    document = _parsed("sales.xlsx", content)
    names = "Product | Price | Share | Since | Sold"
    assert _rows(document) == [
        (1, 1, names),
        (1, 2, "Tea | 12 | 34.5% | 2024-03-05 | TRUE"),
        (1, 3, "Soup | 2.5 | 100% | 2024-03-05 14:30 | FALSE"),
    ]
    assert {block.context for block in document.blocks if block.kind is ROW} == {names}
    assert document.title == "Sales Q3"
    assert document.page_labels == {1: "Sales Q3"}
    assert parse("sales.csv", content)[0] == XLSX


def test_sheets_stand_under_their_names_and_keep_their_numbers() -> None:
    book = _book()
    book.create_sheet("Empty")
    hidden = book.create_sheet("Costs")
    hidden.sheet_state = "hidden"
    hidden["C7"] = "far"
    book.properties.title = "Tea and soup"
    book.properties.creator = "A. Person"
    document = _parsed("book.xlsx", _saved(book))
    assert headings_of(document) == [(1, "Sales Q3"), (1, "Costs")]
    assert [block.page for block in document.blocks if block.kind is HEADING] == [1, 3]
    assert _rows(document)[-1] == (3, 7, "far")
    assert document.page_labels == {1: "Sales Q3", 2: "Empty", 3: "Costs"}
    assert document.title == "Tea and soup"
    assert document.metadata == {"author": "A. Person", "sheets": "3", "sheets_hidden": "1"}


def test_name_that_a_program_gave_to_a_lone_sheet_is_no_heading() -> None:
    book = openpyxl.Workbook()
    book.active.title = "Tabelle1"
    book.active["A1"] = "words"
    book.create_sheet("Tabelle2")
    document = _parsed("book.xlsx", _saved(book))
    assert headings_of(document) == []
    assert document.title is None
    book["Tabelle2"]["A1"] = "more"
    document = _parsed("book.xlsx", _saved(book))
    assert headings_of(document) == [(1, "Tabelle1"), (1, "Tabelle2")]
    assert document.title is None


def test_caption_of_the_one_table_is_the_title() -> None:
    book = openpyxl.Workbook()
    for row in (["Harvest of the year"], ["Fruit", "Tons"], ["Apple", 3], ["Pear", 4]):
        book.active.append(row)
    book.active.merge_cells("A1:B1")
    document = _parsed("book.xlsx", _saved(book))
    assert document.title == "Harvest of the year"
    assert {block.context for block in document.blocks} == {"Fruit | Tons"}


def test_workbook_without_words_says_so() -> None:
    with pytest.raises(EmptyDocument, match="no text on its 1 sheets"):
        parse_xlsx(_saved(openpyxl.Workbook()))


def test_kinds_of_cells_of_excel() -> None:
    shared = "<si><t>plain</t></si><si><r><t>rich </t></r><r><t>text</t></r><rPh><t>reading</t></rPh></si>"
    rows = (
        '<row r="3"><c r="B3" t="s"><v>0</v></c><c r="C3" t="s"><v>1</v></c><c r="D3" t="s"><v>99</v></c>'
        '<c r="E3" t="inlineStr"><is><t>in_x000D_\nline_x005F_x0041_</t></is></c></row>'
        '<row r="4"><c r="A4"><f>B1+1</f><v>7</v></c><c r="B4" t="str"><f>A1&amp;"x"</f><v>made</v></c>'
        '<c r="C4" t="e"><v>#N/A</v></c><c r="D4" t="b"><v>1</v></c><c r="E4" t="d"><v>2024-03-05T00:00:00</v></c>'
        '<c r="F4"><v>0.30000000000000004</v></c><c r="G4"><v>1e3</v></c><c r="H4"><v>123456789012345678</v></c></row>'
    )
    assert _cells(rows, shared=shared) == [
        "| plain | rich text | | in line_x0041_",
        "7 | made | #N/A | TRUE | 2024-03-05 | 0.3 | 1000 | 1.23456789012346e+17",
    ]


def test_strict_workbooks_and_cells_without_references_are_read() -> None:
    rows = (
        '<row><c><v>1</v></c><c r="?"><v>2</v></c></row><row r="0"><c r="D1"><v>4</v></c><c r="A1"><v>3</v></c></row>'
    )
    assert _cells(rows, namespace=_STRICT) == ["1 | 2", "3 | | | 4"]


def test_days_since_1904_are_days() -> None:
    content = _xlsx('<row><c s="0"><v>0.5</v></c><c s="1"><v>1</v></c></row>')
    days = '<cellXfs><xf numFmtId="22"/><xf numFmtId="14"/></cellXfs>'
    assert _cells('<row><c s="0"><v>0.5</v></c><c s="1"><v>1</v></c></row>', styles=days) == ["12:00 | 1900-01-01"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    parts["xl/workbook.xml"] = parts["xl/workbook.xml"].replace("<sheets>", '<workbookPr date1904="1"/><sheets>')
    parts["xl/styles.xml"] = parts["xl/styles.xml"].replace("></styleSheet>", f">{days}</styleSheet>")
    assert _rows(_parsed("a.xlsx", _zip(parts)))[0][2] == "1904-01-01 12:00 | 1904-01-02"


@pytest.mark.parametrize(
    ("code", "value", "shown"),
    [
        ("General", 12.0, "12"),
        ("0", 12.6, "13"),
        ("#,##0.00", 1234.5678, "1234.57"),
        ('#,##0.00 "Stück"', 12.5, "12.5"),
        ("#,##0.0,,", 12_345_678.0, "12345678"),
        ("0%", 0.345, "34%"),
        ("0.00%", 0.34567, "34.57%"),
        ("[$€-407] #,##0.00;[Red]-[$€-407] #,##0.00", -3.456, "-3.46"),
        ("0.00E+00", 12345.6789, "12345.6789"),
        ("# ?/?", 0.75, "0.75"),
        ("yyyy-mm-dd", 45356, "2024-03-05"),
        ("[$-407]d. mmmm yyyy;@", 45356, "2024-03-05"),
        ("mmm-yy", 45356, "2024-03-05"),
        ("dd/mm/yyyy hh:mm", 45356.604166666664, "2024-03-05 14:30"),
        ("h:mm AM/PM", 45356.604166666664, "14:30"),
        ("mm:ss", 0.000081, "00:00:07"),
        ("[h]:mm", 1.5, "36:00"),
        ("yyyy", -1, "-1"),
        ("yyyy", 3e6, "3000000"),
        ("@", 5, "5"),
        ("", 5.25, "5.25"),
    ],
)
def test_numbers_are_shown_as_their_format_says(code: str, value: float, shown: str) -> None:
    assert number_text(value, read_format(code)) == shown


@settings(max_examples=300)
@given(st.text(max_size=30) | st.text(alphabet='0#,.%;"[]\\ymdhseE/?_*', max_size=40), st.floats(width=64))
def test_any_format_shows_any_number(code: str, value: float) -> None:
    assert number_text(value, read_format(code)).strip()
    assert number_text(value).strip()


@settings(max_examples=100)
@given(st.dates(min_value=dt.date(1900, 3, 1)))
def test_days_are_those_of_the_calendar(day: dt.date) -> None:
    serial = (day - dt.date(1899, 12, 30)).days
    assert number_text(serial, NumberFormat(Shown.DATE)) == day.isoformat()


def test_formats_that_have_only_a_number() -> None:
    assert built_in_format(9) == NumberFormat(Shown.PERCENT, 0)
    assert built_in_format(14).shown is Shown.DATE
    assert built_in_format(0) is built_in_format(-5) is GENERAL
    assert number_text(60, built_in_format(14)) == "1900-02-29"


# --- XLS and ODS


def test_workbook_of_old_excel_is_read() -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Lager")
    day, moment, clock = (xlwt.easyxf(num_format_str=code) for code in ("YYYY-MM-DD", "YYYY-MM-DD HH:MM", "HH:MM"))
    for column, name in enumerate(("Teil", "Zahl", "Tag", "Stunde", "Da")):
        sheet.write(4, column, name)
    sheet.write(5, 0, "Schraube\nM3")
    sheet.write(5, 1, 12)
    sheet.write(5, 2, dt.date(2024, 3, 5), day)
    sheet.write(5, 3, 0.25, clock)
    sheet.write(5, 4, True)
    sheet.write(65_535, 255, dt.datetime(2024, 3, 5, 14, 30), moment)
    hidden = book.add_sheet("Geheim")
    hidden.visibility = 1
    hidden.write(0, 0, 1.5)
    document = _parsed("lager.xls", _saved(book))
    assert _rows(document) == [
        (1, 5, "Teil | Zahl | Tag | Stunde | Da"),
        (1, 6, "Schraube M3 | 12 | 2024-03-05 | 06:00 | TRUE"),
        (1, 65_536, "| | | | 2024-03-05 14:30"),
        (2, 1, "1.5"),
    ]
    assert headings_of(document) == [(1, "Lager"), (1, "Geheim")]
    assert document.metadata == {"sheets": "2", "sheets_hidden": "1"}
    assert parse("lager.doc", _saved(book))[0] == XLS


def test_locked_workbook_of_old_excel_is_named_so() -> None:
    book = xlwt.Workbook()
    book.add_sheet("a").write(0, 0, "words")
    content = bytearray(_saved(book))
    first_record = content.index(b"\x09\x08\x10\x00") + 20  # behind the one that begins the workbook
    content[first_record : first_record + 2] = b"\x2f\x00"
    with pytest.raises(EncryptedFile, match="locked with a password"):
        parse("a.xls", bytes(content))


def test_workbook_of_openoffice_is_read() -> None:
    styles = (
        '<style:style style:name="ta1"><style:table-properties table:display="true"/></style:style>'
        '<style:style style:name="ta2"><style:table-properties table:display="false"/></style:style>'
    )
    header = "".join(
        f'<table:table-cell office:value-type="string"><text:p>{name}</text:p></table:table-cell>' for name in "ABC"
    )
    cells = (
        '<table:table-cell office:value-type="float" office:value="1234.5"><text:p>1,234.50</text:p></table:table-cell>'
        '<table:table-cell office:value-type="percentage" office:value="0.345"><text:p>34.5%</text:p></table:table-cell>'
        '<table:table-cell office:value-type="date" office:date-value="2024-03-05T14:30:00"><text:p>5.3.</text:p></table:table-cell>'
        '<table:table-cell office:value-type="time" office:time-value="PT06H05M00S"/>'
        '<table:table-cell office:value-type="boolean" office:boolean-value="true"><text:p>WAHR</text:p></table:table-cell>'
        '<table:covered-table-cell office:value-type="string"><text:p>unseen</text:p></table:covered-table-cell>'
        '<table:table-cell office:value-type="string"><office:annotation><text:p>remark</text:p></office:annotation>'
        "<text:p>two<text:s/>words</text:p><text:p>below<text:line-break/>each</text:p></table:table-cell>"
        '<table:table-cell office:value-type="float" office:value="3" table:number-columns-repeated="2"/>'
    )
    gap = '<table:table-row table:number-rows-repeated="1048570"><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    tables = (
        f'<table:table table:name="Liste" table:style-name="ta1"><table:table-header-rows><table:table-row>{header}'
        f"</table:table-row></table:table-header-rows><table:table-row>{cells}</table:table-row>{gap}"
        f'<table:table-row table:number-rows-repeated="2">{header}</table:table-row></table:table>'
        f'<table:table table:name="Rest" table:style-name="ta2"><table:table-row>{header}</table:table-row></table:table>'
    )
    content = _ods(tables, styles=styles, meta="<dc:title>Ein Titel</dc:title><dc:creator>Wer</dc:creator>")
    document = _parsed("liste.ods", content)
    assert _rows(document) == [
        (1, 1, "A | B | C"),
        (1, 2, "1234.5 | 34.5% | 2024-03-05 14:30 | 06:05 | TRUE | | two words below each | 3 | 3"),
        (1, 1_048_573, "A | B | C"),
        (1, 1_048_574, "A | B | C"),
        (2, 1, "A | B | C"),
    ]
    assert document.page_labels == {1: "Liste", 2: "Rest"}
    assert document.title == "Ein Titel"
    assert document.metadata == {"author": "Wer", "sheets": "2", "sheets_hidden": "1"}


def test_locked_workbook_of_openoffice_is_named_so() -> None:
    with pytest.raises(EncryptedFile):
        parse("a.ods", _ods("", manifest="<manifest:file-entry><manifest:encryption-data/></manifest:file-entry>"))


def test_binary_workbook_says_what_to_save_it_as() -> None:
    with pytest.raises(UnsupportedFormat, match="save it as XLSX"):
        parse("a.xlsb", _zip({"[Content_Types].xml": "", "xl/workbook.bin": ""}))


# --- What an author does


def test_cell_in_the_last_corner_costs_what_a_cell_costs() -> None:
    # Laid out as a table, this asks for more than 400 GB.
    document = _parsed(
        "a.xlsx", _xlsx('<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>')
    )
    assert _rows(document) == [(1, 1, "1"), (1, 1_048_576, "2")]


def test_places_beyond_a_sheet_are_none() -> None:
    rows = '<row r="99999999999"><c r="ZZZZ1"><v>1</v></c></row><row r="1048577"><c r="XFE1"><v>2</v></c></row>'
    assert _rows(_parsed("a.xlsx", _xlsx(rows))) == [(1, 1, "1"), (1, 2, "2")]


def test_names_of_columns_are_storable_whatever_their_author_spelled_out() -> None:
    cells = ("Item_x0000_", "Price_xD800_", "Tea", "Black tea", "Soup", "Hot soup")
    texts = [f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in cells]
    numbers = ["", "", "<c><v>12</v></c>", "", "<c><v>2.5</v></c>", ""]
    rows = "".join(f"<row>{''.join(texts[at : at + 2])}{numbers[at]}</row>" for at in (0, 2, 4))
    document = _parsed("a.xlsx", _xlsx(rows))
    assert {block.context for block in document.blocks if block.kind is ROW} == {"Item\ufffd | Price\ufffd"}


def test_cells_out_of_order_stand_in_order_and_none_is_lost() -> None:
    assert _cells('<row><c r="D1"><v>3</v></c><c r="A1"><v>1</v></c><c r="D1"><v>4</v></c></row>') == ["1 | | | 3 | 4"]


def test_rows_and_cells_beyond_the_bounds_are_told() -> None:
    with pytest.raises(CorruptFile, match="more than 16,384 cells"):
        parse("a.xlsx", _xlsx("<row>" + "<c><v>1</v></c>" * (COLUMNS_MAX + 1) + "</row>"))
    empty, cell = "<table:table-cell/>", "<table:table-cell><text:p>x</text:p></table:table-cell>"
    with pytest.raises(CorruptFile, match="more than 16,384 cells"):
        parse(
            "a.ods",
            _ods(
                f'<table:table table:name="T"><table:table-row>{empty * COLUMNS_MAX}{cell}</table:table-row></table:table>'
            ),
        )
    gap = f'<table:table-row table:number-rows-repeated="{ROWS_MAX}"/>'
    with pytest.raises(ParserLimit, match="more than 1,048,576 rows"):
        parse(
            "a.ods", _ods(f'<table:table table:name="T">{gap}<table:table-row>{cell}</table:table-row></table:table>')
        )


def test_text_that_many_cells_share_is_bounded() -> None:
    rows = "".join(f'<row r="{line}"><c t="s"><v>0</v></c></row>' for line in range(1, 5001))
    with pytest.raises(ParserLimit, match="characters of text"):
        parse("a.xlsx", _xlsx(rows, shared=f"<si><t>{'x' * 500_000}</t></si>"))


def test_part_that_many_sheets_name_is_read_once() -> None:
    sheets = "".join(f'<sheet name="S{number}" r:id="r1"/>' for number in range(SHEETS_MAX))
    rows = '<row r="1"><c r="A1"><v>1</v></c></row>'
    assert _rows(_parsed("a.xlsx", _xlsx(rows, sheets=sheets))) == [(1, 1, "1")]
    with pytest.raises(ParserLimit, match="sheets: split it"):
        parse("a.xlsx", _xlsx(rows, sheets=sheets + '<sheet name="more" r:id="r1"/>'))


def test_sheet_of_charts_holds_nothing_and_a_missing_one_is_told() -> None:
    rows = '<row r="1"><c r="A1"><v>1</v></c></row>'
    charts = '<sheet name="Chart" r:id="r5"/><sheet name="Data" r:id="r1"/>'
    assert _rows(_parsed("a.xlsx", _xlsx(rows, sheets=charts))) == [(2, 1, "1")]
    for missing in ("r4", "r9"):
        with pytest.raises(CorruptFile, match="a sheet of the workbook is missing"):
            parse("a.xlsx", _xlsx(rows, sheets=f'<sheet name="Data" r:id="r1"/><sheet name="Gone" r:id="{missing}"/>'))


def test_sheet_of_macros_has_no_part() -> None:
    rows = '<row r="1"><c r="A1"><v>1</v></c></row>'
    macros = '<sheet name="Module1" state="veryHidden" r:id=""/><sheet name="Data" r:id="r1"/>'
    assert _rows(_parsed("a.xlsx", _xlsx(rows, sheets=macros))) == [(2, 1, "1")]


@pytest.mark.parametrize("respell", [str.lower, str.swapcase, lambda name: name.replace("/", "\\")])
def test_parts_are_found_however_their_names_are_spelled(respell: Callable[[str], str]) -> None:
    plain = _xlsx('<row r="1"><c r="A1" t="s"><v>0</v></c></row>', shared="<si><t>tea</t></si>")
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    spelled = _zip({respell(name).replace("XL/", "xl/"): part for name, part in parts.items()})
    assert _rows(_parsed("a.xlsx", spelled)) == [(1, 1, "tea")]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ('<row><c t="inlineStr"><is><t>&lol;</t></is></c></row>', "no proper XML"),
        ("<row>" + "<g>" * NESTING_MAX + "</g>" * NESTING_MAX + "</row>", "nests more than"),
        ("".join(f"<e{number}/>" for number in range(NAMES_MAX + 1)), "kinds of elements"),
        (
            "<row " + "".join(f'a{number}="1" ' for number in range(3 * PIECE_BYTES // 10)) + "/>",
            "has a tag of more than",
        ),
        ("<row><c>", "no proper XML"),
    ],
)
def test_xml_that_no_program_writes_is_refused(rows: str, reason: str) -> None:
    with pytest.raises(CorruptFile, match=reason):
        parse("a.xlsx", _xlsx(rows))


@pytest.mark.parametrize(
    "part", ["xl/workbook.xml", "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/styles.xml"]
)
def test_entities_of_an_authors_making_are_refused(part: str) -> None:
    kinds = "".join(f'<!ENTITY a{number} "{f"&a{number - 1};" * 10 if number else "lol"}">' for number in range(10))
    with zipfile.ZipFile(io.BytesIO(_xlsx('<row><c t="s"><v>0</v></c></row>', shared="<si><t>x</t></si>"))) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    parts[part] = f'<!DOCTYPE x [{kinds}<!ENTITY file SYSTEM "file:///etc/passwd">]>{parts[part]}'
    with pytest.raises(CorruptFile, match="declares a document type"):
        parse("a.xlsx", _zip(parts))


def test_cells_that_repeat_are_bounded() -> None:
    cell = '<table:table-cell table:number-columns-repeated="{}" office:value-type="string"><text:p>x</text:p></table:table-cell>'
    table = '<table:table table:name="T"><table:table-row table:number-rows-repeated="{}">{}</table:table-row></table:table>'
    document = _parsed("a.ods", _ods(table.format(3, cell.format(2))))
    assert _rows(document) == [(1, 1, "x | x"), (1, 2, "x | x"), (1, 3, "x | x")]
    for rows, columns in ((1_048_576, 16_384), (REPEATED_CELLS_MAX + 2, 1), (99_999_999_999, 1)):
        content = _ods(table.format(rows, cell.format(columns)))
        if rows > 1_048_576:  # a number that is none
            assert len(_rows(_parsed("a.ods", content))) == 1
            continue
        with pytest.raises(ParserLimit, match="repeat more than"):
            parse("a.ods", content)


def _xls_content() -> bytes:
    book = xlwt.Workbook()
    for name in ("a", "b"):
        sheet = book.add_sheet(name)
        for line in range(40):
            sheet.write(line, line % 7, f"word {line}" * (line % 5 + 1) if line % 2 else line / 3)
    return _saved(book)


@pytest.mark.parametrize(
    ("parser", "content"),
    [(parse_xls, _xls_content()), (parse_xlsx, _saved(_book())), (parse_ods, _ods('<table:table table:name="T"/>'))],
)
def test_damaged_files_give_their_text_or_a_reason(parser: Callable[[bytes], ParsedDocument], content: bytes) -> None:
    chance = random.Random(7)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 12)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        try:
            check(parser(bytes(damaged)))
            outcomes.add("text")
        except PermanentError as error:
            outcomes.add(error.code if str(error).strip() else "no reason")
    assert "corrupt_file" in outcomes
    assert "no reason" not in outcomes
