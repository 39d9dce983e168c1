"""RTF as word processors write it becomes the text that they show."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import ParsedDocument, media_type_of
from services.ingester.parsing.rtf import GROUPS_MAX, parse_rtf
from services.ingester.parsing.text_formats import RTF
from shared.errors import CorruptFile
from tests.unit.parsing_checks import HEADING, PROSE, ROW, blocks_of, check, headings_of

_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cn"]), min_size=1, max_size=30)
_PIECES = st.sampled_from(
    [
        b"{", b"}", b"\\par", b"\\par ", b"\\pard ", b"\\cell ", b"\\row ", b"\\intbl ", b"\\u21271?", b"\\'e4", b"\\'", b"\\",
        b"{\\*\\x ", b"{\\footnote ", b"{\\fonttbl{\\f1\\fcharset128 M;}}", b"\\f1 ", b"\\bin3 ", b"\\bin-3 ", b"\\uc0 ",
        b"{\\stylesheet{\\s1 heading 1;}}", b"\\s1 ", b"\\outlinelevel0 ", b"{\\info{\\title ", b"words ", b"\xe4\x00\x93", b"\\v ",
        b"\\u-10179?", b"\\u99999?", b"\\pict ", b"{\\listtext - }", b"\r\n",
    ]
)  # fmt: skip


def read(source: str | bytes) -> ParsedDocument:
    content = source if isinstance(source, bytes) else source.encode("ascii")
    document = parse_rtf(b"{\\rtf1\\ansi\\ansicpg1252\\deff0 " + content)
    check(document)
    return document


def texts_of(source: str | bytes) -> list[str]:
    return [text for _, text in blocks_of(read(source))]


def escaped(text: str) -> str:
    """Write a text as a word processor does: what is no ASCII as numbers of UTF-16 with a substitute."""
    units = text.encode("utf-16-le")
    numbers = [int.from_bytes(units[at : at + 2], "little") for at in range(0, len(units), 2)]
    parts = [
        f"\\{chr(n)}" if chr(n) in "\\{}" else chr(n) if n < 128 else f"\\u{n - 65536 * (n > 32767)}?" for n in numbers
    ]
    return "".join(parts)


@settings(max_examples=200, deadline=None)
@given(st.lists(_TEXTS, max_size=6))
def test_every_paragraph_comes_back(paragraphs: list[str]) -> None:
    expected = [" ".join(paragraph.split()) for paragraph in paragraphs]
    # Soft hyphens and spaces without width are left out of every format.
    found = texts_of("".join(f"\\pard {escaped(text)}\\par\n" for text in paragraphs))
    assert found == [text for text in expected if text]


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES | st.binary(max_size=4), max_size=30).map(b"".join))
def test_any_bytes_are_read(content: bytes) -> None:
    read(content)


def test_headings_have_the_level_of_their_style_or_outline() -> None:
    source = (
        r"{\stylesheet{\s0 Normal;}{\s1\b heading 1;}{\s5 Heading 2;}{\s6\outlinelevel2 Own;}{\s7 Title;}{\*\cs9 heading 3;}}"
        r"\pard\s7 The name\par\pard\s1 One\par\pard\s5 Two\par\pard\s6 Three\par{\pard\outlinelevel1 Four\par}\pard Text\par"
    )
    document = read(source)
    assert headings_of(document) == [(1, "The name"), (1, "One"), (2, "Two"), (3, "Three"), (2, "Four")]
    assert blocks_of(document)[-1] == (PROSE, "Text")
    assert document.title == "The name"


def test_title_and_author_come_from_what_the_document_says_of_itself() -> None:
    source = r"{\info{\title The real title}{\author J\'f6rg}{\operator No}{\creatim\yr2020}}\pard\outlinelevel0 Head\par\pard Text"
    document = read(source)
    assert document.title == "The real title"
    assert document.metadata == {"author": "Jörg"}
    assert blocks_of(document) == [(HEADING, "Head"), (PROSE, "Text")]


def test_rows_are_rows() -> None:
    source = (
        r"Before\par\trowd\cellx1\cellx2\pard\intbl A\par B\cell C\cell\row\pard\intbl {D}\cell\cell\row\pard After\par"
        r"\trowd\pard\intbl Last\cell cell\cell\row"
    )
    assert blocks_of(read(source)) == [
        (PROSE, "Before"), (ROW, "A B | C"), (ROW, "D |"), (PROSE, "After"), (ROW, "Last | cell"),
    ]  # fmt: skip
    assert "A B | C\nD" in read(source).text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"caf\'e9 na\'efve", "café naïve"),
        (b"caf\xe9", "café"),
        (r"\u233?t\u233 \'e9", "été"),
        (r"\uc2\u26085\'93\'fa end", "日 end"),
        (r"\uc0\u26085 end", "日end"),
        (r"\u-10179?\u-8704?", "😀"),
        (r"{\fonttbl{\f0\fcharset0 A;}{\f1\fcharset204 B;}{\f2\fcharset128 C;}}{\f1\'cf\'f0\'e8} {\f2\'93\'fa\'96\'7b} \'e9", "При 日本 é"),
        (r"\ansicpg1251\'cf\'f0\'e8", "При"),
        (r"\ansicpg4711\'e9", "é"),
        (r"a\~b\_c\-d\emdash e\endash f\lquote g\rquote\ldblquote h\rdblquote\bullet", "a b-cd—e–f‘g’“h”•"),
        (r"one\line two\tab three", "one\ntwo three"),
        (r"\{a\\b\}", "{a\\b}"),
        (r"a{\v hidden}b{\deleted gone}c\v x\v0 d", "abcd"),
        (r"{\field{\*\fldinst HYPERLINK 'http://x'}{\fldrslt the link}}", "the link"),
        (r"a{\pict\pngblip 89504e47}{\*\shppict{\pict aabb}}{\nonshppict{\pict aa}}b", "ab"),
        (rb"a{\pict\bin6 }}}}}}ffd8}b", "ab"),
        (r"{\header head}{\footerl foot}{\*\unknown no}{\*\bkmkstart mark}{\colortbl;\red0;}a", "a"),
        (r"{\*\shpinst{\sp{\sn x}{\sv y}}{\shptxt boxed\par}}", "boxed"),
        ("a\r\nb\nc", "abc"),
        ("a\\\nb", None),
    ],
)  # fmt: skip
def test_characters_are_what_the_word_processor_shows(source: str | bytes, text: str | None) -> None:
    assert texts_of(source) == (["a", "b"] if text is None else [text])


def test_notes_stand_behind_their_paragraph_and_items_below_one_another() -> None:
    source = (
        r"Text{\footnote\pard The {\b note}\par} goes on.\par{\listtext 1.\tab}First\par{\listtext 2.\tab}Second\par"
    )
    assert read(source).text == "Text goes on.\n\nThe note\n\n1. First\n2. Second"


def test_rtf_is_known_by_its_beginning() -> None:
    assert media_type_of("letter.doc", b"{\\rtf1 text}") == RTF
    assert media_type_of("letter", b"{\\rtf1 text \x00\x01\x02}") == RTF


def test_groups_that_nest_without_end_are_refused() -> None:
    assert read("{" * (GROUPS_MAX - 1) + "deep").text == "deep"
    with pytest.raises(CorruptFile, match="open and save it again"):
        read("{" * (GROUPS_MAX + 1))


@pytest.mark.parametrize(
    "content",
    [
        b"\\b" * 200_000,
        b"\\'e4" * 200_000,
        b"x\\par " * 50_000,
        b"{\\pict " + b"abcdef0123456789\n" * 100_000,
        b"a\\cell " * 100_000,
        b"{\\footnote a}" * 40_000,
        b"\\intbl " + b"a\\par " * 100_000,
        b"}" * 300_000,
        b"{\\stylesheet" + b"{\\s1 heading 1;}" * 40_000,
        b"\\u55357?" * 100_000,
        b"\\bin99999999999 x",
        b"\\" + b"a" * 500_000,
        b"\\u1" + b"1" * 500_000,
    ],
    ids=lambda content: content[:10].decode(),
)
def test_hostile_rtf_is_read_in_linear_time(content: bytes) -> None:
    started = time.process_time()
    read(content)
    assert time.process_time() - started < 10
