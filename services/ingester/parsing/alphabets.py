"""Which 8-bit encoding of Europe a text is in: the one in which its letters are those of one language; pure."""

import re
from collections import Counter

_WESTERN = "cp1252"
_CENTRAL = (
    "áčďéěíňóřšťúůýž",
    "áäčďéíĺľňóôŕšťúýž",
    "ąćęłńóśźż",
    "áéíóöőúüű",
    "čćđšž",
    "ăâîşţ",
)
# The letters beyond ASCII of each language that is written so. Of two encodings that explain a text as well, the first
# is the commoner.
_ALPHABETS = {
    _WESTERN: (
        "äöüß",
        "àâæçèéêëîïôœùûüÿ",
        "áéíóúüñ",
        "áâãàçéêíóôõúü",
        "àèéìíîòóùú",
        "àçèéíïòóúü",
        "åäöéæøèêóòüá",
        "áéíóúýþæöð",
        "äöüõšž",
        "áäéëèêïíóöüúç",
    ),
    "cp1250": _CENTRAL,
    "iso8859-2": _CENTRAL,
    "cp1254": ("çğıöşüâîû",),
    "cp1257": ("āčēģīķļņšūž", "ąčęėįšųūž"),
    "cp1251": ("абвгдежзийклмнопрстуфхцчшщъыьэюяё", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),
    "cp1253": ("αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώϊϋΐΰ",),
}
# A sign at the beginning of a word, or within one, is a letter of another encoding, and so is what no text has.
_STRANGE = re.compile(
    "[¢£¤¥¦¨ª¬¯²³´¶¸¹º¼½¾×÷ˇ˘˛˙˝][a-zß-öø-ž]|[a-zß-öø-ž][¡¿±§©«»][a-zß-öø-ž]|[\x80-\x9f\N{REPLACEMENT CHARACTER}]"
)
# Any letters of another encoding are some of theirs as well, but no word mixes them with those of ASCII, or has capitals
# within.
_OTHER_SCRIPTS = frozenset(["cp1251", "cp1253"])
_MIXED = re.compile(r"[A-Za-z][^\x00-\x7f\W\d_]|[^\x00-\x7f\W\d_][A-Za-z]|[а-яёіїєґΐ-ώ][А-ЯЁІЇЄҐΆ-Ώ]")
_UNEXPLAINED_MAX = 0.05
# So many letters have to be others than those of Western Europe.
_OTHERS_MIN = 3


def european_encoding(content: bytes) -> str | None:
    """Return the encoding in which nearly all letters beyond ASCII are those of one language, or None."""
    best: tuple[float, str] | None = None
    western = content.decode(_WESTERN, errors="replace")
    for encoding, alphabets in _ALPHABETS.items():
        text = content.decode(encoding, errors="replace")
        if encoding != _WESTERN and not _is_other_text(text, western):
            continue
        mixed = len(_MIXED.findall(text)) if encoding in _OTHER_SCRIPTS else 0
        share = _unexplained_share(text, alphabets, mixed)
        if share <= _UNEXPLAINED_MAX and (best is None or share < best[0] / 2):
            best = (share, encoding)
    return None if best is None else best[1]


def _is_other_text(text: str, western: str) -> bool:
    """Whether enough letters are others, and most of them small ones: some encodings differ in that alone."""
    others = [sign for sign, other in zip(text, western, strict=True) if sign != other]
    return len(others) >= _OTHERS_MIN and 2 * sum(map(str.islower, others)) >= len(others)


def _unexplained_share(text: str, alphabets: tuple[str, ...], mixed_count: int) -> float:
    letters = Counter(letter for letter in text.lower() if not letter.isascii() and letter.isalpha())
    strange = mixed_count + len(_STRANGE.findall(text))
    total = letters.total() + strange
    explained = max(sum(letters[letter] for letter in alphabet) for alphabet in alphabets)
    return (total - explained) / total if total else 0.0
