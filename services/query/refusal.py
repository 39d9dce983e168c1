"""Why a question got no answer, in words; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.query.filters import Filters

Reason = Literal["nothing_found", "too_far", "nothing_to_quote", "not_in_sources"]
# Of a long question the first few words that nothing holds say enough.
MISSING_SHOWN_MAX = 5
LARGE_CHUNKS = 1000
THRESHOLD_STEP = 0.055


@dataclass(frozen=True, slots=True)
class Fit:
    """How well one chunk fits a question: its cosine, the share of the question's term weight it holds, and both together."""

    confidence: float
    cosine: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer.

    `fit` is that of the best chunk, `threshold` what its confidence would have to reach, `missing` are the question's terms
    that no chunk holds that was looked at.
    """

    reason: Reason
    words: str
    fit: Fit
    threshold: float
    missing: Sequence[str] = ()


def refusal_threshold(tuned: float, chunk_count: int) -> float:
    """Return the confidence below which a question is refused in collections of so many chunks.

    The more there is to choose from, the better the best chunk fits a question by chance, and the more of its words are known
    at all. What 5 % of the answerable questions stay below was measured as 0.25 with 20 chunks, 0.26 with 40, 0.45 with 1,000
    and with 2,000: it falls by 0.055 with each 1/e of the chunks below 1,000, to a half of what fits 1,000 and more.
    """
    return max(tuned / 2, tuned - THRESHOLD_STEP * max(0.0, math.log(LARGE_CHUNKS / max(chunk_count, 1))))


def refuse(
    reason: Reason, fit: Fit, threshold: float, *, missing: Sequence[str] = (), filters: Filters | None = None
) -> Refusal:
    """Say why there is no answer."""
    match reason:
        case "nothing_found":
            words = _nothing_found(filters)
        case "too_far":
            words = (
                f"the closest passage is too far from the question: its meaning comes as near as {fit.cosine:.2f} (1 is the "
                f"same) and it holds {fit.coverage:.0%} of the weight of the question's words, together {fit.confidence:.2f}; "
                f"{threshold:.2f} is needed"
            )
            if missing:
                more = ", …" if len(missing) > MISSING_SHOWN_MAX else ""
                words += f"; nothing close holds {', '.join(missing[:MISSING_SHOWN_MAX])}{more}"
        case "nothing_to_quote":
            words = "what was found holds no sentence that could be quoted"
        case "not_in_sources":
            words = "the model found no answer in the passages that it was given"
    return Refusal(reason, words, fit, threshold, missing)


def _nothing_found(filters: Filters | None) -> str:
    if filters is None:
        return "what was asked holds no text yet"
    asked = [f"holds “{phrase}”" for phrase in filters.phrases] + [f"is without “{word}”" for word in filters.excluded]
    if filters.document_ids is not None or filters.path_prefix is not None or filters.metadata:
        asked.insert(0, "fits the filters")
    *others, last = asked
    return f"no passage {', '.join(others)} and {last}" if others else f"no passage {last}"
