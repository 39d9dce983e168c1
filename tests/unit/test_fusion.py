"""Two scores become one ranking."""

import itertools
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.query.fusion import (
    DEFAULT_TUNING,
    NEIGHBOURS_SHARE,
    Candidate,
    fuse,
    normalise,
    tuning_of,
    weigh_neighbours,
)

_GRID = st.integers(-20, 20).map(lambda step: step / 20)


@st.composite
def _candidates(draw: st.DrawFn, *, count_min: int = 0) -> list[Candidate]:
    keys = draw(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 50)), min_size=count_min, max_size=12, unique=True)
    )
    return [
        Candidate(
            collection_id=collection_id,
            chunk_id=chunk_id,
            document_id=draw(st.integers(1, 5)),
            cosine=draw(_GRID | st.floats(-1, 1)),
            bm25=draw(_GRID.map(abs) | st.floats(0, 1e6)),
            is_lexical_hit=draw(st.booleans()),
        )
        for collection_id, chunk_id in keys
    ]


def _candidate(chunk_id: int, cosine: float, bm25: float) -> Candidate:
    return Candidate(1, chunk_id, 1, cosine, bm25, is_lexical_hit=True)


def test_nothing_is_ranked_when_nothing_was_found() -> None:
    assert fuse([]) == []
    assert normalise([]) == []


@settings(max_examples=100)
@given(_candidates(), st.randoms(use_true_random=False))
def test_ranking_does_not_depend_on_the_order_of_candidates(candidates: list[Candidate], random: Random) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert fuse(shuffled) == fuse(candidates)


@settings(max_examples=100)
@given(_candidates())
def test_every_candidate_is_ranked_once(candidates: list[Candidate]) -> None:
    ranked = fuse(candidates + candidates)
    assert len(ranked) == len(candidates)
    assert {r.candidate for r in ranked} == set(candidates)


@settings(max_examples=100)
@given(_candidates(), st.floats(0, 1))
def test_scores_fall_and_lie_between_0_and_1(candidates: list[Candidate], dense_weight: float) -> None:
    scores = [r.score for r in fuse(candidates, dense_weight=dense_weight)]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=100)
@given(_candidates())
def test_equal_scores_are_ordered_by_collection_and_chunk(candidates: list[Candidate]) -> None:
    ranked = fuse(candidates)
    for better, worse in itertools.pairwise(ranked):
        if better.score == worse.score:
            assert (better.candidate.collection_id, better.candidate.chunk_id) < (
                worse.candidate.collection_id,
                worse.candidate.chunk_id,
            )


@settings(max_examples=100)
@given(_candidates(), st.floats(0, 1))
def test_best_in_both_arms_is_first(candidates: list[Candidate], dense_weight: float) -> None:
    best = Candidate(9, 99, 9, cosine=1.5, bm25=2e6, is_lexical_hit=True)
    first = fuse([*candidates, best], dense_weight=dense_weight)[0]
    assert first.candidate == best or first.score == 1.0
    if 0.01 < dense_weight < 0.99:
        assert first.candidate == best


@settings(max_examples=100)
@given(_candidates(count_min=2), st.floats(0, 1))
def test_better_in_both_arms_scores_no_less(candidates: list[Candidate], dense_weight: float) -> None:
    ranked = fuse(candidates, dense_weight=dense_weight)
    for one in ranked:
        for other in ranked:
            if one.candidate.cosine >= other.candidate.cosine and one.candidate.bm25 >= other.candidate.bm25:
                assert one.score >= other.score


@settings(max_examples=200)
@given(st.lists(st.tuples(_GRID, _GRID.map(abs)), min_size=2, max_size=8), st.integers(0, 7), st.integers(1, 30))
def test_raising_a_cosine_never_costs_a_place(scores: list[tuple[float, float]], chosen: int, steps: int) -> None:
    chosen %= len(scores)
    before = [_candidate(place, *pair) for place, pair in enumerate(scores)]
    after = list(before)
    after[chosen] = _candidate(chosen, scores[chosen][0] + steps / 20, scores[chosen][1])

    def place_of(candidates: list[Candidate]) -> int:
        return [r.candidate.chunk_id for r in fuse(candidates)].index(chosen)

    assert place_of(after) <= place_of(before)


