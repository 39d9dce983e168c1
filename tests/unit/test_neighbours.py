"""A chunk is scored together with what stands before and after it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.bm25 import K1, B, QuestionTerm
from services.query.neighbours import TERMS_COUNTED_MAX, WordCounts, bm25_with_neighbours, most_telling

ENGLISH = frozenset({"english"})
GATE = QuestionTerm("gate", ENGLISH, 1, 2.0)
OPEN = QuestionTerm("open", ENGLISH, 2, 1.0)


def _count(ordinal: int, *times: float, document_id: int = 1, language: str = "english") -> WordCounts:
    return WordCounts(1, document_id, 100 * document_id + ordinal, ordinal, language, 10, times)


def test_words_of_the_neighbours_count_as_if_they_stood_in_the_chunk():
    counts = [_count(0, 1, 0), _count(1, 0, 0), _count(2, 0, 1), _count(3, 5, 5)]
    scores = bm25_with_neighbours(counts, [GATE, OPEN], {(1, 101)})
    saturation = (K1 + 1) / (1 + K1 * (1 - B + B))
    assert scores == {(1, 101): pytest.approx((2.0 + 1.0) * saturation)}


def test_what_stands_in_another_document_is_no_neighbour():
    counts = [_count(0, 1, 0), replace(_count(1, 1, 1), document_id=2), replace(_count(1, 1, 1), collection_id=2)]
    alone = bm25_with_neighbours(counts[:1], [GATE, OPEN], {(1, 100)})
    assert bm25_with_neighbours(counts, [GATE, OPEN], {(1, 100)}) == alone


def test_neighbour_is_read_in_its_own_language():
    counts = [_count(0, 0), _count(1, 1, language="german")]
    assert bm25_with_neighbours(counts, [GATE], {(1, 100)}) == {(1, 100): 0.0}


def test_longer_surroundings_with_the_same_words_score_less():
    counts = [_count(0, 1), _count(1, 0), _count(0, 1, document_id=2)]
    scores = bm25_with_neighbours(counts, [GATE], {(1, 100), (1, 200)})
    assert scores[1, 100] < scores[1, 200]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_another_word_beside_a_chunk_never_costs_it(times: list[int], chosen: int):
    chosen %= len(times)
    counts = [_count(ordinal, number) for ordinal, number in enumerate(times)]
    more = [replace(count, times=(count.times[0] + (count.ordinal == chosen),)) for count in counts]
    wanted = {(1, count.chunk_id) for count in counts}
    before, after = (bm25_with_neighbours(these, [GATE], wanted) for these in (counts, more))
    assert all(after[key] >= before[key] for key in wanted)


def test_terms_that_tell_most_are_counted():
    terms = [QuestionTerm(f"w{n}", ENGLISH, n, n / 100) for n in range(100)]
    name = QuestionTerm("foo_bar", ENGLISH, 100, 0.7, is_identifier=True)
    counted = most_telling([*terms, name])
    assert len(counted) == TERMS_COUNTED_MAX
    assert counted[0] == name
    assert counted[1:] == terms[:-TERMS_COUNTED_MAX:-1]
