"""Bytes of any encoding that people have become text, and what is no text is told by its kind."""

import codecs
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import media_type_of, parse
from services.ingester.parsing.decoding import decode, looks_binary
from services.ingester.parsing.registry import CSV, HTML, PLAIN
from shared.errors import UnsupportedFormat

_HEBREW = "שלום לכולם, זהו טקסט קצר בעברית שנכתב לפני שנים רבות."
_RUSSIAN = "Привет всем, это короткий русский текст, написанный давно."
_GREEK = "Γειά σας, αυτό είναι ένα σύντομο ελληνικό κείμενο."
_JAPANESE = "こんにちは、これは短い日本語のテキストです。データベースについて。"
_KOREAN = "안녕하세요, 이것은 짧은 한국어 텍스트입니다."
_CHINESE = "這是一個簡短的中文文本，討論資料庫和搜尋引擎。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (_HEBREW, "iso-8859-8"), (_HEBREW, "cp1255"), (_RUSSIAN, "cp1251"), (_RUSSIAN, "koi8-r"), (_RUSSIAN, "iso-8859-5"),
        (_GREEK, "iso-8859-7"), (_JAPANESE, "cp932"), (_JAPANESE, "euc-jp"), (_JAPANESE, "iso-2022-jp"), (_KOREAN, "euc-kr"),
        (_CHINESE, "big5"),
    ],
)  # fmt: skip
def test_short_text_of_another_script_is_recognised(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, 0)


@pytest.mark.parametrize("text", ["Déjà vu à Zürich, où l’été « déborde » — 5 €", "Über die Größe der Bäume: äöüß"])
def test_short_western_text_is_never_taken_for_another_script(text: str) -> None:
    assert decode(text.encode("cp1252")) == (text, 0)


@settings(max_examples=150)
@given(
    st.text("abc Xyz äöß 123,.\n", min_size=8, max_size=80) | st.sampled_from([_HEBREW, _RUSSIAN, _GREEK]),
    st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]),
)
def test_wide_text_without_a_mark_is_decoded(text: str, encoding: str) -> None:
    text = f"Some words. {text}"
    content = text.encode(encoding)
    assert not looks_binary(content)
    assert decode(content) == (text, 0)


def test_long_wide_text_is_decoded_whole() -> None:
    text = "Line of the file 🚢.\n" * 5000 + "損"
    assert decode(text.encode("utf-16-le")) == (text, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"text with a \x00 in it",
        bytes(range(256)) * 4,
        struct.pack("<100i", *range(1, 101)),
        struct.pack("<100i", *(65536 * number for number in range(1, 101))),
        struct.pack("<100i", *([131073] * 100)),
        random.Random(1).randbytes(400),
        b"\x00" * 100,
        b"words\x00" * 50,
        b"words " * 100 + b"\x00\x01",
        b"gr\xf6\xdfe " * 100 + b"\x00",
    ],
)
def test_binary_bytes_are_no_wide_text(content: bytes) -> None:
    assert looks_binary(content)


def test_gap_of_zeros_is_one_replaced_character_however_long() -> None:
    """A log that has room for more is nothing but zeros behind its last line."""
    content = "12:00 größer\n".encode() * 9
    assert decode(content + b"\x00" * 100_000 + b"12:01 next\n\x00") == (
        content.decode() + "\N{REPLACEMENT CHARACTER}12:01 next\n\N{REPLACEMENT CHARACTER}",
        2,
    )


@pytest.mark.parametrize("gap", [b"\x00", b"\x00" * 700])
def test_gap_of_zeros_makes_no_text_binary(gap: bytes) -> None:
    """A log has one after a crash, and some programs end their exports so."""
    content = "12:00 größer\n".encode() * 9 + gap
    assert media_type_of("a.log", content + b"12:01 next\n") == PLAIN
    assert media_type_of("a.csv", content) == CSV


def test_page_in_wide_letters_is_a_page() -> None:
    content = "<!doctype html><html><body><p>Größe</p></body></html>".encode("utf-16-be")
    media_type, document = parse("page", content)
    assert media_type == HTML
    assert document.text == "Größe"


def test_japanese_page_with_shifts_is_read() -> None:
    assert parse("a.html", f"<html><body><p>{_JAPANESE}</p></body></html>".encode("iso-2022-jp"))[1].text == _JAPANESE


def test_escape_of_a_terminal_is_no_japanese() -> None:
    assert decode(b"\x1b[31mred\x1b[0m costs \x1b$5") == ("\x1b[31mred\x1b[0m costs \x1b$5", 0)


@pytest.mark.parametrize(
    ("head", "action"),
    [
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "run OCR"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "run OCR"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00", "what is said"),
        (b"ID3\x04\x00\x00\x00", "what is said"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00", "what is said"),
        (b"SQLite format 3\x00\x10\x00", "as CSV"),
        (b"PAR1\x15\x04\x15\x00", "as CSV"),
        (b"MZ\x90\x00\x03\x00\x00\x00", "source code"),
        (b"BZh91AY&SY\x00\x01", "unpack it"),
        (b"a" * 257 + b"ustar\x0000", "unpack it"),
        (b"\xfd7zXZ\x00\x00", "unpack it"),
        (b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d", "as PDF or DOCX"),
        (b"\xffWPC\x10\x00", "word processor"),
        (b"x" * 60 + b"BOOKMOBI\x00\x00", "EPUB"),
        (b"\xd7\xcd\xc6\x9a\x00\x00", "into a document"),
        (b"\x01\x00\x00\x00".ljust(40, b"\x00") + b" EMF", "into a document"),
        (b"bplist00\xd1\x01\x00", "XML"),
        (bytes(range(1, 9)) * 20, "save it as"),
    ],
)
def test_what_is_no_text_says_what_to_do(head: bytes, action: str) -> None:
    with pytest.raises(UnsupportedFormat, match=action):
        media_type_of("file.dat", head)


@pytest.mark.parametrize(
    "text", ["BMW builds cars.", "MZ is a country code.", "PAR1 of the plan", "AT&TFORMER", "BZh is short"]
)
def test_text_that_begins_as_something_else_is_text(text: str) -> None:
    assert media_type_of("a.txt", text.encode()) == PLAIN


def test_marked_text_is_never_binary() -> None:
    assert not looks_binary(codecs.BOM_UTF16_LE + _CHINESE.encode("utf-16-le"))
