"""Lexical scores have the shape that BM25 promises."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.query.bm25 import bm25, coverage, inverse_document_frequency

_TERMS = st.sampled_from(["wal", "lease", "chunk", "vector", "fence"])
_IDF = st.dictionaries(_TERMS, st.floats(0.001, 20), max_size=5)
_FREQUENCIES = st.dictionaries(_TERMS, st.integers(0, 1000), max_size=5)
_LENGTH = st.integers(1, 100_000)
_MEAN = st.floats(1, 10_000)


@settings(max_examples=100)
@given(_FREQUENCIES, _IDF, _LENGTH, _MEAN)
def test_score_is_never_negative(
    frequencies: dict[str, int], idf: dict[str, float], length: int, mean_length: float
) -> None:
    score = bm25(frequencies, idf, length, mean_length)
    assert score >= 0
    assert (score > 0) == any(frequencies.get(term, 0) > 0 for term in idf)


@settings(max_examples=100)
@given(st.integers(0, 500), st.integers(1, 500), _LENGTH, _MEAN)
def test_score_rises_with_frequency(frequency: int, more: int, length: int, mean_length: float) -> None:
    idf = {"wal": 2.0}
    assert bm25({"wal": frequency + more}, idf, length, mean_length) > bm25(
        {"wal": frequency}, idf, length, mean_length
    )


@settings(max_examples=100)
@given(st.integers(1, 500), _LENGTH, st.integers(1, 10_000), _MEAN)
def test_score_falls_with_length(frequency: int, length: int, more: int, mean_length: float) -> None:
    idf = {"wal": 2.0}
    assert bm25({"wal": frequency}, idf, length + more, mean_length) < bm25(
        {"wal": frequency}, idf, length, mean_length
    )


@settings(max_examples=100)
@given(_FREQUENCIES, _IDF, _LENGTH, _MEAN)
def test_no_term_adds_more_than_its_weight_saturated(
    frequencies: dict[str, int], idf: dict[str, float], length: int, mean_length: float
) -> None:
    assert bm25(frequencies, idf, length, mean_length) <= 2.2 * sum(idf.values()) + 1e-9


def test_words_that_the_question_does_not_hold_count_nothing() -> None:
    assert bm25({"wal": 3, "and": 40}, {"wal": 2.0}, 50, 50) == bm25({"wal": 3}, {"wal": 2.0}, 50, 50)


def test_score_of_a_text_of_mean_length_is_the_textbook_value() -> None:
    assert bm25({"wal": 1}, {"wal": 2.0}, 100, 100.0) == pytest.approx(2.0)
    assert bm25({"wal": 2}, {"wal": 2.0}, 100, 100.0) == pytest.approx(2.0 * 4.4 / 3.2)


@settings(max_examples=100)
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_term_weight_is_positive_even_where_the_statistics_lag(chunk_count: int, total: int) -> None:
    assert inverse_document_frequency(chunk_count, total) > 0


@settings(max_examples=100)
@given(st.integers(1, 10**6), st.data())
def test_term_weight_falls_with_the_chunks_that_hold_it(total: int, data: st.DataObject) -> None:
    fewer = data.draw(st.integers(0, total - 1))
    more = data.draw(st.integers(fewer + 1, total))
    assert inverse_document_frequency(fewer, total) > inverse_document_frequency(more, total)


@settings(max_examples=100)
@given(st.sets(_TERMS), st.sets(_TERMS), _IDF)
def test_coverage_lies_between_0_and_1_and_rises_with_what_is_found(
    found: set[str], more: set[str], idf: dict[str, float]
) -> None:
    assert 0 <= coverage(found, idf) <= coverage(found | more, idf) <= 1


def test_coverage_is_whole_when_all_terms_are_found() -> None:
    assert coverage({"wal", "lease", "other"}, {"wal": 0.1, "lease": 0.2}) == 1
    assert coverage({"wal"}, {"wal": 1.0, "lease": 3.0}) == 0.25


def test_coverage_of_a_question_without_terms_is_0() -> None:
    assert coverage({"wal"}, {}) == 0
