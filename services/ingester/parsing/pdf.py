"""PDF: text by page in reading order, the outline as headings. PDFium is not thread-safe: parser children only."""

import ctypes
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.pdf_headings import Entry, largest_words, root_of, with_outline, with_sizes
from services.ingester.parsing.pdf_layout import LEADERS, Line, PageLines, merged_lines, paragraphs, without_repeated
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import CHARACTERS_MAX, LEVEL_MAX, TextWriter, folded
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, NeedsOcr, ParserLimit

PAGES_MAX = 20_000
OUTLINE_ENTRIES_MAX = 10_000
LABEL_CHARACTERS_MAX = 50
# A scan with a stamp or a page number on each page is still a scan.
CHARACTERS_PER_PAGE_MIN = 20
_OUTLINED_LETTERS_MIN = 200
_FORMS_DEPTH_MAX = 4
# PDFium puts U+FFFE for a hyphen at the end of a line, and leaves the line feed out.
_LINE_END = re.compile("\r\n|\r|\n|\ufffe")
_CONTROLS = {code: " " for code in range(32) if chr(code) not in "\x00\t"} | {2: "-"}
_LEADERS = re.compile(r"(?:[.·…_]\s?){5,}")
_FONT_NAME_BYTES = 128
_BOLD = re.compile(rb"bold|black|heavy|CMBX|-bd", re.IGNORECASE)
_LETTER_WIDTH = 0.5


@dataclass(frozen=True, slots=True)
class _Read:
    """What PDFium tells of a file: also how many pages it cannot open, and how many are drawn but hardly written on."""

    pages: list[PageLines]
    unreadable_count: int
    pictures_count: int
    outline: list[Entry]
    title: str | None
    author: str
    labels: dict[int, str]


def parse_pdf(content: bytes) -> ParsedDocument:
    """Read a PDF.

    Raises: EncryptedFile · NeedsOcr · CorruptFile · ParserLimit.
    """
    read = _read(content)
    count = len(read.pages)
    if read.unreadable_count == count:
        raise CorruptFile(f"none of the {count} pages of the PDF can be read: open and save it again")
    empty_count = sum(not page.lines for page in read.pages)
    _refuse_pictures(read)
    pages = without_repeated(read.pages)
    title = next(filter(None, map(meaningful_title, (read.title, largest_words(pages), root_of(read.outline)))), None)
    pages = with_outline(pages, read.outline) if len(read.outline) > 1 else with_sizes(pages)
    metadata = {"pages": str(count), "author": read.author}
    if empty_count:
        metadata["pages_without_text"] = str(empty_count)
    if read.unreadable_count:
        metadata["pages_unreadable"] = str(read.unreadable_count)
    return _write(pages).document(title, metadata, page_labels=read.labels)


def _refuse_pictures(read: _Read) -> None:
    lengths = [sum(len(line.text) for line in page.lines) for page in read.pages]
    if sum(lengths) >= CHARACTERS_PER_PAGE_MIN * len(lengths):
        return
    if not any(lengths) and not read.pictures_count:
        raise EmptyDocument(f"the PDF has no text on its {len(lengths)} pages: nothing was stored")
    if read.pictures_count:
        few = sum(length < CHARACTERS_PER_PAGE_MIN for length in lengths)
        raise NeedsOcr(
            f"{few} of {len(lengths)} pages are pictures without text: run OCR on the file first "
            "(for example `ocrmypdf IN OUT`), then drop the result"
        )


def _write(pages: Sequence[PageLines]) -> TextWriter:
    writer = TextWriter()
    for paragraph in paragraphs(pages):
        for level, title in paragraph.lines[0].titles:
            writer.add(BlockKind.HEADING, title, level=level, page=paragraph.page)
        if paragraph.level:
            writer.add(BlockKind.HEADING, paragraph.text, level=paragraph.level, page=paragraph.page)
        else:
            kind = BlockKind.PROSE if paragraph.is_prose else BlockKind.LINES
            writer.add(kind, paragraph.text, page=paragraph.page)
    return writer


def _read(content: bytes) -> _Read:
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        raise _refusal(error.err_code) from None
    try:
        if len(document) > PAGES_MAX:
            raise ParserLimit(f"the PDF has {len(document):,} pages, at most {PAGES_MAX:,} are read: split it")
        pages, unreadable_count, pictures_count = [], 0, 0
        left = CHARACTERS_MAX
        for index in range(len(document)):
            try:
                page, is_picture = _read_page(document, index)
            except pdfium.PdfiumError:
                page, is_picture = PageLines(index + 1, 0.0, []), False
                unreadable_count += 1
            pictures_count += is_picture
            left -= sum(len(line.text) for line in page.lines)
            if left < 0:
                raise ParserLimit(f"the PDF holds more than {CHARACTERS_MAX:,} characters of text: split it")
            pages.append(page)
        title, author = _information(document, "Title"), _information(document, "Author")
        return _Read(
            pages, unreadable_count, pictures_count, list(_outline(document)), title, author, _labels(document)
        )
    finally:
        document.close()


def _refusal(code: int | None) -> Exception:
    if code == pdfium_c.FPDF_ERR_PASSWORD:
        return EncryptedFile("the PDF is locked with a password: save it without one, then drop it again")
    if code == pdfium_c.FPDF_ERR_SECURITY:
        return EncryptedFile("the PDF is encrypted in a way that is not supported: save it without encryption")
    return CorruptFile("the PDF is damaged or cut off: copy it again, or open and save it in a PDF program")


