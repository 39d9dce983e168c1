"""JSON, JSON lines, XML and notebooks: every value comes back, with its names, and on its line of the file."""

import json
import re
import time
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import BlockKind, LineUnit, PageUnit, ParsedDocument, parse
from services.ingester.parsing import notebook as notebook_module
from services.ingester.parsing.fields import ROW_CHARACTERS_MAX, VALUE_CHARACTERS_MAX
from services.ingester.parsing.json_text import NESTING_MAX, _flat_values, _values, parse_json, parse_json_lines
from services.ingester.parsing.notebook import OUTPUT_CHARACTERS_MAX, parse_notebook
from services.ingester.parsing.text_formats import JSON, JSON_LINES, NOTEBOOK, XML
from services.ingester.parsing.xml_text import NESTING_MAX as XML_NESTING_MAX
from services.ingester.parsing.xml_text import parse_xml
from tests.unit.parsing_checks import HEADING, LINES, PROSE, ROW, blocks_of, check, headings_of

_WORDS = st.text(alphabet="abc XYZ äß字🚢\"\\\t/&<>'", min_size=1, max_size=30).filter(
    lambda text: text.strip() and "</" not in text  # that would be a part of a page
)
_NAMES = st.text(alphabet="abcde", min_size=1, max_size=5)
_TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=20,
)


def values_of(tree: Any) -> list[str]:
    """Return what a tree says, in order."""
    if isinstance(tree, dict):
        return [said for value in tree.values() for said in values_of(value)]
    if isinstance(tree, list):
        return [said for value in tree for said in values_of(value)]
    return [tree.strip() if isinstance(tree, str) else json.dumps(tree)]


def read(text: str) -> list[tuple[BlockKind, str]]:
    document = parse_json(text, 0)
    check(document)
    return blocks_of(document)


def line_of(document: ParsedDocument, words: str) -> int | None:
    """Return the line on which some words stand, as a citation would."""
    at = document.text.index(words)
    block = next(block for block in document.blocks if block.start <= at < block.end)
    return None if block.line is None else block.line + document.text.count("\n", block.start, at)


@settings(max_examples=200, deadline=None)
@given(_TREES, st.sampled_from([None, 0, 2]), st.booleans())
def test_every_value_of_json_comes_back_in_order(tree: Any, indent: int | None, is_ascii: bool) -> None:  # noqa: FBT001 (given by hypothesis)
    document = parse_json(json.dumps(tree, indent=indent, ensure_ascii=is_ascii), 0)
    check(document)
    at = 0
    for said in values_of(tree):
        found = document.text.find(said, at)
        assert found >= 0, said
        at = found + len(said)


