"""Chunks hold every word once, fit the model, and stay where they are when their neighbours change."""

import base64
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.ingester import chunking
from services.ingester.chunking import (
    PREFIX_TOKENS_MAX,
    Chunk,
    Limits,
    _halve,
    _Unit,
    boundaries,
    chunk_document,
)
from services.ingester.parsing import Block, BlockKind, ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.markdown import parse_markdown
from services.ingester.parsing.plain import parse_plain
from shared.settings import BUNDLED_MODEL
from shared.text import embedded_text, storable
from shared.tokens import Tokenizer, open_tokenizer

_RANDOM = Random(20_240_501)
_WORDS = """
the a database page writer reads locks when checkpoint record buffer index tree leaf row version snapshot
commits waits cache memory disk flush recovery replays process vacuum table column plan joins hash scan sorts merges
query cost estimate statistics sample worker lease queue job retries network packet signal thread schedule storage
"""

_PIECES = st.sampled_from(
    [
        "# Title\n",
        "\n## A part { #id }\n",
        "\n### Deeper *still*\n",
        "\n##\n",
        "\nUnderlined\n===\n",
        "A plain sentence about locks. ",
        "Another one, e.g. Longer, ends here! ",
        "\n\n",
        "\n- an item\n  - nested\n",
        "\n```python\nx = 1\n\ny = 2   \n```\n",
        "\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
        "\n> quoted\n",
        "\n---\n",
        "一二三四五六七八九十。" * 8,
        "👩‍👩‍👧‍👦" * 30,
        "x" * 300,
        "word " * 90,
        "a.b/c-d_" * 40,
        "<div>\nhtml\n</div>\n",
    ]
)
_SOURCE = st.lists(_PIECES | st.text(max_size=30), max_size=14).map(lambda parts: decode("".join(parts).encode())[0])
_TARGET = st.sampled_from([16, 40, 128, 256, 2000])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(BUNDLED_MODEL)


def _chunks(tokenizer: Tokenizer, document: ParsedDocument, *, tokens_target: int = 128) -> list[Chunk]:
    limits = Limits(tokens_target, tokenizer.tokens_max, tokenizer.special_count)
    return list(chunk_document(document, tokenizer.count, limits))


def _prose(text: str, *, title: str | None = None) -> ParsedDocument:
    return ParsedDocument(text, [Block(BlockKind.PROSE, 0, len(text))], title)


def _check(tokenizer: Tokenizer, document: ParsedDocument, chunks: list[Chunk]) -> None:
    """See what holds of the chunks of any document."""
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    covered = bytearray(len(document.text))
    at = 0
    for chunk in chunks:
        assert at <= chunk.char_start < chunk.char_end
        assert document.text[chunk.char_start : chunk.char_end] == chunk.text == chunk.text.strip()
        covered[chunk.char_start : chunk.char_end] = b"\x01" * len(chunk.text)
        at = chunk.char_end
    counts = tokenizer.count([embedded_text(chunk.prefix, chunk.text) for chunk in chunks])
    assert [chunk.token_count for chunk in chunks] == counts
    assert all(count <= tokenizer.tokens_max for count in counts)
    assert all(count <= PREFIX_TOKENS_MAX for count in tokenizer.count([chunk.prefix for chunk in chunks]))
    for block, following in itertools.zip_longest(document.blocks, document.blocks[1:]):
        has_body = following is not None and following.kind is not BlockKind.HEADING
        is_left_out = block.kind is BlockKind.HEADING and has_body
        for place in range(block.start, block.end):
            if not document.text[place].isspace():
                assert covered[place] == (not is_left_out), (block, place)


@settings(max_examples=150)
@given(source=_SOURCE, tokens_target=_TARGET)
@example(source="# A\n# B\n\nbody\n\n## C", tokens_target=16)
@example(source="# A\n\n```\nx\n   \n   y  \n```", tokens_target=16)
def test_chunks_of_markdown_hold_every_word_once_and_fit_the_model(
    tokenizer: Tokenizer, source: str, tokens_target: int
) -> None:
    document = parse_markdown(source, 0)
    _check(tokenizer, document, _chunks(tokenizer, document, tokens_target=tokens_target))


