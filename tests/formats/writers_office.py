"""Writes known content with the programs' own libraries, or as the parts that their programs write."""

import io
import zipfile
from collections.abc import Iterable
from xml.sax.saxutils import escape

import docx
import openpyxl
import pptx
import xlwt
from docx.document import Document
from pptx.util import Inches

from services.ingester.parsing import LineUnit, PageUnit
from tests.formats.content import AUTHOR, TITLE, Heading, Items, Paragraph, Part, Table, chapters, content, sections
from tests.formats.truth import Place, Written
from tests.formats.writers_data import COLUMNS, records, said_by
from tests.formats.writers_text import contexts, headings, markup, said

_OFFICE = "application/vnd.openxmlformats-officedocument"
_OPEN = "application/vnd.oasis.opendocument"
_NAMESPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "table", "presentation")
)


def packed(parts: Iterable[tuple[str, str]]) -> bytes:
    """Return a zip of texts; the first is stored, as the kinds that begin with their media type want it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts:
            is_first = name == "mimetype"
            archive.writestr(name, text, zipfile.ZIP_STORED if is_first else zipfile.ZIP_DEFLATED)
    return file.getvalue()


def word_document() -> Written:
    """DOCX with the styles of its program."""
    document = docx.Document()
    document.core_properties.title = TITLE
    document.core_properties.author = AUTHOR
    for part in content():
        _add_to_document(document, part)
    file = io.BytesIO()
    document.save(file)
    return Written(
        "a.docx", file.getvalue(), f"{_OFFICE}.wordprocessingml.document", said(content()), headings(content()), TITLE,
        contexts=contexts(content()),
    )  # fmt: skip


def _add_to_document(document: Document, part: Part) -> None:
    match part:
        case Heading(level, text):
            document.add_heading(text, level)
        case Paragraph(_, text):
            document.add_paragraph(text)
        case Items(texts):
            for text in texts:
                document.add_paragraph(text, "List Bullet")
        case Table(header, rows):
            table = document.add_table(0, len(header))
            for row in (header, *rows):
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text


def slides() -> Written:
    """PPTX: a slide for each part, whose higher headings stand in its title too; the table has a slide of its own."""
    deck = pptx.Presentation()
    deck.core_properties.title = TITLE
    places: dict[str, Place] = {}
    titles: list[tuple[int, str]] = []
    told: list[str] = []
    for section in sections(content()):
        title = " – ".join(text for _, text in headings(section))
        slide = _slide(deck, title, titles, told)
        body = slide.placeholders[1].text_frame
        for part in section:
            match part:
                case Paragraph(mark, text):
                    body.add_paragraph().text = text
                    places[mark] = Place(page=len(deck.slides))
                    told.append(text)
                case Items(texts):
                    for text in texts:
                        body.add_paragraph().text = text
                    told += texts
                case Table() as table:
                    _add_table(_slide(deck, f"Table of {title}", titles, told), table)
                    places |= {row[0]: Place(page=len(deck.slides)) for row in table.rows}
                    told.append(said([table]))
    last = deck.slides[len(deck.slides) - 1]
    last.notes_slide.notes_text_frame.text = "Spoken words beside the last picture"
    told += ["Notes", "Spoken words beside the last picture"]
    titles.append((2, "Notes"))
    file = io.BytesIO()
    deck.save(file)
    return Written(
        "a.pptx", file.getvalue(), f"{_OFFICE}.presentationml.presentation", "\n".join(told), titles, TITLE, places,
        contexts(content()), page_unit=PageUnit.SLIDE,
    )  # fmt: skip


def _slide(deck, title: str, titles: list[tuple[int, str]], told: list[str]):
    slide = deck.slides.add_slide(deck.slide_layouts[5 if title.startswith("Table") else 1])
    slide.shapes.title.text = title
    titles.append((1, title))
    told.append(title)
    return slide


def _add_table(slide, table: Table) -> None:
    shape = slide.shapes.add_table(len(table.rows) + 1, len(table.header), Inches(1), Inches(2), Inches(8), Inches(5))
    for number, row in enumerate((table.header, *table.rows)):
        for column, text in enumerate(row):
            shape.table.cell(number, column).text = text


def _sheets() -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Return three named sheets with the records among them."""
    rows = records()
    third = len(rows) // 3 + 1
    return [(name, rows[at * third : (at + 1) * third]) for at, name in enumerate(("Quay", "Öfen & Gärten", "倉庫"))]


