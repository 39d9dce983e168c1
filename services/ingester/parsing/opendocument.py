"""OpenDocument texts, presentations and drawings (ODT, ODP, ODG, FODT), read from their parts as DOCX and PPTX are.

The pages of a text are known only when the program that saved it has marked where each begins.
"""

import re

from lxml import etree

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import BlockKind, PageUnit, ParsedDocument
from services.ingester.parsing.office import child, local, parse_xml, read_part, value, whole_number
from services.ingester.parsing.opendocument_flow import Flow
from services.ingester.parsing.opendocument_parts import CONTENT, metadata_of, part_or_none, refuse_locked
from services.ingester.parsing.opendocument_styles import Styles, read_styles
from services.ingester.parsing.slides import UNTITLED, Item, Shape, Slide, main_title, refuse_without_text, write_slide
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter
from shared.errors import CorruptFile, EmptyDocument, NeedsOcr

_REPEATED = frozenset(["header", "footer", "date-time", "page-number", "page"])
_OUTSIDE = frozenset(["notes", "forms", "par", "seq", "animations"])
_FLAT = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?<office:document\s[^>]*office:mimetype=\"application/vnd\.oasis\.opendocument\."
    r"(?:text|presentation|graphics)[\"-]"
)
_LENGTH = re.compile(r"(-?\d{1,7}(?:\.\d{1,9})?)(cm|mm|in|pt|pc|px)")
_MICROMETRES = {"cm": 10_000.0, "mm": 1000.0, "in": 25_400.0, "pt": 25_400 / 72, "pc": 25_400 / 6, "px": 25_400 / 96}
_DRAWN_PAGE = "Page"
# Programs that lay nothing out write that everything is one page.
CHARACTERS_PER_PAGE_MAX = 10_000


def parse_opendocument(content: bytes) -> ParsedDocument:
    """Read a text, a presentation or a drawing.

    Raises: CorruptFile · EncryptedFile · NeedsOcr · EmptyDocument · ParserLimit.
    """
    archive = Archive(content)
    refuse_locked(archive)
    root = read_part(archive, CONTENT)
    if root is None:
        raise CorruptFile("the document has no text part: open and save it again in the program that made it")
    styles = read_styles([part_or_none(archive, "styles.xml"), root])
    return _read(root, styles, child(part_or_none(archive, "meta.xml"), "meta"))


def parse_flat_opendocument(content: bytes) -> ParsedDocument:
    """Read a document whose parts are one piece of XML, as people keep them under version control.

    Raises: CorruptFile · NeedsOcr · EmptyDocument · ParserLimit.
    """
    root = parse_xml(content, "the document")
    return _read(root, read_styles([root]), child(root, "meta"))


def is_flat_opendocument(head: str) -> bool:
    """Whether a text begins as such a document does."""
    return _FLAT.match(head) is not None


def _read(root: etree._Element, styles: Styles, meta: etree._Element | None) -> ParsedDocument:
    body = child(root, "body")
    for kind, unit in (("presentation", PageUnit.SLIDE), ("drawing", PageUnit.PAGE)):
        pages = child(body, kind)
        if pages is not None:
            return _read_pages(pages, styles, meta, unit)
    text = child(body, "text")
    if text is None:
        raise CorruptFile("the document holds no text, slides or drawings: save it again in the program that made it")
    return _read_text(text, styles, meta)


def _read_text(text: etree._Element, styles: Styles, meta: etree._Element | None) -> ParsedDocument:
    writer = TextWriter()

    def emit(item: Item, level: int) -> None:
        writer.add(item.kind, item.text, level=level, page=flow.page, context=item.context, is_joined=item.is_joined)

    flow = Flow(styles, emit, page=_first_page(text, styles, meta))
    flow.read(text)
    if not writer.blocks:
        _refuse(text)
    metadata = metadata_of(meta)
    titles = map(meaningful_title, (flow.title, metadata.pop("title", None)))
    return writer.document(next(filter(None, titles), writer.main_heading), metadata)


def _refuse(text: etree._Element) -> None:
    if next(text.iter("{*}image"), None) is not None:
        raise NeedsOcr(
            "the document holds pictures and no text: save it as PDF and run OCR on that "
            "(for example `ocrmypdf IN OUT`), then drop the result"
        )
    raise EmptyDocument


def _first_page(text: etree._Element, styles: Styles, meta: etree._Element | None) -> int | None:
    """Return 1 if the marks of pages agree with the number of pages that the program counted, or else None.

    A wrong page is worse than none, and most programs mark only those that the author asked for.
    """
    statistic = child(meta, "document-statistic")
    counted, characters = (whole_number(value(statistic, name)) for name in ("page-count", "character-count"))
    if characters > CHARACTERS_PER_PAGE_MAX * counted:
        return None
    marked = sum(1 for _ in text.iter("{*}soft-page-break"))
    goes_on = None  # whether the element before asks for a new page; there is none before the first
    for element in text.iter("{*}p", "{*}h", "{*}table"):
        style = styles.of(element)
        marked += goes_on is not None and (goes_on or style.breaks_before)
        goes_on = style.breaks_after and local(element) != "table"
    return 1 if marked + 1 == counted else None


def _read_pages(pages: etree._Element, styles: Styles, meta: etree._Element | None, unit: PageUnit) -> ParsedDocument:
    writer = TextWriter()
    untitled = _DRAWN_PAGE if unit is PageUnit.PAGE else UNTITLED
    drawn = [element for element in pages if local(element) == "page"]
    opening: str | None = None
    for page, element in enumerate(drawn, start=1):
        slide = _slide(element, styles)
        if page == 1 and slide.is_opening:
            opening = slide.title
        write_slide(writer, slide, page, untitled=untitled)
    pictures = sum(1 for _ in pages.iter("{*}image"))
    refuse_without_text(writer, count=len(drawn), unreadable_count=0, pictures_count=pictures)
    metadata = metadata_of(meta)
    titles = map(meaningful_title, (metadata.pop("title", None), opening))
    title = next(filter(None, titles), main_title(writer, untitled=untitled))
    return writer.document(title, metadata | {f"{unit}s": str(len(drawn))}, page_unit=unit)


def _slide(page: etree._Element, styles: Styles) -> Slide:
    slide = Slide(notes=_items(_shown(child(page, "notes")), styles))
    for element in _shown(page):
        kind = value(element, "class")
        top, height = (_length(value(element, name)) for name in ("y", "height"))
        bottom = None if top is None or height is None else top + height
        slide.shapes.append(Shape(_items([element], styles), kind == "title", top, bottom))
        slide.is_opening |= kind == "subtitle"
    return slide


def _shown(page: etree._Element | None) -> list[etree._Element]:
    return [
        element
        for element in (page if page is not None else ())
        if value(element, "class") not in _REPEATED
        and local(element) not in _OUTSIDE
        and value(element, "placeholder") != "true"
    ]


def _items(elements: list[etree._Element], styles: Styles) -> list[Item]:
    """Return what shapes say; paragraphs of one stand one below the other."""
    found: list[Item] = []

    def emit(item: Item, _: int) -> None:
        kind = BlockKind.PROSE if item.kind is BlockKind.HEADING else item.kind
        is_joined = item.is_joined or (bool(found) and kind is found[-1].kind is BlockKind.PROSE)
        found.append(Item(kind, item.text, is_joined=is_joined, context=item.context))

    Flow(styles, emit).read(elements)
    return found


def _length(text: str) -> int | None:
    found = _LENGTH.fullmatch(text)
    return None if found is None else int(float(found[1]) * _MICROMETRES[found[2]])
