"""Bytes become text with blocks, each where it stands in the source."""

import codecs
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import BlockKind, ParsedDocument, media_type_of, parse
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.markdown import HEADING_CHARACTERS_MAX, parse_markdown, plain_heading
from services.ingester.parsing.plain import parse_plain
from services.ingester.parsing.registry import MARKDOWN, PLAIN
from services.ingester.parsing.text_formats import SOURCE
from shared.errors import UnsupportedFormat
from shared.text import REPLACEMENT, storable

HEADING, PROSE, LINES, ROW = BlockKind.HEADING, BlockKind.PROSE, BlockKind.LINES, BlockKind.ROW

_PIECES = st.sampled_from(
    [
        "# Title",
        "## Part { #id }",
        "Under\n===",
        "Two\nlines\n---",
        "###",
        "words of a paragraph",
        "",
        "",
        "- item",
        "  - nested",
        "1. first",
        "    code",
        "> quote",
        "> > # deep",
        "```",
        "~~~ python",
        "| a | b |",
        "|---|---|",
        "---",
        "<div>",
        "</div>",
        "<!-- remark -->",
        "[label]: http://example.org",
        "title: x",
        "\tindented",
        "\u2028line\u0085 ends\x0c",
        "- # heading of an item",
        "* * *",
    ]
)
_MARKDOWN = st.lists(_PIECES | st.text(max_size=12), max_size=16).map(
    lambda lines: decode("\n".join(lines).encode())[0]
)


def _markdown(text: str) -> ParsedDocument:
    return parse("note.md", text.encode())[1]


def _plain(text: str) -> ParsedDocument:
    return parse("note.txt", text.encode())[1]


def _blocks(document: ParsedDocument) -> list[tuple[BlockKind, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def _headings(text: str) -> list[tuple[int, str]]:
    return [(block.level, block.heading) for block in _markdown(text).blocks if block.kind is HEADING]


def _check(document: ParsedDocument) -> None:
    """See that blocks stand in order, apart, inside the text, without white space at their ends."""
    at = 0
    for block in document.blocks:
        assert at <= block.start < block.end <= len(document.text)
        body = document.text[block.start : block.end]
        assert not body[0].isspace()
        assert block.kind is not HEADING or 1 <= block.level <= 6
        at = block.end


@settings(max_examples=300)
@given(_MARKDOWN)
def test_blocks_of_markdown_stand_in_order_and_apart(text: str) -> None:
    document = parse_markdown(text, 0)
    _check(document)
    assert all(text[block.end - 1] == text[block.end - 1].strip() for block in document.blocks)


@settings(max_examples=300)
@given(_MARKDOWN)
def test_lines_of_markdown_with_words_are_in_a_block(text: str) -> None:
    text = "x\n" + text.replace("[label]:", "label")  # neither front matter nor definitions of links
    gaps = []
    at = 0
    for block in parse_markdown(text, 0).blocks:
        gaps.append(text[at : block.start])
        at = block.end
    gaps.append(text[at:])
    # Rules, borders of tables and the marks of empty items say nothing.
    assert not re.search(r"[^\W\d_]", "".join(gaps)), gaps


@settings(max_examples=200)
@given(st.text(max_size=200) | _MARKDOWN)
def test_blocks_of_plain_text_stand_apart_and_hold_every_word(text: str) -> None:
    text = storable(text.replace("\r", "\n"))[0]
    document = parse_plain(text, 0)
    _check(document)
    assert "".join("".join(body.split()) for _, body in _blocks(document)) == "".join(text.split())


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("Plain", "Plain"),
        ("**Bold** and *slanted*", "Bold and slanted"),
        ("A [link](http://x.y) here", "A link here"),
        ("![alt *text*](a.png) beside", "alt text beside"),
        ("Code `a_b` and `__init__`", "Code a_b and __init__"),
        ("ASKBOX_MAX_FILE_BYTES", "ASKBOX_MAX_FILE_BYTES"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("Title { #anchor }", "Title"),
        ("Title {#anchor .class key=value}", "Title"),
        ("Title {: #anchor }", "Title"),
        ("Title {-}", "Title"),
        ("GET /users/{id}", "GET /users/{id}"),
        ("A <kbd>key</kbd> &amp; more", "A key & more"),
        (r"Not \*slanted\*", "Not *slanted*"),
        ("two  spaces\nand lines", "two spaces and lines"),
        ("[brackets] alone", "[brackets] alone"),
        ("", ""),
    ],
)
def test_heading_is_read_without_its_markup(source: str, plain: str) -> None:
    assert plain_heading(source) == plain


def test_headings_have_their_level_and_words() -> None:
    assert _headings("# One #\n\n###### Six\n\nOver\n====\n\nUnder\n---\n\n#not a heading\n") == [
        (1, "One"),
        (6, "Six"),
        (1, "Over"),
        (2, "Under"),
    ]


def test_hash_in_code_is_no_heading() -> None:
    assert _headings("```sh\n# a remark\n```\n\n    # another\n") == []


def test_paragraph_with_a_rule_under_it_is_no_heading() -> None:
    paragraph = "A long paragraph that someone closed with a rule. " * 10
    assert len(paragraph) > HEADING_CHARACTERS_MAX
    assert _blocks(_markdown(f"{paragraph}\n---\nNext.")) == [(PROSE, f"{paragraph}\n---"), (PROSE, "Next.")]


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("# First\n## Second", "First"),
        ("## Second\n# First", "First"),
        ("## Only", "Only"),
        ("no heading", None),
        ("---\ntitle: Named\n---\n# First", "Named"),
        ("", None),
    ],
)
def test_title_comes_from_the_content(source: str, title: str | None) -> None:
    assert _markdown(source).title == title