def _book(name: str, content_bytes: bytes, media_type: str) -> Written:
    places = {
        row[2]: Place(page=page, label=sheet, line=line)
        for page, (sheet, rows) in enumerate(_sheets(), 1)
        for line, row in enumerate(rows, 2)
    }
    told = "\n".join(f"{sheet}\n{said_by([COLUMNS, *rows])}" for sheet, rows in _sheets())
    return Written(
        name, content_bytes, media_type, told, [(1, sheet) for sheet, _ in _sheets()], places=places,
        contexts=dict.fromkeys(places, " | ".join(COLUMNS)), page_unit=PageUnit.SHEET, line_unit=LineUnit.ROW,
    )  # fmt: skip


def workbook() -> Written:
    """XLSX of three sheets, with numbers as numbers."""
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in _sheets():
        sheet = book.create_sheet(name)
        sheet.append(COLUMNS)
        for number, *texts in rows:
            sheet.append([int(number), *texts])
    file = io.BytesIO()
    book.save(file)
    return _book("a.xlsx", file.getvalue(), f"{_OFFICE}.spreadsheetml.sheet")


def old_workbook() -> Written:
    """XLS of three sheets."""
    book = xlwt.Workbook(encoding="utf-8")
    for name, rows in _sheets():
        sheet = book.add_sheet(name)
        for at, row in enumerate([COLUMNS, *rows]):
            for column, text in enumerate(row):
                sheet.write(at, column, int(text) if at and not column else text)
    file = io.BytesIO()
    book.save(file)
    return _book("a.xls", file.getvalue(), "application/vnd.ms-excel")


def open_spreadsheet() -> Written:
    """ODS of three sheets."""
    tables = "".join(
        f'<table:table table:name="{escape(name)}">' + "".join(map(_open_row, [COLUMNS, *rows])) + "</table:table>"
        for name, rows in _sheets()
    )
    return _book("a.ods", _open_document("spreadsheet", tables), f"{_OPEN}.spreadsheet")


def _open_row(row: tuple[str, ...]) -> str:
    cells = (
        f'<table:table-cell office:value-type="string"><text:p>{escape(cell)}</text:p></table:table-cell>'
        for cell in row
    )
    return f"<table:table-row>{''.join(cells)}</table:table-row>"


def _open_document(kind: str, body: str) -> bytes:
    media_type = f"{_OPEN}.{kind}"
    meta = (
        f'<office:document-meta {_NAMESPACES} xmlns:dc="http://purl.org/dc/elements/1.1/" office:version="1.3">'
        f"<office:meta><dc:title>{TITLE}</dc:title><dc:creator>{AUTHOR}</dc:creator></office:meta></office:document-meta>"
    )
    main = (
        f'<office:document-content {_NAMESPACES} xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" '
        'office:version="1.3">'
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    )
    entries = "".join(
        f'<manifest:file-entry manifest:full-path="{path}" manifest:media-type="{kind_of}"/>'
        for path, kind_of in (("/", media_type), ("content.xml", "text/xml"), ("meta.xml", "text/xml"))
    )
    manifest = (
        f'<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" '
        f'manifest:version="1.3">{entries}</manifest:manifest>'
    )
    declared = '<?xml version="1.0" encoding="UTF-8"?>\n'
    parts = {"content.xml": main, "meta.xml": meta, "META-INF/manifest.xml": manifest}
    return packed([("mimetype", media_type), *((name, declared + text) for name, text in parts.items())])


