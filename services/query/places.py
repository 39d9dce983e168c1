"""A span of a hit → where it stands, in a person's words: "page iv", "sheet Q3, rows 17–18", "lines 40–58"; pure."""

from dataclasses import dataclass

from services.query.citations import Citation, Hit

_PLURALS = {
    "page": "pages",
    "slide": "slides",
    "sheet": "sheets",
    "cell": "cells",
    "line": "lines",
    "row": "rows",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span stands. `page` is where it begins; `lines` are its first and its last, on a page if there is one."""

    page: int | None
    lines: tuple[int, int] | None
    words: str | None


def place_of_quote(citation: Citation) -> Place:
    """Say where what is quoted stands."""
    start = citation.hit.char_start
    return place_of(citation.hit, citation.char_start - start, citation.char_end - start)


def place_of_hit(hit: Hit) -> Place:
    """Say where a whole chunk stands."""
    return place_of(hit, 0, len(hit.text))


def place_of(hit: Hit, start: int, end: int) -> Place:
    """Say where a span stands. Units: characters of the hit's text."""
    first, last = _page_at(hit, start), _page_at(hit, max(start, end - 1))
    lines = _lines(hit, start, end) if first == last else None  # of two pages each has its own
    page, first_name = first
    _, last_name = last
    parts = []
    if first_name and last_name:
        parts.append(_counted(hit.page_unit, first_name, last_name))
    if lines:
        parts.append(_counted(hit.line_unit, str(lines[0]), str(lines[1])))
    return Place(page, lines, ", ".join(parts) or None)


def _page_at(hit: Hit, at: int) -> tuple[int | None, str | None]:
    """Return the number and the name of the page on which a character stands."""
    page, label = hit.page, hit.page_label
    for start, number, name in hit.page_turns:
        if start > at:
            break
        page, label = number, name
    return page, label or (None if page is None else str(page))


def _lines(hit: Hit, start: int, end: int) -> tuple[int, int] | None:
    """Count the line breaks in front of the first and of the last character."""
    if not hit.lines:
        return None
    first = hit.text.count("\n", 0, start)
    last = first + hit.text.count("\n", start, max(start, end - 1))
    return _number(hit.lines, first), _number(hit.lines, last)


def _number(lines: tuple[int, ...], index: int) -> int:
    """Return the number of a line of the text: behind the last that is listed they count on."""
    listed = min(index, len(lines) - 1)
    return lines[listed] + index - listed


def _counted(unit: str, first: str, last: str) -> str:
    return f"{unit} {first}" if first == last else f"{_PLURALS.get(unit, unit)} {first}–{last}"
