"""A folder that somebody asked for: what is taken, what is not, and what a kill or a lost lease does to it."""

import os
import random
import string
import uuid
from pathlib import Path

import asyncpg
import pytest

from services.console.check import check
from services.ingester import folder, scan
from services.ingester.scan import ScanHandler
from services.ingester.settings import IngesterSettings
from services.query import ingest_store, store
from shared import queue
from shared.errors import LeaseLost
from shared.queue import Job
from shared.settings import IntakeSettings
from tests.factories import arrive, claim, make_collection


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "docs"
    path.mkdir()
    return path


@pytest.fixture
def handler(pool: asyncpg.Pool, root: Path) -> ScanHandler:
    return ScanHandler(pool, IngesterSettings(_env_file=None, ingest_roots=(root,), max_file_bytes=1000))


async def ask_for(pool: asyncpg.Pool, directory: Path, *, is_recursive: bool = True) -> uuid.UUID:
    collection_id, _ = await make_collection(pool)
    async with pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [collection_id])
        request_id = await ingest_store.create_scan(
            conn,
            [collection_id],
            collection_id,
            str(directory),
            is_recursive=is_recursive,
            traceparent=None,
            waiting_max=9,
        )
    assert request_id is not None
    return request_id


async def claim_scan(pool: asyncpg.Pool) -> Job:
    (job,) = await claim(pool, "scan")
    return job


async def scan_all(pool: asyncpg.Pool, handler: ScanHandler) -> None:
    while jobs := await claim(pool, "scan", batch_size=1):
        await handler.process(jobs)


async def linked(pool: asyncpg.Pool, request_id: uuid.UUID) -> dict[str, int]:
    rows = await pool.fetch(
        "SELECT file_path, version_id FROM ingest_request_document WHERE request_id = $1", request_id
    )
    return {row["file_path"]: row["version_id"] for row in rows}


async def skipped(pool: asyncpg.Pool, request_id: uuid.UUID) -> dict[str, str]:
    rows = await pool.fetch("SELECT file_path, reason FROM ingest_request_skipped WHERE request_id = $1", request_id)
    return {row["file_path"]: row["reason"] for row in rows}


async def outcome(pool: asyncpg.Pool, request_id: uuid.UUID) -> tuple[bool, str | None]:
    row = await pool.fetchrow(
        "SELECT scanned_at IS NOT NULL AS is_done, error FROM ingest_request WHERE id = $1", request_id
    )
    return row["is_done"], row["error"]


async def test_files_become_versions_linked_to_the_request(pool, url, root, handler):
    (root / "sub").mkdir()
    (root / "b.md").write_text("two")
    (root / "a.md").write_text("one")
    (root / "sub" / "c.md").write_text("three")
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert list(await linked(pool, request_id)) == ["docs/a.md", "docs/b.md", "docs/sub/c.md"]
    uris = await pool.fetch("SELECT source_uri FROM document ORDER BY id")
    assert [row["source_uri"] for row in uris] == ["folder:docs/a.md", "folder:docs/b.md", "folder:docs/sub/c.md"]
    assert await outcome(pool, request_id) == (True, None)
    assert await pool.fetchval("SELECT count(*) FROM job WHERE stage = 'ingest'") == 3
    assert await pool.fetchval("SELECT count(*) FROM lease") == 0
    assert await check(url) == []


