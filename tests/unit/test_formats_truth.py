"""Documents whose text is known come back with their words in order, their headings and their places."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.chunking import Chunk, Limits, chunk_document
from services.ingester.parsing import BlockKind, ParsedDocument, parse
from services.query.citations import Hit
from services.query.places import place_of
from shared.errors import PermanentError
from shared.settings import BUNDLED_MODEL
from shared.text import storable
from shared.tokens import Tokenizer, open_tokenizer
from tests.formats import writers_data, writers_office, writers_pdf, writers_text
from tests.formats.content import words_of
from tests.formats.truth import WORDS_SHARE_MIN, Place, Writer, Written, compare

WRITERS = (*writers_text.WRITERS, *writers_data.WRITERS, *writers_office.WRITERS, *writers_pdf.WRITERS)
PLACED = (
    writers_text.markdown, writers_text.log, writers_data.comma_separated, writers_data.json_lines, writers_data.notebook,
    writers_office.slides, writers_office.workbook, writers_pdf.labelled_document,
)  # fmt: skip
TOKENS_TARGET = 128


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(BUNDLED_MODEL)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_generated_document_comes_back_as_it_was_written(write: Writer) -> None:
    written = write()
    media_type, document = parse(written.name, written.content)
    found = compare(document, written)
    assert media_type == written.media_type
    assert found.words_share >= WORDS_SHARE_MIN, found.missing
    assert found.extra_share <= written.extra_words_share_max
    assert found.wrong == []


@pytest.mark.parametrize("write", PLACED, ids=lambda write: write.__name__)
def test_citation_of_every_mark_says_where_it_stands(write: Writer, tokenizer: Tokenizer) -> None:
    written = write()
    document = parse(written.name, written.content)[1]
    limits = Limits(TOKENS_TARGET, tokenizer.tokens_max, tokenizer.special_count)
    chunks = list(chunk_document(document, tokenizer.count, limits))
    said = {}
    for mark in written.places:
        chunk = next(chunk for chunk in chunks if mark in chunk.text)
        at = chunk.text.index(mark)
        said[mark] = place_of(_hit(chunk, document), at, at + len(mark)).words
        names = written.contexts.get(mark, "")
        assert words_of(names) == words_of(chunk.prefix)[-len(words_of(names)) :] or names == "", chunk.prefix
    assert said == {mark: _words(place, written) for mark, place in written.places.items()}


_WRITTEN = {write.__name__: write() for write in WRITERS}


@pytest.mark.parametrize("name", _WRITTEN)
@settings(max_examples=12, deadline=None)
@given(
    place=st.integers(0, 2**20), junk=st.binary(max_size=60), how=st.sampled_from(["cut", "overwritten", "left out"])
)
def test_damaged_document_is_read_or_refused(name: str, place: int, junk: bytes, how: str) -> None:
    written = _WRITTEN[name]
    at = place % len(written.content)
    rest = {"cut": b"", "overwritten": written.content[at + len(junk) :], "left out": written.content[at + 200 :]}
    with contextlib.suppress(PermanentError):
        document = parse(written.name, written.content[:at] + junk + rest[how])[1]
        end = 0
        for block in document.blocks:
            assert end <= block.start < block.end <= len(document.text)
            end = block.end
        assert storable(document.text)[1] == 0


def _words(place: Place, written: Written) -> str | None:
    parts = [] if place.page is None else [f"{written.page_unit} {place.label or place.page}"]
    parts += [] if place.line is None else [f"{written.line_unit} {place.line}"]
    return ", ".join(parts) or None


def _hit(chunk: Chunk, document: ParsedDocument) -> Hit:
    return Hit(
        chunk_id=1, document_id=1, collection="default", source_uri="inbox:a", title=document.title,
        heading=chunk.heading, page=chunk.page, page_label=chunk.page_label,
        page_turns=tuple(tuple(turn) for turn in chunk.page_turns), page_unit=document.page_unit,
        lines=tuple(chunk.lines), line_unit=document.line_unit, ordinal=chunk.ordinal, char_start=chunk.char_start,
        char_end=chunk.char_end, text=chunk.text, prefix=chunk.prefix, language="english",
        token_count=chunk.token_count, lexemes=frozenset(), cosine=0.5, bm25=1.0, score=1.0,
    )  # fmt: skip


def _spoiled(document: ParsedDocument) -> Iterator[tuple[str, ParsedDocument]]:
    """What a wrong parser might give, with what has to be said of it."""
    blocks = document.blocks
    yield "words", replace(document, text=document.text[: len(document.text) * 97 // 100])
    half = document.text.index("\n", len(document.text) // 2)
    yield "words", replace(document, text=document.text[half:] + document.text[:half])
    first = next(place for place, block in enumerate(blocks) if block.kind is BlockKind.HEADING)
    yield "is missing", replace(document, blocks=blocks[:first] + blocks[first + 1 :])
    doubled = replace(blocks[first], level=blocks[first].level + 1)
    yield "was not written", replace(document, blocks=[*blocks[:first], doubled, *blocks[first + 1 :]])
    shifted = [replace(block, line=(block.line or 0) + 1) for block in blocks]
    yield "stands at", replace(document, blocks=shifted)
    yield "the title is", replace(document, title="Another")
    yield "has the context", replace(document, blocks=[replace(block, context="") for block in blocks])
    marked = [block for block in blocks if "mark003" not in document.text[block.start : block.end]]
    yield "mark003 is in no block", replace(document, blocks=marked)


def test_comparison_sees_what_is_wrong() -> None:
    written = writers_text.markdown()
    document = parse(written.name, written.content)[1]
    assert compare(document, written).words_share == 1.0
    for complaint, spoiled in _spoiled(document):
        found = compare(spoiled, written)
        if complaint == "words":
            assert found.words_share < WORDS_SHARE_MIN
            assert found.missing
        else:
            assert any(complaint in wrong for wrong in found.wrong), complaint
