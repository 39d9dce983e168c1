"""What tesseract says of a page → lines, upright; pure."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median

from services.ingester.parsing.pdf_layout import Line
from services.ingester.parsing.writer import folded

# How sure it has to be of a word, of 100: less are specks, and the leaves of a photographed tree.
CONFIDENCE_MIN = 30.0
# Of the words of a page in Latin letters that can be read, half are surer than 91, and than 79 where every second is wrong (60
# to 72 dots an inch); of one that lies upside down, or is in Russian or Greek and read as English, than 56 to 67.
GUESSED_CONFIDENCE_MAX = 70.0
# Of lines in one type some are so much higher in ink than others: brackets and tails, or letters such as "m" alone.
INK_MAX = 1.25
_WORD = "5"


@dataclass(frozen=True, slots=True)
class _Word:
    """A word with its box. Units: pixels, downwards from the top of the page."""

    line: tuple[int, ...]
    left: int
    top: int
    right: int
    bottom: int
    confidence: float
    text: str


def is_guessed(table: str) -> bool:
    """Whether the words of a page are guesses: it lies the wrong way round, is too bad, or in a language that was not asked for."""
    sure = [word.confidence for word in _words(table) if word.confidence >= CONFIDENCE_MIN]
    return bool(sure) and median(sure) < GUESSED_CONFIDENCE_MAX


def lines_of(table: str, scale: float, width: float, height: float) -> Iterator[Line]:
    """Return the lines of a table of words as they stand on the page, or would if it lay upright.

    Units: pixels, downwards from its top → points, upwards from its foot. The lines of a paragraph are of one size.
    """
    lines = [list(words) for _, words in groupby(_words(table), key=lambda word: word.line)]
    lines, height = _upright([kept for words in lines if (kept := _between_sure(words))], width * scale, height * scale)
    paragraphs = [list(paragraph) for _, paragraph in groupby(lines, key=lambda words: words[0].line[:3])]
    for paragraph, size in zip(paragraphs, _sizes(paragraphs), strict=True):
        for words in paragraph:
            left, right = min(word.left for word in words), max(word.right for word in words)
            bottom = height - max(word.bottom for word in words)
            yield Line(" ".join(word.text for word in words), left / scale, right / scale, bottom / scale, size / scale)


def _sizes(paragraphs: Sequence[Sequence[Sequence[_Word]]]) -> list[float]:
    """Return the size of type of each paragraph: that of most lines where it is about that, or ink would make headings.

    It is the height of a word, for the box of a long line is higher by as much as the page was laid down askew.
    """
    found = [max(word.bottom - word.top for words in lines for word in words) for lines in paragraphs]
    usual = median(size for size, lines in zip(found, paragraphs, strict=True) for _ in lines) if found else 0
    return [usual if usual / INK_MAX <= size <= usual * INK_MAX else size for size in found]


def _words(table: str) -> Iterator[_Word]:
    return filter(None, map(_word, table.split("\n")))


def _word(row: str) -> _Word | None:
    """Read a row: level, page, block, paragraph, line, word, left, top, width, height, confidence, text."""
    level, *fields = row.split("\t", 11)
    if level != _WORD or len(fields) != 11:
        return None
    with contextlib.suppress(ValueError):
        page, block, paragraph, line, _, left, top, width, height = map(int, fields[:9])
        confidence, text = float(fields[9]), folded(fields[10])
        if text:
            return _Word((page, block, paragraph, line), left, top, left + width, top + height, confidence, text)
    return None


def _between_sure(words: Sequence[_Word]) -> list[_Word]:
    """Leave out what is no word at both ends of a line.

    Between two sure words it is one, read badly or not (of 3,750 words read rightly, one to three are held for specks):
    without it a sentence would say something else.
    """
    sure = [place for place, word in enumerate(words) if word.confidence >= CONFIDENCE_MIN]
    return list(words[sure[0] : sure[-1] + 1]) if sure else []


def _upright(lines: list[list[_Word]], width: float, height: float) -> tuple[list[list[_Word]], float]:
    """Turn the boxes of a page that lies on its side or on its head; return the height that it then has.

    Words tell whether lines run across the page or along it, and the step from one line to the next which way round;
    words alone do not, for Arabic runs from right to left. A page may hold a line that lies otherwise, so most of it decides.
    """
    across = along = downwards = rightwards = 0
    for words in lines:
        for last, word in pairwise(words):
            across += abs(word.left + word.right - last.left - last.right)
            along += abs(word.top + word.bottom - last.top - last.bottom)
    for (last, *_), (word, *_) in pairwise(lines):
        if last.line[:2] == word.line[:2]:
            downwards += word.top + word.bottom - last.top - last.bottom
            rightwards += word.left + word.right - last.left - last.right
    w, h = round(width), round(height)
    if along <= across:
        if downwards >= 0:
            return lines, height
        return _boxed(lines, lambda word: (w - word.right, h - word.bottom, w - word.left, h - word.top)), height
    if rightwards > 0:  # they run upwards
        return _boxed(lines, lambda word: (h - word.bottom, word.left, h - word.top, word.right)), width
    return _boxed(lines, lambda word: (word.top, w - word.right, word.bottom, w - word.left)), width


def _boxed(lines: list[list[_Word]], box: Callable[[_Word], tuple[int, int, int, int]]) -> list[list[_Word]]:
    """Give each word another box: left, top, right, bottom."""
    return [
        [
            replace(word, left=left, top=top, right=right, bottom=bottom)
            for word in words
            for left, top, right, bottom in [box(word)]
        ]
        for words in lines
    ]
