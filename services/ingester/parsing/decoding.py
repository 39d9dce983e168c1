"""Bytes → storable text with line feeds as line ends."""

import codecs

import charset_normalizer

from shared.text import storable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Below this a guess is worse than the commonest 8-bit encoding: "déją vu" was taken for cp1257.
GUESS_BYTES_MIN = 4096
GUESS_BYTES_MAX = 262_144


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a file cannot be text."""
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return False
    control = sum(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head)
    return b"\x00" in head or control > len(head) // 20


def decode(content: bytes, declared: str | None = None) -> tuple[str, int]:
    """Decode a file's bytes and return the text with the number of replaced characters.

    What the file says of its own encoding counts only when it is neither marked nor valid UTF-8.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _finish(content.decode(encoding, errors="replace"))
    try:
        return _finish(content.decode("utf-8"))
    except UnicodeDecodeError:
        return _finish(content.decode(_known(declared) or _guess(content), errors="replace"))


def _known(encoding: str | None) -> str | None:
    """Return an encoding's name if it is one of texts, and not the one that has just failed."""
    try:
        info = codecs.lookup(encoding or "utf-8")
    except LookupError:
        return None
    return info.name if info._is_text_encoding and not info.name.startswith(("utf", "idna", "punycode")) else None  # noqa: SLF001 (rot13 and zip are codecs too)


def _guess(content: bytes) -> str:
    if len(content) >= GUESS_BYTES_MIN:
        best = charset_normalizer.from_bytes(content[:GUESS_BYTES_MAX]).best()
        if best is not None and best.encoding != "ascii":  # what is no ASCII stands behind the part that was looked at
            return best.encoding
    return "cp1252"


def _finish(text: str) -> tuple[str, int]:
    lost = text.count("\N{REPLACEMENT CHARACTER}")
    clean, replaced = storable(text.replace("\r\n", "\n").replace("\r", "\n"))
    return clean, replaced + lost