async def test_folder_below_a_root_without_what_lies_deeper(pool, root, handler):
    for name in ("x/a.md", "x/deep/b.md", "c.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    request_id = await ask_for(pool, root / "x", is_recursive=False)
    await scan_all(pool, handler)
    assert set(await linked(pool, request_id)) == {"docs/x/a.md"}


async def test_second_scan_takes_what_changed_and_removes_nothing(pool, owner, root, handler):
    for name in ("same", "changed", "gone"):
        (root / f"{name}.md").write_text(name)
    first = await ask_for(pool, root)
    await scan_all(pool, handler)
    (root / "gone.md").unlink()
    (root / "changed.md").write_text("changed since")
    second = await ask_for(pool, root)
    await scan_all(pool, handler)
    before, after = await linked(pool, first), await linked(pool, second)
    assert set(after) == {"docs/same.md", "docs/changed.md"}
    assert after["docs/same.md"] == before["docs/same.md"]
    assert after["docs/changed.md"] > before["docs/changed.md"]
    assert await pool.fetchval("SELECT count(*) FROM document") == 3
    assert await pool.fetchval("SELECT count(*) FROM document_version") == 4
    assert await owner.fetchval("SELECT last_value FROM blob_id_seq") == 4, "bytes that are known were stored again"


async def test_what_is_not_taken_is_listed_with_its_reason(pool, root, handler, tmp_path):
    outside = tmp_path / "outside.md"
    outside.write_text("outside")
    (root / "good.md").write_text("good")
    (root / ".hidden.md").write_text("x")
    (root / ".git").mkdir()
    (root / "half.part").write_text("x")
    (root / "large.md").write_text("x" * 1001)
    (root / "link.md").symlink_to(outside)
    (root / "folder link").symlink_to(tmp_path, target_is_directory=True)
    os.link(outside, root / "hard.md")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff.md")).write_text("x")
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert set(await linked(pool, request_id)) == {"docs/good.md", "docs/%FF.md"}
    reasons = await skipped(pool, request_id)
    assert set(reasons) == {
        f"docs/{name}"
        for name in (".hidden.md", ".git", "half.part", "large.md", "link.md", "folder link", "hard.md", "pipe")
    }
    assert "hidden" in reasons["docs/.git"]
    assert "ASKBOX_MAX_FILE_BYTES" in reasons["docs/large.md"]
    assert reasons["docs/link.md"].startswith("symbolic link")
    assert "hard link" in reasons["docs/hard.md"]
    assert await pool.fetchval("SELECT skipped_count FROM ingest_request") == 8


async def test_list_of_what_is_not_taken_is_bounded_and_counted(pool, root, handler, monkeypatch):
    monkeypatch.setattr(folder, "SKIPPED_LISTED_MAX", 2)
    for number in range(5):
        (root / f".{number}").write_text("x")
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert len(await skipped(pool, request_id)) == 2
    assert await pool.fetchval("SELECT skipped_count FROM ingest_request") == 5


async def test_name_too_long_for_the_list_does_not_fail_the_scan(pool, root, handler):
    (root / "kept.md").write_text("text")
    chance = random.Random(0)
    deep = root.joinpath(*("".join(chance.choices(string.ascii_letters, k=198)) for _ in range(10)))
    deep.mkdir(parents=True)
    # Each of these bytes is written as three characters, and all of it together is more than a row of an index can hold.
    Path(os.fsdecode(os.fsencode(deep) + b"/" + bytes(chance.choices(range(0x80, 0xC0), k=250)))).write_text("text")
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert set(await linked(pool, request_id)) == {"docs/kept.md"}
    ((path, reason),) = (await skipped(pool, request_id)).items()
    assert path.endswith("…")
    assert "too long" in reason


async def test_folder_with_more_entries_than_are_looked_at_says_so(pool, root, handler, monkeypatch):
    monkeypatch.setattr(folder, "ENTRIES_MAX", 3)
    for number in range(5):
        (root / f".{number}").write_text("x")
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    is_done, error = await outcome(pool, request_id)
    assert is_done
    assert "entries" in error
    assert len(await skipped(pool, request_id)) == 3


async def test_folder_with_too_many_files_says_so_and_what_was_seen_is_taken(pool, root, handler, monkeypatch):
    monkeypatch.setattr(folder, "FILES_MAX", 3)
    for number in range(4):
        (root / f"{number}.md").write_text(str(number))
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert len(await linked(pool, request_id)) == 3
    is_done, error = await outcome(pool, request_id)
    assert is_done
    assert "more than" in error


@pytest.mark.parametrize("where", ["missing", "file.md", "link", "link/below", "../docs"])
async def test_folder_that_may_not_be_read_fails_the_request_and_takes_nothing(pool, root, handler, tmp_path, where):
    other = tmp_path / "other" / "below"
    other.mkdir(parents=True)
    (other / "secret.md").write_text("secret")
    (other.parent / "secret.md").write_text("secret")
    (root / "file.md").write_text("x")
    (root / "link").symlink_to(other.parent, target_is_directory=True)
    request_id = await ask_for(pool, f"{root}/{where}")
    await scan_all(pool, handler)
    is_done, error = await outcome(pool, request_id)
    assert is_done
    assert error
    assert await pool.fetchval("SELECT count(*) FROM document") == 0
    assert await pool.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_folder_outside_the_roots_is_refused_by_the_ingester_too(pool, root, handler, tmp_path):
    (tmp_path / "docs2").mkdir()
    (tmp_path / "docs2" / "a.md").write_text("x")
    request_id = await ask_for(pool, tmp_path / "docs2")
    await scan_all(pool, handler)
    assert "not below" in (await outcome(pool, request_id))[1]
    none = ScanHandler(pool, IngesterSettings(_env_file=None))
    request_id = await ask_for(pool, root)
    await scan_all(pool, none)
    assert "ASKBOX_INGEST_ROOTS" in (await outcome(pool, request_id))[1]


async def test_folder_that_becomes_a_link_after_it_was_listed_is_not_followed(
    pool, root, handler, tmp_path, monkeypatch
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.md").write_text("secret")
    (root / "sub").mkdir()
    (root / "sub" / "a.md").write_text("harmless")
    listing = folder.list_folder

    def then_swapped(located: folder.Located, *, is_recursive: bool) -> folder.Contents:
        contents = listing(located, is_recursive=is_recursive)
        (root / "sub").rename(root / "was")
        (root / "sub").symlink_to(outside, target_is_directory=True)
        return contents

    monkeypatch.setattr(scan, "list_folder", then_swapped)
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert await linked(pool, request_id) == {}
    assert list(await skipped(pool, request_id)) == ["docs/sub/a.md"]


async def test_killed_scan_goes_on_where_it_was(pool, url, root, handler, monkeypatch):
    for number in range(4):
        (root / f"{number}.md").write_text(str(number))
    request_id = await ask_for(pool, root)
    job = await claim_scan(pool)
    store_one, stored = handler._store, []

    async def killed_at_the_third(job: Job, request, located, relative: str, place: int):
        if len(stored) == 2:
            raise KeyboardInterrupt
        stored.append(relative)
        return await store_one(job, request, located, relative, place)

    monkeypatch.setattr(handler, "_store", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        await handler.process([job])
    before = await linked(pool, request_id)
    assert len(before) == 2
    await pool.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)
    monkeypatch.setattr(handler, "_store", store_one)
    await scan_all(pool, handler)
    assert len(await linked(pool, request_id)) == 4
    assert before.items() <= (await linked(pool, request_id)).items()
    assert await pool.fetchval("SELECT count(*) FROM document_version") == 4
    assert await check(url) == []


async def test_scan_whose_lease_is_lost_writes_nothing_more(pool, root, handler, monkeypatch):
    (root / "a.md").write_text("one")
    request_id = await ask_for(pool, root)
    job = await claim_scan(pool)
    await pool.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)
    with pytest.raises(LeaseLost):
        await handler.process([job])

    async def is_new(*_: object) -> bool:
        return False

    monkeypatch.setattr(handler, "_link_unchanged", is_new)
    with pytest.raises(LeaseLost):
        await handler.process([job])
    assert await linked(pool, request_id) == {}
    assert await pool.fetchval("SELECT count(*) FROM document") == 0
    assert await outcome(pool, request_id) == (False, None)


async def test_scan_whose_lease_is_lost_does_not_link_what_is_known_either(pool, root, handler):
    (root / "a.md").write_text("one")
    await ask_for(pool, root)
    await scan_all(pool, handler)
    request_id = await ask_for(pool, root)
    job = await claim_scan(pool)
    await pool.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)
    with pytest.raises(LeaseLost):
        await handler.process([job])
    assert await linked(pool, request_id) == {}