def test_front_matter_is_metadata_and_no_text() -> None:
    document = _markdown("---\ntitle: \"A title\"\ntags:\n  - one\nauthor: 'Me'\n---\n\nBody.\n")
    assert document.metadata == {"title": "A title", "tags": "one", "author": "Me"}
    assert _blocks(document) == [(PROSE, "Body.")]


@pytest.mark.parametrize("closing", ["---", "...", "---  "])
def test_front_matter_ends_at_its_closing_line(closing: str) -> None:
    assert _blocks(_markdown(f"---\n# remark\nkey: value\n{closing}\nBody.")) == [(PROSE, "Body.")]


def test_front_matter_that_a_name_fills_is_left_out() -> None:
    document = parse_markdown(f"---\n{'a' * 101}: Ada\n{'b' * 100}: Bo\n---\nText.\n", 0)
    assert document.metadata == {"b" * 100: "Bo"}


def test_empty_front_matter_is_left_out() -> None:
    assert _blocks(_markdown("---\n---\nBody.")) == [(PROSE, "Body.")]


def test_prose_between_two_rules_is_text() -> None:
    document = _markdown("---\n\nAn opening paragraph.\n\n---\n\nBody.")
    assert document.metadata == {}
    assert _blocks(document) == [(PROSE, "An opening paragraph."), (PROSE, "Body.")]


def test_front_matter_that_never_ends_is_text() -> None:
    assert _markdown("---\nkey: value\n\nBody.").metadata == {}
    assert "Body." in [body for _, body in _blocks(_markdown("---\nkey: value\n\nBody."))]


def test_fences_and_indented_code_are_lines() -> None:
    source = "Before\n\n```python\nx = 1\n\n# remark\n```\n\n    indented\n    code\n\n~~~\nopen to the end"
    assert _blocks(_markdown(source)) == [
        (PROSE, "Before"),
        (LINES, "```python\nx = 1\n\n# remark\n```"),
        (LINES, "indented\n    code"),
        (LINES, "~~~\nopen to the end"),
    ]


def test_rows_of_a_table_are_blocks() -> None:
    source = "| a | b |\n|---|:-:|\n| 1 | `x|y` |\n| 2 | |\n\nAfter"
    assert _blocks(_markdown(source)) == [
        (ROW, "| a | b |"),
        (ROW, "| 1 | `x|y` |"),
        (ROW, "| 2 | |"),
        (PROSE, "After"),
    ]


def test_items_of_nested_lists_are_blocks_with_their_marks() -> None:
    source = "- one\n  still one\n  - two\n\n    more of two\n    1. three\n- four\n"
    assert [body for _, body in _blocks(_markdown(source))] == [
        "- one\n  still one",
        "- two",
        "more of two",
        "1. three",
        "- four",
    ]


@pytest.mark.parametrize("depth", [5, 15, 60, 400])
def test_deeply_nested_text_is_kept(depth: int) -> None:
    quote = ">" * depth + " words\n\nafter"
    nested = "\n".join("  " * level + f"- item{level}" for level in range(depth)) + "\n\nafter"
    for source in (quote, nested):
        text = " ".join(body for _, body in _blocks(_markdown(source)))
        assert re.findall(r"\w+", text) == re.findall(r"\w+", source)


def test_html_is_prose() -> None:
    assert _blocks(_markdown("<div>\nwords in it\n</div>\n\nAfter <b>it</b>")) == [
        (PROSE, "<div>\nwords in it\n</div>"),
        (PROSE, "After <b>it</b>"),
    ]


def test_quotes_are_prose_with_their_marks() -> None:
    assert _blocks(_markdown("> one\n> two\n>\n> three")) == [(PROSE, "> one\n> two"), (PROSE, "> three")]


@settings(max_examples=100)
@given(_MARKDOWN, st.sampled_from(["\r\n", "\r"]))
def test_other_line_ends_change_nothing(text: str, line_end: str) -> None:
    content = f"x{text}".encode()
    other = content.replace(b"\n", line_end.encode())
    assert parse_markdown(*decode(other)) == parse_markdown(*decode(content))


