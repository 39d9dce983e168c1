"""Chunks know the number of each of their lines, their pages, and the names of their columns."""

import itertools
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.chunking import CONTEXT_TOKENS_MAX, PREFIX_TOKENS_MAX, Chunk, Limits, chunk_document
from services.ingester.parsing.blocks import Block, BlockKind, LineUnit, PageUnit, ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.markdown import parse_markdown
from services.ingester.parsing.plain import parse_plain
from services.ingester.parsing.writer import TextWriter
from shared.settings import BUNDLED_MODEL
from shared.text import embedded_text
from shared.tokens import Tokenizer, open_tokenizer
from tests.factories import chunks_of

_PARTS = st.sampled_from(
    [
        "\n",
        "\n\n\n",
        "# A heading\n",
        "Underlined\n===\n",
        "A sentence of some words stands here. And another\none goes over the line. ",
        "a line that is long enough to be wrapped by somebody\nand goes on here and there\n",
        "- item\n  - nested\n",
        "```\nx = 1\n\n\ny = 2\n```\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "  indented\n\tand with a tab\n",
        "many words " * 40 + "\n",
        "x" * 900 + "\n" + "y" * 900 + "\n",
        "\r\n\r\n",
        "\ra\rb\r",
        "\f\u2028\x85 odd ends \v of lines\n",
        "\n<div>\nhtml\n</div>\n\n",
    ]
)
_SOURCE = st.lists(_PARTS, max_size=16).map(lambda parts: decode("".join(parts).encode())[0])
_MATTER = st.sampled_from(["", "---\ntitle: A\nowner: B\n---\n", "---\n---\n\n"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(BUNDLED_MODEL)


def numbers_of(chunk: Chunk) -> list[int]:
    """The number of each line of a chunk's text, by the rule of its docstring."""
    listed = len(chunk.lines) - 1
    return [chunk.lines[min(i, listed)] + max(0, i - listed) for i in range(chunk.text.count("\n") + 1)]


@settings(max_examples=150)
@given(matter=_MATTER, body=_SOURCE, parse=st.sampled_from([parse_markdown, parse_plain]), target=st.integers(4, 60))
def test_every_line_of_a_chunk_has_the_number_that_an_editor_shows(matter, body, parse, target) -> None:
    source = matter + body
    in_file = source.split("\n")
    for chunk in chunks_of(parse(source, 0), tokens_target=target):
        numbers = numbers_of(chunk)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(chunk.lines) == 1, "text in one piece has one number"
        assert numbers[0] == source.count("\n", 0, chunk.char_start) + 1
        for number, line in zip(numbers, chunk.text.split("\n"), strict=True):
            assert line in in_file[number - 1]


def sheet(
    rows: list[tuple[int, str]], *, context: str = "", page: int = 1, writer: TextWriter | None = None
) -> TextWriter:
    writer = writer or TextWriter()
    for number, cells in rows:
        writer.add(BlockKind.ROW, cells, page=page, line=number, context=context, is_joined=True)
    return writer


@settings(max_examples=100)
@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=80),
    target=st.integers(4, 60),
    is_joined=st.booleans(),
    random=st.randoms(use_true_random=False),
)
def test_every_row_of_a_chunk_has_its_number_where_rows_are_missing(gaps, target, is_joined, random) -> None:
    writer = TextWriter()
    numbers = list(itertools.accumulate(gaps))
    for number in numbers:
        cells = f"row {number} | " + " ".join(random.choices("abcdef", k=random.randint(1, 9)))
        writer.add(BlockKind.ROW, cells, line=number, is_joined=is_joined)
    found = []
    for chunk in chunks_of(writer.document(None, {}, line_unit=LineUnit.ROW), tokens_target=target):
        for number, line in zip(numbers_of(chunk), chunk.text.split("\n"), strict=True):
            if line:
                assert line.startswith(f"row {number} |")
                found.append(number)
        assert len(chunk.lines) == 1 or chunk.lines[-1] != chunk.lines[-2] + 1, "what counts on is not listed"
    assert found == numbers


