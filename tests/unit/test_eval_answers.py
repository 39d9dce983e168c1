"""What an evaluation makes of hits and answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.console.evaluation.answering import Asked, judge
from services.console.evaluation.collection import Question
from services.console.evaluation.corpus import LineCorpus, Span, file_name
from services.console.evaluation.ranking import PRECISION_IN_CONTEXT, RECALL_IN_CONTEXT, Ranked, arm_hits, rank
from services.console.evaluation.report import Absences, Outcome, figures, per_question, render

TEXT = "The gate opens at six [7]. It closes at nine."
QUOTE = "The gate opens at six [7]."


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    rows = [{"_id": "gate", "text": TEXT}, {"_id": "other", "text": "Nothing."}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Asked("gates", LineCorpus(tmp_path / "corpus.jsonl"), {0: 41, 1: 42})


def source(**changed: Any) -> dict[str, Any]:
    usual = {"index": 1, "document_id": 41, "file_path": file_name(0), "char_start": 0, "char_end": 26, "quote": QUOTE}
    return usual | changed


def answer(*sources: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    written = "\n".join(f"{one['quote']} [{one['index']}]" for one in sources)
    said = written if text is None else text
    return {"answered": bool(sources), "answer": said, "sources": list(sources), "meta": {"confidence": 0.5}}


def test_true_citation_is_valid_and_verbatim_whatever_looks_like_a_marker_in_it(asked: Asked) -> None:
    judged = judge(Question("q", "When?", {0: 1}, ("at  SIX",)), answer(source()), asked, 1.0)
    assert (judged.citations, judged.invalid, judged.not_verbatim) == (1, 0, 0)
    assert judged.held == {1: True, 3: True}
    assert not judged.is_refused


@pytest.mark.parametrize(
    ("changed", "invalid", "not_verbatim"),
    [
        ({"document_id": 42}, 1, 0),
        ({"document_id": 99}, 1, 0),
        ({"file_path": "elsewhere.md"}, 1, 0),
        ({"char_start": 26, "char_end": 26}, 1, 0),
        ({"char_start": -1}, 1, 0),
        ({"char_start": 1}, 0, 1),
        ({"char_end": 25}, 0, 1),
        ({"quote": "The gate opens at seven."}, 0, 1),
    ],
)
def test_false_citation_is_found(asked: Asked, changed: dict[str, Any], invalid: int, not_verbatim: int) -> None:
    judged = judge(Question("q", "When?"), answer(source(**changed)), asked, 1.0)
    assert (judged.invalid, judged.not_verbatim) == (invalid, not_verbatim)


def test_marker_without_a_source_is_invalid(asked: Asked) -> None:
    judged = judge(Question("q", "When?"), answer(source(), text="At six [1], and at nine [2]."), asked, 1.0)
    assert judged.invalid == 1


def test_answer_counts_where_it_stands_among_the_quotes(asked: Asked) -> None:
    second = source(index=2, char_start=27, char_end=45, quote="It closes at nine.")
    judged = judge(Question("q", "When?", answers=("nine",)), answer(source(), second), asked, 1.0)
    assert judged.held == {1: False, 3: True}
    refused = judge(Question("q", "When?", answers=("nine",)), answer(text="No."), asked, 1.0)
    assert refused.held == {1: False, 3: False}
    assert refused.is_refused


def hit(index: int, *, dense: int | None = 1, lexical: int | None = 1, start: int = 0, end: int = 10) -> dict[str, Any]:
    place = {"char_start": start, "char_end": end, "text": "x" * (end - start)}
    return {"file_path": file_name(index), "dense": {"place": dense}, "lexical": {"place": lexical}, **place}


class Words:
    """Counts a token for each ten characters, and two of its own."""

    tokens_max = 512
    special_count = 2

    def count(self, texts: list[str]) -> list[int]:
        return [2 + len(text) // 10 for text in texts]


class Server:
    """Answers every search with the same hits."""

    def __init__(self, hits: list[dict[str, Any]]) -> None:
        self.hits = hits

    def request(self, method: str, path: str, json: dict[str, Any]) -> Any:
        assert (method, path, json["collection"]) == ("POST", "/search", "c")
        hits = self.hits

        class Response:
            status_code = 200

            def json(self) -> dict[str, Any]:
                return {"data": hits}

        return Response()


class Silence:
    def show(self, *_: object) -> None: ...


def ranked(question: Question, hits: list[dict[str, Any]], texts: dict[int, str] | None = None) -> Ranked:
    (found,) = rank(Server(hits), "c", [question], texts, Words(), Silence())
    return found


def test_documents_stand_where_their_best_chunk_does_in_each_arm() -> None:
    hits = [hit(1, dense=3, lexical=2), hit(2, dense=1, lexical=None), hit(1, dense=2, lexical=1, start=10, end=20)]
    found = ranked(Question("q", "?", {2: 1}), hits)
    assert found.figures["hybrid"]["mrr@10"] == 0.5
    assert found.figures["dense"]["mrr@10"] == 1
    assert found.figures["lexical"]["mrr@10"] == 0
    assert [one["char_start"] for one in arm_hits(hits, "lexical")] == [10, 0]


def test_arm_that_found_nothing_is_told() -> None:
    assert ranked(Question("q", "?", {1: 1}), [hit(1, lexical=None)]).empty == {"lexical"}
    assert ranked(Question("q", "?", {1: 1}), []).empty == {"hybrid", "dense", "lexical"}


def test_context_takes_what_fits_whole_up_to_the_first_that_does_not() -> None:
    # 900 tokens, then 200 that do not fit, then 10 that would.
    hits = [hit(0, end=9000), hit(0, start=9000, end=11_000), hit(0, start=20_000, end=20_100)]
    figures_found = ranked(Question("q", "?", spans=(Span(0, 8000, 10_000), Span(0, 20_000, 20_100))), hits).figures
    assert figures_found["hybrid"] == {RECALL_IN_CONTEXT: 1000 / 2100, PRECISION_IN_CONTEXT: 1000 / 9000}


def test_hit_that_is_not_what_stands_in_its_document_is_counted() -> None:
    question = Question("q", "?", {0: 1})
    assert ranked(question, [hit(0)], {0: "x" * 10}).wrong_hits == 0
    assert ranked(question, [hit(0), hit(5)], {0: "y" * 10}).wrong_hits == 2


def outcome(asked: Asked, **changed: Any) -> Outcome:
    question = Question("q", "When?", {0: 1}, ("six",))
    good = judge(question, answer(source()), asked, 10.0)
    refused = judge(question, answer(text="No."), asked, 20.0)
    usual: dict[str, Any] = {
        "collection": "gates",
        "split": "test",
        "arm": "hybrid",
        "documents": 2,
        "chunks": 2,
        "failures": [],
        "is_reused": False,
        "settings": {
            "embedding_model": "m",
            "llm_model": None,
            "chunk_tokens": 128,
            "dense_weight": 0.5,
        },
        "ranked": [ranked(question, [hit(0)])],
        "answerable": [good],
        "impossible": [refused],
        "absences": Absences([good], [refused]),
    }
    return Outcome(**usual | changed)


def test_figures_have_the_names_that_programs_read(asked: Asked) -> None:
    found = figures(outcome(asked))
    for name in ("ndcg@10", "recall@5", "recall@10", "recall@100", "mrr@10"):
        assert found[name] == 1
    assert found["zero_results"] == {"dense": 0, "lexical": 0}
    assert set(found["latency_ms"]) == {"p50", "p95", "p99"}
    answers = found["answers"]
    assert (answers["answer_in_top_1"], answers["answer_in_top_3"]) == (1, 1)
    assert answers["refused"] == {"answerable": 0, "impossible": 1}
    assert answers["off_corpus"]["refused"] == {"present": 0, "absent": 1}
    assert found["findings"] == []
    assert json.loads(json.dumps(found)) == found
    assert per_question(outcome(asked))["q"] == {
        "ndcg@10": 1, "recall@5": 1, "recall@10": 1, "recall@100": 1, "mrr@10": 1,
        "answer_in_top_1": 1, "answer_in_top_3": 1, "refused": 0,
    }  # fmt: skip


def test_what_must_not_be_is_a_finding(asked: Asked) -> None:
    false = judge(Question("q", "When?"), answer(source(quote="no"), source(document_id=1)), asked, 1.0)
    wrong = ranked(Question("q", "?", {0: 1}), [hit(0)], {0: ""})
    found = outcome(asked, answerable=[false], ranked=[wrong], failures=["d1.md: too large"])
    assert found.findings() == [
        "1 documents could not be read",
        "1 hits are not what stands in their documents",
        "1 citations are invalid",
        "1 quotes are not verbatim",
    ]
    assert "too large" in render(figures(found))


def test_figures_are_written_for_people_also_where_some_are_missing(asked: Asked) -> None:
    text = render(figures(outcome(asked)))
    assert "gates (test): 2 documents, 2 chunks, 1 questions" in text
    assert "answer quoted    top 1 1.0000, top 3 1.0000 of 1 questions" in text
    bare = render(figures(outcome(asked, answerable=[], impossible=[], absences=None)))
    assert "citations" not in bare
    spanned = ranked(Question("q", "?", spans=(Span(0, 0, 10),)), [hit(0)])
    assert RECALL_IN_CONTEXT in render(figures(outcome(asked, ranked=[spanned])))
