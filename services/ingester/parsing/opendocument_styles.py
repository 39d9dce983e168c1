"""What the styles of an OpenDocument file say: which paragraphs are titles, code, hidden or begin a page, and how lists count; pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from lxml import etree

from services.ingester.parsing.office import child, local, value, whole_number

STYLES_MAX = 20_000
_PARENTS_MAX = 20
_LEVELS = 10
# Names are stored as English ones, with their spaces written as `_20_`, whatever language the program speaks.
_CODE = frozenset(["preformatted_20_text", "source_20_code", "preformatted", "source_code"])


@dataclass(frozen=True, slots=True)
class Style:
    """A style with what it takes over from its parents."""

    is_title: bool = False
    is_code: bool = False
    is_hidden: bool = False
    breaks_before: bool = False
    breaks_after: bool = False


@dataclass(frozen=True, slots=True)
class ListLevel:
    """How the items of one level are marked."""

    is_numbered: bool = False
    is_marked: bool = True
    start: int = 1


@dataclass(frozen=True, slots=True)
class Styles:
    """The styles of one file by name."""

    named: dict[str, Style] = field(default_factory=dict)
    lists: dict[str, dict[int, ListLevel]] = field(default_factory=dict)

    def of(self, element: etree._Element) -> Style:
        """Return the style that an element names."""
        return self.named.get(value(element, "style-name"), _PLAIN)

    def level(self, name: str, depth: int) -> ListLevel:
        """Return how a list of that style marks its items at a depth from 1."""
        return self.lists.get(name, {}).get(min(depth, _LEVELS), _BULLET)


_PLAIN = Style()
_BULLET = ListLevel()


def read_styles(roots: Iterable[etree._Element | None]) -> Styles:
    """Read the styles of a file's parts: those that it names, and those that its program made for single paragraphs."""
    elements: dict[str, etree._Element] = {}
    lists: dict[str, dict[int, ListLevel]] = {}
    for root in roots:
        for holder in root if root is not None else ():
            if local(holder) not in ("styles", "automatic-styles"):
                continue
            for element in holder[:STYLES_MAX]:
                if local(element) == "style":
                    elements[value(element, "name")] = element
                elif local(element) == "list-style":
                    lists[value(element, "name")] = _list_levels(element)
    return Styles({name: _style(name, elements) for name in elements}, lists)


def _style(name: str, elements: dict[str, etree._Element]) -> Style:
    names: set[str] = set()
    before = after = hidden = master = ""
    for _ in range(_PARENTS_MAX):
        element = elements.get(name)
        names.add(name.lower())
        if element is None:
            break
        paragraph = child(element, "paragraph-properties")
        if paragraph is None:
            paragraph = child(element, "table-properties")
        before = before or value(paragraph, "break-before")
        after = after or value(paragraph, "break-after")
        hidden = hidden or value(child(element, "text-properties"), "display")
        master = master or value(element, "master-page-name")
        name = value(element, "parent-style-name")
    return Style(
        "title" in names,
        not _CODE.isdisjoint(names),
        hidden == "none",
        before == "page" or bool(master),
        after == "page",
    )


def _list_levels(element: etree._Element) -> dict[int, ListLevel]:
    levels = {}
    for level in element[: 4 * _LEVELS]:
        is_numbered = local(level) == "list-level-style-number"
        levels[whole_number(value(level, "level"), 1)] = ListLevel(
            is_numbered,
            not is_numbered or bool(value(level, "num-format")),
            whole_number(value(level, "start-value"), 1),
        )
    return levels
