"""Questions → answers, by `POST /query`: does a quoted sentence hold the answer, is every quote verbatim, what is refused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from services.console.evaluation.collection import Question
from services.console.evaluation.corpus import Corpus, index_of
from services.console.evaluation.http import request
from services.console.evaluation.progress import Progress

QUOTES_READ = (1, 3)
_MARKER = re.compile(r"\[(\d{1,4})\]")


@dataclass(frozen=True, slots=True)
class Answered:
    """What a question got. `held` says whether the best 1 and 3 quotes hold an answer, where the question brings one."""

    question: str
    is_refused: bool
    held: Mapping[int, bool]
    citations: int
    invalid: int
    not_verbatim: int
    confidence: float | None
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A collection as it is known here and there."""

    name: str
    corpus: Corpus
    documents: Mapping[int, int]


def ask(
    client: httpx2.Client, asked: Asked, questions: Sequence[Question], what: str, progress: Progress
) -> Iterator[Answered]:
    """Ask every question once.

    Raises: EvaluationFailed.
    """
    for number, question in enumerate(questions, 1):
        answer, latency_ms = request(
            client, "POST", "/query", json={"question": question.text, "collection": asked.name}
        )
        progress.show(f"questions answered, {what}", number, len(questions))
        yield judge(question, answer, asked, latency_ms)


def judge(question: Question, answer: Mapping[str, Any], asked: Asked, latency_ms: float) -> Answered:
    """Compare an answer with what the question brings, and its citations with the documents."""
    sources = answer["sources"]
    found = [source for source in sources if _is_known(source, asked)]
    quotes = [source["quote"] for source in sources]  # best first
    return Answered(
        question.name,
        is_refused=not answer["answered"],
        held={count: _holds(quotes[:count], question.answers) for count in QUOTES_READ} if question.answers else {},
        citations=len(sources),
        invalid=len(sources) - len(found) + _unbound(answer["answer"], sources),
        not_verbatim=sum(not _is_verbatim(source, asked.corpus) for source in found),
        confidence=answer["meta"].get("confidence"),
        latency_ms=latency_ms,
    )


def _holds(quotes: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether a quote holds an answer, whatever its case and the spaces between its words."""
    plain = [_plain(quote) for quote in quotes]
    return any(_plain(answer) in quote for answer in answers for quote in plain)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_known(source: Mapping[str, Any], asked: Asked) -> bool:
    """Whether a citation names a document of the collection, and characters of it."""
    index = index_of(source["file_path"])
    is_document = index is not None and asked.documents.get(index) == source["document_id"]
    return is_document and 0 <= source["char_start"] < source["char_end"]


def _is_verbatim(source: Mapping[str, Any], corpus: Corpus) -> bool:
    index = index_of(source["file_path"])
    assert index is not None  # others are invalid
    return bool(corpus.text(index)[source["char_start"] : source["char_end"]] == source["quote"])


def _unbound(text: str, sources: Sequence[Mapping[str, Any]]) -> int:
    """Count markers without a source. What looks like one within a quote is the document's own."""
    for source in sources:
        text = text.replace(source["quote"], "")
    known = {source["index"] for source in sources}
    return sum(int(number) not in known for number in _MARKER.findall(text))
