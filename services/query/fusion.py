"""Two scores per candidate → one ranking; pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Tuning:
    """What fits one embedding model, each from 0 to 1.

    The share of the dense arm in a score, that of the cosine in an answer's confidence, and the confidence below which a
    question is refused in a collection of a thousand chunks or more.
    """

    dense_weight: float
    cosine_share: float
    refusal_threshold: float


# By the last part of a model's name. MiniLM over chunks of about 128 tokens: on SciFact's training questions nDCG@10 is 0.736 at
# a weight of 0.5, 0.740 at 0.55 and 0.741 at 0.6 where the neighbours of a chunk are read with it; without them a chunk holds
# fewer of a question's words than its whole document, and 0.65 is best, at 0.737. Its threshold is measured beside `best_fit`
# in extract.py.
TUNINGS = {"all-MiniLM-L6-v2": Tuning(0.55, 0.4, 0.44)}
# Not measured here. Of 29 published collections bge-base is best beside BM25 at 0.7 to 0.8, and its cosines stand higher, so
# that fewer questions are refused: ASKBOX_REFUSAL_THRESHOLD is for that.
DEFAULT_TUNING = Tuning(0.7, 0.4, 0.44)
DENSE_WEIGHT = TUNINGS["all-MiniLM-L6-v2"].dense_weight
# How much of a lexical share is that of a chunk with its neighbours, for the best so many; see neighbours.py. On the same
# questions flat from 0.5 to 0.85 (0.740 to 0.741), and from 20 chunks on.
NEIGHBOURS_SHARE = 0.7
NEIGHBOURS_READ = 30


def tuning_of(model_name: str) -> Tuning:
    """Return what fits a model: a local one, one of a hub or one on a server."""
    return TUNINGS.get(re.split(r"[/:\\]", model_name.rstrip("/\\"))[-1], DEFAULT_TUNING)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that an arm found, with the scores of both arms filled in."""

    collection_id: int
    chunk_id: int
    document_id: int
    cosine: float
    bm25: float
    is_lexical_hit: bool


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with its fused score, from 0 to 1, comparable only within one question.

    The shares are its scores in either arm, mapped to 0..1 over the question's candidates, the lexical one with what its
    neighbours add; the places count from 1, among what the arm found itself.
    """

    candidate: Candidate
    score: float
    dense_share: float = 0.0
    lexical_share: float = 0.0
    dense_place: int | None = None
    lexical_place: int | None = None


def normalise(values: Sequence[float]) -> list[float]:
    """Map values to 0..1 by their least and greatest; all equal values map to 0, since they tell nothing apart."""
    if not values:
        return []
    low, high = min(values), max(values)
    if high <= low:
        return [0.0] * len(values)
    return [(value - low) / (high - low) for value in values]


def fuse(
    candidates: Iterable[Candidate], *, dense_weight: float = DENSE_WEIGHT, arm_limit: int | None = None
) -> list[Ranked]:
    """Rank candidates by a convex combination of their min-max normalised scores.

    `arm_limit` is how many candidates an arm finds in each collection, which tells whom the dense arm found.
    Order: score descending, ties by collection and chunk, so equal inputs give equal outputs.
    Source: Bruch, Gai and Ingber, TOIS 2023; better than reciprocal rank fusion on 9 of 9 collections measured.
    """
    pool = sorted(set(candidates), key=lambda c: (c.collection_id, c.chunk_id))
    dense = normalise([candidate.cosine for candidate in pool])
    lexical = normalise([candidate.bm25 for candidate in pool])
    near = sorted(pool, key=lambda c: -c.cosine)
    dense_places = _places(_of_each_collection(near, arm_limit))
    lexical_places = _places(sorted((c for c in pool if c.is_lexical_hit), key=lambda c: -c.bm25))
    ranked = [
        Ranked(c, dense_weight * d + (1 - dense_weight) * s, d, s, dense_places.get(c), lexical_places.get(c))
        for c, d, s in zip(pool, dense, lexical, strict=True)
    ]
    return sorted(ranked, key=_order)


def weigh_neighbours(
    ranked: Sequence[Ranked], scores: Mapping[tuple[int, int], float], *, dense_weight: float = DENSE_WEIGHT
) -> list[Ranked]:
    """Rank anew by what stands around the candidates: `scores` are of chunks with their neighbours, by collection and chunk.

    One that is not among them counts as if what stands around it fitted as well as itself.
    """
    greatest = max(scores.values(), default=0.0)
    if greatest <= 0:
        return list(ranked)
    shares = {key: score / greatest for key, score in scores.items()}
    return sorted((_weigh(one, shares.get(_key(one)), dense_weight) for one in ranked), key=_order)


def _weigh(ranked: Ranked, around: float | None, dense_weight: float) -> Ranked:
    if around is None:
        return ranked
    lexical = (1 - NEIGHBOURS_SHARE) * ranked.lexical_share + NEIGHBOURS_SHARE * around
    return replace(
        ranked, score=dense_weight * ranked.dense_share + (1 - dense_weight) * lexical, lexical_share=lexical
    )


def _key(ranked: Ranked) -> tuple[int, int]:
    return ranked.candidate.collection_id, ranked.candidate.chunk_id


def _order(ranked: Ranked) -> tuple[float, int, int]:
    return -ranked.score, *_key(ranked)


def _of_each_collection(candidates: Sequence[Candidate], limit: int | None) -> list[Candidate]:
    """Return the first `limit` of each collection."""
    seen: Counter[int] = Counter()
    kept = []
    for candidate in candidates:
        seen[candidate.collection_id] += 1
        if limit is None or seen[candidate.collection_id] <= limit:
            kept.append(candidate)
    return kept


def _places(found: Sequence[Candidate]) -> dict[Candidate, int]:
    return {candidate: place for place, candidate in enumerate(found, start=1)}
