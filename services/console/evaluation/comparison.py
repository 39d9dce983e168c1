"""Two runs over the same questions: how much they differ, and how sure that is. A paired bootstrap."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import AskboxError

RESAMPLES = 10_000
INTERVAL = 0.95
FILE_BYTES_MAX = 512 * 1024**2
# So many draws at once: a long list of questions is not drawn 10,000 times in memory.
_DRAWS_MAX = 2_000_000

PerQuestion = Mapping[str, Mapping[str, float]]


class BadComparison(AskboxError):
    """What is to be compared with is no file that `askbox eval --per-query` wrote."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of a figure here and there over the questions that both have. `low` to `high` is the 95 % interval.

    `p` is the two-sided share of resamples on the other side of no difference.
    """

    figure: str
    questions: int
    this: float
    other: float
    difference: float
    low: float
    high: float
    p: float


def read_other(path: Path) -> dict[str, dict[str, float]]:
    """Read the figures of every question of another run.

    Raises: BadComparison.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BadComparison(f"{path} is larger than {FILE_BYTES_MAX} bytes")
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise BadComparison(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadComparison(f"{path} is no JSON: {error}") from None
    found = content.get("per_query") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise BadComparison(f"{path} has no figures of each question: write it with `askbox eval --per-query {path}`")
    for question, figures in found.items():
        if not isinstance(figures, dict) or not all(_is_figure(value) for value in figures.values()):
            raise BadComparison(f"{path}: the figures of question {question!r} are no numbers")
    return found


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compare(this: PerQuestion, other: PerQuestion, *, seed: int) -> list[Difference]:
    """Compare every figure that both runs have, over the questions that have it in both.

    Order: figures as they stand in `this`.
    Raises: BadComparison when no question has a figure in both.
    """
    shared = sorted(this.keys() & other.keys())
    figures = dict.fromkeys(figure for question in this.values() for figure in question)
    differences = []
    for figure in figures:
        pairs = [
            (this[name][figure], other[name][figure])
            for name in shared
            if figure in this[name] and figure in other[name]
        ]
        if pairs:
            differences.append(_difference(figure, pairs, seed))
    if not differences:
        raise BadComparison("the two runs share no question: they are of other collections, splits or limits")
    return differences


def _difference(figure: str, pairs: Sequence[tuple[float, float]], seed: int) -> Difference:
    ours, theirs = np.array(pairs, dtype=np.float64).T
    deltas = ours - theirs
    means = _resampled(deltas, np.random.default_rng(seed))
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    below, above = np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)
    # One more of each, since no count of resamples shows that something never happens.
    p = min(1.0, 2 * (min(below, above) + 1) / (RESAMPLES + 1))
    return Difference(
        figure,
        len(pairs),
        float(ours.mean()),
        float(theirs.mean()),
        float(deltas.mean()),
        float(low),
        float(high),
        float(p),
    )


def _resampled(deltas: np.ndarray[Any, np.dtype[np.float64]], chance: np.random.Generator) -> Any:
    """Return the mean difference of each resample of the questions."""
    block = max(1, _DRAWS_MAX // len(deltas))
    parts = [
        deltas[chance.integers(0, len(deltas), (min(block, RESAMPLES - begin), len(deltas)))].mean(axis=1)
        for begin in range(0, RESAMPLES, block)
    ]
    return np.concatenate(parts)
