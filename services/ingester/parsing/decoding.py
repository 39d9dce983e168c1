"""Bytes → storable text with line feeds as line ends."""

import codecs
import re

import charset_normalizer

from services.ingester.parsing.alphabets import european_encoding
from shared.text import storable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Where no alphabet of Europe explains the letters of a text, a guess at a shorter one is worse than the commonest 8-bit
# encoding: "déją vu" was taken for cp1257.
GUESS_BYTES_MIN = 4096
GUESS_BYTES_MAX = 262_144
# Unless that encoding is plainly wrong: even of a dense French line less than 40 of 100 bytes are no ASCII.
_FOREIGN_SHARE_MIN = 0.45
_FOREIGN_BYTES_MIN = 10
_ASCII = bytes(range(0x80))

# Two or four bytes a character without a mark. Of two, alphabets are told from chance, and their spaces and line ends
# show which byte comes first; Chinese is not.
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_WIDE_BYTES_MAX = 8192
_ALPHABETS_END = "\u3000"
_ALPHABETS_SHARE_MIN = 0.7
_ASCII_SHARE_MIN = 0.05
_ASCII_MIN = 4
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ud800-\udfff\ue000-\uf8ff\ufffe\uffff]")
# A text in which a program left a gap of zeros: a log after a crash, an export that ends so. Of other files all parts have some.
_ZEROS = re.compile(rb"\x00+")
_GAP_BYTES_MIN = 100
_SHIFTED = b"\x1b$"  # how Japanese begins in ISO-2022, all of whose bytes are ASCII


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a file cannot be text."""
    if any(head.startswith(mark) for mark, _ in _MARKS) or _wide(head) is not None:
        return False
    gaps = sum(1 for _ in _ZEROS.finditer(head))
    text = _ZEROS.sub(b"", head) if gaps else head
    control = sum(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in text)
    if gaps and (gaps * _GAP_BYTES_MIN > len(text) or control or not _is_utf8(text)):
        return True
    return control > len(text) // 20


def decode(content: bytes, declared: str | None = None) -> tuple[str, int]:
    """Decode a file's bytes and return the text with the number of replaced characters.

    What the file says of its own encoding counts only when it is neither marked nor valid UTF-8.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _finish(content.decode(encoding, errors="replace"))
    if (wide := _wide(content)) is not None:
        return _finish(content.decode(wide, errors="replace"))
    content = _ZEROS.sub(b"\x00", content)  # of a log with room for more, each zero would be a replaced character
    if _SHIFTED in content[:GUESS_BYTES_MAX] and (japanese := _strictly(content, "iso2022_jp_2")) is not None:
        return _finish(japanese)
    try:
        return _finish(content.decode("utf-8"))
    except UnicodeDecodeError:
        return _finish(content.decode(_known(declared) or _guess(content), errors="replace"))


def _wide(content: bytes) -> str | None:
    """Return the encoding of a text of two or four bytes a character that has no mark."""
    head = content[:_WIDE_BYTES_MAX]
    if b"\x00" not in head:
        return None
    for encoding in _WIDE:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            continue
        if not text or _CONTROL.search(text):
            continue
        alphabets = sum(character < _ALPHABETS_END for character in text)
        ascii_count = sum(character.isascii() for character in text)
        is_alphabetic = alphabets >= _ALPHABETS_SHARE_MIN * len(text)
        has_ascii = ascii_count >= max(_ASCII_SHARE_MIN * len(text), min(_ASCII_MIN, len(text) / 2))
        # Numbers of four bytes look like rare signs beyond the first two planes.
        is_text = max(text) < "\U00020000" if encoding.startswith("utf-32") else is_alphabetic
        if is_text and has_ascii:
            return encoding
    return None


def _is_utf8(beginning: bytes) -> bool:
    """Whether bytes are UTF-8, which may end within a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return True


def _strictly(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _known(encoding: str | None) -> str | None:
    """Return an encoding's name if it is one of texts, and not the one that has just failed."""
    try:
        info = codecs.lookup(encoding or "utf-8")
    except LookupError:
        return None
    return info.name if info._is_text_encoding and not info.name.startswith(("utf", "idna", "punycode")) else None  # noqa: SLF001 (rot13 and zip are codecs too)


def _guess(content: bytes) -> str:
    is_foreign = _is_foreign(content)
    if not is_foreign and (european := european_encoding(content[:GUESS_BYTES_MAX])) is not None:
        return european
    if len(content) >= GUESS_BYTES_MIN or is_foreign:
        best = charset_normalizer.from_bytes(content[:GUESS_BYTES_MAX]).best()
        if best is not None and best.encoding != "ascii":  # what is no ASCII stands behind the part that was looked at
            return best.encoding
    return "cp1252"


def _is_foreign(content: bytes) -> bool:
    """Whether so many bytes are no ASCII that the text cannot be Western."""
    letters = b"".join(content.split())
    foreign = len(letters.translate(None, _ASCII))
    return foreign >= _FOREIGN_BYTES_MIN and foreign >= _FOREIGN_SHARE_MIN * len(letters)


def _finish(text: str) -> tuple[str, int]:
    lost = text.count("\N{REPLACEMENT CHARACTER}")
    clean, replaced = storable(text.replace("\r\n", "\n").replace("\r", "\n"))
    return clean, replaced + lost