@pytest.mark.parametrize(
    "source",
    [
        "# " + "[" * 50_000,
        "# a" + " " * 50_000 + "b",
        "# " + "{" * 50_000,
        "[" * 100_000,
        "![](" * 30_000,
        "*a **b " * 20_000,
        "`" * 100_000,
        "<a " * 40_000,
        "> " * 40_000,
        "- " * 40_000,
        "[a]:\n" * 20_000,
        "|a|\n|-|\n" * 10_000,
        "- a\n\n\n" * 10_000,
        "---\n" + "# " * 9000 + "\n---\n",
        "---\n" + "# a\n" * 4500 + "---\n",
        "---\na" + " " * 19_000 + "b\n---\n",
        "Under\n===\n\n" * 5000,
        "words " * 50_000 + "\n---\n",
    ],
    ids=lambda source: source[:12],
)
def test_hostile_markdown_is_read_in_linear_time(source: str) -> None:
    started = time.process_time()
    _check(parse_markdown(source, 0))
    assert time.process_time() - started < 5


def test_wrapped_prose_is_prose_and_lines_that_stand_alone_are_lines() -> None:
    wrapped = (
        "This is a paragraph of prose which was wrapped by\nan editor at a width of some fifty characters, as\nthey do"
    )
    log = "10:01 started\n10:02 claimed 3 jobs\n10:03 stopped"
    assert _blocks(_plain(f"{wrapped}\n\n\n{log}\n \t\nlast")) == [(PROSE, wrapped), (LINES, log), (PROSE, "last")]


def test_plain_text_has_no_title_and_no_headings() -> None:
    document = _plain("# Not Markdown\n\ntext")
    assert document.title is None
    assert {block.kind for block in document.blocks} == {PROSE}


@settings(max_examples=100)
@given(
    st.text(min_size=1, max_size=60),
    st.sampled_from(
        [
            (codecs.BOM_UTF8, "utf-8"),
            (codecs.BOM_UTF16_LE, "utf-16-le"),
            (codecs.BOM_UTF16_BE, "utf-16-be"),
            (codecs.BOM_UTF32_LE, "utf-32-le"),
            (codecs.BOM_UTF32_BE, "utf-32-be"),
        ]
    ),
)
def test_text_with_a_byte_order_mark_is_decoded(text: str, encoding: tuple[bytes, str]) -> None:
    text = "x" + text.replace("\r", "").replace(REPLACEMENT, "")
    mark, name = encoding
    assert decode(mark + text.encode(name)) == storable(text)


@settings(max_examples=100)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=100))  # with zeros it may be wide
def test_utf_8_is_decoded_as_it_is(text: str) -> None:
    text = "x" + text
    decoded, replaced = decode(text.encode())
    assert decoded == storable(text.replace("\r\n", "\n").replace("\r", "\n"))[0]
    assert replaced == decoded.count(REPLACEMENT)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_become_storable_text(content: bytes) -> None:
    text, replaced = decode(content)
    assert storable(text) == (text, 0)
    assert "\r" not in text
    assert replaced == text.count(REPLACEMENT)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_short_western_text_is_decoded(encoding: str) -> None:
    assert decode("Déjà vu à Zürich".encode(encoding)) == ("Déjà vu à Zürich", 0)


def test_long_text_of_another_encoding_is_guessed() -> None:
    text = "Это обычный русский текст, который говорит о базах данных и о том, как их читать. " * 80
    assert decode(text.encode("cp1251")) == (text, 0)


def test_letter_that_is_no_ascii_far_into_a_file_is_kept() -> None:
    content = b"a line of nothing but plain letters\n" * 10_000 + "café\n".encode("cp1252")
    text, replaced = decode(content)
    assert text.endswith("café\n")
    assert replaced == 0


def test_broken_utf_16_is_replaced_and_counted() -> None:
    assert decode(codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") + b"\x00") == (f"ab{REPLACEMENT}", 1)


def test_nul_after_the_head_is_replaced_and_counted() -> None:
    text, replaced = decode(b"words " * 2000 + b"\x00 and more \x00")
    assert (text.count(REPLACEMENT), replaced) == (2, 2)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.md", MARKDOWN),
        ("A.MD", MARKDOWN),
        ("folder.txt/b.markdown", MARKDOWN),
        ("notes.txt", PLAIN),
        ("README", PLAIN),
        ("a.md.bak", PLAIN),
        ("main.py", SOURCE),
        ("folder/Makefile", SOURCE),
    ],
)
def test_name_tells_markdown_from_plain_text(name: str, media_type: str) -> None:
    assert media_type_of(name, b"words") == media_type


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"II*\x00image", "an image"),
        (b"%!PS-Adobe", "PostScript"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"\xff\xd8\xff\xe0", "an image"),
        (b"\x1f\x8b\x08", "an archive"),
        (b"\x7fELF\x02\x01\x01\x00", "a program"),
        (b"text with a \x00 in it", "binary"),
        (bytes(range(1, 9)) * 20, "binary"),
    ],
)
def test_what_is_no_text_is_refused_by_what_it_is(head: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"the file is {kind}[;:]?"):
        parse("disguised.md", head)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x0c page", b"\x1b[31mred\x1b[0m", codecs.BOM_UTF16_LE + "ab".encode("utf-16-le"), b"tab\tand\x0bbell"],
)
def test_text_with_odd_bytes_is_no_binary(content: bytes) -> None:
    assert media_type_of("a.txt", content) == PLAIN
