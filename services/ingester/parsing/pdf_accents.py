"""Letters whose accents a PDF prints by themselves, as TeX does with its older fonts: `´e` → `é`.

An accent belongs to the letter that it stands over or under, wherever in the line the file has it. One that stands beside
a letter, as in code or for a quotation mark, belongs to none.
"""

import ctypes
import math
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

import pypdfium2.raw as pdfium_c

_ABOVE = dict(zip("`´ˆ˜¨¯˘˙˚˝ˇ", "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030a\u030b\u030c", strict=True))
_BELOW = dict(zip("¸˛", "\u0327\u0328", strict=True))
_COMBINING = _ABOVE | _BELOW
ACCENTS = re.compile(f"[{''.join(_COMBINING)}]")
_DOTLESS = {"ı": "i", "ȷ": "j"}
# Nearly always its letter stands so near in the text; PDFium puts some to other words of the line.
_NEAR = 3
# How far its middle may be from that of its letter, and its near side from that of the letter. Units: sizes of type.
_ASIDE_MAX = 0.25
_APART_MAX = 0.35
_WORD_GAP_MIN = 0.15
_BLANKS_MAX = 8


class _Box(NamedTuple):
    """Where a character is printed. Units: points, upwards."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


_NOWHERE = _Box(math.nan, math.nan, math.nan, math.nan)  # near to nothing


class PrintedLine:
    """The characters of a line and where they stand; of one that is turned, no accent seems to stand over a letter."""

    def __init__(self, page: pdfium_c.FPDF_TEXTPAGE, text: str, size: float, place_of: Callable[[int], int]) -> None:
        """`place_of` tells the place of a character in its page's list; the size of type is in points."""
        self._page = page
        self._signs = list(text)
        self._size = size
        self._place_of = place_of

    def with_letters(self) -> str:
        """Return the text with one letter for each that has its accent by itself."""
        for at in [at for at, sign in enumerate(self._signs) if sign in _COMBINING]:
            letter = self._letter_near(at) if self._size > 0 else None
            if letter is not None:
                self._signs[letter] = _composed(self._signs[letter], self._signs[at]) or ""
                self._signs[at] = ""
                self._close(at)
        return "".join(self._signs)

    def _letter_near(self, at: int) -> int | None:
        """Return the place of the letter that an accent belongs to: one beside it, or else one anywhere in the line."""
        accent = self._box(at)
        near = range(max(0, at - _NEAR), min(len(self._signs), at + _NEAR + 1))
        found = self._best(at, accent, near)
        if found is None:
            begin = bisect_left(self._by_middle, (accent.middle - _ASIDE_MAX * self._size, 0))
            found = self._best(at, accent, [place for _, place in self._by_middle[begin : begin + 2 * _NEAR]])
        return found

    def _best(self, at: int, accent: _Box, places: Iterable[int]) -> int | None:
        aside_of: dict[int, float] = {}
        for place in places:
            if _composed(self._signs[place], self._signs[at]) is None:
                continue
            box = self._box(place)
            apart = accent.top - box.bottom if self._signs[at] in _BELOW else accent.bottom - box.top
            aside = abs(accent.middle - box.middle)
            if aside <= _ASIDE_MAX * self._size and abs(apart) <= _APART_MAX * self._size:
                aside_of[place] = aside
        return min(aside_of, key=aside_of.__getitem__, default=None)

    @cached_property
    def _by_middle(self) -> list[tuple[float, int]]:
        return sorted((self._box(at).middle, at) for at, sign in enumerate(self._signs) if sign.isalpha())

    def _close(self, at: int) -> None:
        """Take away the blanks beside an accent that PDFium saw only because of it."""
        first = last = at
        while at - first < _BLANKS_MAX and first > 0 and not self._signs[first - 1].strip():
            first -= 1
        while last - at < _BLANKS_MAX and last + 1 < len(self._signs) and not self._signs[last + 1].strip():
            last += 1
        if not any(self._signs[first : last + 1]):
            return
        is_inside = first > 0 and last + 1 < len(self._signs)
        gap = self._box(last + 1).left - self._box(first - 1).right if is_inside else 0.0
        self._signs[first : last + 1] = [""] * (last + 1 - first)
        if gap > _WORD_GAP_MIN * self._size:
            self._signs[first] = " "

    def _box(self, at: int) -> _Box:
        left, right, bottom, top = (ctypes.c_double() for _ in range(4))
        if not pdfium_c.FPDFText_GetCharBox(self._page, self._place_of(at), left, right, bottom, top):
            return _NOWHERE
        return _Box(left.value, right.value, bottom.value, top.value)


def _composed(letter: str, accent: str) -> str | None:
    """Return a letter with an accent as one character, if there is such a one."""
    whole = unicodedata.normalize("NFC", _DOTLESS.get(letter, letter) + _COMBINING[accent])
    return whole if len(whole) == 1 and letter.isalpha() else None
