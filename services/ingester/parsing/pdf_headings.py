"""Which lines of a PDF are headings: those that its outline names, or without one those in larger type; pure."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from services.ingester.parsing.pdf_layout import Line, PageLines

LEVEL_MAX = 6
_TITLE_CHARACTERS_MAX = 200
_HEADING_LINES_MAX = 3
_LARGER_MIN = 1.09
_BOLD_MIN = 0.95
# Text that was recognised in pictures has as many sizes as lines.
_STYLES_MAX = 8
# Where more than this is in larger type, it is no sign of a heading: slides, posters.
_LARGER_SHARE_MAX = 0.2
_NUMBER = re.compile(
    r"^(?:(?:chapter|section|part|appendix|kapitel|abschnitt|teil|chapitre|capítulo)\s+)?"
    r"(?:\d+(?:\.\d+)*|[ivxlc]+|[a-z](?:\.\d+)*)[.:)]?\s+(?=\S)",
    re.IGNORECASE,
)
_NO_TITLE = re.compile(
    r"^(?:(?:table of )?contents|abstract|introduction|summary|preface|inhalt(?:sverzeichnis)?|sommaire|[íi]ndice)?$|^\d|^[^\w\"“‘«(¿¡]",
    re.IGNORECASE,
)
_OF_A_PROGRAM = re.compile(r"^(?:page|seite|slide|folie|bookmark|_\w+)\s*\d*$", re.IGNORECASE)
_SIGN = re.compile(r"[\W_]+")
_SAME_TEXT_MAX = 100
_SAME_HEIGHT_POINTS = 4.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the outline: `page` from 1, `height` in points above the page's foot, where they are known."""

    level: int
    title: str
    page: int | None
    height: float | None


def root_of(outline: Sequence[Entry]) -> str | None:
    """Return the entry that all others stand under."""
    roots = [entry for entry in outline if entry.level == 1]
    return roots[0].title if len(roots) == 1 else None


def with_outline(pages: Sequence[PageLines], outline: Sequence[Entry]) -> list[PageLines]:
    """Make headings of the lines that the outline names; what is not printed is put where the entry points."""
    entries: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in _placed(outline, pages):
        entries[entry.page or 1].append(entry)
    return [replace(page, lines=_marked(page.lines, entries[page.number])) for page in pages]


def _placed(outline: Sequence[Entry], pages: Sequence[PageLines]) -> list[Entry]:
    """Give each entry a page that has lines: one without a page stands where the next entry does."""
    filled = [page.number for page in pages if page.lines]
    following = {}
    at = len(filled)
    for number in range(len(pages), 0, -1):
        if at and filled[at - 1] == number:
            at -= 1
        following[number] = filled[at] if at < len(filled) else None
    placed: list[Entry] = []
    last: int | None = None
    for entry in reversed(outline):
        if _OF_A_PROGRAM.match(entry.title):
            continue
        page = following.get(entry.page) if entry.page is not None else last
        if page is None:
            continue
        last = page
        height = entry.height if page == entry.page else None
        placed.append(replace(entry, title=entry.title[:_TITLE_CHARACTERS_MAX], page=page, height=height))
    return placed[::-1]


def _marked(lines: Sequence[Line], entries: Sequence[Entry]) -> list[Line]:
    printed = _printed(lines) if entries else {}
    taken: dict[int, tuple[int, int]] = {}  # first line of a heading → the line behind it, level
    before: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    used: set[int] = set()
    for entry in entries:
        found = _find(lines, printed, entry, used)
        if found is None:
            before[_place(lines, entry)].append((entry.level, entry.title))
        else:
            taken[found[0]] = (found[1], entry.level)
            used.update(range(*found))
    marked: list[Line] = []
    at = 0
    while at < len(lines):
        end, level = taken.get(at, (at + 1, 0))
        titles = tuple(title for place in range(at, end) for title in before[place])
        text = " ".join(line.text for line in lines[at:end])
        marked.append(lines[at]._replace(text=text, level=level, titles=titles) if level or titles else lines[at])
        at = end
    return marked


def _forms(text: str) -> set[str]:
    """Return a text as it is compared: letters and digits only, with and without its number."""
    forms = {_SIGN.sub("", part).casefold() for part in (text, _NUMBER.sub("", text))}
    return {form for form in forms if form}


def _printed(lines: Sequence[Line]) -> dict[str, list[tuple[int, int]]]:
    """Return where each text of one to three lines stands."""
    printed: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for start in range(len(lines)):
        for end in range(start + 1, min(start + _HEADING_LINES_MAX, len(lines)) + 1):
            text = " ".join(line.text for line in lines[start:end])
            if len(text) > 2 * _TITLE_CHARACTERS_MAX:
                break
            for form in _forms(text):
                printed[form].append((start, end))
    return printed


