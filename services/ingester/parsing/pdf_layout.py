"""Lines of pages → paragraphs: repeated headers, columns, hyphens, paragraphs over a page's end; pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from statistics import median
from typing import NamedTuple

# What the dots between an entry and its page number become.
LEADERS = " … "
HYPHENS = "-\N{SOFT HYPHEN}\N{HYPHEN}"
# A header has to stand on this share of the pages, or of those with an even or odd number.
REPEATED_SHARE_MIN = 0.6
REPEATED_PAGES_MIN = 3
# More than this is what the pages say: forms, certificates.
REPEATED_TEXT_SHARE_MAX = 1 / 3
_EDGE_LINES = 3
_HEIGHT_STEPS = 40
_PAGE_NUMBER_CHARACTERS_MAX = 60
_DIGITS = re.compile(r"\d+|\b[ivxlcIVXLC]+\b")
_ITEM = re.compile(r"(?:[•‣▪◦●○■–—*·]|[-]|\(?(?:\d{1,3}|[a-zA-Z])[.)]|\[\d{1,3}\])\s+\S")
_SENTENCE_END = re.compile(r"[.!?:;。！？][\"'”’)\]]*$")
_WORD = re.compile(r"[^\W\d_]+(?:[-‐][^\W\d_]+)*")
_BROKEN = re.compile(rf"([^\W\d_]+)[{HYPHENS}]$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_WORD_GAP_MIN = 0.15
# Each line of a paragraph is compared with all before it.
PARAGRAPH_LINES_MAX = 200
_WORD_LENGTH_MAX = 60
_LINE_GAP_MAX = 1.3
_SIZE_CHANGE_MAX = 1.12
_INDENT_MIN = 0.8
_FULL_LINE_MIN = 0.75
_FILLED_SHARE = 0.8
_NUMBERS_SHARE = 0.3


class Line(NamedTuple):
    """A line as it is printed, in the direction of its text. Units: points, upwards; all 0 where that is not known.

    A heading has a `level`; `titles` are headings of the outline (level, words) that stand before it unprinted.
    """

    text: str
    left: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    size: float = 0.0
    is_bold: bool = False
    level: int = 0
    titles: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PageLines:
    """The lines of a page in reading order; `number` counts from 1."""

    number: int
    height: float
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Lines that belong together. Prose is one line of text; anything else keeps its lines."""

    page: int
    text: str
    is_prose: bool
    lines: tuple[Line, ...]

    @property
    def size(self) -> float:
        """The size of its type."""
        return max(line.size for line in self.lines)

    @property
    def level(self) -> int:
        """Its level as a heading, or 0."""
        return self.lines[0].level


def without_repeated(pages: Sequence[PageLines]) -> list[PageLines]:
    """Drop headers, footers and page numbers.

    These are the same words at the same height on most pages, numbers aside, or a number that counts the pages there.
    Where that would be much of the text, it stays.
    """
    full = [page for page in pages if page.lines]
    edges = {page.number: {line: _keys(page, line) for line in _edges(page)} for page in full}
    keys = {number: {key for found in lines.values() for key in found} for number, lines in edges.items()}
    repeated: set[tuple[str, int]] = set()
    for group in (full, [p for p in full if p.number % 2 == 0], [p for p in full if p.number % 2 == 1]):
        counts = Counter(key for page in group for key in keys[page.number])
        least = max(REPEATED_PAGES_MIN, REPEATED_SHARE_MIN * len(group))
        repeated |= {key for key, count in counts.items() if count >= least}
    kept = []
    for page in pages:
        dropped = {line for line, found in edges.get(page.number, {}).items() if not repeated.isdisjoint(found)}
        kept.append(replace(page, lines=[line for line in page.lines if line not in dropped]) if dropped else page)
    is_beside = _length(kept) >= (1 - REPEATED_TEXT_SHARE_MAX) * _length(pages)
    return kept if is_beside else list(pages)


def _length(pages: Iterable[PageLines]) -> int:
    return sum(len(line.text) for page in pages for line in page.lines)


def _edges(page: PageLines) -> list[Line]:
    by_height = sorted(page.lines, key=lambda line: -line.bottom)
    return by_height[:_EDGE_LINES] + by_height[_EDGE_LINES:][-_EDGE_LINES:]


