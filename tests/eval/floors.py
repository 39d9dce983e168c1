"""What no change may fall below, or exceed: by collection, a figure's path in what `askbox eval --json` prints, and its bound."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Collections that lie beside the checkout. They are measured with, and never copied.
EVAL_DIR = Path(os.environ.get("ASKBOX_EVAL_DIR") or ROOT.parent / "shared" / "eval")

AT_LEAST: Mapping[str, Mapping[str, float]] = {
    "scifact": {"ndcg@10": 0.735},
    "squad2.0": {
        "ndcg@10": 0.915,
        "answers.answer_in_top_1": 0.76,
        "answers.answer_in_top_3": 0.90,
        "answers.off_corpus.refused_at_5_percent_false": 0.90,
    },
    "contextual_docs": {"ndcg@10": 0.795},
    "chroma_chunking_eval": {"recall@1000_tokens": 0.81},
    "adi": {"ndcg@10": 0.50, "recall@10": 0.54},
    "made": {"ndcg@10": 0.90, "answers.answer_in_top_1": 0.65, "answers.answer_in_top_3": 0.85},
}
# Of every collection.
AT_MOST: Mapping[str, float] = {
    "zero_results.dense": 0.0,
    "zero_results.lexical": 0.01,
    "answers.invalid_citations": 0,
    "answers.not_verbatim": 0,
}


def violations(name: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """Say which bounds the figures of a collection do not keep; a figure that is missing keeps none."""
    for path, floor in AT_LEAST.get(name, {}).items():
        value = _at(figures, path)
        if value is None or value < floor:
            yield f"{name}: {path} is {value}, and has to be at least {floor}"
    for path, ceiling in AT_MOST.items():
        value = _at(figures, path)
        if value is None or value > ceiling:
            yield f"{name}: {path} is {value}, and may be at most {ceiling}"


def _at(figures: Mapping[str, Any], path: str) -> float | None:
    value: Any = figures
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