def _find(
    lines: Sequence[Line], printed: dict[str, list[tuple[int, int]]], entry: Entry, used: set[int]
) -> tuple[int, int] | None:
    """Return the lines that print an entry's words, the nearest to where it points."""
    spans = [span for form in sorted(_forms(entry.title)) for span in printed.get(form, [])[:_SAME_TEXT_MAX]]
    free = [span for span in spans if used.isdisjoint(range(*span))]
    height = entry.height
    return min(free, key=lambda span: 0.0 if height is None else abs(height - lines[span[0]].bottom), default=None)


def _place(lines: Sequence[Line], entry: Entry) -> int:
    if entry.height is None:
        return 0
    below = (place for place, line in enumerate(lines) if 0 < line.bottom <= entry.height + _SAME_HEIGHT_POINTS)
    return next(below, 0)


def _body_size(pages: Iterable[PageLines]) -> float:
    """Return the size of most of the text."""
    lengths: defaultdict[float, int] = defaultdict(int)
    for page in pages:
        for line in page.lines:
            lengths[line.size] += len(line.text)
    sizes: Counter[float] = Counter()
    for size, length in lengths.items():
        sizes[round(size, 1)] += length
    return sizes.most_common(1)[0][0] if sizes else 0.0


def _style(line: Line, body: float) -> tuple[int, bool]:
    """Return what tells one level of headings from another: the size, and boldness where the size is that of the text."""
    return round(line.size * 2), line.is_bold and line.size < _LARGER_MIN * body


def _runs(lines: Sequence[Line], body: float) -> list[tuple[int, int]]:
    """Return the runs of lines in larger or bold type that read like a heading."""
    runs: list[tuple[int, int]] = []
    start = 0
    while start < len(lines):
        line = lines[start]
        end = start + 1
        if line.size >= (_BOLD_MIN if line.is_bold else _LARGER_MIN) * body:
            while (
                end < len(lines)
                and _style(lines[end], body) == _style(line, body)
                and not _NUMBER.match(lines[end].text)
            ):
                end += 1
            if end - start <= _HEADING_LINES_MAX and _reads_like_heading(lines[start:end]):
                runs.append((start, end))
        start = end
    return runs


def _reads_like_heading(lines: Sequence[Line]) -> bool:
    text = " ".join(line.text for line in lines)
    letters = sum(character.isalpha() for character in text)
    return 3 <= len(text) <= _TITLE_CHARACTERS_MAX and 2 * letters > len(text) and text[-1] not in ".,;"


def largest_words(pages: Sequence[PageLines]) -> str | None:
    """Return what stands in the largest type on the first page, if that is larger than the rest."""
    body = _body_size(pages)
    lines = next((page.lines for page in pages if page.lines), [])
    runs = [
        (start, end)
        for start, end in (_runs(lines, body) if body > 0 else [])
        if lines[start].size >= _LARGER_MIN * body and not _NO_TITLE.match(lines[start].text)
    ]
    if not runs:
        return None
    start, end = max(runs, key=lambda run: (round(lines[run[0]].size, 1), -run[0]))
    return " ".join(line.text for line in lines[start:end])


def with_sizes(pages: Sequence[PageLines]) -> list[PageLines]:
    """Make headings of the lines in larger or bold type: the larger, the higher their level."""
    body = _body_size(pages)
    runs = {page.number: _runs(page.lines, body) if body > 0 else [] for page in pages}
    styles = {_style(page.lines[start], body) for page in pages for start, _ in runs[page.number]}
    larger = sum(len(line.text) for page in pages for start, end in runs[page.number] for line in page.lines[start:end])
    is_sign = larger <= _LARGER_SHARE_MAX * sum(len(line.text) for page in pages for line in page.lines)
    if len(styles) > _STYLES_MAX or not is_sign:
        return list(pages)
    levels = {style: min(place, LEVEL_MAX) for place, style in enumerate(sorted(styles, reverse=True), start=1)}
    return [replace(page, lines=_with_runs(page.lines, runs[page.number], levels, body)) for page in pages]


def _with_runs(
    lines: Sequence[Line], runs: Sequence[tuple[int, int]], levels: dict[tuple[int, bool], int], body: float
) -> list[Line]:
    joined: list[Line] = []
    at = 0
    for start, end in runs:
        joined += lines[at:start]
        text = " ".join(line.text for line in lines[start:end])
        joined.append(lines[start]._replace(text=text, level=levels[_style(lines[start], body)]))
        at = end
    return [*joined, *lines[at:]]
