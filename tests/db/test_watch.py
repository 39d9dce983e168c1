"""The watcher over a real folder and a real database."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from services.ingester import store, take, watch
from services.ingester.inbox import fingerprint, scan
from services.ingester.paths import MARK_FILE
from services.ingester.settings import IngesterSettings
from services.ingester.signals import Closed, Lost, Signal
from services.ingester.watch import InboxWatcher
from shared import intake
from shared.failpoints import Failpoint, Trap, arm
from tests.factories import make_collection
from tests.waiting import until

BY_SIGNALS_ALONE = {"rescan_seconds": 3600}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@contextlib.asynccontextmanager
async def watching(pool: asyncpg.Pool, inbox: Path, **settings: float) -> AsyncIterator[InboxWatcher]:
    _, model_id = await make_collection(pool)
    values = {"rescan_seconds": 0.3, "settle_seconds": 0.2} | settings
    watcher = InboxWatcher(pool, IngesterSettings(inbox=inbox, **values), model_id)
    task = asyncio.create_task(watcher.run())
    try:
        await until(lambda: asyncio.sleep(0, watcher._scanned_at > 0 or watcher.note))
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def documents(owner: asyncpg.Connection) -> Callable[[], object]:
    async def names() -> set[str]:
        return {
            row["source_uri"].removeprefix("inbox:") for row in await owner.fetch("SELECT source_uri FROM document")
        }

    return names


async def until_documents(owner: asyncpg.Connection, wanted: set[str]) -> None:
    async def are_there() -> bool:
        return await documents(owner)() == wanted

    try:
        await until(are_there)
    except TimeoutError:
        raise AssertionError(f"{await documents(owner)()} instead of {wanted}") from None


async def until_known(watcher: InboxWatcher, wanted: set[str]) -> None:
    """Wait until the watcher knows that it has taken these: a moment after their documents can be seen."""
    await until(lambda: asyncio.sleep(0, watcher._taker.known.keys() >= wanted))


async def versions(owner: asyncpg.Connection) -> int:
    return await owner.fetchval("SELECT count(*) FROM document_version")


@contextlib.asynccontextmanager
async def signals_of(watcher: InboxWatcher, *, is_passed_on: bool = True) -> AsyncIterator[list[Signal]]:
    """What the watcher hears, which it may be kept from hearing."""
    heard: list[Signal] = []
    obey = watcher._on_signal

    def listen(signal: Signal) -> None:
        heard.append(signal)
        if is_passed_on:
            obey(signal)

    watcher._on_signal = listen
    yield heard
    watcher._on_signal = obey


async def scanned_again(watcher: InboxWatcher, times: int = 2) -> None:
    for _ in range(times):
        before = watcher._scanned_at
        await until(lambda b=before: asyncio.sleep(0, watcher._scanned_at > b))


async def test_files_of_all_folders_are_taken_into_their_collections(pool, owner, inbox):
    (inbox / "early.md").write_text("there before the start")
    async with watching(pool, inbox):
        (inbox / "top.md").write_text("top")
        (inbox / "team" / "deep" / "er").mkdir(parents=True)
        (inbox / "team" / "deep" / "er" / "note.md").write_text("deep")
        await until_documents(owner, {"early.md", "top.md", "team/deep/er/note.md"})
    rows = await owner.fetch("SELECT k.name, d.source_uri FROM document d JOIN collection k ON k.id = d.collection_id")
    assert {row["source_uri"]: row["name"] for row in rows} == {
        "inbox:early.md": "default",
        "inbox:top.md": "default",
        "inbox:team/deep/er/note.md": "team",
    }


async def test_open_file_is_taken_when_it_is_closed_and_not_before(pool, owner, inbox):
    # However late the signal of its opening comes, no scan has taken it before.
    async with watching(pool, inbox, settle_seconds=60) as watcher:
        with (inbox / "slow.md").open("w") as file:
            file.write("first half, ")
            file.flush()
            await until(lambda: asyncio.sleep(0, "slow.md" in watcher._opened))
            watcher._settings = watcher._settings.model_copy(update={"settle_seconds": 0.2})
            (inbox / "other.md").write_text("other")
            await until_documents(owner, {"other.md"})
            await scanned_again(watcher, 3)  # longer than the settle time
            assert await documents(owner)() == {"other.md"}
            skipped = await owner.fetch("SELECT source_uri, reason FROM skipped_file")
            assert [(row["source_uri"], row["reason"]) for row in skipped] == [
                ("inbox:slow.md", "it is being written; it is taken when that is done")
            ]
            file.write("second half")
        await until_documents(owner, {"other.md", "slow.md"})
        parts = await owner.fetch("SELECT p.bytes FROM blob_part p JOIN blob b ON b.id = p.blob_id")
        assert {bytes(row["bytes"]) for row in parts} == {b"other", b"first half, second half"}
        await until(lambda: owner.fetchval("SELECT count(*) = 0 FROM skipped_file"))


async def test_changed_file_gets_a_version_and_a_touched_one_does_not(pool, owner, inbox):
    (inbox / "a.md").write_text("one")
    (inbox / "b.md").write_text("same")
    async with watching(pool, inbox) as watcher:
        await until_documents(owner, {"a.md", "b.md"})
        (inbox / "a.md").write_text("two, longer")
        os.utime(inbox / "b.md")
        (inbox / "b.md").chmod(0o600)
        await until(lambda: owner.fetchval("SELECT count(*) = 3 FROM document_version"))
        await scanned_again(watcher)
        assert await versions(owner) == 3


async def test_restart_on_an_unchanged_inbox_stores_nothing(pool, owner, inbox):
    for number in range(5):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox):
        await until_documents(owner, {f"{n}.md" for n in range(5)})
    before = await owner.fetchval("SELECT last_value FROM blob_id_seq")
    async with watching(pool, inbox) as watcher:
        await until(lambda: asyncio.sleep(0, len(watcher._taker.known) == 5))
    assert await owner.fetchval("SELECT last_value FROM blob_id_seq") == before
    assert await versions(owner) == 5


async def test_deleted_file_leaves_and_a_replaced_one_keeps_its_document(pool, owner, inbox):
    (inbox / "gone.md").write_text("gone")
    (inbox / "kept.md").write_text("old")
    async with watching(pool, inbox):
        await until_documents(owner, {"gone.md", "kept.md"})
        document_id = await owner.fetchval("SELECT id FROM document WHERE source_uri = 'inbox:kept.md'")
        (inbox / "gone.md").unlink()
        (inbox / "kept.md").unlink()
        (inbox / "kept.md").write_text("new")
        await until_documents(owner, {"kept.md"})
        await until(lambda: owner.fetchval("SELECT count(*) = 2 FROM document_version"))
        assert await owner.fetchval("SELECT id FROM document") == document_id


async def test_move_keeps_the_document_and_a_move_between_collections_makes_another(pool, owner, inbox):
    (inbox / "a.md").write_text("moved about")
    (inbox / "team").mkdir()
    async with watching(pool, inbox, **BY_SIGNALS_ALONE) as watcher:
        await until_known(watcher, {"a.md"})
        document_id = await owner.fetchval("SELECT id FROM document")
        (inbox / "a.md").rename(inbox / "b.md")
        await until_documents(owner, {"b.md"})
        assert await owner.fetchval("SELECT id FROM document") == document_id
        (inbox / "b.md").rename(inbox / "team" / "b.md")
        await until_documents(owner, {"team/b.md"})


async def test_moved_folder_and_a_name_in_other_letters_keep_their_documents(pool, owner, inbox):
    (inbox / "team" / "old" / "deep").mkdir(parents=True)
    (inbox / "team" / "old" / "one.md").write_text("first")
    (inbox / "team" / "old" / "deep" / "Two.md").write_text("second")
    # A folder that moves lets the watcher scan; the next scan comes late, so that it overtakes no signal.
    async with watching(pool, inbox, **BY_SIGNALS_ALONE) as watcher, signals_of(watcher) as heard:
        await until_known(watcher, {"team/old/one.md", "team/old/deep/Two.md"})
        before = await owner.fetch("SELECT id FROM document ORDER BY id")
        (inbox / "team" / "old").rename(inbox / "team" / "new")
        await until_documents(owner, {"team/new/one.md", "team/new/deep/Two.md"})
        assert await owner.fetch("SELECT id FROM document ORDER BY id") == before
        probe = inbox / "team" / "new" / "deep" / "probe.part"

        async def is_watched() -> bool:
            probe.write_text("heard under its new name?")
            return Closed("team/new/deep/probe.part") in heard

        await until_known(watcher, {"team/new/one.md", "team/new/deep/Two.md"})
        await until(is_watched)  # before that a rename in the folder looks like another file
        (inbox / "team" / "new" / "deep" / "Two.md").rename(inbox / "team" / "new" / "deep" / "two.md")
        await until_documents(owner, {"team/new/one.md", "team/new/deep/two.md"})
        assert await owner.fetch("SELECT id FROM document ORDER BY id") == before


async def test_file_of_which_nobody_heard_is_found_when_something_was_lost(pool, owner, inbox):
    async with watching(pool, inbox, **BY_SIGNALS_ALONE) as watcher:
        async with signals_of(watcher, is_passed_on=False) as heard:
            (inbox / "unheard.md").write_text("its events were dropped")
            await until(lambda: asyncio.sleep(0, Closed("unheard.md") in heard))
        watcher._on_signal(Lost())
        watcher._changed.set()
        await until_documents(owner, {"unheard.md"})


async def test_chain_of_moves_steals_no_document(pool, owner, inbox):
    (inbox / "a.md").write_text("first")
    async with watching(pool, inbox) as watcher:
        await until_documents(owner, {"a.md"})
        (inbox / "a.md").rename(inbox / "b.md")
        (inbox / "b.md").rename(inbox / "c.md")
        await until_documents(owner, {"c.md"})
        (inbox / "a.md").write_text("new a")
        await until_documents(owner, {"a.md", "c.md"})
        (inbox / "b.md").write_text("new b")
        await until_documents(owner, {"a.md", "b.md", "c.md"})
        await scanned_again(watcher)
        assert await documents(owner)() == {"a.md", "b.md", "c.md"}


async def test_mass_disappearance_waits_for_a_person_however_it_goes_on(pool, owner, inbox, monkeypatch):
    monkeypatch.setattr(watch, "DELETION_GRACE_SECONDS", 2.0)  # however slowly their signals come, they come at once
    for number in range(30):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox) as watcher:
        await until(lambda: owner.fetchval("SELECT count(*) = 30 FROM document"))
        for number in range(25):
            (inbox / f"{number}.md").unlink()
        await until(lambda: asyncio.sleep(0, watcher.note))
        assert "confirm-deletes" in watcher.note
        for number in range(40):  # now those that vanished are less than half
            (inbox / f"new-{number}.md").write_text(f"new {number}")
        await until(lambda: owner.fetchval("SELECT count(*) = 70 FROM document"))
        (inbox / "29.md").unlink()  # a single one waits too
        await scanned_again(watcher)
        assert await owner.fetchval("SELECT count(*) FROM document") == 70
        # A confirmation holds for as many files as it was given for, so the last one has to be counted first.
        await until(lambda: owner.fetchval("SELECT missing_count = 26 FROM inbox_pause"))
        await owner.execute("UPDATE inbox_pause SET confirmed_at = now()")
        await until(lambda: owner.fetchval("SELECT count(*) = 44 FROM document"))
        await until(lambda: asyncio.sleep(0, watcher.note is None))


async def test_disappearance_counts_those_whose_grace_is_not_over(pool, owner, inbox):
    for number in range(30):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox, **BY_SIGNALS_ALONE) as watcher, signals_of(watcher, is_passed_on=False):
        await until(lambda: owner.fetchval("SELECT count(*) = 30 FROM document"))
        for number in range(25):
            (inbox / f"{number}.md").unlink()
            watcher._missing[f"{number}.md"] = time.monotonic() - (3600 if number < 10 else 0)
        await watcher._delete_missing()
        assert "confirm-deletes" in watcher.note
        assert await owner.fetchval("SELECT count(*) FROM document") == 30


async def test_confirmed_deletion_does_not_wait_for_the_next_scan(pool, owner, inbox):
    for number in range(30):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox, rescan_seconds=3600) as watcher:
        await until(lambda: owner.fetchval("SELECT count(*) = 30 FROM document"))
        for number in range(25):
            (inbox / f"{number}.md").unlink()
        await until(lambda: asyncio.sleep(0, watcher.note))
        await owner.execute("UPDATE inbox_pause SET confirmed_at = now()")
        await until(lambda: owner.fetchval("SELECT count(*) = 5 FROM document"))
        await until(lambda: asyncio.sleep(0, watcher.note is None))
        assert await owner.fetchval("SELECT count(*) FROM inbox_pause") == 0


async def test_files_that_vanish_one_after_the_other_are_all_counted_before_anybody_confirms(pool, owner, inbox):
    for number in range(60):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox, rescan_seconds=3600) as watcher:
        await until(lambda: owner.fetchval("SELECT count(*) = 60 FROM document"))
        for number in range(40):
            (inbox / f"{number}.md").unlink()
        await until(lambda: owner.fetchval("SELECT missing_count = 40 FROM inbox_pause"))
        for number in range(40, 50):
            (inbox / f"{number}.md").unlink()
        await until(lambda: owner.fetchval("SELECT missing_count = 50 FROM inbox_pause"))
        await until(lambda: asyncio.sleep(0, "50 of 60" in watcher.note))  # said after it is stored
        await owner.execute("UPDATE inbox_pause SET confirmed_at = now()")
        await until(lambda: owner.fetchval("SELECT count(*) = 10 FROM document"))


async def test_documents_too_large_to_be_deleted_together_are_deleted_one_by_one(pool, owner, inbox, monkeypatch):
    delete_documents = intake.delete_documents
    asked = []

    async def delete_one(pool: asyncpg.Pool, collection_id: int, uris: list[str]) -> dict[str, int]:
        asked.append(len(uris))
        if len(uris) > 1:
            raise TimeoutError
        return await delete_documents(pool, collection_id, uris)

    monkeypatch.setattr(intake, "delete_documents", delete_one)
    for number in range(8):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox) as watcher:
        await until(lambda: owner.fetchval("SELECT count(*) = 8 FROM document"))
        watcher._missing |= dict.fromkeys([f"{number}.md" for number in range(5)], 0.0)
        for number in range(5):
            (inbox / f"{number}.md").unlink()
        await until(lambda: owner.fetchval("SELECT count(*) = 3 FROM document"))
    assert max(asked) > 1


async def test_files_that_come_back_end_the_pause(pool, owner, inbox):
    for number in range(30):
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox) as watcher:
        await until(lambda: owner.fetchval("SELECT count(*) = 30 FROM document"))
        inbox.rename(inbox.with_name("elsewhere"))
        await until(lambda: asyncio.sleep(0, watcher.note))
        inbox.with_name("elsewhere").rename(inbox)
        await until(lambda: asyncio.sleep(0, watcher.note is None))
        assert await owner.fetchval("SELECT count(*) FROM document") == 30


async def test_empty_folder_in_the_place_of_the_inbox_deletes_nothing(pool, owner, inbox):
    for number in range(5):  # few enough to be believed, were it the same folder
        (inbox / f"{number}.md").write_text(f"file {number}")
    async with watching(pool, inbox):
        await until(lambda: owner.fetchval("SELECT count(*) = 5 FROM document"))
    other = inbox.with_name("other")
    other.mkdir()
    (other / "foreign.md").write_text("of another machine")
    async with watching(pool, other) as watcher:
        await until(lambda: asyncio.sleep(0, watcher.note))
        assert "not the folder" in watcher.note
        assert await owner.fetchval("SELECT count(*) FROM document") == 5
        await owner.execute("UPDATE inbox_pause SET confirmed_at = now()")
        await until_documents(owner, {"foreign.md"})
    assert (other / MARK_FILE).exists()


async def test_two_watchers_of_one_inbox_make_one_document_each(pool, owner, inbox):
    async with watching(pool, inbox), watching(pool, inbox):
        for number in range(20):
            (inbox / f"{number}.md").write_text(f"file {number}")
        await until_documents(owner, {f"{n}.md" for n in range(20)})
    assert await versions(owner) == 20
    assert await owner.fetchval("SELECT count(*) FROM blob WHERE sha256 IS NOT NULL") == 20


async def test_refused_file_is_listed_and_taken_once_it_is_mended(pool, owner, inbox):
    (inbox / "original.md").write_text("content")
    os.link(inbox / "original.md", inbox.with_name("outside"))
    (inbox / "large.md").write_text("x" * 2000)
    (inbox / ("d" * 200) / ("e" * 200)).mkdir(parents=True)
    long_name = inbox / ("d" * 200)
    for _ in range(12):
        long_name /= "f" * 200
    long_name.mkdir(parents=True, exist_ok=True)
    (long_name / "far.md").write_text("far away")
    async with watching(pool, inbox, max_file_bytes=1000):
        await until(lambda: owner.fetchval("SELECT count(*) >= 3 FROM skipped_file"))
        reasons = " ".join(row["reason"] for row in await owner.fetch("SELECT reason FROM skipped_file"))
        assert "hard link" in reasons
        assert "ASKBOX_MAX_FILE_BYTES" in reasons
        assert "too long" in reasons
        inbox.with_name("outside").unlink()
        os.truncate(inbox / "large.md", 10)
        await until_documents(owner, {"original.md", "large.md"})


async def test_failed_bytes_are_tried_again_when_they_are_saved_again_but_not_by_a_scan(pool, owner, inbox):
    (inbox / "bad.md").write_text("unreadable")
    async with watching(pool, inbox) as watcher:
        await until_documents(owner, {"bad.md"})
        await owner.execute(
            "UPDATE document_version SET state = 'failed', error = 'why', error_code = 'x', ended_at = now()"
        )
        os.utime(inbox / "bad.md")
        await scanned_again(watcher)
        assert await versions(owner) == 1
        (inbox / "bad.md").write_text("unreadable")
        await until(lambda: owner.fetchval("SELECT count(*) = 2 FROM document_version"))


async def test_failed_bytes_are_tried_again_though_a_scan_was_faster_than_the_signal(pool, owner, inbox):
    (inbox / "bad.md").write_text("unreadable")
    async with watching(pool, inbox) as watcher:
        await until_documents(owner, {"bad.md"})
        await owner.execute(
            "UPDATE document_version SET state = 'failed', error = 'why', error_code = 'x', ended_at = now()"
        )
        async with signals_of(watcher, is_passed_on=False) as heard:
            (inbox / "bad.md").write_text("unreadable")
            saved = fingerprint(inbox, "bad.md")
            await until(lambda: asyncio.sleep(0, watcher._taker.known.get("bad.md") == saved))
            await until(lambda: asyncio.sleep(0, Closed("bad.md") in heard))
            assert await versions(owner) == 1
        watcher._on_signal(Closed("bad.md"))
        watcher._changed.set()
        await until(lambda: owner.fetchval("SELECT count(*) = 2 FROM document_version"))
        await until(lambda: asyncio.sleep(0, not watcher._taker.written))  # else it is read again by every scan


async def test_file_that_grows_all_the_time_leaves_no_bytes_behind(pool, owner, inbox):
    path = inbox / "log.txt"
    path.write_text("start\n" * 200_000)
    stop = asyncio.Event()

    async def append() -> None:
        with path.open("a") as file:
            while not stop.is_set():
                file.write("more\n" * 1000)
                file.flush()
                await asyncio.sleep(0.002)

    appending = asyncio.create_task(append())
    async with watching(pool, inbox) as watcher:
        (inbox / "calm.md").write_text("calm")
        await until_documents(owner, {"calm.md"})
        await scanned_again(watcher, 3)
        stop.set()
        await appending
        await until_documents(owner, {"calm.md", "log.txt"})
        await scanned_again(watcher)
    assert await owner.fetchval("SELECT count(*) FROM blob WHERE sha256 IS NULL") == 0


async def test_file_that_is_saved_again_and_again_is_taken_now_and_then(pool, owner, inbox, monkeypatch):
    monkeypatch.setattr(take, "DEBOUNCE_SECONDS", 3600.0)
    async with watching(pool, inbox) as watcher:
        (inbox / "log.txt").write_text("first")
        await until(lambda: owner.fetchval("SELECT count(*) = 1 FROM document_version"))
        await until(lambda: asyncio.sleep(0, "log.txt" in watcher._taker._taken_at))  # the version is seen before
        for line in range(3):
            (inbox / "log.txt").write_text(f"and line {line}")
            await scanned_again(watcher)
        assert await versions(owner) == 1
        watcher._due["log.txt"] = 0.0  # the hour is over
        watcher._changed.set()
        await until(lambda: owner.fetchval("SELECT count(*) = 2 FROM document_version"))


async def test_marks_are_kept(pool):
    assert await store.get_mark(pool) is None


async def test_file_whose_storing_failed_for_no_known_reason_is_named_and_tried_again(pool, owner, inbox, caplog):
    arm([Trap(Failpoint.VERSION_WRITTEN, 1, "raise")])
    try:
        with caplog.at_level("INFO", "askbox"):
            async with watching(pool, inbox):
                (inbox / "a.md").write_text("never changed again\n")
                await until_documents(owner, {"a.md"})
                await until(lambda: owner.fetchval("SELECT count(*) = 0 FROM skipped_file"))
    finally:
        arm(())
    skipped = [record.facts for record in caplog.records if record.getMessage() == "file_skipped"]
    assert skipped == [{"path": "inbox:a.md", "reason": "cannot be stored: intake.version_written"}]


async def test_inbox_that_is_not_listed_is_told_of(pool, tmp_path, monkeypatch):
    """A folder whose server is gone answers nobody, not even with an error."""
    release = threading.Event()
    monkeypatch.setattr(watch, "LISTING_SECONDS_MAX", 0.0)
    monkeypatch.setattr(watch, "scan", lambda *asked: release.wait(60) and scan(*asked))
    async with watching(pool, tmp_path) as watcher:
        assert "has not been listed for 0 s" in (watcher.note or "")
        release.set()
        await until(lambda: asyncio.sleep(0, watcher.note is None))