@settings(max_examples=100, deadline=None)
@given(_TREES)
def test_every_value_of_indented_json_stands_on_its_line(tree: Any) -> None:
    numbered = iter(range(1000))

    def mark(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: mark(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [mark(inner) for inner in value]
        return f"mark{next(numbered):03d}"

    source = json.dumps({"all": mark(tree)}, indent=1)
    document = parse_json(source, 0)
    for number, line in enumerate(source.split("\n"), start=1):
        for found in re.findall(r"mark\d{3}", line):
            assert line_of(document, found) == number


def test_records_keep_together_and_carry_the_names_that_lead_to_them() -> None:
    source = '{"shop": {"town": "Ghent"}, "items": [{"name": "Trowel", "tags": ["a", "b"]},\n {"name": "Rake"}]}'
    assert read(source) == [
        (ROW, "shop > town: Ghent"),
        (ROW, "items > name: Trowel | items > tags: a, b"),
        (ROW, "items > name: Rake"),
    ]
    assert read('[\n{\n"name": "Trowel",\n"size": {\n"cm": 30\n},\n"price": 12.50\n}\n]') == [
        (LINES, "name: Trowel\n\nsize > cm: 30\n\nprice: 12.50")
    ]


def test_numbers_and_names_that_come_twice_are_kept_as_written() -> None:
    assert read('{"a": 1.0e400, "a": 0.10, "b": 123456789012345678901234567890}') == [
        (ROW, "a: 1.0e400, 0.10 | b: 123456789012345678901234567890")
    ]


def test_long_text_in_json_is_prose_and_keeps_its_lines() -> None:
    long = "A sentence that goes on. " * 20
    assert len(long) > VALUE_CHARACTERS_MAX
    assert read(json.dumps({"body": long, "verse": "one\n\ntwo"})) == [
        (PROSE, f"body: {long.strip()}"),
        (PROSE, "verse: one"),
        (PROSE, "two"),
    ]


def test_long_line_is_divided_between_its_values_and_stays_that_line() -> None:
    source = "[0,\n" + json.dumps([f"word{number}" for number in range(2000)]) + "]"
    document = parse_json(source, 0)
    check(document)
    assert max(len(text) for _, text in blocks_of(document)) <= ROW_CHARACTERS_MAX + 20
    assert line_of(document, "word1999") == 2


def test_embedded_picture_is_left_out() -> None:
    source = json.dumps({"logo": "data:image/png;base64," + "iVBOR" * 1000, "name": "Ann"})
    assert read(source) == [(ROW, "logo: data:image/png;base64 | name: Ann")]


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ('{"title": "Stock of the shop", "name": "no"}', "Stock of the shop"),
        ('{"name": "Sample of things"}', "Sample of things"),
        ('{"name": "a.txt"}', None),
        ('{"a": {"title": "Inner title"}}', None),
        ('[{"title": "First of many"}, {"title": "Second"}]', None),
        ('{"title": "First of many"}\n{"title": "Second"}', None),
    ],
)
def test_title_of_json_is_that_of_its_only_object(source: str, title: str | None) -> None:
    assert parse_json(source, 0).title == title


@pytest.mark.parametrize(
    "source",
    [
        '{"a": ',
        '{"a": 1,}',
        "[1 2]",
        "{'a': 1}",
        '{"a" 1}',
        "[,]",
        "]",
        '{"a": 1] rest',
        "[1]]",
        "nul",
        '["\\x"]',
        '{"a"}',
    ],
)
def test_broken_json_is_read_as_text(source: str) -> None:
    document = parse_json(source, 0)
    assert document.text == source
    assert "".join(text for _, text in blocks_of(document)).strip() == source.strip()


def test_json_lines_are_rows_and_a_broken_line_stays_as_it_is() -> None:
    source = '{"name": "Ann"}\n\n{"name": "Bo\n[1, {"deep": [true]}]\n'
    document = parse_json_lines(source, 2)
    check(document)
    assert blocks_of(document) == [(ROW, "name: Ann"), (LINES, '{"name": "Bo'), (ROW, "1"), (ROW, "deep: true")]
    assert [block.line for block in document.blocks] == [1, 3, 4, 4]
    assert document.replaced_character_count == 2
    assert document.line_unit is LineUnit.LINE
    assert parse_json(source, 2) == document  # whatever the file is called


def test_json_that_is_called_so_is_read_so() -> None:
    assert parse("a.json", b'{"a": 1}')[0] == JSON
    assert parse("a.ndjson", b'{"a": 1}')[0] == JSON_LINES
    assert parse("a.ipynb", b'{"cells": []}')[0] == NOTEBOOK


@pytest.mark.parametrize(
    "source",
    [
        "[" * 1_000_000,
        '{"a":' * 300_000,
        "[" * NESTING_MAX + "]" * NESTING_MAX,
        "[" * (NESTING_MAX + 1) + "]" * (NESTING_MAX + 1),
        "[" + "9" * 1_000_000 + "]",
        '"' + "\\" * 1_000_000,
        '"' * 60_000,
        "[" + "0.5," * 30_000 + "1]",
        " " * 1_000_000 + "x",
        "[\n" * 30_000,
        '{"' + "k" * 1_000_000 + '": 1}',
        "{" + ",".join(f'"k{number}": {{"a": {number}}}' for number in range(10_000)) + "}",
    ],
    ids=lambda source: source[:8],
)
def test_hostile_json_is_read_in_linear_time(source: str) -> None:
    started = time.process_time()
    for parser in (parse_json, parse_json_lines, parse_notebook):
        parser(source, 0)
    assert time.process_time() - started < 10