@settings(max_examples=100)
@given(source=_SOURCE | st.text(max_size=300).map(lambda text: decode(text.encode())[0]), tokens_target=_TARGET)
def test_chunks_of_plain_text_hold_every_word_once_and_fit_the_model(
    tokenizer: Tokenizer, source: str, tokens_target: int
) -> None:
    document = parse_plain(source, 0)
    _check(tokenizer, document, _chunks(tokenizer, document, tokens_target=tokens_target))


@settings(max_examples=40)
@given(source=_SOURCE)
def test_equal_documents_have_equal_chunks(tokenizer: Tokenizer, source: str) -> None:
    assert _chunks(tokenizer, parse_markdown(source, 0)) == _chunks(tokenizer, parse_markdown(source, 0))


@settings(max_examples=60)
@given(source=_SOURCE, tokens_target=_TARGET)
def test_no_chunk_crosses_a_heading(tokenizer: Tokenizer, source: str, tokens_target: int) -> None:
    document = parse_markdown(source, 0)
    headings = [block for block in document.blocks if block.kind is BlockKind.HEADING]
    for chunk in _chunks(tokenizer, document, tokens_target=tokens_target):
        for block in headings:
            is_its_own = block.start <= chunk.char_start and chunk.char_end <= block.end
            assert is_its_own or chunk.char_end <= block.start or block.end <= chunk.char_start


_HOSTILE = {
    "one letter": "a" * 200_000,
    "base64": base64.b64encode(_RANDOM.randbytes(90_000)).decode(),
    "hexadecimal": _RANDOM.randbytes(50_000).hex(),
    "minified script": "".join(
        f"function {a}({b}){{return {a}[{n}]||{b}({n}+'{a}')}};"
        for a, b, n in (
            (_RANDOM.choice("abcxyz"), _RANDOM.choice("defuvw"), _RANDOM.randrange(9999)) for _ in range(1500)
        )
    ),
    "commas": "x,x,x," * 50_000,
    "few characters and many tokens": "x,x,x," * 150,
    "chinese": "".join(chr(_RANDOM.randrange(0x4E00, 0x9FA5)) for _ in range(20_000)),
    "hangul": "".join(chr(_RANDOM.randrange(0xAC00, 0xD7A3)) for _ in range(20_000)),
    "thai": "ภาษาไทยไม่มีช่องว่าง" * 1000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪" * 4000,
    "accents": "e\u0301\u0323\u0308" * 20_000,
    "letters that grow when they are normalised": "\ufdfa\u0130\ufb03\u1e9e" * 10_000,
    "row": "|" + "|".join(f" cell {n} of the row " for n in range(8000)) + "|",
    "code": "\n".join(f"    if (x[{n}] != NULL && *p++ == '\\0') {{ return f(&y->z[{n}]); }}" for n in range(2000)),
    "full stops": "." * 100_000,
    "initials": "A." * 50_000,
    "numbers": " ".join(str(n * 7919) for n in range(20_000)),
    "special tokens": "[SEP][CLS][MASK] [PAD]" * 5000,
    "controls": "\x01\x02\u200b\ufeff\ufffd" * 10_000,
    "one sentence over and over": "The same sentence stands here. " * 4000,
    "one line over and over": "a line of a log\n" * 8000,
}


@pytest.mark.parametrize("kind", [BlockKind.PROSE, BlockKind.LINES, BlockKind.ROW])
@pytest.mark.parametrize("name", sorted(_HOSTILE))
def test_hostile_text_fits_the_model_in_linear_time(tokenizer: Tokenizer, name: str, kind: BlockKind) -> None:
    text = _HOSTILE[name].strip()
    document = ParsedDocument(text, [Block(kind, 0, len(text))], title="A title")
    started = time.process_time()
    chunks = _chunks(tokenizer, document)
    assert time.process_time() - started < 10
    _check(tokenizer, document, chunks)


