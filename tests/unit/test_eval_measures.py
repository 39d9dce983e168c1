"""Figures of rankings, against values computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console.evaluation.corpus import Span
from services.console.evaluation.measures import (
    mean,
    ndcg,
    overlap,
    percentiles,
    ranking_figures,
    recall,
    reciprocal_rank,
    separation,
)

GRADES = st.dictionaries(st.integers(0, 40), st.integers(1, 3), min_size=1, max_size=20)


def test_ndcg_is_that_of_trec_eval_with_the_grade_as_gain() -> None:
    # DCG = 3/log2(2) + 0/log2(3) + 2/log2(4) = 4; the best is 3/log2(2) + 2/log2(3) + 1/log2(4) = 4.76186.
    relevant = {7: 3, 8: 1, 9: 2}
    assert ndcg([7, 1, 9], relevant) == pytest.approx(4 / (3 + 2 / math.log2(3) + 0.5))
    assert ndcg([7, 1, 9], relevant) == pytest.approx(0.840008, abs=1e-6)


def test_ndcg_of_one_relevant_document_tells_its_rank() -> None:
    assert ndcg([5], {5: 1}) == 1
    assert ndcg([1, 5], {5: 1}) == pytest.approx(0.63093, abs=1e-5)
    assert ndcg([1, 2, 3, 4, 5], {5: 1}) == pytest.approx(0.386853, abs=1e-6)
    assert ndcg([*range(10), 50], {50: 1}) == 0


def test_best_ranking_holds_documents_that_were_not_found_but_no_more_than_the_depth() -> None:
    assert ndcg([1], {1: 1, 2: 1}) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg(list(range(10)), dict.fromkeys(range(12), 1)) == pytest.approx(1)


def test_grades_count_not_their_powers() -> None:
    assert ndcg([2, 1], {1: 2, 2: 1}) == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_recall_is_a_share_of_all_relevant_documents() -> None:
    relevant = dict.fromkeys(range(4), 1)
    assert recall([0, 9, 8, 7, 6, 1], relevant, 5) == 0.25
    assert recall([0, 9, 8, 7, 6, 1], relevant, 10) == 0.5
    assert recall([0], {}, 5) == 0


def test_reciprocal_rank_ends_at_its_depth() -> None:
    assert reciprocal_rank([9, 9, 3], {3: 1}) == pytest.approx(1 / 3)
    assert reciprocal_rank([*range(10), 11], {11: 1}) == 0


@given(GRADES)
def test_sorted_by_grade_is_the_best_ranking(relevant: dict[int, int]) -> None:
    best = sorted(relevant, key=lambda index: -relevant[index])
    figures = ranking_figures(best, relevant)
    assert figures["ndcg@10"] == pytest.approx(1)
    assert figures["mrr@10"] == 1
    assert figures["recall@100"] == 1


@given(GRADES, st.permutations(range(41)))
def test_every_figure_is_between_0_and_1_and_a_document_moved_up_lowers_none(
    relevant: dict[int, int], ranked: list[int]
) -> None:
    before = ranking_figures(ranked, relevant)
    place = next(at for at, index in enumerate(ranked) if index in relevant)
    moved = [ranked[place], *ranked[:place], *ranked[place + 1 :]]
    after = ranking_figures(moved, relevant)
    assert all(0 <= value <= 1 + 1e-12 for value in before.values())
    if relevant[ranked[place]] == max(relevant.values()):
        assert all(after[name] >= value - 1e-12 for name, value in before.items())


def test_overlap_counts_each_character_once() -> None:
    wanted = [Span(1, 0, 10), Span(1, 5, 20), Span(2, 0, 5)]
    found = [Span(1, 15, 30), Span(1, 18, 25), Span(2, 5, 9), Span(3, 0, 5)]
    assert overlap(wanted, found) == (25, 24, 5)
    assert overlap(wanted, []) == (25, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(1, 10)), max_size=12))
def test_overlap_is_that_of_sets_of_characters(drawn: list[tuple[int, int, int]]) -> None:
    spans = [Span(index, start, start + length) for index, start, length in drawn]
    ours, theirs = spans[::2], spans[1::2]

    def characters(of: list[Span]) -> set[tuple[int, int]]:
        return {(span.index, at) for span in of for at in range(span.start, span.end)}

    both = characters(ours) & characters(theirs)
    assert overlap(ours, theirs) == (len(characters(ours)), len(characters(theirs)), len(both))


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([3]) == {"p50": 3, "p95": 3, "p99": 3}
    assert percentiles([]) is None
    assert mean([]) is None


def test_separation_refuses_no_more_than_the_allowed_share() -> None:
    answerable = [number / 100 for number in range(100)]
    told = separation(answerable, [0.01, 0.04, 0.05, 0.5], 0.05)
    assert told is not None
    assert told.threshold == 0.05
    assert told.refused == 0.5
    assert sum(score < told.threshold for score in answerable) <= 5


def test_area_counts_pairs_in_the_right_order_and_ties_half() -> None:
    told = separation([0.9, 0.5, 0.5], [0.5, 0.1], 0.0)
    assert told is not None
    assert told.auroc == pytest.approx((2 + 1.5 + 1.5) / 6)
    assert separation([], [0.1], 0.05) is None


@given(
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12),
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12),
)
def test_area_is_that_of_all_pairs(answerable: list[float], others: list[float]) -> None:
    pairs = [(one > other) + (one == other) / 2 for one in answerable for other in others]
    told = separation(answerable, others, 0.05)
    assert told is not None
    assert told.auroc == pytest.approx(sum(pairs) / len(pairs))