def xml(source: str) -> ParsedDocument:
    document = parse_xml(source.encode())
    check(document)
    return document


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_NAMES, _WORDS), max_size=8), st.sampled_from(["utf-8", "utf-16", "utf-16-be"]))
def test_every_element_of_xml_comes_back_in_order(elements: list[tuple[str, str]], encoding: str) -> None:
    inner = "\n".join(f"<{name}>{escape(text)}</{name}>" for name, text in elements)
    source = f'<?xml version="1.0" encoding="{encoding.upper()}"?>\n<all>\n<begin>It begins</begin>\n{inner}</all>'
    document = parse_xml(source.encode(encoding))
    check(document)
    at = 0
    for _, text in elements:
        found = document.text.find(text.strip(), at)
        assert found >= 0
        at = found + len(text.strip())


def test_records_of_xml_carry_the_names_of_their_elements() -> None:
    document = xml(
        "<?xml version='1.0'?>\n<shop>\n<tool id='7' xmlns:x='urn:x' x:hidden='no'>\n  <name lang='en'>Trowel</name>\n\n"
        "  <price>12.50</price>\n</tool>\n<tool id='8' size='small'/></shop>"
    )
    assert blocks_of(document) == [
        (LINES, "tool > id: 7\ntool > name > lang: en | tool > name: Trowel\n\ntool > price: 12.50"),
        (ROW, "tool > id: 8 | tool > size: small"),
    ]
    assert [block.line for block in document.blocks] == [3, 8]
    assert line_of(document, "12.50") == 6


def test_marked_words_stay_in_their_sentence() -> None:
    document = xml("<doc><p><b>Bold</b> words <i>and <u>deep</u></i>\nones.</p><p>Next <b>x</b></p></doc>")
    assert blocks_of(document) == [(PROSE, "Bold words and deep\nones."), (PROSE, "Next x")]


def test_titles_of_xml_are_headings_by_their_depth() -> None:
    document = xml(
        "<article><info><title>The whole</title></info><section><title>One &amp; two</title><para>Text.</para>"
        "<section><title>Inner</title><para>More.</para></section></section></article>"
    )
    assert headings_of(document) == [(1, "The whole"), (2, "One & two"), (3, "Inner")]
    assert document.title == "The whole"
    assert [text for kind, text in blocks_of(document) if kind is not HEADING] == ["Text.", "More."]


def test_drawings_say_only_their_words() -> None:
    assert blocks_of(xml("<svg viewBox='0 0 9 9'><path d='M0 0'/><text x='1'>Label</text></svg>")) == [(PROSE, "Label")]


def test_no_file_is_read_and_no_entity_expanded_that_an_author_could_make_grow() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    for source, text in [
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>see &x; there</a>', "see &x; there"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><a>a&nbsp;b &x;</a>', "a\N{NO-BREAK SPACE}b &x;"),
        (f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a>so &l9; it goes</a>', "so &l9; it goes"),
        ('<!DOCTYPE a [<!ENTITY co "ACME Corp">]><a>by &co;</a>', "by ACME Corp"),
    ]:
        assert xml(f"<?xml version='1.0'?>{source}").text.removeprefix("a: ") == text


def test_entities_expand_only_so_far() -> None:
    source = f"<!DOCTYPE a [<!ENTITY e '{'w' * 199} '>]><a>{'&e;' * 100_000}</a>"
    assert len(xml(source).text) < 5_000_000


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("<a><b>one</b>\n<c>two</x>\nthree</a>", ["b: one\nc: two", "</x>\nthree</a>"]),
        ("<a><b>one</b><c>tw", ["b: one | c: tw"]),
        ("<a>begins <b>here", ["a: begins here"]),
        ("no markup", ["no markup"]),
        ("<a b=1>x</a>", ["<a b=1>x</a>"]),
    ],
)
def test_broken_xml_is_read_as_text_from_its_error_on(source: str, texts: list[str]) -> None:
    assert [text for _, text in blocks_of(xml(source))] == texts