def test_candidates_that_nothing_tells_apart_all_score_0() -> None:
    ranked = fuse([_candidate(3, 0.4, 2.0), _candidate(1, 0.4, 2.0), _candidate(2, 0.4, 2.0)])
    assert [(r.candidate.chunk_id, r.score) for r in ranked] == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_dense_weight_shifts_the_ranking_between_the_arms() -> None:
    near, wordy = _candidate(1, 0.9, 0.0), _candidate(2, 0.1, 7.0)
    assert [r.candidate for r in fuse([near, wordy], dense_weight=0.9)] == [near, wordy]
    assert [r.candidate for r in fuse([near, wordy], dense_weight=0.1)] == [wordy, near]


def test_score_is_the_weighted_sum_of_both_arms() -> None:
    ranked = fuse([_candidate(1, 0.0, 4.0), _candidate(2, 0.5, 1.0), _candidate(3, 1.0, 0.0)], dense_weight=0.5)
    assert {r.candidate.chunk_id: r.score for r in ranked} == {1: 0.5, 2: 0.375, 3: 0.5}


def test_places_are_those_in_the_arms_that_found_a_candidate() -> None:
    near, wordy, both = _candidate(1, 0.9, 0.0), _candidate(2, 0.1, 7.0), _candidate(3, 0.5, 1.0)
    pool = [replace(near, is_lexical_hit=False), wordy, both]
    told = {r.candidate.chunk_id: (r.dense_place, r.lexical_place) for r in fuse(pool, arm_limit=2)}
    assert told == {1: (1, None), 2: (None, 1), 3: (2, 2)}


def test_each_collection_has_its_own_arm() -> None:
    far = [replace(_candidate(chunk_id, chunk_id / 10, 0.0), collection_id=2) for chunk_id in (1, 2)]
    near = [_candidate(chunk_id, 0.5 + chunk_id / 10, 0.0) for chunk_id in (1, 2)]
    found = [r.candidate.collection_id for r in fuse([*far, *near], arm_limit=1) if r.dense_place is not None]
    assert sorted(found) == [1, 2]


@settings(max_examples=100)
@given(_candidates(), st.floats(0, 1))
def test_score_is_explained_by_the_shares(candidates: list[Candidate], weight: float) -> None:
    for ranked in fuse(candidates, dense_weight=weight):
        assert ranked.score == weight * ranked.dense_share + (1 - weight) * ranked.lexical_share


@settings(max_examples=100)
@given(_candidates(), st.floats(0, 1), st.lists(st.floats(0, 1e6), min_size=12, max_size=12))
def test_score_is_explained_by_the_shares_with_neighbours_too(
    candidates: list[Candidate], weight: float, scores: list[float]
) -> None:
    around = {(c.collection_id, c.chunk_id): score for c, score in zip(candidates[1:], scores, strict=False)}
    ranked = weigh_neighbours(fuse(candidates, dense_weight=weight), around, dense_weight=weight)
    assert {one.candidate for one in ranked} == set(candidates)
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    for one in ranked:
        assert one.score == weight * one.dense_share + (1 - weight) * one.lexical_share
        assert 0 <= one.lexical_share <= 1


def test_neighbours_decide_between_equals_and_whoever_was_not_looked_at_keeps_its_share() -> None:
    ranked = fuse([_candidate(1, 0.5, 2.0), _candidate(2, 0.5, 2.0), _candidate(3, 0.5, 1.0), _candidate(4, 0.5, 0.0)])
    weighed = weigh_neighbours(ranked, {(1, 1): 1.0, (1, 2): 4.0})
    assert [(one.candidate.chunk_id, one.lexical_share) for one in weighed] == [
        (2, 1.0),
        (3, 0.5),
        (1, 1 - NEIGHBOURS_SHARE + NEIGHBOURS_SHARE / 4),
        (4, 0.0),
    ]


def test_weight_and_threshold_are_those_of_the_model_wherever_it_lies() -> None:
    tuned = tuning_of("all-MiniLM-L6-v2")
    assert tuning_of("sentence-transformers/all-MiniLM-L6-v2") == tuned
    assert tuning_of("/models/all-MiniLM-L6-v2/") == tuned
    assert tuning_of("openai:text-embedding-3-small") == DEFAULT_TUNING != tuned