async def test_long_scan_makes_way_for_others_and_ends_all_the_same(pool, root, handler):
    handler._seconds = 0
    for number in range(3):
        (root / f"{number}.md").write_text(str(number))
    first, second = await ask_for(pool, root), await ask_for(pool, root)
    turns = []
    while jobs := await claim(pool, "scan", batch_size=1):
        turns.append(jobs[0].subject_id)
        assert jobs[0].attempt == 1
        assert len(turns) <= 6, "a turn took nothing"
        await handler.process(jobs)
    assert turns == [1, 2] * 3
    for request_id in (first, second):
        assert await outcome(pool, request_id) == (True, None)
        assert len(await linked(pool, request_id)) == 3


async def test_scan_that_can_take_nothing_ends_in_one_turn(pool, root, handler):
    handler._seconds = 0
    for number in range(3):
        (root / f"{number}.md").write_text("x" * 1001)
    request_id = await ask_for(pool, root)
    await handler.process([await claim_scan(pool)])
    assert await outcome(pool, request_id) == (True, None)


async def test_file_deleted_on_purpose_stays_away_until_it_changes(pool, reader_pool, root, handler):
    (root / "a.md").write_text("one")
    await ask_for(pool, root)
    await scan_all(pool, handler)
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [1])
        assert await store.bury_document(conn, [1], await pool.fetchval("SELECT id FROM document"))
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert await linked(pool, request_id) == {}
    assert "deleted on purpose" in (await skipped(pool, request_id))["docs/a.md"]
    (root / "a.md").write_text("two")
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert set(await linked(pool, request_id)) == {"docs/a.md"}


