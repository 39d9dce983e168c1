"""PDF: text by page in reading order, the outline as headings. PDFium is not thread-safe: parser children only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.ocr import Ocr
from services.ingester.parsing.pdf_headings import Entry, largest_words, root_of, with_outline, with_sizes
from services.ingester.parsing.pdf_layout import PageLines, merged_lines, paragraphs, without_repeated
from services.ingester.parsing.pdf_lines import read_lines
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


@dataclass(frozen=True, slots=True)
class _Read:
    """What PDFium tells of a file.

    Of its pages it cannot open `unreadable_count`, `pictures_count` are drawn but hardly written on, `not_read_count` have no
    text because OCR gave them up, and `blank_count` hold nothing at all.
    """

    pages: list[PageLines]
    unreadable_count: int
    pictures_count: int
    not_read_count: int
    blank_count: int
    outline: list[Entry]
    title: str | None
    author: str
    labels: dict[int, str]


class _Page(NamedTuple):
    """The lines of a page, and what it is where it has none, or hardly any."""

    lines: PageLines
    is_picture: bool = False
    is_not_read: bool = False
    is_blank: bool = False


def parse_pdf(content: bytes, ocr: Ocr | None = None) -> ParsedDocument:
    """Read a PDF; pages that are pictures with OCR, where there is one.

    Raises: EncryptedFile · NeedsOcr · CorruptFile · ParserLimit.
    """
    read = _read(content, ocr)
    count = len(read.pages)
    if read.unreadable_count == count:
        raise CorruptFile(f"none of the {count} pages of the PDF can be read: open and save it again")
    empty_count = sum(not page.lines for page in read.pages) - read.not_read_count
    _refuse_pictures(read, ocr)
    pages = without_repeated(read.pages)
    title = next(filter(None, map(meaningful_title, (read.title, largest_words(pages), root_of(read.outline)))), None)
    pages = with_outline(pages, read.outline) if len(read.outline) > 1 else with_sizes(pages)
    metadata = {"pages": str(count), "author": read.author}
    if empty_count:
        metadata["pages_without_text"] = str(empty_count)
    if read.unreadable_count:
        metadata["pages_unreadable"] = str(read.unreadable_count)
    if ocr is not None and ocr.read_count:
        metadata["pages_read_by_ocr"] = str(ocr.read_count)
    if ocr is not None and ocr.not_read_count:
        metadata["pages_not_read_by_ocr"] = str(ocr.not_read_count)
    return _write(pages).document(title, metadata, page_labels=read.labels)


def _refuse_pictures(read: _Read, ocr: Ocr | None) -> None:
    lengths = [sum(len(line.text) for line in page.lines) for page in read.pages]
    seen = ocr.character_count if ocr is not None else 0
    if sum(lengths) - seen >= CHARACTERS_PER_PAGE_MIN * len(lengths):
        return
    if ocr is not None and (refusal := ocr.refusal()) is not None:
        raise refusal
    if seen:
        return
    if not any(lengths) and not read.pictures_count:
        raise _without_text(read)
    if read.pictures_count:
        few = sum(length < CHARACTERS_PER_PAGE_MIN for length in lengths)
        raise NeedsOcr(
            f"{few} of {len(lengths)} pages are pictures without text: run OCR on the file first "
            "(for example `ocrmypdf IN OUT`), then drop the result; or install tesseract where the ingester runs "
            "(`askbox doctor` says what hinders it)"
            if ocr is None
            else f"OCR found no text in {few} of {len(lengths)} pages: scan them again, larger or clearer"
        )


def _without_text(read: _Read) -> Exception:
    """Return what is told of a file without a word: only one that holds nothing takes its text back."""
    count = len(read.pages)
    if read.blank_count == count:
        return EmptyDocument(f"the PDF has no text on its {count} pages: nothing was stored")
    if read.unreadable_count:
        return CorruptFile(
            f"{read.unreadable_count} of {count} pages of the PDF cannot be read, and the others have no text: "
            "open and save it again"
        )
    return NeedsOcr(
        f"{count - read.blank_count} of {count} pages hold drawings or form fields only, and no text: print the file to a "
        "new PDF, or run OCR on it (for example `ocrmypdf --force-ocr IN OUT`), then drop the result"
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


def _read(content: bytes, ocr: Ocr | None) -> _Read:
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        raise _refusal(error.err_code) from None
    try:
        if len(document) > PAGES_MAX:
            raise ParserLimit(f"the PDF has {len(document):,} pages, at most {PAGES_MAX:,} are read: split it")
        pages: list[_Page] = []
        unreadable_count = 0
        left = CHARACTERS_MAX
        for index in range(len(document)):
            try:
                page = _read_page(document, index, ocr)
            except pdfium.PdfiumError:
                page = _Page(PageLines(index + 1, 0.0, []))
                unreadable_count += 1
            left -= sum(len(line.text) for line in page.lines.lines)
            if left < 0:
                raise ParserLimit(f"the PDF holds more than {CHARACTERS_MAX:,} characters of text: split it")
            pages.append(page)
        title, author = _information(document, "Title"), _information(document, "Author")
        return _Read(
            [page.lines for page in pages],
            unreadable_count,
            sum(page.is_picture for page in pages),
            sum(page.is_not_read for page in pages),
            sum(page.is_blank for page in pages),
            list(_outline(document)),
            title,
            author,
            _labels(document),
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


def _read_page(document: pdfium.PdfDocument, index: int, ocr: Ocr | None) -> _Page:
    """Return a page's lines, with those that OCR sees where it is drawn but hardly written on."""
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            lines = merged_lines(read_lines(text_page))
        finally:
            text_page.close()
        is_picture = sum(len(line.text) for line in lines) < CHARACTERS_PER_PAGE_MIN and _is_drawn(page)
        is_not_read = False
        if is_picture and ocr is not None:
            before = ocr.not_read_count
            if seen := ocr.read(page):
                own = {line.text for line in lines}  # a stamp, which the picture shows as well
                lines, is_picture = [*lines, *(line for line in seen if line.text not in own)], False
            is_not_read = not lines and ocr.not_read_count > before
        is_blank = not lines and not is_picture and _is_blank(page)
        return _Page(PageLines(index + 1, float(page.get_height()), lines), is_picture, is_not_read, is_blank)
    finally:
        page.close()


def _is_blank(page: pdfium.PdfPage) -> bool:
    """Whether nothing stands on a page: neither strokes, nor form fields and notes, whose words PDFium does not give."""
    return pdfium_c.FPDFPage_GetAnnotCount(page) == 0 and next(page.get_objects(max_depth=1), None) is None


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