def test_chunks_of_text_that_is_one_token_are_bounded_by_their_characters(tokenizer: Tokenizer) -> None:
    chunks = _chunks(tokenizer, _prose("a" * 200_000))
    assert max(len(chunk.text) for chunk in chunks) <= 10 * tokenizer.tokens_max


def test_chunks_of_prose_are_about_as_large_as_they_should_be(tokenizer: Tokenizer) -> None:
    chunks = _chunks(tokenizer, _prose(" ".join(_sentences(Random(3), 600))), tokens_target=128)
    sizes = [chunk.token_count for chunk in chunks]
    assert 100 <= sum(sizes) / len(sizes) <= 190
    assert min(sizes) >= 32


def test_sentences_that_fit_are_not_divided(tokenizer: Tokenizer) -> None:
    sentences = _sentences(Random(4), 200)
    chunks = _chunks(tokenizer, _prose(" ".join(sentences)))
    assert " ".join(chunk.text for chunk in chunks) == " ".join(sentences)
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_lines_of_code_that_fit_are_not_divided(tokenizer: Tokenizer) -> None:
    source = "```\n" + "".join(f"  value_{n} = compute(value_{n - 1}, {n})  \n" for n in range(200)) + "```\n"
    lines = {line.strip() for line in source.splitlines()}
    for chunk in _chunks(tokenizer, parse_markdown(source, 0)):
        assert {line.strip() for line in chunk.text.splitlines()} <= lines


def test_rows_that_fit_are_not_divided(tokenizer: Tokenizer) -> None:
    rows = [f"| {n} | a cell. Another. | {n * n} |" for n in range(300)]
    source = "| n | text | square |\n|---|---|---|\n" + "\n".join(rows)
    chunks = _chunks(tokenizer, parse_markdown(source, 0))
    assert [line for chunk in chunks for line in chunk.text.splitlines() if "cell" in line] == rows


def test_small_section_is_one_chunk(tokenizer: Tokenizer) -> None:
    document = parse_markdown("# Title\n\nOne. Two.\n\n## Part\n\nThree. Four.\n", 0)
    assert [(c.heading, c.prefix, c.text) for c in _chunks(tokenizer, document)] == [
        ("Title", "Title", "One. Two."),
        ("Title > Part", "Title > Part", "Three. Four."),
    ]


def test_heading_without_a_body_is_a_chunk_of_its_own_words(tokenizer: Tokenizer) -> None:
    document = parse_markdown("# Title\n## Part\ntext\n## Last", 0)
    assert [chunk.text for chunk in _chunks(tokenizer, document)] == ["# Title", "text", "## Last"]


def test_text_before_the_first_heading_has_no_heading(tokenizer: Tokenizer) -> None:
    (first, _) = _chunks(tokenizer, parse_markdown("intro\n\n# Title\n\nbody", 0))
    assert (first.heading, first.prefix, first.text) == ("", "Title", "intro")


def test_heading_leaves_the_path_when_one_of_its_level_follows(tokenizer: Tokenizer) -> None:
    source = "# A\na\n### C\nc\n## B\nb\n# D\nd\n"
    headings = [chunk.heading for chunk in _chunks(tokenizer, parse_markdown(source, 0))]
    assert headings == ["A", "A > C", "A > B", "D"]


def test_empty_document_has_no_chunks(tokenizer: Tokenizer) -> None:
    assert _chunks(tokenizer, ParsedDocument("", [])) == []
    assert _chunks(tokenizer, parse_plain(" \n\n\t ", 0)) == []


@settings(max_examples=60)
@given(title=st.text(max_size=400) | st.sampled_from(["word " * 200, "章" * 200, "x" * 5000, ".,;" * 100]))
def test_prefix_over_its_limit_is_shortened_and_no_text_is_lost(tokenizer: Tokenizer, title: str) -> None:
    title = storable(title)[0]
    document = _prose("The body stays. " * 100, title=title)
    chunks = _chunks(tokenizer, document)
    _check(tokenizer, document, chunks)
    assert {chunk.prefix for chunk in chunks} <= {title[:length] for length in range(len(title) + 1)}


