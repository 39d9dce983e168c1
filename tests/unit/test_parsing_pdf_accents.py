"""Letters whose accents are printed by themselves are one letter; an accent that stands alone stays what it is."""

import unicodedata

from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from tests.unit.test_parsing_pdf import read, write

_FONT, _SIZE = "Helvetica", 11
_TEXT = "Hôtel naïve élève garçon Señor où vous êtes"
_SPACING = {
    "\N{COMBINING ACUTE ACCENT}": "´",
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "ˆ",
    "\N{COMBINING DIAERESIS}": "¨",
    "\N{COMBINING TILDE}": "˜",
    "\N{COMBINING CEDILLA}": "¸",
}


def _print_as_tex(canvas: Canvas, text: str) -> None:
    """Print each accent as a sign of its own, over its letter and before it."""
    x = 72.0
    for sign in text:
        letter, mark = (*unicodedata.normalize("NFD", sign), "")[:2]
        if mark:
            _print_over(canvas, _SPACING[mark], x, letter)
        write(canvas, letter, x=x)
        x += stringWidth(letter, _FONT, _SIZE)


def _print_over(canvas: Canvas, accent: str, x: float, letter: str) -> None:
    write(canvas, accent, x=x + (stringWidth(letter, _FONT, _SIZE) - stringWidth(accent, _FONT, _SIZE)) / 2)


def test_accent_over_a_letter_is_part_of_it() -> None:
    assert read(lambda canvas: _print_as_tex(canvas, _TEXT)).text == _TEXT


def test_accent_is_part_of_its_letter_wherever_the_file_has_it() -> None:
    """A file may print a run of letters, then the accents of its first word; the words behind it stay words."""

    def draw(canvas: Canvas) -> None:
        begun = "The older fetes of the town were re"
        write(canvas, begun)
        _print_over(canvas, "ˆ", 72 + stringWidth("The older f", _FONT, _SIZE), "e")
        write(canvas, "ported as", x=72 + stringWidth(begun, _FONT, _SIZE))
        write(canvas, "fetes", x=72 + stringWidth(f"{begun}ported as ", _FONT, _SIZE))
        _print_over(canvas, "ˆ", 72 + stringWidth(f"{begun}ported as f", _FONT, _SIZE), "e")
        write(canvas, "too.", x=72 + stringWidth(f"{begun}ported as fetes ", _FONT, _SIZE))

    assert read(draw).text == "The older fêtes of the town were reported as fêtes too."


def test_accent_beside_a_letter_belongs_to_none() -> None:
    text = "Write `a` or ´e, and ¨o as well as n˜, and close it ´"
    assert read(lambda canvas: write(canvas, text)).text == text
