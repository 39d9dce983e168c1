"""PPTX: slides in the order in which they are shown, each with its title, shapes, tables, charts and notes.

The parts are read from the container directly, each at most once, and no picture is ever unpacked. What stands on
masters and layouts, and dates, footers and numbers that a slide repeats, is no content. Hidden slides are read: they
are hidden from an audience, not from who has the file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lxml import etree

from services.ingester.parsing.archive import ENTRIES_MAX, Archive
from services.ingester.parsing.blocks import BlockKind, PageUnit, ParsedDocument
from services.ingester.parsing.office import (
    Relation,
    child,
    local,
    properties,
    read_part,
    relation_id,
    relations,
    target,
    value,
    whole_number,
)
from services.ingester.parsing.pptx_graphics import chart_items, diagram_items, table_items
from services.ingester.parsing.pptx_text import items
from services.ingester.parsing.slides import Item, Shape, Slide, main_title, refuse_without_text, write_slide
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter
from shared.errors import CorruptFile, ParserLimit

_MAIN_PART = "ppt/presentation.xml"
_TITLES = frozenset(["title", "ctrTitle"])
_OPENINGS = frozenset(["ctrTitle", "subTitle"])
_REPEATED = frozenset(["dt", "ftr", "sldNum", "hdr", "sldImg"])
_CONTAINERS = frozenset(["spTree", "grpSp", "lockedCanvas"])
_DESCRIBED = frozenset(["pic", "graphicFrame"])
_GENERATED = "Description automatically generated"
# What stands in a part of its own, and the attribute that names it.
_GRAPHICS = {"chart": "id", "relIds": "dm"}


@dataclass(slots=True)
class _Deck:
    """What was found while slides were read."""

    archive: Archive
    seen: set[str] = field(default_factory=set)
    hidden_count: int = 0
    pictures_count: int = 0

    def part(self, name: str) -> etree._Element | None:
        """Parse a part when it is first asked for: however often an author refers to it, it is read once."""
        if not name or name in self.seen:
            return None
        self.seen.add(name)
        return read_part(self.archive, name)


@dataclass(frozen=True, slots=True)
class _Box:
    """Where a shape stands. Units: as in the file."""

    top: int | None = None
    bottom: int | None = None


def parse_pptx(content: bytes) -> ParsedDocument:
    """Read a presentation.

    Raises: CorruptFile · EncryptedFile · NeedsOcr · EmptyDocument · ParserLimit.
    """
    archive = Archive(content)
    main_name = target(archive, "", "officeDocument") or _MAIN_PART
    main = read_part(archive, main_name)
    if main is None:
        raise CorruptFile("the presentation has no main part: open and save it again in the program that made it")
    names = _slide_names(main, relations(archive, main_name))
    if len(names) > ENTRIES_MAX:
        raise ParserLimit(f"the presentation lists {len(names):,} slides; at most {ENTRIES_MAX:,} are read: split it")
    writer = TextWriter()
    deck = _Deck(archive)
    unreadable_count = 0
    opening: str | None = None
    for page, name in enumerate(names, start=1):
        slide = _slide(deck, name)
        if slide is None:
            unreadable_count += 1
            continue
        if page == 1 and slide.is_opening:
            opening = slide.title
        write_slide(writer, slide, page)
    refuse_without_text(writer, count=len(names), unreadable_count=unreadable_count, pictures_count=deck.pictures_count)
    metadata = properties(archive)
    titles = map(meaningful_title, (metadata.pop("title", None), opening))
    title = next(filter(None, titles), main_title(writer))
    counts = {"slides": len(names), "slides_hidden": deck.hidden_count, "slides_unreadable": unreadable_count}
    metadata |= {key: str(count) for key, count in counts.items() if count}
    return writer.document(title, metadata, page_unit=PageUnit.SLIDE, page_labels=_labels(main, len(names)))


def _slide_names(main: etree._Element, related: Mapping[str, Relation]) -> list[str]:
    """Return the parts of the slides in their order; one that is missing keeps its place."""
    slides = child(main, "sldIdLst")
    missing = Relation("slide", "")
    return [
        related.get(relation_id(entry), missing).target
        for entry in (slides if slides is not None else ())
        if local(entry) == "sldId"
    ]


def _labels(main: etree._Element, count: int) -> dict[int, str]:
    """Return the numbers that the program shows when the first slide is not number 1."""
    first = whole_number(value(main, "firstSlideNum"), 1)
    return {} if first == 1 else {page: str(first + page - 1) for page in range(1, count + 1)}


def _slide(deck: _Deck, name: str) -> Slide | None:
    """Read one slide; a damaged one takes no other with it."""
    try:
        root = deck.part(name)
        if root is None:
            return None
        related = relations(deck.archive, name)
        slide = Slide(notes=_notes(deck, related))
        for shape, kind in _shapes(deck, root, related):
            slide.shapes.append(shape)
            slide.is_opening |= kind in _OPENINGS
    except CorruptFile:
        return None
    deck.hidden_count += value(root, "show") in ("0", "false")
    deck.pictures_count += sum(1 for _ in root.iter("{*}blip"))
    return slide


def _notes(deck: _Deck, related: Mapping[str, Relation]) -> list[Item]:
    name = next((found.target for found in related.values() if found.kind == "notesSlide"), "")
    root = deck.part(name)
    return [] if root is None else [item for shape, _ in _shapes(deck, root, {}) for item in shape.items]


def _shapes(deck: _Deck, root: etree._Element, related: Mapping[str, Relation]) -> Iterator[tuple[Shape, str]]:
    """Return what the shapes of a slide say and the kinds of their placeholders; groups are looked through."""
    tree = child(child(root, "cSld"), "spTree")
    stack: list[tuple[etree._Element, _Box | None]] = [] if tree is None else [(tree, None)]
    while stack:
        element, box = stack.pop()
        name = local(element)
        if name == "AlternateContent":  # two forms of one shape
            stack.extend((form, box) for form in element[:1])
            continue
        if name in ("Choice", "Fallback"):
            stack.extend((inner, box) for inner in reversed(element))
            continue
        naming = next((inner for inner in element if local(inner).startswith("nv")), None)
        if naming is None or value(child(naming, "cNvPr"), "hidden") in ("1", "true"):
            continue
        if name in _CONTAINERS:
            own = box if name == "spTree" or box is not None else _box(element)
            stack.extend((inner, own) for inner in reversed(element))
            continue
        placeholder = child(child(naming, "nvPr"), "ph")
        kind = value(placeholder, "type")
        if kind in _REPEATED:
            continue
        said = _said(deck, element, related) or _description(child(naming, "cNvPr"), name)
        place = box or _box(element)
        yield Shape(said, kind in _TITLES, place.top, place.bottom), kind


def _said(deck: _Deck, element: etree._Element, related: Mapping[str, Relation]) -> list[Item]:
    """Return what a shape holds: text, a table, a chart or a diagram."""
    if local(element) != "graphicFrame":
        return items(child(element, "txBody"))
    data = child(child(element, "graphic"), "graphicData")
    for graphic in data if data is not None else ():
        kind = local(graphic)
        if kind == "tbl":
            return table_items(graphic)
        if kind in _GRAPHICS:
            found = related.get(relation_id(graphic, _GRAPHICS[kind]))
            root = None if found is None else deck.part(found.target)
            if root is not None:
                return chart_items(root) if kind == "chart" else diagram_items(root)
    return []


def _description(naming: etree._Element | None, name: str) -> list[Item]:
    """Return what is said of a picture or frame to those who do not see it, unless it is the name of a file."""
    claimed = value(naming, "descr").partition(_GENERATED)[0] if name in _DESCRIBED else ""
    words = meaningful_title(claimed)
    return [Item(BlockKind.PROSE, words)] if words else []


def _box(element: etree._Element) -> _Box:
    holder = next((inner for inner in element if local(inner) in ("spPr", "grpSpPr")), element)
    frame = child(holder, "xfrm")
    if frame is None:  # where its layout puts it
        return _Box()
    top = whole_number(value(child(frame, "off"), "y"))
    return _Box(top, top + whole_number(value(child(frame, "ext"), "cy")))