def test_long_title_without_spaces_is_cut_and_not_left_out(tokenizer: Tokenizer) -> None:
    (chunk,) = _chunks(tokenizer, _prose("The body.", title="数据库事务与并发控制" * 6))
    assert len(chunk.prefix) >= PREFIX_TOKENS_MAX // 2


def test_long_path_of_headings_loses_its_middle_first(tokenizer: Tokenizer) -> None:
    middle = "many words that nobody needs to know about " * 3 + "here"
    source = f"# Title\n## {middle}\n### {middle} again\n#### Last part\nbody\n"
    chunk = _chunks(tokenizer, parse_markdown(source, 0))[-1]
    assert chunk.prefix == "Title > Last part"
    assert chunk.heading == f"Title > {middle} > {middle} again > Last part"


def _sentences(random: Random, count: int) -> list[str]:
    return [_sentence(random) for _ in range(count)]


def _sentence(random: Random) -> str:
    return " ".join(random.choices(_WORDS.split(), k=random.randint(4, 28))).capitalize() + "."


@pytest.mark.parametrize("edit", ["change", "insert", "delete"])
@pytest.mark.parametrize("paragraph_share", [0.0, 0.25])
def test_edit_of_one_sentence_makes_at_most_three_new_chunks(
    tokenizer: Tokenizer, edit: str, paragraph_share: float
) -> None:
    random = Random(f"{edit} {paragraph_share}")

    def sentence() -> str:
        return _sentence(random) + ("\n\n" if random.random() < paragraph_share else " ")

    def chunks_of(sentences: list[str]) -> Counter[tuple[str, str]]:
        document = parse_markdown("# A long section\n\n" + "".join(sentences), 0)
        return Counter((chunk.prefix, chunk.text) for chunk in _chunks(tokenizer, document))

    sentences = [sentence() for _ in range(400)]
    before = chunks_of(sentences)
    assert before.total() > 30
    new = []
    for place in random.sample(range(len(sentences)), 25):
        edited = list(sentences)
        if edit == "delete":
            del edited[place]
        elif edit == "insert":
            edited.insert(place, sentence())
        else:
            edited[place] = sentence()
        new.append((chunks_of(edited) - before).total())
    assert max(new) <= 3, new


_WEIGHTS = st.lists(st.integers(1, 30), max_size=60)
_PRIORITY = st.tuples(st.integers(0, 2), st.sampled_from([b"\x00", b"\x01", b"\x02", b"\x03"]))


def _oracle(weights: list[int], priorities: list[tuple[int, bytes]], radius: int) -> list[int]:
    """Look at every pair of places."""
    ends = list(itertools.accumulate(weights))
    inner = [place for place, end in enumerate(ends) if radius <= end <= ends[-1] - radius]
    return [
        place
        for place in inner
        if all(
            (priorities[place], place) <= (priorities[other], other)
            for other in inner
            if abs(ends[other] - ends[place]) < radius
        )
    ]


@settings(max_examples=300)
@given(_WEIGHTS, st.integers(1, 60), st.data())
def test_boundaries_are_the_places_of_least_priority_around(
    weights: list[int], radius: int, data: st.DataObject
) -> None:
    priorities = data.draw(st.lists(_PRIORITY, min_size=len(weights), max_size=len(weights)))
    assert list(boundaries(zip(weights, priorities, strict=True), radius)) == _oracle(weights, priorities, radius)


