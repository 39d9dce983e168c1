"""How work in hand is shown by the command."""

import io
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from services.console.__main__ import app
from services.console.commands import ingest, status
from services.console.commands.output import PlainConsole
from services.console.commands.work import duration, share_done, work_in_words, work_table


def progress(unit: str = "chunks", done: int = 1234, total: int | None = 5000, **known: float) -> dict[str, Any]:
    return {"unit": unit, "done": done, "total": total, "per_second": None, "seconds_left": None} | known


def document(path: str, state: str, shown: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "document_id": 1,
        "version": 1,
        "collection": "default",
        "file_path": path,
        "state": state,
        "progress": shown,
    }


WORK = {
    "states": {"embedding": 1, "parsing": 2, "queued": 1300},
    "documents": [
        document("handbook.pdf", "embedding", progress(per_second=31.5, seconds_left=119.6)),
        document("law.pdf", "parsing", progress("pages", 120, 900, per_second=40.0, seconds_left=19.5)),
        document("notes.md", "parsing", progress(done=500, total=None)),
        document("a\nb.md", "queued"),
    ],
    "ended": [],
}
IDLE: dict[str, Any] = {"states": {}, "documents": [], "ended": []}


def printed(renderable: Any, width: int = 100) -> str:
    file = io.StringIO()
    PlainConsole(file=file, width=width).print(renderable)
    return file.getvalue()


def test_table_shows_stage_of_total_pace_and_time_left() -> None:
    lines = printed(work_table(WORK)).splitlines()
    assert len(lines) == 6
    assert ["1,234 of 5,000 chunks" in lines[1], "31.5/s" in lines[1], "2 min" in lines[1]] == [True] * 3
    assert ["120 of 900 pages" in lines[2], "40/s" in lines[2], "20 s" in lines[2]] == [True] * 3
    assert lines[3].split() == ["notes.md", "parsing", "500", "chunks"]
    assert lines[4].split() == ["a", "b.md", "queued"]
    assert lines[5].strip() == "and 1,299 more"


def test_bar_is_as_long_as_the_share_that_is_done() -> None:
    def bar(done: int) -> int:
        work = {"states": {"embedding": 1}, "documents": [document("a", "embedding", progress(done=done, total=100))]}
        return printed(work_table(work)).count("━")

    assert (bar(0), bar(50), bar(100)) == (0, 5, 10)


def test_nothing_in_work_is_no_table() -> None:
    assert work_table(IDLE) is None
    assert work_in_words(IDLE) == "nothing in work"