def _information(document: pdfium.PdfDocument, key: str) -> str:
    try:
        return str(document.get_metadata_value(key))
    except (UnicodeDecodeError, ValueError):
        return ""


def _labels(document: pdfium.PdfDocument) -> dict[int, str]:
    """Return the names of pages that are not their numbers, such as the "iv" of a preface."""
    labels = {}
    for index in range(len(document)):
        try:
            label = str(document.get_page_label(index))
        except UnicodeDecodeError:
            continue
        if len(label) > LABEL_CHARACTERS_MAX:  # it names nothing, and every page may have one of many MB
            return {}
        if label not in ("", str(index + 1)):
            labels[index + 1] = label
    return labels


def _read_page(document: pdfium.PdfDocument, index: int) -> tuple[PageLines, bool]:
    """Return a page's lines, and whether it is drawn but hardly written on."""
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            lines = merged_lines(_lines(text_page))
        finally:
            text_page.close()
        is_picture = sum(len(line.text) for line in lines) < CHARACTERS_PER_PAGE_MIN and _is_drawn(page)
        return PageLines(index + 1, float(page.get_height()), lines), is_picture
    finally:
        page.close()


def _is_drawn(page: pdfium.PdfPage) -> bool:
    """Whether a page shows a picture, or so many lines that they may be letters."""
    paths = 0
    for drawn in page.get_objects(max_depth=_FORMS_DEPTH_MAX):
        if drawn.type == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            return True
        paths += drawn.type == pdfium_c.FPDF_PAGEOBJ_PATH
        if paths >= _OUTLINED_LETTERS_MIN:
            return True
    return False


def _lines(text_page: pdfium.PdfTextPage) -> Iterator[Line]:
    text = text_page.get_text_range() if text_page.count_chars() > 0 else ""
    start = 0
    for end in _LINE_END.finditer(text + "\n"):
        raw = text[start : end.end()]
        words = raw.rstrip(" \t\r\n\ufffe")
        body = folded(_LEADERS.sub(LEADERS, words.translate(_CONTROLS)))
        if body:
            first = start + len(words) - len(words.lstrip())
            line = _measured(text_page, body, first, start + len(words) - 1)
            yield replace(line, text=f"{body}-") if raw.endswith("\ufffe") else line
        start = end.end()


def _measured(text_page: pdfium.PdfTextPage, text: str, first: int, last: int) -> Line:
    """Ask where a line begins and ends; its middle tells size and height, for a raised number may begin it."""
    middle = pdfium_c.FPDFText_GetCharIndexFromTextIndex(text_page, (first + last) // 2)
    matrix = pdfium_c.FS_MATRIX()
    if middle < 0 or not pdfium_c.FPDFText_GetMatrix(text_page, middle, matrix):
        return Line(text)
    size = pdfium_c.FPDFText_GetFontSize(text_page, middle) * math.hypot(matrix.c, matrix.d)
    ends = [pdfium_c.FPDFText_GetCharIndexFromTextIndex(text_page, index) for index in (first, last)]
    left, right = [_origin(text_page, index, matrix)[0] for index in ends]
    _, bottom = _origin(text_page, middle, matrix)
    is_bold = all(_is_bold(text_page, index) for index in ends)
    return Line(text, left, max(left, right + _LETTER_WIDTH * size), bottom, size, is_bold)


def _is_bold(text_page: pdfium.PdfTextPage, index: int) -> bool:
    name, flags = ctypes.create_string_buffer(_FONT_NAME_BYTES), ctypes.c_int()
    pdfium_c.FPDFText_GetFontInfo(text_page, index, name, _FONT_NAME_BYTES, flags)
    return _BOLD.search(name.value) is not None


def _origin(text_page: pdfium.PdfTextPage, index: int, matrix: pdfium_c.FS_MATRIX) -> tuple[float, float]:
    """Return where a character stands, along its line and across it: text may run in any of four directions."""
    x, y = ctypes.c_double(), ctypes.c_double()
    pdfium_c.FPDFText_GetCharOrigin(text_page, index, x, y)
    if abs(matrix.a) >= abs(matrix.b):
        return (x.value, y.value) if matrix.a >= 0 else (-x.value, -y.value)
    return (y.value, -x.value) if matrix.b >= 0 else (-y.value, x.value)


def _outline(document: pdfium.PdfDocument) -> Iterator[Entry]:
    for bookmark in islice(document.get_toc(max_depth=LEVEL_MAX), OUTLINE_ENTRIES_MAX):
        try:
            title = folded(bookmark.get_title())
            destination = bookmark.get_dest()
            index = None if destination is None else destination.get_index()
            height = None if destination is None else _height(destination)
        except (UnicodeDecodeError, ValueError):
            continue
        if title:
            yield Entry(bookmark.level + 1, title, None if index is None else index + 1, height)


def _height(destination: pdfium.PdfDest) -> float | None:
    mode, place = destination.get_view()
    if mode == pdfium_c.PDFDEST_VIEW_XYZ and len(place) > 1:
        return float(place[1])
    return float(place[0]) if mode == pdfium_c.PDFDEST_VIEW_FITH and place else None
