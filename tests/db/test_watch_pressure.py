"""The watcher when there is more than it can hear or take at once."""

import asyncio
import os
import time
from typing import Any

import pytest

from services.ingester import watch
from services.ingester.inotify import Inotify
from services.ingester.take import FileTaker
from shared.failpoints import Failpoint, Trap, arm
from tests.db.test_watch import documents, inbox, scanned_again, until_documents, until_known, versions, watching
from tests.waiting import until

__all__ = ["inbox"]
FILES = 250


@pytest.fixture
def slow(monkeypatch):
    """Files are taken one by one, each when it is let."""
    take = FileTaker.take
    turns = asyncio.Semaphore(0)

    async def take_in_turn(*asked: Any) -> Any:
        await turns.acquire()
        return await take(*asked)

    monkeypatch.setattr(FileTaker, "take", take_in_turn)
    return turns


async def test_scans_and_deletions_do_not_wait_until_all_files_are_taken(pool, owner, inbox, slow, monkeypatch):
    monkeypatch.setattr(watch, "ROUND_SECONDS_MAX", 0.01)
    monkeypatch.setattr(watch, "TAKEN_AT_ONCE_MAX", 1)
    (inbox / "old.md").write_text("old")
    async with watching(pool, inbox) as watcher:
        slow.release()
        await until_documents(owner, {"old.md"})
        for number in range(FILES):
            (inbox / f"{number}.md").write_text(f"file {number}")
        await until(lambda: asyncio.sleep(0, watcher.waiting_count > FILES / 2))
        (inbox / "old.md").unlink()
        before = watcher._scanned_at

        async def has_gone_on() -> bool:
            slow.release()
            return "old.md" not in await documents(owner)() and watcher._scanned_at > before

        await until(has_gone_on)
        assert watcher.waiting_count > 5  # and others still wait
        for _ in range(2 * FILES):
            slow.release()
        await until_documents(owner, {f"{number}.md" for number in range(FILES)})
        await until(lambda: asyncio.sleep(0, watcher.waiting_count == 0))


async def test_new_file_does_not_wait_at_a_start_until_every_file_was_looked_at_again(
    pool, owner, inbox, slow, monkeypatch
):
    monkeypatch.setattr(watch, "TAKEN_AT_ONCE_MAX", 1)
    for number in range(50):
        (inbox / f"{number}.md").write_text(f"file {number}")
        slow.release()
    async with watching(pool, inbox) as watcher:
        await until_known(watcher, {f"{number}.md" for number in range(50)})
    (inbox / "new.md").write_text("dropped while nobody watched")
    os.utime(inbox / "new.md", (1, 1))
    async with watching(pool, inbox) as watcher:
        await until(lambda: asyncio.sleep(0, watcher.waiting_count == 50))  # one is in hand
        slow.release()
        await until_known(watcher, {"new.md"})
        assert watcher.waiting_count >= 49


async def test_what_is_remembered_of_files_that_went_unheard_goes_with_them(pool, inbox):
    (inbox / "open.md").write_text("still there")
    async with watching(pool, inbox) as watcher:
        await until_known(watcher, {"open.md"})
        long_ago = time.monotonic() - 1000
        watcher._opened |= {"gone.md": long_ago, "new.md": time.monotonic() + 1000}
        watcher._seen["gone.md"] = (watcher._taker.known["open.md"], long_ago)
        watcher._taker.overdue.add("gone.md")
        await scanned_again(watcher)
        assert watcher._opened.keys() == {"new.md"}  # made since
        assert "gone.md" not in watcher._seen
        assert not watcher._taker.overdue


async def test_file_that_could_not_be_stored_holds_up_none_of_those_beside_it(pool, owner, inbox, caplog):
    for number in range(20):
        (inbox / f"{number}.md").write_text(f"file {number}")
    arm([Trap(Failpoint.VERSION_WRITTEN, 3, "raise")])
    try:
        with caplog.at_level("INFO", "askbox"):
            async with watching(pool, inbox):
                await until_documents(owner, {f"{number}.md" for number in range(20)})
    finally:
        arm(())
    assert await versions(owner) == 20
    skipped = [record.facts["path"] for record in caplog.records if record.getMessage() == "file_skipped"]
    assert len(skipped) == 1


