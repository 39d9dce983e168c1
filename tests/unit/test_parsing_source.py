"""Source code, configuration and marked-up text: as they are, with the definition or heading that each part stands in."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import BlockKind, ParsedDocument, media_type_of, parse, writer
from services.ingester.parsing.markdown import TABLE_CHARACTERS_MIN, parse_markdown
from services.ingester.parsing.outlined import parse_asciidoc, parse_latex, parse_org, parse_rst
from services.ingester.parsing.source_code import CODE, CONTEXT_CHARACTERS_MIN, SECTIONS, YAML, Syntax, parse_source
from services.ingester.parsing.text_formats import ASCIIDOC, LATEX, ORG, RST, SETTINGS, SOURCE, YAML_TEXT
from shared.errors import ParserLimit
from tests.unit.parsing_checks import HEADING, LINES, PROSE, ROW, blocks_of, headings_of

_BODY = "    step = step + 1  # one more\n" * (CONTEXT_CHARACTERS_MIN // 30 + 1)
_LINES = st.sampled_from(
    [
        "def f(x):", "class A:", "    pass", "  x = 1", "", "}", "{", "# remark", "@decorator", "func f() {", "[part]", "key:",
        "- item", "=====", "Title", "* Head", "\\section{Head}", "== Head", "----", "#+begin_src", "#+end_src", "\t\tdeep",
        ".. note::", "    \\begin{verbatim}", "\\end{verbatim}", "  - key:", "...", "a" * 90,
    ]
)  # fmt: skip


def check(document: ParsedDocument, text: str) -> None:
    """See that the text is as it was, that every word is in a block, and that each line has its number."""
    assert document.text == text
    at = 0
    for block in document.blocks:
        assert at <= block.start < block.end <= len(text)
        assert not text[at : block.start].strip()
        body = text[block.start : block.end]
        assert body == body.strip()
        assert block.line == 1 + text.count("\n", 0, block.start)
        at = block.end
    assert not text[at:].strip()


def contexts(text: str, syntax: Syntax = CODE) -> list[tuple[str, str]]:
    """Return the first line of each block and its context."""
    document = parse_source(text, 0, syntax)
    check(document, text)
    return [(text[block.start : block.end].partition("\n")[0], block.context) for block in document.blocks]


@settings(max_examples=200, deadline=None)
@given(st.lists(_LINES | st.text(alphabet="ab {}()[]:=#-*\t", max_size=12), max_size=25).map("\n".join))
def test_every_line_of_any_text_is_in_a_block_with_its_number(text: str) -> None:
    for syntax in (CODE, YAML, SECTIONS):
        check(parse_source(text, 0, syntax), text)
    for parser in (parse_org, parse_rst, parse_asciidoc, parse_latex):
        check(parser(text, 0), text)


@pytest.mark.parametrize(
    ("source", "definition"),
    [
        (f"def work(a, b):\n{_BODY}", "def work(a, b)"),
        (f"async def work(\n    a: int,\n) -> int:\n{_BODY}", "async def work"),
        (f"class Work(Base):\n{_BODY}", "class Work(Base)"),
        (f"export default async function work(a) {{\n{_BODY}}}", "export default async function work(a)"),
        (f"const work = async (a) => {{\n{_BODY}}};", "const work = async (a) =>"),
        (f"func (w *Work) Do(ctx context.Context) error {{\n{_BODY}}}", "func (w *Work) Do(ctx context.Context) error"),
        (f"pub(crate) unsafe fn work<T>(a: T) -> T {{\n{_BODY}}}", "pub(crate) unsafe fn work<T>(a: T) -> T"),
        (f"impl Work for Thing {{\n{_BODY}}}", "impl Work for Thing"),
        (f"public static final int work(int a) throws E {{\n{_BODY}}}", "public static final int work(int a) throws E"),
        (f"static int work(int a)\n{{\n{_BODY}}}", "static int work(int a)"),
        (f"def work\n{_BODY}end", "def work"),
        (f"work() {{\n{_BODY}}}", "work()"),
        (f"CREATE OR REPLACE VIEW work AS\n{_BODY};", "CREATE OR REPLACE VIEW work AS"),
        (f'resource "aws" "x" {{\n{_BODY}}}', 'resource "aws" "x"'),
    ],
)  # fmt: skip
def test_lines_know_the_definition_they_stand_in(source: str, definition: str) -> None:
    found = contexts(f"first = 1\n\n{source}\n\nlast = 2\n")
    assert found[0] == ("first = 1", "")
    assert found[1][1] == definition
    assert found[-1] == ("last = 2", "")


def test_definition_in_a_definition_is_named_with_it() -> None:
    inner = "".join(f"    {line}\n" for line in f"def inner(self):\n{_BODY}\n{_BODY}".split("\n"))
    source = f"class Outer:\n    kept = 1\n\n    @cached\n    # why\n{inner}\n    def small(self):\n        pass\n\nend = 1\n"
    assert contexts(source) == [
        ("class Outer:", "class Outer"),
        ("@cached", "class Outer > def inner(self)"),
        ("step = step + 1  # one more", "class Outer > def inner(self)"),
        ("def small(self):", "class Outer"),
        ("end = 1", ""),
    ]


def test_short_definitions_share_their_chunks() -> None:
    assert contexts("def a():\n    pass\n\ndef b():\n    pass\n") == [("def a():", ""), ("def b():", "")]


@pytest.mark.parametrize(
    "inside",
    ["#ifdef X", "  done();\nout:", "{", "# remark at the margin", ") {", "/* remark", "// remark"],
)
def test_what_stands_at_the_margin_of_code_does_not_end_it(inside: str) -> None:
    assert contexts(f"int work(int a) {{\n{_BODY}\n{inside}\n{_BODY}\n  last();\n}}\n")[-1][1] == "int work(int a)"


@pytest.mark.parametrize(
    "line", ["if (a) {", "for (;;) {", "} else {", "return call(a, {", "x = object(a,", "type(x).y"]
)
def test_what_only_looks_like_a_definition_is_none(line: str) -> None:
    assert {context for _, context in contexts(f"{line}\n{_BODY}\n{_BODY}")} == {""}


def test_keys_and_sections_of_configuration_are_its_definitions() -> None:
    steps = "    - run: make all of it\n" * 30
    yaml = f"name: x\njobs:\n  build:\n    steps:\n{steps}\nother: 1\n"
    assert contexts(yaml, YAML) == [
        ("name: x", ""), ("jobs:", "jobs"), ("build:", "jobs > build"), ("steps:", "jobs > build > steps"), ("other: 1", ""),
    ]  # fmt: skip
    entries = "key = value of it\n" * 30
    assert contexts(f"first = 1\n[one]\n{entries}\n; about\n[two.more]\n{entries}", SECTIONS) == [
        ("first = 1", ""), ("[one]", "[one]"), ("; about", "[two.more]"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.go", SOURCE), ("Dockerfile", SOURCE), ("a.yml", YAML_TEXT), ("a.toml", SETTINGS), ("a.org", ORG), ("a.rst", RST),
        ("a.adoc", ASCIIDOC), ("a.tex", LATEX),
    ],
)  # fmt: skip
def test_source_is_known_by_its_name(name: str, media_type: str) -> None:
    assert media_type_of(name, b"words") == media_type


@pytest.mark.parametrize(
    "source",
    [
        "".join(f"{' ' * depth}class A:\n" for depth in range(1000)),
        "f(){\n" * 50_000,
        "(" * 1_000_000,
        "#\n" * 200_000,
        "const " * 200_000,
        "pub(a) " * 200_000,
        "const a" + " " * 300_000,
        "'" * 300_000 + ":",
        "\n".join(f"{' ' * (number % 100)}def f(x):" for number in range(20_000)),
        "=\n" * 100_000,
        "====\n" * 60_000,
        "a\n==\n" * 60_000,
        "*" * 1_000_000,
        "* a" + " " * 300_000 + "b",
        "* " + "[[" * 100_000,
        "* a " + ":a" * 100_000 + " ",
        "\\section{" * 60_000,
        "\\section{a}\n" * 40_000,
        "\\section" + " " * 300_000 + "[",
        "\\title{" + "{" * 300_000,
        "a \n\n" * 20_000,
        "a::\n\n  b\n" * 10_000,
    ],
    ids=lambda source: source[:12],
)
def test_hostile_source_is_read_in_linear_time(source: str) -> None:
    started = time.process_time()
    for syntax in (CODE, YAML, SECTIONS):
        parse_source(source, 0, syntax)
    for parser in (parse_org, parse_rst, parse_asciidoc, parse_latex):
        parser(source, 0)
    assert time.process_time() - started < 10


def test_org_has_headings_without_their_marks() -> None:
    text = (
        "#+TITLE: The whole thing\n* TODO [#A] First :tag:more:\nText.\n** See [[http://x][the link]]\n"
        "#+BEGIN_SRC org\n* no heading\n#+end_src\n*bold* words\n* Second"
    )
    document = parse_org(text, 0)
    check(document, text)
    assert headings_of(document) == [(1, "First"), (2, "See the link"), (1, "Second")]
    assert document.title == "The whole thing"


def test_restructured_text_has_headings_by_the_order_of_their_rules() -> None:
    text = (
        "=====\nWhole\n=====\n\nPart\n----\n\nText\nwith lines\n----------\n\nInner\n~~~~~\n\nNext\n----\n\n"
        "====  ====\na     b\n====  ====\n1     2\n====  ====\n\n.. note::\n-----\n\nAs code::\n\n   Not\n   ---\n"
    )
    document = parse_rst(text, 0)
    check(document, text)
    assert headings_of(document) == [(1, "Whole"), (2, "Part"), (3, "Inner"), (2, "Next")]
    assert document.title == "Whole"


def test_code_in_marked_up_text_is_kept_whole() -> None:
    for parser, text in [
        (parse_org, "Words.\n#+begin_src sh\n\nfirst\n\nsecond\n#+end_src\nWords."),
        (parse_rst, "Words:\n\n.. code:: sh\n\n   first\n\n   second\n\nWords."),
        (parse_rst, "Words::\n\n   first\n\n   second\n\nWords."),
        (parse_asciidoc, "Words.\n----\nfirst\n\nsecond\n----\nWords."),
        (parse_latex, "Words.\n\\begin{verbatim}\nfirst\n\nsecond\n\\end{verbatim}\nWords."),
    ]:
        document = parser(text, 0)
        check(document, text)
        (code,) = [found for kind, found in blocks_of(document) if kind is LINES]
        assert code.find("first") < code.find("second")
        assert "Words" not in code


def test_asciidoc_has_headings_outside_of_its_fences() -> None:
    text = "= Whole\n\n== Part\n\n----\n== code\n----\n\n=== Inner\nText.\n"
    document = parse_asciidoc(text, 0)
    check(document, text)
    assert headings_of(document) == [(1, "Whole"), (2, "Part"), (3, "Inner")]


def test_latex_has_headings_without_its_commands() -> None:
    text = (
        "\\documentclass{book}\n\\title{The \\emph{Great} Book}\n\\chapter*{One}\n\\section[short]{On \\label{x}$x$ and {y}}\n"
        "Text.\n\\begin{verbatim}\n\\section{no}\n\\end{verbatim}\n\\subsection{Last}\n"
    )
    document = parse_latex(text, 0)
    check(document, text)
    assert headings_of(document) == [(1, "One"), (2, "On x and y"), (3, "Last")]
    assert document.title == "The Great Book"


def test_file_of_several_chapters_has_no_title() -> None:
    assert parse_org("* One\n* Two\n", 0).title is None
    assert parse_org("* One\n** Two\n", 0).title == "One"
    assert len(parse_org("#+title: " + "Harbour dues " * 50, 0).title or "") == 300


@pytest.mark.parametrize(
    ("matter", "metadata"),
    [
        ("title: A title # remark", {"title": "A title"}),
        ("tags: [red, 'blue', \"x y\"]", {"tags": "red, blue, x y"}),
        ("tags:\n- red\n  - blue\nauthor: Me", {"tags": "red, blue", "author": "Me"}),
        ("about: >-\n  several\n  lines\nend: 1", {"about": "several lines", "end": "1"}),
        ("date: 2026-01-02\nempty:\nquoted: ''", {"date": "2026-01-02"}),
        ("a: &x [1]\nb: *x\nc: !!python/object y\nd: {e: f}\ng:\n  h: i", {}),
        ("people:\n  - name: Ann\n  - Bob", {"people": "Bob"}),
        ("url: http://x.org/a#b", {"url": "http://x.org/a#b"}),
    ],
)
def test_scalars_of_front_matter_are_metadata(matter: str, metadata: dict[str, str]) -> None:
    document = parse_markdown(f"---\n{matter}\n---\nBody.", 0)
    assert document.metadata == metadata
    assert blocks_of(document) == [(PROSE, "Body.")]


def test_front_matter_may_be_toml() -> None:
    document = parse_markdown('+++\ntitle = "A title"\ntags = ["red", "blue"]\n[extra]\ndeep = 1\n+++\n# Head\n', 0)
    assert document.metadata == {"title": "A title", "tags": "red, blue"}
    assert document.title == "A title"
    assert blocks_of(document) == [(HEADING, "# Head")]


def test_endless_title_is_cut() -> None:
    document = parse_markdown(f"---\ntitle: {'word ' * 2000}\n---\nBody.", 0)
    assert document.title is not None
    assert len(document.title) <= 300
    assert len(document.metadata["title"]) <= 1000


@pytest.mark.parametrize(
    "source",
    [
        "---\n" + "a: |\n" + " b\n" * 6000 + "---\n",
        "---\na: [" + "," * 19_000 + "]\n---\n",
        "---\na:\n" + "- b\n" * 4500 + "---\n",
        "+++\na = [" + '"' * 19_000 + "]\n+++\n",
        "+++\n" * 100_000,
        "---\na: '" + "\"'" * 9000 + "\n---\n",
    ],
    ids=lambda source: source[:12].replace("\n", " "),
)
def test_hostile_front_matter_is_read_in_linear_time(source: str) -> None:
    started = time.process_time()
    parse_markdown(source, 0)
    assert time.process_time() - started < 5


def test_rows_of_a_long_table_know_its_columns_and_those_of_a_short_one_stand_below_them() -> None:
    rows = "".join(f"| {number} | value {number} |\n" for number in range(TABLE_CHARACTERS_MIN // 10))
    document = parse_markdown(f"Before\n\n| **Name** | `Value` |\n|---|---|\n{rows}\nAfter\n\n| a |\n|---|\n| 1 |\n", 0)
    found = [(block.kind, block.context) for block in document.blocks]
    assert found[:2] == [(PROSE, ""), (ROW, "")]
    assert {found[place] for place in range(2, len(found) - 3)} == {(ROW, "Name | Value")}
    assert found[-3:] == [(PROSE, ""), (ROW, ""), (ROW, "")]


def test_source_code_of_this_project_is_read_whole() -> None:
    text = Path(__file__).read_text()
    media_type, document = parse("a.py", text.encode())
    check(document, text)
    assert media_type == SOURCE
    assert {block.kind for block in document.blocks} == {BlockKind.LINES} == {LINES}


def test_text_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHARACTERS_MAX", 20)
    for parser in (parse_source, parse_org):
        assert parser("a few words", 0).text == "a few words"
        with pytest.raises(ParserLimit, match="split it"):
            parser("many words, more than fit", 0)
    monkeypatch.setattr(writer, "LINES_MAX", 3)
    for parser in (parse_source, parse_org):
        with pytest.raises(ParserLimit, match="lines: split it"):
            parser("a\n" * 4, 0)
