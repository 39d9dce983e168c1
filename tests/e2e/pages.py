"""The whole path on real pages, for any set-up: two embedders, one killed half-way; questions; an edit, a rename, a deletion."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from shared.database import connect
from tests.conftest import SHARED
from tests.e2e.harness import SECONDS_MAX, Askbox

PAGES = SHARED / "documents" / "fastapi" / "docs" / "en" / "docs"
DRAIN_SECONDS_MAX = 1200
# A short lease, so that the test does not wait long for what the victim held.
SETTINGS = {"ASKBOX_LEASE_SECONDS": "15", "ASKBOX_EMBED_THREADS": "1"}
WORKING_EMBEDDERS = (
    "SELECT array_agg(DISTINCT w.pid) FROM lease l JOIN worker w ON w.id = l.worker_id WHERE w.kind = 'embedder'"
)

# A person's words, and the page that answers.
QUESTIONS = {
    "How do I run something after the response was sent?": "tutorial/background-tasks.md",
    "How can I let a browser page from another origin call my API?": "tutorial/cors.md",
    "How do I receive an uploaded file?": "tutorial/request-files.md",
    "How do I hash passwords and issue JWT tokens?": "tutorial/security/oauth2-jwt.md",
    "How do I test an endpoint that uses websockets?": "advanced/testing-websockets.md",
    "How do I mount a folder of static files?": "tutorial/static-files.md",
    "How do I run code once when the application starts up and shuts down?": "advanced/events.md",
    "How can I build a Docker image for my app?": "deployment/docker.md",
    "How do I replace a dependency with another one during tests?": "advanced/testing-dependencies.md",
    "How can I split a bigger application into several files with routers?": "tutorial/bigger-applications.md",
}

needs_pages = pytest.mark.skipif(not PAGES.is_dir(), reason=f"the pages are not here: {PAGES}")


def query(box: Askbox, statement: str) -> Any:
    """Ask the database as the owner of its tables."""

    async def fetch() -> Any:
        connection = await connect(box.environment["ASKBOX_DATABASE_URL"], "askbox_owner", "test")
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def kill_at_work(box: Askbox) -> bool:
    """Kill an embedder that holds a batch: it is stopped first, so that what it holds it holds when it is killed."""
    for victim in query(box, WORKING_EMBEDDERS) or []:
        os.kill(victim, signal.SIGSTOP)
        if victim in (query(box, WORKING_EMBEDDERS) or []):
            os.kill(victim, signal.SIGKILL)
            return True
        os.kill(victim, signal.SIGCONT)
    return False


class Pages:
    """What holds for every set-up; in order, since each test goes on where the last one ended."""

    # Which of the pages, and one in which a sentence is inserted.
    patterns: tuple[str, ...]
    edited: str

    def test_every_page_is_ready_although_an_embedder_is_killed_half_way(self, box: Askbox) -> None:
        pages = [page for pattern in self.patterns for page in PAGES.glob(pattern)]
        for page in pages:
            place = box.inbox / "fastapi" / page.relative_to(PAGES)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, place)
        box.wait_until(
            lambda: int(str(query(box, "SELECT count(*) FROM embedding"))) > 600, DRAIN_SECONDS_MAX, "no start"
        )
        box.wait_until(lambda: kill_at_work(box), DRAIN_SECONDS_MAX, "no embedder at work")
        box.wait_until_drained(DRAIN_SECONDS_MAX, documents=len(pages))
        assert box.stats()["documents"] == {"ready": len(pages)}
        assert box.stats()["dead_letters"] == 0
        assert box.stats()["truncated_inputs"] == 0
        embedded = sum(event["embedded"] for event in box.events("jobs_completed"))
        # What was computed and not stored when the victim died is what its lease gave back: at most one batch.
        given_back = sum(event["stages"].get("embed", 0) for event in box.events("leases_swept"))
        assert given_back <= 64
        assert given_back > 0 or not box.is_bundled  # a server answers a batch before it is hit
        # The victim may have stored a batch and not told of it any more.
        assert 0 <= int(str(query(box, "SELECT count(*) FROM embedding"))) - embedded <= 64
        check = box.command("check")
        assert check.returncode == 0, check.stdout

    def test_questions_cite_the_pages_that_answer_verbatim(self, box: Askbox) -> None:
        missed = []
        for question, page in QUESTIONS.items():
            answer = box.ask(question)
            if f"fastapi/{page}" not in [source["file_path"] for source in answer["sources"]]:
                missed.append(question)
            assert answer["answered"] == bool(answer["sources"])
            for source in answer["sources"]:
                text = (PAGES / source["file_path"].removeprefix("fastapi/")).read_text(encoding="utf-8")
                assert text[source["char_start"] : source["char_end"]] == source["quote"]
        # Sums of random word vectors understand nothing; with them the words alone have to do.
        assert len(missed) <= (0 if box.is_bundled else 4), missed

    def test_question_about_something_else_is_refused(self, box: Askbox) -> None:
        answer = box.ask("Who won the football world cup in 1974?")
        assert not answer["answered"]
        assert answer["sources"] == []

    def test_changed_sentence_embeds_at_most_three_chunks(self, box: Askbox) -> None:
        path = box.inbox / self.edited
        before = query(box, "SELECT count(*) FROM embedding")
        version = box.documents()[self.edited]["version"]
        text = path.read_text(encoding="utf-8")
        middle = text.index("* ", len(text) // 2)
        path.write_text(text[: middle + 2] + "Zanzibar clove harvests. " + text[middle + 2 :], encoding="utf-8")

        def is_live() -> bool:
            document = box.documents()[self.edited]
            return document["version"] != version and document["state"] == "ready"

        box.wait_until(is_live, SECONDS_MAX, "the edit was not published")
        added = int(str(query(box, "SELECT count(*) FROM embedding"))) - int(str(before))
        assert 1 <= added <= 3
        assert self.edited in [s["file_path"] for s in box.ask("Zanzibar clove harvests")["sources"]]

    def test_rename_embeds_nothing_and_keeps_the_document(self, box: Askbox) -> None:
        before = query(box, "SELECT count(*) FROM embedding")
        document = box.documents()["fastapi/tutorial/cors.md"]
        (box.inbox / "fastapi/tutorial/cors.md").rename(box.inbox / "fastapi/tutorial/origins.md")

        def is_renamed() -> bool:
            documents = box.documents()
            found = documents.get("fastapi/tutorial/origins.md", {})
            return "fastapi/tutorial/cors.md" not in documents and found.get("state") == "ready"

        box.wait_until(is_renamed, SECONDS_MAX, "the rename was not seen")
        assert box.documents()["fastapi/tutorial/origins.md"]["id"] == document["id"]
        assert query(box, "SELECT count(*) FROM embedding") == before

    def test_deleted_page_leaves_the_answers(self, box: Askbox) -> None:
        question = "How do I mount a folder of static files?"
        (box.inbox / "fastapi/tutorial/static-files.md").unlink()
        box.wait_until(lambda: "fastapi/tutorial/static-files.md" not in box.documents(), SECONDS_MAX, "not deleted")
        answer = box.ask(question)
        assert "fastapi/tutorial/static-files.md" not in [source["file_path"] for source in answer["sources"]]
        assert box.command("check").returncode == 0

    def test_document_deleted_over_http_is_not_brought_back_by_a_scan(self, box: Askbox) -> None:
        import httpx2

        document = box.documents()["fastapi/tutorial/debugging.md"]
        response = httpx2.delete(f"{box.address}/documents/{document['id']}", timeout=120, trust_env=False)
        assert response.status_code == 204
        scans = Path(box.inbox / "fastapi/tutorial/debugging.md")
        os.utime(scans)  # touched: seen again, summed again, still deleted on purpose
        (box.inbox / "fastapi/marker.md").write_text("# Marker\n\nA page that comes after it.\n", encoding="utf-8")
        box.wait_until(
            lambda: box.documents().get("fastapi/marker.md", {}).get("state") == "ready", SECONDS_MAX, "no marker"
        )
        assert "fastapi/tutorial/debugging.md" not in box.documents()
