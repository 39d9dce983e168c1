"""The watcher where no event ever comes, as on network mounts: the scan alone finds everything."""

import asyncio
import contextlib

import pytest

from services.ingester import store
from services.ingester.inbox import Listing
from tests.db.test_watch import documents, inbox, scanned_again, until_documents, watching
from tests.waiting import until

__all__ = ["inbox"]


@pytest.fixture(autouse=True)
def deaf(monkeypatch):
    monkeypatch.setattr("services.ingester.watch.watch_folder", lambda *_: contextlib.nullcontext())


async def test_file_is_found_and_missed_by_the_next_scan(pool, owner, inbox):
    async with watching(pool, inbox):
        (inbox / "a.md").write_text("unheard")
        await until_documents(owner, {"a.md"})
        (inbox / "a.md").unlink()
        await until_documents(owner, set())


async def test_file_is_taken_when_it_has_been_still(pool, owner, inbox):
    async with watching(pool, inbox, settle_seconds=60) as watcher:
        (inbox / "a.md").write_text("may grow")
        await scanned_again(watcher, 3)
        assert await documents(owner)() == set()
    async with watching(pool, inbox, settle_seconds=0.2):
        await until_documents(owner, {"a.md"})


class Noting(dict[str, float]):
    """Keeps what was ever missing: what is found again is soon forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: set[str] = set()

    def setdefault(self, path: str, since: float = 0.0) -> float:
        self.noted.add(path)
        return super().setdefault(path, since)


async def test_folder_that_cannot_be_listed_deletes_nothing(pool, owner, inbox, monkeypatch):
    """What lies below it looks as if it were gone."""
    (inbox / "a.md").write_text("a")
    async with watching(pool, inbox) as watcher:
        await until_documents(owner, {"a.md"})
        watcher._missing = Noting()
        with monkeypatch.context() as patched:
            patched.setattr("services.ingester.watch.scan", lambda *_: Listing(is_complete=False))
            await scanned_again(watcher, 3)
        assert watcher._missing.noted == set()
        (inbox / "a.md").unlink()
        await until_documents(owner, set())


async def test_file_that_was_gone_for_a_moment_keeps_its_document(pool, owner, inbox):
    (inbox / "a.md").write_text("a")
    async with watching(pool, inbox) as watcher:
        await until_documents(owner, {"a.md"})
        before = await owner.fetchval("SELECT id FROM document")
        watcher._missing["a.md"] = 0.0  # an event said so, long ago
        watcher._changed.set()
        await until(lambda: asyncio.sleep(0, not watcher._missing))
        await scanned_again(watcher)
        assert [row["id"] for row in await owner.fetch("SELECT id FROM document")] == [before]


async def test_confirmation_holds_for_no_more_files_than_it_was_given_for(pool, owner):
    assert not await store.pause_deletion(pool, "vanished", "25 of 40 vanished", 25)
    await owner.execute("UPDATE inbox_pause SET confirmed_at = now()")
    assert await store.pause_deletion(pool, "vanished", "24 of 40 vanished", 24)
    await owner.execute("UPDATE inbox_pause SET missing_count = 25")
    assert not await store.pause_deletion(pool, "vanished", "26 of 40 vanished", 26)
