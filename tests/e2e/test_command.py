"""The command line against real processes: files sent and waited for, stories, retries, collections, keys."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import database_url
from tests.e2e.harness import SECONDS_MAX, Askbox
from tests.openai_server import serving

pytestmark = pytest.mark.timeout(900)
NOTE = "# Gates\n\nThe northern gate opens at six in the morning.\n"


@pytest.fixture(scope="module")
def box(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Askbox]:
    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(server_url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute(f"CREATE DATABASE e2e_command TEMPLATE {template}"))
    folder = tmp_path_factory.mktemp("command")
    roots = folder / "shelf"
    roots.mkdir()
    with serving() as provider, contextlib.ExitStack() as parts:
        box = Askbox(
            folder,
            database_url(server_url, "e2e_command"),
            ASKBOX_EMBEDDING_MODEL="openai:test-embedding",
            OPENAI_BASE_URL=provider.url,
            ASKBOX_INGEST_ROOTS=str(roots),
        )
        box.start()
        parts.callback(box.stop)
        yield box
    asyncio.run(execute("DROP DATABASE e2e_command WITH (FORCE)"))


def run(box: Askbox, *words: str, code: int = 0) -> str:
    done = box.command(*words)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def make_folder(box: Askbox, name: str) -> Path:
    folder = box.folder / name
    (folder / "deep").mkdir(parents=True)
    (folder / "gates.md").write_text(NOTE, encoding="utf-8")
    (folder / "deep" / "doors.txt").write_text("The southern door is always locked.\n", encoding="utf-8")
    (folder / ".hidden").write_text("no", encoding="utf-8")
    (folder / "link.md").symlink_to(folder / "gates.md")
    return folder


def test_folder_is_sent_and_waited_for(box: Askbox) -> None:
    folder = make_folder(box, "sent")
    sent = json.loads(run(box, "ingest", str(folder), "--collection", "sent", "--wait", "--json"))
    assert {d["file_path"]: d["state"] for d in sent["documents"]} == {"gates.md": "ready", "deep/doors.txt": "ready"}
    again = json.loads(run(box, "ingest", str(folder), "--collection", "sent", "--wait", "--json"))
    assert [d["document_id"] for d in again["documents"]] == [d["document_id"] for d in sent["documents"]]
    answer = json.loads(run(box, "ask", "When does the northern gate open?", "-c", "sent", "--json"))
    assert answer["sources"][0]["file_path"] == "gates.md"
    assert "2 of 2 documents are ready" in run(box, "ingest", str(folder), "-c", "sent", "--wait")


def test_file_that_cannot_be_read_ends_the_command_with_its_reason(box: Askbox) -> None:
    broken = box.folder / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 and nothing more")
    said = run(box, "ingest", str(broken), "-c", "sent", "--wait", code=1)
    assert "failed broken.pdf" in said
    assert "no file and no folder" in run(box, "ingest", str(box.folder / "absent"), code=1)


def test_story_of_a_document_is_told(box: Askbox) -> None:
    story = run(box, "trace", "gates.md")
    for word in ("intake", "ingest", "publish", "ms"):
        assert word in story
    assert run(box, "trace", "sent/gates.md") == story, "named as an answer names it"
    assert "there is no document absent.md" in run(box, "trace", "absent.md", code=1)


def test_what_is_not_found_is_told_by_the_exit_code_in_json_too(box: Askbox) -> None:
    run(box, "collections", "create", "bare")
    assert run(box, "search", "gate", "-c", "bare", code=1) == "nothing was found\n"
    assert json.loads(run(box, "search", "gate", "-c", "bare", "--json", code=1))["data"] == []
    assert run(box, "documents", "-c", "bare") == "there are none\n"
    run(box, "collections", "delete", "bare", "--yes")


def test_long_path_is_shown_whole_in_a_narrow_terminal(box: Askbox) -> None:
    name = "-".join(["long"] * 20) + ".md"
    (box.folder / name).write_text(NOTE, encoding="utf-8")
    run(box, "ingest", str(box.folder / name), "-c", "narrow", "--wait")
    box.environment["COLUMNS"] = "80"
    shown = run(box, "documents", "-c", "narrow")
    del box.environment["COLUMNS"]
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert shown.count("long") == name.count("long")
    run(box, "collections", "delete", "narrow", "--yes")


@pytest.mark.parametrize("words", [["status", "--watch"], ["status", "--watch", "--json"]])
def test_watching_goes_on_until_it_is_interrupted(box: Askbox, words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "services.console", *words],
        cwd=box.folder,
        env=box.environment,
        stdout=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background ignores interrupts, and so would this command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (it takes no lock)
    ) as watching:
        assert watching.stdout is not None
        end = threading.Timer(SECONDS_MAX, watching.kill)
        end.start()
        first = watching.stdout.readline()
        assert json.loads(first)["health"]["status"] if "--json" in words else "status" in first
        watching.send_signal(signal.SIGINT)
        assert watching.wait() == 0
        end.cancel()


def test_failed_documents_are_retried_by_name_or_all(box: Askbox) -> None:
    def has_failed() -> bool:
        return box.documents()["broken.pdf"]["state"] == "failed"

    assert "1 document is read again" in run(box, "retry", "broken.pdf")
    box.wait_until(has_failed, SECONDS_MAX, "not failed again")
    assert "is read again" in run(box, "retry", "--all")
    box.wait_until(has_failed, SECONDS_MAX, "not failed again")
    run(box, "retry", code=2)
    run(box, "retry", "gates.md", code=1)


def test_dead_letters_are_listed_and_dropped(box: Askbox) -> None:
    letters = json.loads(run(box, "dead-letters", "--json"))
    assert {letter["stage"] for letter in letters} == {"ingest"}
    assert "dropped" in run(box, "dead-letters", "--drop")
    assert json.loads(run(box, "dead-letters", "--json")) == []


def test_collections_are_kept(box: Askbox) -> None:
    run(box, "collections", "create", "empty")
    run(box, "collections", "rename", "empty", "still empty")
    assert "still empty" in run(box, "collections", "list")
    run(box, "collections", "create", "sent", code=1)
    run(box, "collections", "delete", "still empty", "--yes")
    assert "still empty" not in run(box, "collections", "list")


def test_folder_below_a_root_is_scanned_by_an_ingester(box: Askbox) -> None:
    folder = make_folder(box, "shelf/books")
    answer = box.post("/ingest/directory", {"path": str(folder), "collection": "books"})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    box.wait_until(
        lambda: box.get(f"/ingest/jobs/{job_id}").json()["status"] != "processing", SECONDS_MAX, "not scanned"
    )
    job = box.get(f"/ingest/jobs/{job_id}").json()
    assert job["status"] == "ready"
    assert sorted(Path(d["file_path"]).name for d in job["documents"]) == ["doors.txt", "gates.md"]
    assert box.command("check").returncode == 0


def test_keys_close_the_house_and_open_it_for_their_bearer(box: Askbox) -> None:
    """Last: from the first key on every request needs one."""
    made = json.loads(run(box, "keys", "create", "reader", "-c", "sent", "--json"))
    assert "send it as" in run(box, "documents", code=1)
    box.environment["ASKBOX_API_KEY"] = made["key"]
    listed = json.loads(run(box, "documents", "--json"))
    assert {document["collection"] for document in listed} == {"sent"}
    assert "needs the role write" in run(box, "retry", "broken.pdf", code=1)
    new = json.loads(run(box, "keys", "rotate", "reader", "--json"))
    assert "send it as" in run(box, "documents", code=1)
    box.environment["ASKBOX_API_KEY"] = new["key"]
    run(box, "documents")
    assert "reader" in run(box, "keys", "list")
    run(box, "keys", "revoke", "reader")
    assert "send it as" in run(box, "documents", code=1)
    assert new["key"] not in run(box, "keys", "list", "--json")
