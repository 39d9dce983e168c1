"""Text that is endless, of odd bytes, of no bytes, or two things at once."""

import codecs
import gzip
import struct
from collections.abc import Iterator

from tests.formats.hostile.archives import document
from tests.formats.hostile.pdfs import simple
from tests.formats.hostile.recipe import MIB, Hostile, Recipe, noise, zipped


def _lengths(recipe: Recipe) -> Iterator[Hostile]:
    long = recipe.sized(100 * MIB)
    yield Hostile("text/lines.txt", lambda: b"a line\n" * recipe.sized(10_000_000))
    yield Hostile("text/line.txt", lambda: b"word " * (long // 5))
    yield Hostile("text/letter.txt", lambda: b"a" * long)
    yield Hostile("text/line-feeds.txt", lambda: b"\n" * long + b"x")
    yield Hostile("text/returns.log", lambda: b"a\r" * (long // 4))
    yield Hostile("text/spaces.txt", lambda: b" " * long + b"x")
    yield Hostile("text/full-stops.txt", lambda: b". " * (long // 20))
    yield Hostile("text/paragraphs.txt", lambda: b"a\n\n" * (long // 30))
    yield Hostile("text/form-feeds.txt", lambda: b"a\f" * (long // 30))
    yield Hostile("text/separators.txt", lambda: "a\u2028b\u2029c\x85".encode() * (long // 300))
    yield Hostile("text/wide.txt", lambda: ("\U0001f600" + "a" * 1000).encode() * (long // 1100))


def _bytes(recipe: Recipe) -> Iterator[Hostile]:
    some = recipe.sized(MIB)
    yield Hostile("bytes/none.txt", lambda: b"")
    yield Hostile("bytes/none.pdf", lambda: b"")
    yield Hostile("bytes/none.docx", lambda: b"")
    for name in ("BOM_UTF8", "BOM_UTF16_LE", "BOM_UTF16_BE", "BOM_UTF32_LE", "BOM_UTF32_BE"):
        yield Hostile(f"bytes/{name.lower()}.txt", lambda name=name: getattr(codecs, name))
        yield Hostile(
            f"bytes/{name.lower()}-odd.md", lambda name=name: getattr(codecs, name) + b"\x00a\xd8\x00b" * 1001
        )
    yield Hostile(
        "bytes/utf16-lone.txt", lambda: codecs.BOM_UTF16_LE + struct.pack("<4H", 0xD800, 0x61, 0xDC00, 0x62) * some
    )
    yield Hostile(
        "bytes/utf32-beyond.txt", lambda: codecs.BOM_UTF32_LE + struct.pack("<3I", 0x110000, 0x61, 0xD800) * (some // 4)
    )
    yield Hostile("bytes/surrogates.txt", lambda: b"a\xed\xa0\x80\xed\xbf\xbf b " * some)
    yield Hostile("bytes/overlong.txt", lambda: b"\xc0\xaf\xe0\x80\xaf\xf8\x88\x80\x80\x80 a " * some)
    yield Hostile("bytes/nul.txt", lambda: b"a\x00" * some)
    yield Hostile("bytes/only-nul.md", lambda: b"\x00" * some)
    yield Hostile("bytes/late-nul.txt", lambda: b"text " * 20_000 + b"\x00\x01\x02" * some)
    yield Hostile("bytes/noise.txt", lambda: noise(4 * some), "failed")
    yield Hostile("bytes/noise.md", lambda: b"text\n" * 3000 + noise(4 * some))
    yield Hostile("bytes/latin.txt", lambda: bytes(range(32, 256)) * (some // 100))
    yield Hostile("bytes/escapes.txt", lambda: b"\x1b$B\x1b(B" * some)
    yield Hostile("bytes/shifted.txt", lambda: b"\x1b$B" + b"$\x22" * some)
    yield Hostile("bytes/tilde.txt", lambda: b"~{VPND~}~" * some)
    yield Hostile("bytes/ebcdic.txt", lambda: ("A text of long ago. " * 1000).encode("cp037"))
    yield Hostile("bytes/packed.txt", lambda: gzip.compress(b"text" * some), "failed")
    for name, unit in {
        "right-to-left": "\u202eevil\u202c \u2066a\u2069 ", "invisible": "a\u200b\u2060\ufeff\u00ad", "combining": "e" + "\u0301\u0323" * 500,
        "tags": "a\U000e0041\U000e007f", "private": "\ue000\uf8ff\U0010fffd", "noncharacters": "\ufffe\uffff\U0001fffe\ufdd0",
        "joined": "👩\u200d" * 200, "long-ligature": "\ufdfa", "digits": "٣" * 100, "controls": "\x01\x02\x07\x08 a", "flags": "🇩🇪" * 100,
    }.items():  # fmt: skip
        yield Hostile(f"bytes/{name}.txt", lambda unit=unit: unit.encode() * (some // len(unit.encode())))


def _polyglots(recipe: Recipe) -> Iterator[Hostile]:
    word = zipped(document())
    yield Hostile("both/pdf-zip.pdf", lambda: simple("A harbour.") + word)
    yield Hostile("both/pdf-zip.docx", lambda: simple("A harbour.") + word)
    yield Hostile("both/zip-pdf.pdf", lambda: word + simple("A harbour."))
    yield Hostile("both/html-pdf.html", lambda: b"<html><p>text</p>" + simple("A harbour."))
    yield Hostile("both/picture-script.md", lambda: b"GIF89a=1;alert(1);//" + b"\x00" * 100, "failed")
    yield Hostile("both/picture-pdf.pdf", lambda: b"\xff\xd8\xff\xe0" + b"JFIF" * 10 + simple("A harbour."))
    yield Hostile("both/word.pdf", lambda: word, "ready")
    yield Hostile("both/page.docx", lambda: b"<html><p>text</p></html>", "failed")
    yield Hostile("both/mail-page.eml", lambda: b"<!doctype html>\nFrom: a@b.c\nTo: b\nReceived: x\n\n<p>text")
    yield Hostile("both/mail-pdf.eml", lambda: b"From: a@b.c\nMessage-ID: <x>\nTo: b\n\n" + simple("A harbour."))
    yield Hostile("both/rtf-page.rtf", lambda: b"<html>{\\rtf1 text}</html>")
    yield Hostile("both/json.xml", lambda: b'{"a": 1}', "ready")
    yield Hostile("both/elf.txt", lambda: b"\x7fELF\x02\x01\x01" + bytes(200), "failed")
    yield Hostile("both/tar.txt", lambda: b"a.txt".ljust(257, b"\0") + b"ustar\x00" + bytes(512), "failed")
    yield Hostile("both/database.csv", lambda: b"SQLite format 3\x00" + bytes(2000), "failed")
    size = recipe.sized(50_000)
    yield Hostile(
        "both/picture.png", lambda: b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s2I", 13, b"IHDR", size, size), "failed"
    )


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return texts, bytes that are none, and files that are two things at once."""
    yield from _lengths(recipe)
    yield from _bytes(recipe)
    yield from _polyglots(recipe)
