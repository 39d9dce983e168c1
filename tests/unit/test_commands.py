"""Commands of the console against a scripted server: what they ask, and what they print."""

import subprocess
import sys
from collections import deque
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.console.__main__ import app
from services.console.commands import documents, output, questions

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
# What a command that only asks the server has no use for: half a second of CPU.
HEAVY = ("yoyo", "psycopg", "asyncpg", "torch", "tokenizers", "tiktoken", "opentelemetry.exporter", "huggingface_hub")


class Server:
    """Answers what was scripted, in turn, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def call(self, _: object, method: str, path: str, *, params: Any = None, body: Any = None) -> Any:
        self.asked.append((method, path, params or body or {}))
        return self.answers.popleft()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    for module in (documents, questions):
        monkeypatch.setattr(module, "call", made.call)
    return made


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_retry_goes_on_behind_the_last_document_until_all_were_asked_for(server: Server) -> None:
    server.answers += [
        {"retried": 10_000, "has_more": True, "next_after": 12_000},
        {"retried": 5, "has_more": False, "next_after": None},
    ]
    assert "10005 documents are read again" in run("retry", "--all", "-c", "notes")
    assert [params["after"] for _, _, params in server.asked] == [0, 12_000]
    assert {params["collection"] for _, _, params in server.asked} == {"notes"}


def test_retry_ends_with_a_server_that_makes_no_progress(server: Server) -> None:
    server.answers += [{"retried": 0, "has_more": True, "next_after": after} for after in (3, 3, 3)]
    assert "0 documents" in run("retry", "--all")
    assert len(server.asked) == 2


def test_dead_letters_are_dropped_until_none_is_left(server: Server) -> None:
    server.answers += [{"dropped": 10_000, "has_more": True}, {"dropped": 2, "has_more": False}]
    assert "dropped 10002" in run("dead-letters", "--drop")


def test_dropping_ends_when_nothing_more_is_dropped(server: Server) -> None:
    server.answers += [
        {"dropped": 4, "has_more": True},
        {"dropped": 0, "has_more": True},
        {"dropped": 0, "has_more": True},
    ]
    assert "dropped 4" in run("dead-letters", "--drop")
    assert len(server.asked) == 2


def event(number: int, stage: str, outcome: str, **facts: Any) -> dict[str, Any]:
    usual = {"attempt": None, "worker": None, "duration_ms": None, "detail": {}, "trace_id": TRACE_ID}
    at = "2026-11-21T11:45:43.123456Z"
    return {"id": number, "version": 1, "stage": stage, "outcome": outcome, "at": at} | usual | facts


def test_story_fits_80_columns_and_shows_worker_attempt_duration_and_trace(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "console", Console(soft_wrap=True, width=80))
    worker = "ingester 1234567@a-rather-long-name-of-a-host.example.org"
    staged = {"chunks": 1234, "embed_jobs": 1234}
    failed = {"code": "corrupt_file", "error": "the file cannot be read as what it claims to be " * 3}
    first = [
        event(1, "intake", "queued", worker=worker, detail={"bytes": 123_456_789}),
        event(2, "ingest", "staged", worker=worker, attempt=2, duration_ms=123_456.7, detail=staged),
    ]
    second = [
        event(3, "publish", "superseded", duration_ms=1.2),
        event(4, "ingest", "failed", version=2, detail=failed),
    ]
    server.answers += [{"data": first, "has_more": True}, {"data": second, "has_more": False}]
    told = run("trace", "17")
    assert max(len(line) for line in told.splitlines()) <= 80
    assert told.count(TRACE_ID) == 2, "each version names its trace, whole"
    flat = " ".join(told.split())
    for part in ("attempt 2", "123457 ms", "ingester 1234567@", "chunks 1234", "superseded", "version 2"):
        assert part in flat
    assert [params["after"] for _, _, params in server.asked] == [0, 2], "a long story comes by pages"


def test_note_of_an_answer_is_printed(server: Server) -> None:
    meta = {"note": "the model is not available, so sentences stand in for it", "pending": 0}
    server.answers.append({"answer": "At two.", "sources": [], "meta": meta})
    assert meta["note"] in run("ask", "when")
    server.answers.append({"answer": "At two.", "sources": [], "meta": meta | {"note": None}})
    assert run("ask", "when").strip() == "At two."


HIT = {
    "collection": "default",
    "file_path": "plan.md",
    "heading": "Nightly",
    "place": "lines 3–4",
    "context": None,
    "char_start": 0,
    "char_end": 30,
    "score": 0.825,
    "similarity": 0.61234,
    "bm25": 4.5,
    "dense": {"place": 2, "share": 0.75},
    "lexical": {"place": None, "share": 0.9643},
    "terms": [{"term": "nightli", "idf": 3.21}, {"term": "backup", "idf": 1.0}],
    "text": "The nightly backup runs at two.",
}


def test_search_shows_why_a_passage_stands_where_it_does(server: Server) -> None:
    server.answers.append({"data": [HIT], "dense_weight": 0.65, "pending": 0})
    shown = " ".join(
        run("search", "nightly", "backup", "--filter", "tag=a", "--filter", "tag=b", "--path", "x/").split()
    )
    assert "0.825 plan.md › Nightly, lines 3–4" in shown
    assert "= 0.65 × 0.750 meaning (place 2, cosine 0.612) + 0.35 × 0.964 words" in shown
    assert "(not among its best, bm25 4.50: nightli 3.2, backup 1.0)" in shown
    ((_, path, body),) = server.asked
    assert path == "/search"
    assert body["filters"] == {"metadata": {"tag": ["a", "b"]}, "path_prefix": "x/"}


def test_refusal_says_why_and_shows_what_comes_closest(server: Server) -> None:
    meta = {"note": None, "pending": 0, "refusal": {"words": "the closest passage is too far"}}
    server.answers.append({"answer": "Not found.", "sources": [], "closest": [HIT], "meta": meta})
    shown = run("ask", "when")
    assert shown.index("too far") < shown.index("closest, but no answer:") < shown.index("plan.md")
    assert "The nightly backup runs at two." in shown


def test_filter_without_a_value_is_wrong_usage(server: Server) -> None:
    for given in ("tag", "=x"):
        assert CliRunner().invoke(app, ["ask", "when", "--filter", given]).exit_code == 2
    assert not server.asked


def test_console_imports_only_what_most_commands_need() -> None:
    script = "import sys, services.console.__main__; print(' '.join(sys.modules))"
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert output.__name__ in imported
    assert [name for name in HEAVY if any(f"{module}.".startswith(f"{name}.") for module in imported)] == []