@settings(max_examples=200)
@given(_WEIGHTS, st.integers(1, 60), st.data())
def test_cuts_are_a_radius_apart(weights: list[int], radius: int, data: st.DataObject) -> None:
    priorities = data.draw(st.lists(_PRIORITY, min_size=len(weights), max_size=len(weights)))
    ends = list(itertools.accumulate(weights))
    cuts = [ends[place] for place in boundaries(zip(weights, priorities, strict=True), radius)]
    borders = [0, *cuts, ends[-1]] if cuts else []
    assert all(later - earlier >= radius for earlier, later in itertools.pairwise(borders))


def test_boundaries_of_many_units_are_found_in_linear_time() -> None:
    random = Random(5)
    count = 200_000
    for priorities in (
        [(0, b"")] * count,
        [(2, place.to_bytes(4, "big")) for place in range(count)],
        [(2, place.to_bytes(4, "big")) for place in reversed(range(count))],
        [(2, random.randbytes(8)) for _ in range(count)],
    ):
        started = time.process_time()
        list(boundaries(zip([1] * count, priorities, strict=True), count // 4))
        assert time.process_time() - started < 3


def test_no_chunk_is_longer_than_the_model_reads_though_parts_count_less():
    """What is joined may count more than its parts do: only the whole is what the model reads."""

    def count(texts):
        return [int(len(text.split()) ** 1.25) + 2 for text in texts]

    text = " ".join(f"Word{n} stands here and says little." for n in range(400))
    chunks = list(chunk_document(_prose(text), count, Limits(40, 64, 2)))
    assert max(count([chunk.text for chunk in chunks])) <= 64
    assert " ".join(chunk.text for chunk in chunks) == text


def _cut_at_once(units: list[_Unit], *, radius: int, weight_max: int) -> Iterator[Sequence[_Unit]]:
    """Cut a section whose units are all known, looking at every pair of them."""
    start = 0
    for cut in _oracle([unit.weight for unit in units], [unit.priority for unit in units], radius):
        yield from _halve(units[start : cut + 1], weight_max)
        start = cut + 1
    yield from _halve(units[start:], weight_max)


@settings(max_examples=100)
@given(source=_SOURCE, tokens_target=_TARGET, batch=st.integers(1, 5))
def test_units_that_come_one_by_one_make_the_same_chunks_as_all_at_once(
    tokenizer: Tokenizer, source: str, tokens_target: int, batch: int
) -> None:
    document = parse_markdown(source, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "_UNITS_PER_COUNT", batch)
        streamed = _chunks(tokenizer, document, tokens_target=tokens_target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            chunking,
            "_groups",
            lambda units, *, radius, weight_max: _cut_at_once(list(units), radius=radius, weight_max=weight_max),
        )
        assert _chunks(tokenizer, document, tokens_target=tokens_target) == streamed


def test_first_chunk_of_a_long_section_comes_before_its_end_was_looked_at(tokenizer: Tokenizer) -> None:
    looked_at = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal looked_at
        looked_at += sum(map(len, texts))
        return tokenizer.count(texts)

    document = _prose(" ".join(_sentences(Random(6), 20_000)))
    next(chunk_document(document, count, Limits(128, tokenizer.tokens_max, tokenizer.special_count)))
    assert looked_at < len(document.text) / 4


def test_word_without_an_end_is_not_counted_whole(tokenizer: Tokenizer) -> None:
    longest = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal longest
        longest = max(longest, *map(len, texts)) if texts else longest
        return tokenizer.count(texts)

    chunks = list(
        chunk_document(_prose("a" * 200_000), count, Limits(128, tokenizer.tokens_max, tokenizer.special_count))
    )
    assert sum(len(chunk.text) for chunk in chunks) == 200_000
    assert longest <= 10 * tokenizer.tokens_max


def test_little_is_counted_at_once_however_long_sentences_are(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "_CHARACTERS_PER_COUNT", 2000)
    most = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal most
        most = max(most, sum(map(len, texts)))
        return tokenizer.count(texts)

    document = _prose(" ".join(_sentences(Random(7), 500)))
    assert len(list(chunk_document(document, count, Limits(128, tokenizer.tokens_max, tokenizer.special_count)))) > 10
    assert 1000 < most <= 2000