def open_text() -> Written:
    """ODT with outline levels, a list and a table with a header row."""
    body = "".join(map(_open_part, content()))
    return Written(
        "a.odt", _open_document("text", body), f"{_OPEN}.text", said(content()), headings(content()), TITLE,
        contexts=contexts(content()),
    )  # fmt: skip


def open_slides() -> Written:
    """ODP: a page for each chapter."""
    places: dict[str, Place] = {}
    titles: list[tuple[int, str]] = []
    body = ""
    told: list[str] = []
    for number, section in enumerate(sections(content()), 1):
        name = " – ".join(text for _, text in headings(section))
        titles.append((1, name))
        told.append(name)
        frames = f'<draw:frame presentation:class="title"><draw:text-box><text:p>{escape(name)}</text:p></draw:text-box></draw:frame>'
        inner = ""
        for part in section:
            if isinstance(part, Paragraph):
                places[part.mark] = Place(page=number)
            if isinstance(part, Paragraph | Items):
                inner += _open_part(part)
                told.append(said([part]))
        frames += f'<draw:frame presentation:class="outline"><draw:text-box>{inner}</draw:text-box></draw:frame>'
        body += f'<draw:page draw:name="page{number}">{frames}</draw:page>'
    return Written(
        "a.odp", _open_document("presentation", body), f"{_OPEN}.presentation", "\n".join(told), titles, TITLE, places,
        page_unit=PageUnit.SLIDE,
    )  # fmt: skip


def _open_part(part: Part) -> str:
    match part:
        case Heading(level, text):
            return f'<text:h text:outline-level="{level}">{escape(text)}</text:h>'
        case Paragraph(_, text):
            return f"<text:p>{escape(text)}</text:p>"
        case Items(texts):
            items = (f"<text:list-item><text:p>{escape(text)}</text:p></text:list-item>" for text in texts)
            return f"<text:list>{''.join(items)}</text:list>"
        case Table(header, rows):
            head = f"<table:table-header-rows>{_open_row(header)}</table:table-header-rows>"
            return f'<table:table table:name="T">{head}{"".join(map(_open_row, rows))}</table:table>'


def book() -> Written:
    """EPUB 3 of three chapters and a table of contents that is not read."""
    names = [f"chapter{number}.xhtml" for number in range(1, 4)]
    links = "".join(f'<li><a href="{name}">Go to {name}</a></li>' for name in names)
    nav = _page(f'<nav xmlns:epub="http://www.idpf.org/2007/ops" epub:type="toc"><ol>{links}</ol></nav>')
    items = "".join(
        f'<item id="c{at}" href="{name}" media-type="application/xhtml+xml"/>' for at, name in enumerate(names)
    )
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">urn:x</dc:identifier>'
        f"<dc:title>{TITLE}</dc:title><dc:creator>{AUTHOR}</dc:creator><dc:language>en</dc:language></metadata>"
        '<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f'{items}</manifest><spine><itemref idref="nav"/><itemref idref="c0"/><itemref idref="c1"/>'
        '<itemref idref="c2"/></spine></package>'
    )
    container = (
        '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="OPS/package.opf" media-type="application/oebps-package+xml"/></rootfiles>'
        "</container>"
    )
    pages = [
        (f"OPS/{name}", _page("".join(map(markup, chapter))))
        for name, chapter in zip(names, chapters(content()), strict=True)
    ]
    parts = [
        ("mimetype", "application/epub+zip"), ("META-INF/container.xml", container), ("OPS/package.opf", package),
        ("OPS/nav.xhtml", nav), *reversed(pages),
    ]  # fmt: skip
    return Written(
        "a.epub", packed(parts), "application/epub+zip", said(content()), headings(content()), TITLE,
        contexts=contexts(content()),
    )  # fmt: skip


def _page(body: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title>{TITLE}</title></head><body>{body}</body></html>"
    )


WRITERS = (
    word_document, slides, workbook, old_workbook, open_spreadsheet, open_text, open_slides, book,
)  # fmt: skip