def test_work_in_words_is_one_line() -> None:
    assert work_in_words(WORK) == (
        "1 embedding, 2 parsing, 1,300 queued; handbook.pdf embedding 1,234 of 5,000 chunks, 31.5/s, 2 min left; "
        "law.pdf parsing 120 of 900 pages, 40/s, 20 s left; notes.md parsing 500 chunks"
    )
    hostile = {**IDLE, "documents": [document("a\nb\x1b[2J", "parsing", progress())]}
    assert "\n" not in work_in_words(hostile)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (3599, "60 min"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")],
)
def test_duration_is_told_in_units_that_fit(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_share_of_a_document_that_is_done() -> None:
    assert share_done(document("a", "ready")) == share_done(document("a", "failed")) == 1
    assert share_done(document("a", "embedding", progress(done=25, total=100))) == 0.25
    assert share_done(document("a", "parsing", progress("pages", 90, 90))) == 0
    assert share_done(document("a", "queued")) == 0
    assert share_done({"document_id": None, "file_path": "a", "state": "failed", "error": "too large"}) == 1


class Server:
    """Answers as one whose work goes on from look to look, and is interrupted in the end."""

    def __init__(self, works: list[dict[str, Any]]) -> None:
        self.works = works
        self.answers: dict[str, Any] = {
            "/health": {"status": "degraded", "checks": {"database": {"ok": True}, "embedder": {"ok": False}}},
            "/ingest/stats": {
                "documents": {},
                "chunks": 0,
                "pending_documents": 0,
                "pending_embeddings": 0,
                "oldest_pending_seconds": None,
                "dead_letters": 0,
            },
            "/inbox": {"skipped": []},
        }

    def call(self, _: object, __: str, path: str, **___: Any) -> Any:
        if path == "/ingest/work":
            if not self.works:
                raise KeyboardInterrupt
            return self.works.pop(0)
        return self.answers[path]


def watched(monkeypatch: pytest.MonkeyPatch, works: list[dict[str, Any]], *words: str) -> list[str]:
    monkeypatch.setattr(status, "call", Server(works).call)
    monkeypatch.setattr(status, "WATCH_SECONDS", 0)
    done = CliRunner().invoke(app, ["status", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_watching_through_a_pipe_tells_only_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = watched(monkeypatch, [IDLE, IDLE, WORK, WORK, IDLE], "--watch")
    assert [line.partition(";")[0] for line in lines] == [
        "status degraded (embedder): nothing in work",
        "status degraded (embedder): 1 embedding, 2 parsing, 1,300 queued",
        "status degraded (embedder): nothing in work",
    ]


def test_watching_as_json_prints_a_line_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = watched(monkeypatch, [IDLE, IDLE, WORK], "--watch", "--json")
    assert [json.loads(line)["work"] for line in lines] == [IDLE, IDLE, WORK]


def test_status_shows_what_is_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1,234 of 5,000 chunks" in "\n".join(watched(monkeypatch, [WORK]))


def waited(
    monkeypatch: pytest.MonkeyPatch, jobs: list[dict[str, Any]]
) -> tuple[list[Any], list[tuple[float, float, str]]]:
    """Wait for two files that one job was given, and return its documents and what was shown."""
    monkeypatch.setattr(ingest, "call", lambda *_, **__: jobs.pop(0))
    monkeypatch.setattr(ingest, "POLL_SECONDS", 0)
    shown: list[tuple[float, float, str]] = []
    bar = ingest._progress(is_shown=False)
    monkeypatch.setattr(
        bar, "update", lambda _, **fields: shown.append((fields["completed"], fields["total"], fields["now"]))
    )
    settings: Any = None  # nothing is asked for in earnest
    return ingest._wait(settings, ["1"], bar, 2), shown


def job(
    status: str, states: dict[str, int], *documents: dict[str, Any], next_after: int | None = None
) -> dict[str, Any]:
    return {
        "job_id": "1",
        "status": status,
        "states": states,
        "documents": list(documents),
        "has_more": next_after is not None,
        "next_after": next_after,
    }


def test_status_shows_how_many_files_wait_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([IDLE, IDLE])
    monkeypatch.setattr(status, "call", server.call)
    assert "not yet taken" not in CliRunner().invoke(app, ["status"], catch_exceptions=False).output
    server.answers["/health"]["checks"]["inbox"] = {"ok": True, "waiting_files": 19_900}
    output = CliRunner().invoke(app, ["status"], catch_exceptions=False).output
    assert "19,900 files seen and not yet taken" in output


def test_waiting_for_files_shows_how_far_the_first_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moving = document("b.pdf", "embedding", progress(done=50, total=100, seconds_left=8.0))
    jobs = [
        job("processing", {"ready": 1, "embedding": 1}, document("a.md", "ready"), moving),
        job("ready", {"ready": 2}, document("a.md", "ready"), document("b.pdf", "ready")),
    ]
    documents, shown = waited(monkeypatch, jobs)
    assert len(documents) == 2
    assert shown[0] == (1.5, 2, "b.pdf: embedding 50 of 100 chunks, 8 s left")
    assert shown[-1] == (2, 2, "")


def test_waiting_for_a_mail_waits_for_all_that_is_attached_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        job("processing", {"ready": 3, "queued": 1}, document("a.eml", "ready"), next_after=7),
        job("failed", {"ready": 3, "failed": 1}, document("a.eml", "ready"), document("b.md", "ready"), next_after=8),
        job("failed", {"ready": 3, "failed": 1}, document("a.eml//c.md", "ready"), document("a.eml//d.png", "failed")),
    ]
    documents, shown = waited(monkeypatch, jobs)
    assert [d["file_path"] for d in documents] == ["a.eml", "b.md", "a.eml//c.md", "a.eml//d.png"]
    assert [(done, total) for done, total, _ in shown] == [(3, 4), (4, 4), (4, 4)]
