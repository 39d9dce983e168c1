"""A folder is scanned by a real ingester that is killed half-way, and by the next one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from services.console.check import check
from services.query import ingest_store, store
from shared import intake
from shared.settings import BUNDLED_MODEL
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)
FILES = 250
HELD = 125
SECONDS_MAX = 180
LINKED = "SELECT count(*) FROM ingest_request_document"


class Ingesters:
    """Ingester processes of one test; the poll is so slow that only a wake can be in time."""

    def __init__(self, url: str, folder: Path, root: Path) -> None:
        self._folder = folder
        own = {
            name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "OPENAI_", "OTEL_"))
        }
        self._environment = own | {
            "ASKBOX_DATABASE_URL": url,
            "ASKBOX_HOME": str(folder / "home"),
            "ASKBOX_INBOX": str(folder / "inbox"),
            "ASKBOX_INGEST_ROOTS": str(root),
            "ASKBOX_POLL_SECONDS": "60",
            "ASKBOX_LEASE_SECONDS": "8",
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "ingester.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.ingester"], env=self._environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.running.remove(process)


@pytest.fixture
def ingesters(url: str, tmp_path: Path) -> Iterator[Ingesters]:
    (tmp_path / "docs").mkdir()
    made = Ingesters(url, tmp_path, tmp_path / "docs")
    yield made
    for process in list(made.running):
        made.kill(process)


async def is_listening(owner: asyncpg.Connection) -> bool:
    return await owner.fetchval("SELECT count(*) > 0 FROM worker WHERE is_listening")


async def test_folder_is_taken_once_though_its_ingester_is_killed(url, pool, owner, tmp_path, ingesters):
    for number in range(FILES):
        (tmp_path / "docs" / f"{number:03}.md").write_text(f"# Note {number}\n\nText of note {number}.\n")
    model_id = await intake.ensure_model(pool, BUNDLED_MODEL, 384)
    collection_id = await intake.ensure_collection(pool, "default", model_id)
    first = ingesters.start()
    await until(lambda: is_listening(owner), SECONDS_MAX)
    # Somebody else is about to store a file of its middle, so that the scan cannot end before the kill.
    holder = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    holding = holder.transaction()
    await holding.start()
    await holder.execute(
        "INSERT INTO document (collection_id, source_uri) VALUES ($1, $2)", collection_id, f"folder:docs/{HELD:03}.md"
    )
    async with pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [collection_id])
        await ingest_store.create_scan(
            conn,
            [collection_id],
            collection_id,
            str(tmp_path / "docs"),
            is_recursive=True,
            traceparent=None,
            waiting_max=1,
        )
    await until(lambda: owner.fetchval(f"{LINKED} HAVING count(*) > 20"), SECONDS_MAX)
    ingesters.kill(first)
    await holding.rollback()
    await holder.close()
    assert await owner.fetchval(LINKED) <= HELD, "it was done before the kill"
    ingesters.start()
    await until(lambda: owner.fetchval("SELECT scanned_at IS NOT NULL FROM ingest_request"), SECONDS_MAX)
    assert await owner.fetchval("SELECT error FROM ingest_request") is None
    assert await owner.fetchval(LINKED) == FILES
    assert await owner.fetchval("SELECT count(*) FROM document_version") == FILES
    assert await check(url) == []