def _keys(page: PageLines, line: Line) -> set[tuple[str, int]]:
    """Return what of a line may be repeated, with its height: its words, and the page number at one of its ends."""
    height = round(line.bottom / page.height * _HEIGHT_STEPS) if page.height else 0
    parts = line.text.split()
    keys = {(" ".join(_DIGITS.sub("#", line.text).casefold().split()), height)}
    if len(line.text) <= _PAGE_NUMBER_CHARACTERS_MAX:
        numbers = [int(part) for part in (parts[0], parts[-1]) if part.isdecimal() and len(part) < 6]
        keys |= {(f"page {number - page.number:+}", height) for number in numbers}
    return keys


def merged_lines(lines: Iterable[Line]) -> list[Line]:
    """Put what stands at one height side by side into one line: a raised number is no line of its own."""
    merged: list[Line] = []
    for line in lines:
        last = merged[-1] if merged else None
        if last is not None and _is_beside(last, line):
            joint = "" if line.left - last.right < _WORD_GAP_MIN * last.size else " "
            main = max(last, line, key=lambda part: (part.size, len(part.text)))
            merged[-1] = main._replace(
                text=last.text + joint + line.text, left=last.left, right=max(last.right, line.right)
            )
        else:
            merged.append(line)
    return merged


def _is_beside(last: Line, line: Line) -> bool:
    """Whether a line goes on where another ends; raised and lowered signs may be a little off."""
    larger, smaller = (last.size, line.size) if last.size >= line.size else (line.size, last.size)
    shift_max = (0.6 if smaller < 0.85 * larger else 0.3) * larger
    return abs(line.bottom - last.bottom) < shift_max and -2 * larger <= line.left - last.right <= 1.5 * larger


def paragraphs(pages: Sequence[PageLines]) -> list[Paragraph]:
    """Group the lines of all pages into paragraphs; a heading is one by itself.

    Order: as read. A sentence that the end of a column or page divides is whole again and counts to where it begins.
    """
    words = Words(pages)
    found: list[Paragraph] = []
    for page in pages:
        pitch = _pitch(page.lines)
        for group in _groups(page.lines, pitch):
            paragraph = _paragraph(page.number, group, words)
            if found and _goes_on(found[-1], paragraph):
                found[-1:] = _carry(found[-1], paragraph, words)
            else:
                found.append(paragraph)
    return found


class Words:
    """How often the document uses each word, counted when the first divided one asks."""

    def __init__(self, pages: Sequence[PageLines]) -> None:
        self._pages = pages

    def __getitem__(self, word: str) -> int:
        """Return how often a word in lower case stands whole on a line."""
        return self._counts[word]

    @cached_property
    def _counts(self) -> Counter[str]:
        texts = (_without_broken_ends(line.text) for page in self._pages for line in page.lines)
        return Counter(map(str.lower, chain.from_iterable(map(_WORD.findall, texts))))


def _without_broken_ends(text: str) -> str:
    """Leave out a word that the end of the line has cut."""
    return text.rpartition(" ")[0] if text[-1:] in HYPHENS else text


def _pitch(lines: Sequence[Line]) -> float:
    """Return the usual distance from one line to the next, as a multiple of the size of type."""
    steps = [
        step
        for above, below in pairwise(lines)
        if above.size > 0 and 0.5 < (step := (above.bottom - below.bottom) / above.size) < 2.5
    ]
    return median(steps) if steps else 1.2


def _groups(lines: Sequence[Line], pitch: float) -> Iterator[list[Line]]:
    group: list[Line] = []
    for line in lines:
        if group and _begins(group, line, pitch):
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _ends_sentence(text: str) -> bool:
    return not text[-1:].isalnum() and _SENTENCE_END.search(text[-10:]) is not None


def _is_other_size(first: float, second: float) -> bool:
    return first != second and max(first, second) > _SIZE_CHANGE_MAX * min(first, second)


