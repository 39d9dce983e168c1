"""What the styles and lists of a word-processor document say of a paragraph: heading level, item marker."""

from dataclasses import dataclass, field

from lxml import etree

from services.ingester.parsing.office import child, local, value

STYLES_MAX = 20_000
_PARENTS_MAX = 20
_LEVELS = 9
_BODY_LEVEL = 9  # "no outline level", as Word writes it


@dataclass(frozen=True, slots=True)
class Style:
    """A paragraph style with what it takes over from its parents. Level 0 is no heading."""

    name: str = ""
    level: int = 0
    list_id: str = ""
    list_level: str = ""


def read_styles(root: etree._Element | None) -> dict[str, Style]:
    """Return the paragraph styles by id."""
    elements = {
        value(element, "styleId"): element
        for element in (root if root is not None else [])[:STYLES_MAX]
        if local(element) == "style" and value(element, "type") in ("paragraph", "")
    }
    return {identity: _style(identity, elements) for identity in elements}


def _style(identity: str, elements: dict[str, etree._Element]) -> Style:
    name, level, list_id, list_level = "", "", "", ""
    for _ in range(_PARENTS_MAX):
        element = elements.get(identity)
        if element is None:
            break
        properties = child(element, "pPr")
        own = value(child(element, "name"), "val").lower()  # in English, whatever language the program speaks
        name = name or own
        level = level or value(child(properties, "outlineLvl"), "val") or _named_level(own)
        numbers = child(properties, "numPr")
        list_id = list_id or value(child(numbers, "numId"), "val")
        list_level = list_level or value(child(numbers, "ilvl"), "val")
        identity = value(child(element, "basedOn"), "val")
    return Style(name, _level(level), list_id, list_level)


def _named_level(name: str) -> str:
    number = name.removeprefix("heading ")
    return str(int(number) - 1) if number != name and number.isdecimal() and len(number) == 1 else ""


def _level(outline_level: str) -> int:
    number = int(outline_level) if outline_level.isdecimal() and len(outline_level) == 1 else _BODY_LEVEL
    return 0 if number == _BODY_LEVEL else number + 1


def level_of(properties: etree._Element | None, style: Style) -> int:
    """Return the heading level of a paragraph: its own, or its style's; 0 is no heading."""
    own = child(properties, "outlineLvl")
    return style.level if own is None else _level(value(own, "val"))


@dataclass(slots=True)
class Numbering:
    """Counts the items of lists as they come."""

    formats: dict[tuple[str, int], str] = field(default_factory=dict)
    counts: dict[tuple[str, int], int] = field(default_factory=dict)

    def marker(self, numbers: etree._Element | None, style: Style) -> str:
        """Return what stands before an item, or nothing for a paragraph that is none."""
        list_id = value(child(numbers, "numId"), "val") or style.list_id
        depth = value(child(numbers, "ilvl"), "val") or style.list_level
        level = min(int(depth), _LEVELS - 1) if depth.isdecimal() and len(depth) < 3 else 0
        form = self.formats.get((list_id, level), "bullet" if list_id not in ("", "0") else "none")
        if form == "none":
            return ""
        if form == "bullet":
            return "- "
        self.counts[list_id, level] = self.counts.get((list_id, level), 0) + 1
        for deeper in range(level + 1, _LEVELS):
            self.counts.pop((list_id, deeper), None)
        return f"{self.counts[list_id, level]}. "


def read_numbering(root: etree._Element | None) -> Numbering:
    """Read which lists have bullets and which have numbers."""
    levels: dict[str, list[tuple[int, str]]] = {}
    numbering = Numbering()
    for element in root if root is not None else ():
        if local(element) == "abstractNum":
            levels[value(element, "abstractNumId")] = [
                (int(value(level, "ilvl")), value(child(level, "numFmt"), "val") or "decimal")
                for level in element
                if local(level) == "lvl" and value(level, "ilvl").isdecimal()
            ]
        elif local(element) == "num":
            for level, form in levels.get(value(child(element, "abstractNumId"), "val"), []):
                numbering.formats[value(element, "numId"), level] = form
    return numbering
