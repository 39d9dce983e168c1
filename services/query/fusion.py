"""Two scores per candidate → one ranking; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# For MiniLM over chunks of about 128 tokens: on SciFact's training questions flat from 0.58 to 0.68 (nDCG@10 0.738 to
# 0.740; 0.730 at 0.5), since a chunk holds fewer of a question's words than its whole document, where 0.5 is best.
DENSE_WEIGHT = 0.65


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
    """A candidate with its fused score, from 0 to 1, comparable only within one question."""

    candidate: Candidate
    score: float


def normalise(values: Sequence[float]) -> list[float]:
    """Map values to 0..1 by their least and greatest; all equal values map to 0, since they tell nothing apart."""
    if not values:
        return []
    low, high = min(values), max(values)
    if high <= low:
        return [0.0] * len(values)
    return [(value - low) / (high - low) for value in values]


def fuse(candidates: Iterable[Candidate], *, dense_weight: float = DENSE_WEIGHT) -> list[Ranked]:
    """Rank candidates by a convex combination of their min-max normalised scores.

    Order: score descending, ties by collection and chunk, so equal inputs give equal outputs.
    Source: Bruch, Gai and Ingber, TOIS 2023; better than reciprocal rank fusion on 9 of 9 collections measured.
    """
    pool = sorted(set(candidates), key=lambda c: (c.collection_id, c.chunk_id))
    dense = normalise([candidate.cosine for candidate in pool])
    lexical = normalise([candidate.bm25 for candidate in pool])
    scores = [dense_weight * d + (1 - dense_weight) * s for d, s in zip(dense, lexical, strict=True)]
    ranked = [Ranked(candidate, score) for candidate, score in zip(pool, scores, strict=True)]
    return sorted(ranked, key=lambda r: (-r.score, r.candidate.collection_id, r.candidate.chunk_id))