def _begins(group: Sequence[Line], line: Line, pitch: float) -> bool:
    """Whether a line begins a new paragraph."""
    last = group[-1]
    if len(group) >= PARAGRAPH_LINES_MAX:
        return True
    if line.level or last.level or line.titles or _ITEM.match(line.text):
        return True
    if last.size <= 0 or line.size <= 0:
        return _ends_sentence(last.text) and len(last.text) < 0.7 * max(len(other.text) for other in group)
    if last.is_bold != line.is_bold or _is_other_size(last.size, line.size):
        return True
    step = last.bottom - line.bottom
    if step < 0 or step > _LINE_GAP_MAX * pitch * last.size:  # another column, or a gap
        return True
    if not _ends_sentence(last.text):
        return False
    width = max(other.right for other in group) - min(other.left for other in group)
    return last.right - last.left < _FULL_LINE_MIN * width or line.left - last.left > _INDENT_MIN * line.size


def _paragraph(page: int, lines: Sequence[Line], words: Words) -> Paragraph:
    if _are_rows(lines):
        return Paragraph(page, "\n".join(line.text for line in lines), False, tuple(lines))
    parts = [lines[0].text]
    for line in lines[1:]:
        parts += seam(parts.pop(), line.text, words)
    return Paragraph(page, "".join(parts), True, tuple(lines))


def _are_rows(lines: Sequence[Line]) -> bool:
    """Whether lines stand for themselves: rows of a table, verse, addresses."""
    if len(lines) < 2:
        return False
    text = "".join([line.text for line in lines])
    if _digits_count(text) > _NUMBERS_SHARE * (len(text) - text.count(" ")):
        return True
    if 2 * sum(LEADERS in line.text for line in lines) >= len(lines):
        return True
    left = min(line.left for line in lines)
    width = max(line.right for line in lines) - left
    filled = sum(line.right - left >= _FILLED_SHARE * width for line in lines[:-1])
    return width > 0 and len(lines) > 2 and 2 * filled < len(lines) - 1


def _digits_count(text: str) -> int:
    # To count the digits that there are is ten times as fast as to ask each sign whether it is one.
    signs = "0123456789" if text.isascii() else filter(str.isdigit, set(text))
    return sum(map(text.count, signs))


def seam(text: str, more: str, words: Words) -> tuple[str, str]:
    """Return two lines as they are put together: with a space between, or without the hyphen of a divided word."""
    if text[-1] not in HYPHENS or text[-2:-1].isspace():
        return text, f" {more}"
    broken, following = _BROKEN.search(text[-_WORD_LENGTH_MAX:]), _FIRST_WORD.match(more[:_WORD_LENGTH_MAX])
    if broken is None or following is None or text[-1] == "\N{SOFT HYPHEN}":
        return text.rstrip("\N{SOFT HYPHEN}"), more
    return (text if _is_compound(broken[1], following[0], words) else text[:-1]), more


def _is_compound(first: str, second: str, words: Words) -> bool:
    """Whether a hyphen at the end of a line belongs to the word."""
    whole, parted = (first + second).lower(), f"{first}-{second}".lower()
    if not second[0].islower() or len(first) == 1:  # x-ray, k-means
        return True
    if words[whole] or words[parted]:
        return words[parted] > words[whole]
    # Two words that the document uses by themselves; short ones more often make one: with-out, over-all.
    return min(len(first), len(second)) > 3 and bool(words[first.lower()] and words[second.lower()])


def _goes_on(last: Paragraph, following: Paragraph) -> bool:
    """Whether a paragraph goes on in the next column or on the next page."""
    if not (last.is_prose and following.is_prose) or following.page > last.page + 1:
        return False
    if last.level or following.level or following.lines[0].titles:
        return False
    if following.page == last.page and following.lines[0].bottom <= last.lines[-1].bottom:
        return False
    if _is_other_size(last.size, following.size):
        return False
    return len(last.lines) > 1 and not _ends_sentence(last.text) and following.text[0].islower()


def _carry(last: Paragraph, following: Paragraph, words: Words) -> list[Paragraph]:
    """Give the first paragraph the rest of its sentence."""
    if following.page == last.page:
        return [replace(last, text="".join(seam(last.text, following.text, words)), lines=last.lines + following.lines)]
    end = re.search(r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[]*[A-ZÀ-ÖØ-Þ])", following.text)
    cut = end.end() if end else len(following.text)
    carried = replace(last, text="".join(seam(last.text, following.text[:cut], words)))
    rest = following.text[cut:].strip()
    return [carried, replace(following, text=rest)] if rest else [carried]