def test_xml_is_known_by_its_first_line() -> None:
    assert parse("feed", b"<?xml version='1.0'?><rss/>")[0] == XML
    assert parse("a.svg", b"<svg><text>x</text></svg>")[0] == XML


DEFAULTS = " ".join(f"d{number} CDATA 'word'" for number in range(2000))


def test_attributes_that_are_declared_once_are_not_said_by_each_element() -> None:
    declared = "<!DOCTYPE a [<!ATTLIST b c CDATA 'default'>]>"
    assert xml(f"{declared}<a><b/><b c='own'>text</b></a>").text == "b > c: own | b: text"


@pytest.mark.parametrize(
    "source",
    [
        "<a>" * 300_000,
        "<a>" * 40_000 + "x" + "</a>" * 40_000,
        "<a>x" + "<b>y" * 40_000 + "</b>" * 40_000 + "</a>",
        "<a>x" + "<b>y" * 40_000,
        "<a " + " ".join(f'a{number}="w"' for number in range(20_000)) + "/>",
        "<a>x" + "<b>y</b> " * 30_000 + "</a>",
        "<a>" + "<b>y</b>" * 30_000 + "</a>",
        "<a>" + "x\n" * 100_000 + "</a>",
        "<" * 1_000_000,
        "<a><!--" + "-" * 1_000_000,
        "<a>" + "&" * 300_000 + "</a>",
        "<!DOCTYPE a [" + "".join(f'<!ENTITY e{number} "x">' for number in range(50_000)) + "]><a>&e5;</a>",
        f"<!DOCTYPE a [<!ATTLIST b {DEFAULTS}>]><a>" + "<b/>" * 10_000 + "</a>",
    ],
    ids=lambda source: source[:16],
)
def test_hostile_xml_is_read_in_linear_time(source: str) -> None:
    started = time.process_time()
    xml(source)
    assert time.process_time() - started < 10


def notebook(*cells: Any, **metadata: Any) -> ParsedDocument:
    document = parse_notebook(json.dumps({"nbformat": 4, "metadata": metadata, "cells": cells}), 0)
    check(document)
    return document


def code(source: str, *outputs: Any) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def test_cells_come_in_order_each_with_its_number() -> None:
    document = notebook(
        {"cell_type": "markdown", "source": ["# The *study*\n", "\n", "Some prose.\n", "\n", "- item"]},
        code(
            "x = 1\n\nprint(x)\n",
            {"output_type": "stream", "text": ["1\n", "\x1b[31mred\x1b[0m\n"]},
            {"output_type": "display_data", "data": {"text/plain": "<Figure>", "image/png": "iVBOR"}},
            {"output_type": "error", "ename": "ValueError", "evalue": "bad", "traceback": ["no"]},
        ),
        {"cell_type": "raw", "source": "Raw words."},
        kernelspec={"language": "python"},
    )
    assert blocks_of(document) == [
        (HEADING, "The study"),
        (PROSE, "Some prose."),
        (PROSE, "- item"),
        (LINES, "x = 1"),
        (LINES, "print(x)"),
        (LINES, "1\nred\n<Figure>\nValueError: bad"),
        (PROSE, "Raw words."),
    ]
    assert [(block.page, block.line) for block in document.blocks] == [
        *[(1, None)] * 3, (2, 1), (2, 3), (2, None), (3, 1),
    ]  # fmt: skip
    assert document.page_unit is PageUnit.CELL
    assert (document.title, document.metadata) == ("The study", {"programming_language": "python"})


def test_older_notebook_is_read() -> None:
    cells = [{"cell_type": "heading", "level": 2, "source": "Head"}, {"cell_type": "code", "input": ["a = 1"]}]
    document = parse_notebook(json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}, 5]}), 0)
    assert blocks_of(document) == [(HEADING, "Head"), (LINES, "a = 1")]
    assert headings_of(document) == [(2, "Head")]