def test_row_that_no_chunk_holds_keeps_its_number_in_every_piece(tokenizer: Tokenizer) -> None:
    writer = sheet([(7, " | ".join(f"cell {n}" for n in range(2000))), (9, "short")])
    chunks = list(chunk_document(writer.document(None, {}), tokenizer.count, Limits(128, tokenizer.tokens_max, 2)))
    assert len(chunks) > 10
    assert {chunk.lines[0] for chunk in chunks[:-1]} == {7}
    assert numbers_of(chunks[-1])[-1] == 9


def test_long_line_that_is_divided_keeps_counting_behind_it() -> None:
    source = "\n\n" + "word " * 500 + "\nshort and low\n"
    chunks = chunks_of(parse_plain(source, 0))
    assert {chunk.lines[0] for chunk in chunks[:-1]} == {3}
    assert numbers_of(chunks[-1])[-1] == 4


def test_blocks_without_a_line_have_no_numbers() -> None:
    writer = sheet([(1, "one | two")])
    writer.add(BlockKind.PROSE, "A note below the table.")
    (chunk,) = chunks_of(writer.document(None, {}))
    assert chunk.lines == []


def test_empty_lines_that_are_left_out_are_counted() -> None:
    writer = TextWriter()
    writer.add(BlockKind.LINES, "\n \nthird\n\nfifth\n\n", line=1)
    (chunk,) = chunks_of(writer.document(None, {}))
    assert (chunk.text, chunk.lines) == ("third\n\nfifth", [3])


def test_heading_without_a_body_has_its_line() -> None:
    first, _ = chunks_of(parse_markdown("\n\n# Alone\n\n# Next\n\nbody", 0))
    assert (first.text, first.lines) == ("# Alone", [3])


def test_pages_begin_in_a_chunk_where_their_first_block_does() -> None:
    writer = TextWriter()
    for page, text in ((3, "Text of a preface."), (3, "More of it."), (4, "The next page."), (6, "The last page.")):
        writer.add(BlockKind.PROSE, text, page=page)
    document = writer.document(None, {}, page_labels={3: "iii", 4: "iv", 5: "v", 6: " "})
    (chunk,) = chunks_of(document)
    assert (chunk.page, chunk.page_label) == (3, "iii")
    assert chunk.page_turns == [(chunk.text.index("The next"), 4, "iv"), (chunk.text.index("The last"), 6, None)]


def test_no_chunk_spans_two_contexts() -> None:
    writer = sheet([(n, f"row {n} | x") for n in range(2, 6)], context="Town | Disks")
    sheet([(n, f"row {n} | y") for n in range(6, 9)], context="Name | Age", writer=writer)
    writer.add(BlockKind.PROSE, "What stands below.")
    chunks = chunks_of(writer.document("Stock", {}))
    assert [(chunk.prefix, chunk.text.count("\n")) for chunk in chunks] == [
        ("Stock\nTown | Disks", 3),
        ("Stock\nName | Age", 2),
        ("Stock", 0),
    ]


@pytest.mark.parametrize("header", ["Town | Disks", "| Town | Disks |", "Town\tDisks"])
def test_header_stands_in_the_chunk_of_its_first_rows(header) -> None:
    writer = sheet([(1, "2026 | old"), (2, header)])
    sheet([(3, "Bonn | 7"), (4, "Berlin | 12")], context="Town | Disks", writer=writer)
    chunks = chunks_of(writer.document(None, {}))
    assert [chunk.text for chunk in chunks] == ["2026 | old", f"{header}\nBonn | 7\nBerlin | 12"]
    assert [chunk.lines for chunk in chunks] == [[1], [2]]


