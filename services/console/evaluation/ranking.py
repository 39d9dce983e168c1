"""Questions → rankings of documents, by `POST /search`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from services.console.evaluation.collection import Question
from services.console.evaluation.corpus import Span, index_of
from services.console.evaluation.http import request
from services.console.evaluation.measures import overlap, ranking_figures
from services.console.evaluation.progress import Progress
from shared.tokens import Tokenizer

Arm = Literal["hybrid", "dense", "lexical"]
ARMS: tuple[Arm, ...] = ("hybrid", "dense", "lexical")
# All that one search gives: both arms' best hundred chunks.
HITS_READ = 200
CONTEXT_TOKENS = 1000
RECALL_IN_CONTEXT = f"recall@{CONTEXT_TOKENS}_tokens"
PRECISION_IN_CONTEXT = f"precision@{CONTEXT_TOKENS}_tokens"


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a question found: figures by arm, arms that found nothing, hits that are not what stands in the document."""

    question: str
    figures: Mapping[Arm, Mapping[str, float]]
    empty: frozenset[Arm]
    wrong_hits: int
    latency_ms: float


def rank(
    client: httpx2.Client,
    collection: str,
    questions: Sequence[Question],
    texts: Mapping[int, str] | None,
    tokenizer: Tokenizer,
    progress: Progress,
) -> Iterator[Ranked]:
    """Ask every question once, one after the other, so that the latency is that of an idle system.

    With `texts` every hit is compared with the document's characters.

    Raises: EvaluationFailed.
    """
    for number, question in enumerate(questions, 1):
        body = {"question": question.text, "collection": collection, "top_k": HITS_READ}
        answer, latency_ms = request(client, "POST", "/search", json=body)
        hits = [hit for hit in answer["data"] if index_of(hit["file_path"]) is not None]
        by_arm = {arm: arm_hits(hits, arm) for arm in ARMS}
        progress.show("questions ranked", number, len(questions))
        yield Ranked(
            question.name,
            {arm: _figures(question, found, tokenizer) for arm, found in by_arm.items()},
            frozenset(arm for arm, found in by_arm.items() if not found),
            sum(not _is_verbatim(hit, texts) for hit in hits) if texts is not None else 0,
            latency_ms,
        )


def arm_hits(hits: Sequence[dict[str, Any]], arm: Arm) -> list[dict[str, Any]]:
    """Return what one arm found, in its order; both arms together rank as the hits stand."""
    if arm == "hybrid":
        return list(hits)
    return sorted((hit for hit in hits if hit[arm]["place"] is not None), key=lambda hit: hit[arm]["place"])


def _figures(question: Question, hits: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, float]:
    figures: dict[str, float] = {}
    if question.relevant:
        documents = list(dict.fromkeys(_index(hit) for hit in hits))  # each by its best chunk
        figures |= ranking_figures(documents, question.relevant)
    if question.spans:
        wanted, found, both = overlap(question.spans, _within(hits, tokenizer))
        figures |= {RECALL_IN_CONTEXT: both / wanted, PRECISION_IN_CONTEXT: both / found if found else 0.0}
    return figures


def _within(hits: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> list[Span]:
    """Return the best hits that fit whole into the context, up to the first that does not. Units: tokens of the model."""
    spans: list[Span] = []
    left = CONTEXT_TOKENS
    for hit in hits:
        (count,) = tokenizer.count([hit["text"]])
        left -= count - tokenizer.special_count
        if left < 0:
            break
        spans.append(Span(_index(hit), hit["char_start"], hit["char_end"]))
    return spans


def _is_verbatim(hit: Mapping[str, Any], texts: Mapping[int, str]) -> bool:
    text = texts.get(_index(hit))
    return text is not None and text[hit["char_start"] : hit["char_end"]] == hit["text"]


def _index(hit: Mapping[str, Any]) -> int:
    index = index_of(hit["file_path"])
    assert index is not None  # others were left out
    return index
