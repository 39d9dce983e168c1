"""The lines of a PDF's page with their places and their type, as PDFium tells them."""

import ctypes
import math
import re
from collections.abc import Iterator
from functools import lru_cache

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from services.ingester.parsing.pdf_accents import ACCENTS, PrintedLine
from services.ingester.parsing.pdf_layout import LEADERS, Line
from services.ingester.parsing.writer import folded

# PDFium puts U+FFFE for a hyphen at the end of a line, and leaves the line feed out.
_LINE_END = re.compile("\r\n|\r|\n|\ufffe")
_CONTROLS = {code: " " for code in range(32) if chr(code) not in "\x00\t"} | {2: "-"}
_LEADERS = re.compile(r"[.·…_]\s?(?:[.·…_]\s?){4,}")
_FONT_NAME_BYTES = 128
_BOLD = re.compile(rb"bold|black|heavy|CMBX|-bd", re.IGNORECASE)
_LETTER_WIDTH = 0.5


def read_lines(text_page: pdfium.PdfTextPage) -> Iterator[Line]:
    """Return the lines of a page in the order of the file."""
    text = text_page.get_text_range() if text_page.count_chars() > 0 else ""
    has_leaders = _LEADERS.search(text) is not None
    has_accents = ACCENTS.search(text) is not None
    ruler = _Ruler(text_page, len(text))
    start = 0
    for end in _LINE_END.finditer(text + "\n"):
        raw = text[start : end.end()]
        printed = words = raw.rstrip(" \t\r\n\ufffe")
        if has_accents and ACCENTS.search(words):
            words = ruler.compose(words, start).rstrip()
        if has_leaders or not words.isprintable():
            body = folded(_LEADERS.sub(LEADERS, words.translate(_CONTROLS)))
        else:  # there is nothing to replace in it, and no white space but blanks
            body = " ".join(words.split()) if "  " in words or words[:1] == " " else words
        if body:
            first = start + len(printed) - len(printed.lstrip())
            line = ruler.measure(body, first, start + len(printed) - 1)
            yield line._replace(text=f"{body}-") if raw.endswith("\ufffe") else line
        start = end.end()


class _Ruler:
    """Asks where lines stand. PDFium is asked six times for each, so what it answers into is made once a page."""

    def __init__(self, text_page: pdfium.PdfTextPage, length: int) -> None:
        """Lay it on a page by whose text, of so many characters, places are named."""
        self._page = text_page.raw
        self._matrix = pdfium_c.FS_MATRIX()
        self._x, self._y = ctypes.c_double(), ctypes.c_double()
        self._name, self._flags = ctypes.create_string_buffer(_FONT_NAME_BYTES), ctypes.c_int()
        # Places on the page ascend with those in its text, so when the last is the same, all are.
        last = pdfium_c.FPDFText_GetCharIndexFromTextIndex(self._page, length - 1) if length else -1
        self._has_same_places = last == length - 1

    def measure(self, text: str, first: int, last: int) -> Line:
        """Tell where a line begins and ends; its middle tells size and height, for a raised number may begin it."""
        page, matrix = self._page, self._matrix
        middle = (first + last) // 2
        if not self._has_same_places:
            first, middle, last = (self._place_of(place) for place in (first, middle, last))
        if middle < 0 or not pdfium_c.FPDFText_GetMatrix(page, middle, matrix):
            return Line(text)
        a, b = matrix.a, matrix.b
        size = pdfium_c.FPDFText_GetFontSize(page, middle) * math.hypot(matrix.c, matrix.d)
        if a >= abs(b):  # as nearly always: from left to right
            x, y = self._x, self._y
            pdfium_c.FPDFText_GetCharOrigin(page, first, x, y)
            left = x.value
            pdfium_c.FPDFText_GetCharOrigin(page, last, x, y)
            right = x.value
            pdfium_c.FPDFText_GetCharOrigin(page, middle, x, y)
            bottom = y.value
        else:
            left, _ = self._turned_origin(first, a, b)
            right, _ = self._turned_origin(last, a, b)
            _, bottom = self._turned_origin(middle, a, b)
        is_bold = self._is_bold(first) and self._is_bold(last)
        return Line(text, left, max(left, right + _LETTER_WIDTH * size), bottom, size, is_bold)

    def compose(self, text: str, start: int) -> str:
        """Put accents and the letters that they stand over together."""
        matrix = self._matrix
        at = self._place_of(start + text.find(text.strip()))
        if not pdfium_c.FPDFText_GetMatrix(self._page, at, matrix):
            return text
        size = pdfium_c.FPDFText_GetFontSize(self._page, at) * math.hypot(matrix.c, matrix.d)
        return PrintedLine(self._page, text, size, lambda place: self._place_of(start + place)).with_letters()

    def _place_of(self, place: int) -> int:
        return place if self._has_same_places else pdfium_c.FPDFText_GetCharIndexFromTextIndex(self._page, place)

    def _is_bold(self, place: int) -> bool:
        length = pdfium_c.FPDFText_GetFontInfo(self._page, place, self._name, _FONT_NAME_BYTES, self._flags)
        return 0 < length <= _FONT_NAME_BYTES and _names_bold(self._name.value)  # a longer name is not written

    def _turned_origin(self, place: int, a: float, b: float) -> tuple[float, float]:
        """Return where a character stands, along its line and across it, of text that runs in another direction."""
        pdfium_c.FPDFText_GetCharOrigin(self._page, place, self._x, self._y)
        x, y = self._x.value, self._y.value
        if abs(a) >= abs(b):
            return -x, -y
        return (y, -x) if b >= 0 else (-y, x)


@lru_cache(maxsize=256)
def _names_bold(font: bytes) -> bool:
    return _BOLD.search(font) is not None