def test_every_chunk_of_a_long_table_has_the_names_of_its_columns() -> None:
    chunks = chunks_of(
        sheet([(n, f"row {n} | x y z") for n in range(2, 300)], context="Number | Letters").document("T", {})
    )
    assert len(chunks) > 20
    assert {chunk.prefix for chunk in chunks} == {"T\nNumber | Letters"}
    assert not any("Number" in chunk.text for chunk in chunks)


def test_no_chunk_spans_two_sheets_but_slides_share_one() -> None:
    for unit, count in ((PageUnit.SHEET, 2), (PageUnit.SLIDE, 1)):
        writer = sheet([(1, "a | b")], page=1)
        sheet([(1, "c | d")], page=2, writer=writer)
        assert len(chunks_of(writer.document(None, {}, page_unit=unit))) == count


@pytest.mark.parametrize("tokens_max", [64, 256, 8191])
@pytest.mark.parametrize("context", ["Column of some name | " * 40, "x" * 5000, "欄位名稱" * 200])
def test_context_is_shortened_and_leaves_room_for_title_and_text(tokenizer: Tokenizer, context, tokens_max) -> None:
    title, heading = "A title of many words that goes on " * 9, "The third quarter of the year " * 9
    writer = TextWriter()
    writer.add(BlockKind.HEADING, heading, level=1)
    sheet([(n, f"row {n} | some cell | 12") for n in range(1, 90)], context=context, writer=writer)
    chunks = list(chunk_document(writer.document(title, {}), tokenizer.count, Limits(128, tokens_max, 2)))
    for chunk in chunks:
        names, _, kept = chunk.prefix.partition("\n")
        first, _, last = names.partition(" > ")
        assert title.startswith(first)
        assert heading.startswith(last)
        assert min(len(first), len(last)) > 30, "neither is cut away by the other"
        assert kept
        assert context.startswith(kept)
        counts = tokenizer.count([names, kept, embedded_text(chunk.prefix, chunk.text)])
        assert counts[0] <= PREFIX_TOKENS_MAX
        assert counts[1] <= min(CONTEXT_TOKENS_MAX, tokens_max // 5)
        assert counts[2] == chunk.token_count <= tokens_max


@pytest.mark.parametrize(
    ("title", "heading", "prefix"),
    [
        ("Short", "many words " * 26, "Short > many words"),
        ("many words " * 26, "Short", "many words many words"),
    ],
)
def test_short_name_is_kept_whole_beside_a_long_one(tokenizer: Tokenizer, title, heading, prefix) -> None:
    writer = TextWriter()
    writer.add(BlockKind.HEADING, heading, level=1)
    writer.add(BlockKind.PROSE, "The body.")
    (chunk,) = chunk_document(writer.document(title, {}), tokenizer.count, Limits(128, tokenizer.tokens_max, 2))
    assert chunk.prefix.startswith(prefix)
    assert "Short" in chunk.prefix.split(" > ")
    assert PREFIX_TOKENS_MAX - 5 <= tokenizer.count([chunk.prefix])[0] <= PREFIX_TOKENS_MAX


def test_lines_of_a_hostile_text_are_counted_in_linear_time(tokenizer: Tokenizer) -> None:
    random = Random(7)
    ragged = "\n".join("ab" * random.randint(0, 2) for _ in range(20_000))
    texts = ["a\n" * 20_000, "a\n" + "\n" * 200_000 + "b", "x \n" * 20_000, ragged]
    for text in texts:
        body = text.strip()
        for kind in (BlockKind.PROSE, BlockKind.LINES, BlockKind.ROW):
            document = ParsedDocument(body, [Block(kind, 0, len(body), line=1)])
            started = time.process_time()
            chunks = list(chunk_document(document, tokenizer.count, Limits(128, tokenizer.tokens_max, 2)))
            assert time.process_time() - started < 10
            assert all(chunk.lines == [1 + body.count("\n", 0, chunk.char_start)] for chunk in chunks[::97])