def test_endless_output_is_cut_and_the_document_says_so() -> None:
    document = notebook(code("run()", {"output_type": "stream", "text": "line\n" * OUTPUT_CHARACTERS_MAX}))
    assert document.metadata == {"shortened_outputs": "1"}
    assert len(document.text) < 2 * OUTPUT_CHARACTERS_MAX


@pytest.mark.parametrize(
    "source",
    [
        '{"cells": 5}',
        "[]",
        '{"a": "not one"}',
        '{"cells": [5, null, {"source": 7}, {"cell_type": ["x"]}]}',
        '{"cells": [',
    ],
)
def test_what_is_no_notebook_is_read_all_the_same(source: str) -> None:
    check(parse_notebook(source, 0))


def test_notebook_of_endless_parts_is_read_without_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    source = json.dumps({"cells": [code("x = 1")]})
    assert parse_notebook(source, 0).page_unit is PageUnit.CELL
    monkeypatch.setattr(notebook_module, "PARTS_MAX", 3)
    assert parse_notebook(source, 0) == parse_json(source, 0)


def test_rule_at_the_top_of_a_cell_is_no_front_matter() -> None:
    assert blocks_of(notebook({"cell_type": "markdown", "source": "---\nkey: value\n---\nBody"}))[-1] == (PROSE, "Body")
    assert "key: value" in notebook({"cell_type": "markdown", "source": "---\nkey: value\n---\nBody"}).text


def test_page_in_a_value_is_read_as_what_it_says() -> None:
    page = "<h2>News</h2><p>Some <b>bold</b> words.</p>\n<ul><li>item</li></ul><table><tr><td>a</td><td>b</td></tr></table>"
    texts = ["News", "Some bold words.", "- item", "a | b"]
    found = blocks_of(parse_json(json.dumps({"id": 7, "body": page, "name": "<i>Ann</i> &amp; Bo"}), 0))
    assert [text for _, text in found] == ["id: 7", f"body: {texts[0]}", *texts[1:], "name: Ann & Bo"]
    assert HEADING not in [kind for kind, _ in found]
    feed = xml(f"<rss>\n<channel>\n<item><content><![CDATA[{page}]]></content></item></channel></rss>")
    assert [text for _, text in blocks_of(feed)] == texts
    assert {block.line for block in feed.blocks} == {3}


def test_page_in_a_value_may_spell_half_a_pair() -> None:
    assert blocks_of(parse_json(json.dumps({"body": "<p>One \ud83d two</p>"}), 0)) == [(ROW, "body: One \ufffd two")]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(_NAMES, st.none() | st.booleans() | st.floats() | st.text(max_size=9)), min_size=1, max_size=4),
    st.sampled_from(["{}", " {} ", "{} 1", "{}x", "[{}]"]),
    st.sampled_from(["1", "-0", "1E400", "007", "1.", "tru", '"\\x"', '"a\tb"', "[]", "{}"]),
)
def test_line_of_plain_values_is_read_as_any_other(fields: list[tuple[str, Any]], form: str, last: str) -> None:
    members = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields]
    for line in (form.format("{" + ", ".join(members) + "}"), "{" + ", ".join([*members, f'"z":{last}']) + "}"):
        found = _flat_values(line)
        assert found is None or found == list(_values(line))
    assert _flat_values("{" + ", ".join(members) + "}") is not None


def test_signs_that_only_look_like_a_page_stay() -> None:
    assert read(json.dumps({"a": "if x </ 5 and y <brackets> z", "b": "List<String>"})) == [
        (ROW, "a: if x </ 5 and y <brackets> z | b: List<String>")
    ]


def test_nesting_has_a_bound_behind_which_the_file_is_text() -> None:
    deep = "[" * (NESTING_MAX + 1) + "]" * (NESTING_MAX + 1)
    assert parse_json(deep[1:-1], 0).text == ""
    assert parse_json(deep, 0).text == deep
    elements = "<a>" * XML_NESTING_MAX
    assert xml(f"{elements}<b>word").text == "<b>word"