async def test_file_that_was_open_before_anybody_watched_is_taken_when_it_is_closed(pool, owner, inbox):
    """No event tells of its opening, and it looks as old as a file that nobody touches."""
    with (inbox / "slow.md").open("w") as file:
        file.write("first half, ")
        file.flush()
        os.utime(inbox / "slow.md", (1, 1))
        async with watching(pool, inbox) as watcher:
            (inbox / "other.md").write_text("other")
            await until_documents(owner, {"other.md"})
            await scanned_again(watcher, 3)
            assert await documents(owner)() == {"other.md"}
            file.write("second half")
            file.close()
            await until_documents(owner, {"other.md", "slow.md"})
    parts = await owner.fetch("SELECT bytes FROM blob_part")
    assert {bytes(row["bytes"]) for row in parts} == {b"other", b"first half, second half"}


async def test_file_that_stays_open_and_still_is_taken_after_all(pool, owner, inbox, monkeypatch):
    monkeypatch.setattr(watch, "OPEN_FILE_PATIENCE_SECONDS", 1.0)
    with (inbox / "log.txt").open("w") as file:
        file.write("nobody closes this\n")
        file.flush()
        async with watching(pool, inbox):
            await until_documents(owner, {"log.txt"})


async def test_file_that_is_rewritten_before_it_was_taken_is_taken_whole(pool, owner, inbox):
    """Its closing is known, and it is open again."""
    path = inbox / "a.md"
    path.write_text("one")
    async with watching(pool, inbox) as watcher:
        await until_known(watcher, {"a.md"})
        path.write_text("two, which is taken only when the first is two seconds old")
        with path.open("w") as file:
            file.write("thr")
            file.flush()
            due = watcher._taker.earliest("a.md")
            await until(lambda: asyncio.sleep(0, time.monotonic() > due))
            await scanned_again(watcher, 3)
            assert await versions(owner) == 1
            file.write("ee")
        await until(lambda: owner.fetchval("SELECT count(*) = 2 FROM document_version"))
    parts = await owner.fetch("SELECT bytes FROM blob_part")
    assert {bytes(row["bytes"]) for row in parts} == {b"one", b"three"}


async def test_folder_with_nearly_all_files_moves_and_nobody_is_asked(pool, owner, inbox, caplog, monkeypatch):
    (inbox / "team" / "old").mkdir(parents=True)
    for number in range(30):
        (inbox / "team" / "old" / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox) as watcher:
        await until_known(watcher, {f"team/old/{number}.md" for number in range(30)})
        before = await owner.fetch("SELECT id FROM document ORDER BY id")
        at_once = watcher._taker.take

        async def slowly(path: str, detected: float) -> float | None:
            await asyncio.sleep(0.2)  # long enough for a scan to come between, as with thousands of files
            return await at_once(path, detected)

        monkeypatch.setattr(watcher._taker, "take", slowly)
        (inbox / "team" / "old").rename(inbox / "team" / "new")
        await until_documents(owner, {f"team/new/{number}.md" for number in range(30)})
        await scanned_again(watcher)
        assert await owner.fetch("SELECT id FROM document ORDER BY id") == before
    assert "inbox_deletion_paused" not in [record.getMessage() for record in caplog.records]


async def test_folders_that_may_not_be_watched_are_told_of_and_their_files_found(pool, owner, inbox, monkeypatch):
    ask = Inotify.watch

    def within_the_limit(inotify: Inotify, folder: str) -> None:
        if folder:
            raise OSError(28, "No space left on device")
        ask(inotify, folder)

    monkeypatch.setattr(Inotify, "watch", within_the_limit)
    (inbox / "team").mkdir()
    async with watching(pool, inbox) as watcher:
        assert "1 of 2 folders of the inbox are not watched" in (watcher.note or "")
        with (inbox / "team" / "late.md").open("w") as file:
            file.write("written slowly, ")
            file.flush()
            await scanned_again(watcher, 4)
            assert await documents(owner)() == set()
            file.write("and whole")
        await until_documents(owner, {"team/late.md"})
        (inbox / "team" / "late.md").unlink()
        await until_documents(owner, set())
    assert await owner.fetchval("SELECT count(*) FROM blob_part WHERE bytes = 'written slowly, and whole'") == 1