async def test_failed_file_is_tried_again_by_the_next_scan(pool, root, handler):
    (root / "a.md").write_text("one")
    first = await ask_for(pool, root)
    await scan_all(pool, handler)
    await pool.execute("DELETE FROM job")
    await pool.execute(
        "UPDATE document_version SET state = 'failed', error_code = 'x', error = 'bad', ended_at = now()"
    )
    second = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert (await linked(pool, second))["docs/a.md"] > (await linked(pool, first))["docs/a.md"]


async def test_file_that_never_stands_still_is_skipped_with_that_reason(pool, root, handler, monkeypatch):
    monkeypatch.setattr(scan, "CHANGED_PAUSE_SECONDS", 0)
    (root / "a.md").write_text("one")
    opened = scan.WholeFile.sha256

    def then_written(file: scan.WholeFile) -> bytes:
        digest = opened(file)
        with (root / "a.md").open("a") as writer:
            writer.write("more")
        return digest

    monkeypatch.setattr(scan.WholeFile, "sha256", then_written)
    request_id = await ask_for(pool, root)
    await scan_all(pool, handler)
    assert "changed while it was read" in (await skipped(pool, request_id))["docs/a.md"]
    assert await pool.fetchval("SELECT count(*) FROM blob") == 0


async def test_request_whose_collection_is_gone_is_done(pool, root, handler):
    await ask_for(pool, root)
    job = await claim_scan(pool)
    await pool.execute("DELETE FROM collection")
    await handler.process([job])
    assert await pool.fetchval("SELECT count(*) FROM job") == 0


async def test_scan_of_another_collection_number_finds_nothing(pool, root, handler):
    """A job names its request by number; one that names another collection's must not scan for it."""
    (root / "a.md").write_text("one")
    request_id = await ask_for(pool, root)
    other, _ = await make_collection(pool, "other")
    await pool.execute("UPDATE job SET collection_id = $1", other)
    await scan_all(pool, handler)
    assert await linked(pool, request_id) == {}


async def test_dead_scan_tells_its_request_even_if_nobody_survived_to_say_so(pool, root, handler):
    request_id = await ask_for(pool, root)
    await pool.execute("UPDATE job SET attempt = max_attempts - 1")
    await claim_scan(pool)
    await pool.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)
    await handler.fail_dead_scans()
    is_done, error = await outcome(pool, request_id)
    assert is_done
    assert "worker died" in error


async def test_inbox_documents_keep_their_names(pool, root, handler):
    await arrive(pool, "one", source_uri="inbox:docs/a.md")
    (root / "a.md").write_text("one")
    await ask_for(pool, root)
    await scan_all(pool, handler)
    assert await pool.fetchval("SELECT count(*) FROM document") == 2
    assert await pool.fetchval("SELECT count(*) FROM blob") == 1


@pytest.mark.parametrize("roots", ["relative", "/a/../b", "/", "/a/docs:/b/docs"])
def test_roots_that_cannot_be_told_apart_are_refused(roots):
    with pytest.raises(ValueError):
        IntakeSettings(_env_file=None, ingest_roots=roots)


def test_of_roots_within_one_another_the_outer_one_names_a_file():
    roots = (Path("/data/docs/team"), Path("/data/docs"))
    located = folder.locate("/data/docs/team/x", roots)
    assert (located.root, located.relative, located.name_of("team/x/a.md")) == (
        Path("/data/docs"), "team/x", "docs/team/x/a.md"
    )  # fmt: skip
