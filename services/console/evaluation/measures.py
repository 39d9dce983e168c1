"""Figures of rankings, of spans and of answers; pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.console.evaluation.corpus import Span

NDCG_DEPTH = 10
MRR_DEPTH = 10
RECALL_DEPTHS = (5, 10, 100)
PERCENTILES = (50, 95, 99)


def ndcg(ranked: Sequence[int], relevant: Mapping[int, int], depth: int = NDCG_DEPTH) -> float:
    """Return the discounted gain of a ranking, of the best one's.

    Source: trec_eval and BEIR: the grade is the gain, the discount log2(rank + 1), and the best ranking holds every judged
    document.
    """
    best = _gain(sorted(relevant.values(), reverse=True)[:depth])
    return _gain([relevant.get(index, 0) for index in ranked[:depth]]) / best if best else 0.0


def _gain(grades: Iterable[int]) -> float:
    return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades))


def recall(ranked: Sequence[int], relevant: Mapping[int, int], depth: int) -> float:
    """Return the share of the relevant documents that stand among the first `depth`."""
    return len(relevant.keys() & set(ranked[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[int], relevant: Mapping[int, int], depth: int = MRR_DEPTH) -> float:
    """Return 1 / rank of the first relevant document, 0 when it stands behind `depth`."""
    return next((1 / place for place, index in enumerate(ranked[:depth], 1) if index in relevant), 0.0)


def ranking_figures(ranked: Sequence[int], relevant: Mapping[int, int]) -> dict[str, float]:
    """Return the figures of one question's ranking, by name."""
    return {
        f"ndcg@{NDCG_DEPTH}": ndcg(ranked, relevant),
        **{f"recall@{depth}": recall(ranked, relevant, depth) for depth in RECALL_DEPTHS},
        f"mrr@{MRR_DEPTH}": reciprocal_rank(ranked, relevant),
    }


def overlap(wanted: Iterable[Span], found: Iterable[Span]) -> tuple[int, int, int]:
    """Return how many characters are wanted, are found, and are both; each character counts once."""
    ours, theirs = _joined(wanted), _joined(found)
    both = sum(
        max(0, min(one.end, other.end) - max(one.start, other.start))
        for one in ours
        for other in theirs
        if one.index == other.index
    )
    return sum(span.end - span.start for span in ours), sum(span.end - span.start for span in theirs), both


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Join spans that meet."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.index, s.start, s.end)):
        last = joined[-1] if joined else None
        if last is not None and last.index == span.index and span.start <= last.end:
            joined[-1] = Span(last.index, last.start, max(last.end, span.end))
        else:
            joined.append(span)
    return joined


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, or None of no values."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


def percentiles(values: Iterable[float]) -> dict[str, float] | None:
    """Return the percentiles by nearest rank, `p50` and so on, or None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {f"p{share}": ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)] for share in PERCENTILES}


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a score tells answerable questions from those about documents that are not there.

    `threshold` refuses at most `false_share` of the answerable ones, and `refused` of the others; `auroc` is the chance that
    an answerable question scores higher than another.
    """

    threshold: float
    refused: float
    auroc: float


def separation(answerable: Sequence[float], others: Sequence[float], false_share: float) -> Separation | None:
    """Find the threshold below which at most `false_share` of the answerable lie, and what lies below it of the others."""
    if not answerable or not others:
        return None
    threshold = sorted(answerable)[math.floor(false_share * len(answerable))]
    refused = sum(score < threshold for score in others) / len(others)
    return Separation(threshold, refused, _auroc(answerable, others))


def _auroc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Return the share of pairs in the right order; ties count half. Source: Mann and Whitney's U."""
    ranks: dict[float, float] = {}
    place = 0
    everything = sorted([*higher, *lower])
    while place < len(everything):
        end = place
        while end < len(everything) and everything[end] == everything[place]:
            end += 1
        ranks[everything[place]] = (place + 1 + end) / 2
        place = end
    above = math.fsum(ranks[score] for score in higher) - len(higher) * (len(higher) + 1) / 2
    return above / (len(higher) * len(lower))
