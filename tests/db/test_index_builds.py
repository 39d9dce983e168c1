"""Building indexes: cut off, killed, held up, too slow, and never two at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.console.check import check
from services.embedder import index_build
from services.embedder import store as embedder_store
from services.embedder.index import IndexHandler
from services.embedder.index_ddl import SearchIndex, create_statement
from shared import queue
from shared.errors import IndexTooSlow, LeaseLost, RetryableError
from shared.settings import WorkerSettings
from tests.db.indexing import LEFTOVERS, RULE, VALID, indexes, make_handler, request, tend, texts
from tests.factories import claim, publish_version
from tests.planting import indexing_worker
from tests.waiting import until

# A worker that finds another one building comes again half a minute later, and perhaps once more.
BUSY_SECONDS_MAX = 120


@pytest.fixture
def handler(url: str, pool: asyncpg.Pool) -> IndexHandler:
    return make_handler(url, pool)


@contextlib.asynccontextmanager
async def held_up(url: str) -> AsyncIterator[None]:
    """An open transaction that has written to `chunk`: builds wait for it."""
    writer = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    async with writer.transaction():
        await writer.execute("LOCK TABLE chunk IN ROW EXCLUSIVE MODE")
        yield
    await writer.close()


async def begun(owner: asyncpg.Connection) -> None:
    await until(lambda: owner.fetchval("SELECT count(*) = 1 FROM search_index WHERE NOT is_valid"))


async def free(owner: asyncpg.Connection) -> None:
    """Wait until nobody builds."""
    builders = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'askbox index'"
    await until(lambda: owner.fetchval(builders))


async def test_leftover_of_a_cancelled_build_is_dropped_and_built_again(url, pool, owner, handler):
    key = await publish_version(pool, texts(21))
    other = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    wanted = SearchIndex(key.collection_id, None, None, is_wanted=True)
    async with held_up(url):
        build = asyncio.create_task(other.execute(create_statement(wanted)))
        await begun(owner)
        await owner.execute("SELECT pg_cancel_backend($1)", other.get_server_pid())
        with pytest.raises(asyncpg.QueryCanceledError):
            await build
    await other.close()
    assert await owner.fetchval(LEFTOVERS) == 1
    await owner.execute("DELETE FROM job")
    (finding,) = await check(url)
    assert finding.invariant == "no_index_is_invalid"
    await handler.request_outdated()
    assert await check(url) == []  # its job is there
    await tend(pool, handler)
    assert len(await indexes(owner)) == 2
    assert await owner.fetchval(LEFTOVERS) == 0
    assert await check(url) == []


async def test_lost_lease_ends_the_build_and_the_next_worker_builds(url, pool, owner):
    await publish_version(pool, texts(21))
    settings = WorkerSettings(poll_seconds=0.5, lease_seconds=12, stop_seconds=0.5)
    worker = indexing_worker(url, pool, RULE, settings)
    running = asyncio.create_task(worker.run())
    async with held_up(url):
        await begun(owner)
        first = await owner.fetchval("SELECT lease_id FROM job WHERE stage = 'index'")
        await owner.execute("UPDATE lease SET deadline_at = now()")
        claimed_again = "SELECT count(*) = 1 FROM job WHERE stage = 'index' AND lease_id > $1"
        await until(lambda: owner.fetchval(claimed_again, first), BUSY_SECONDS_MAX)
    await until(lambda: owner.fetchval(f"SELECT cardinality(({VALID})) = 2"), BUSY_SECONDS_MAX)
    await until(lambda: owner.fetchval("SELECT count(*) = 0 FROM job"))
    worker.stop()
    await running
    assert await owner.fetchval(LEFTOVERS) == 0
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_build_of_a_killed_worker_goes_on_and_nobody_begins_it_again(url, pool, owner, handler, monkeypatch):
    opened = []

    async def remembered(*args: str) -> asyncpg.Connection:
        opened.append(await connect(*args))
        return opened[-1]

    connect = index_build.connect
    monkeypatch.setattr(index_build, "connect", remembered)
    await publish_version(pool, texts(21))
    jobs = await request(pool, handler)
    async with held_up(url):
        working = asyncio.create_task(handler.process(jobs))
        await begun(owner)
        opened[0].terminate()  # no farewell, as when the process is gone
        with pytest.raises(asyncpg.PostgresConnectionError):
            await working
        leftover = await owner.fetchval("SELECT name::regclass::oid FROM search_index")

        await owner.execute("UPDATE lease SET expires_at = now()")
        await queue.sweep_leases(pool)
        (again,) = await claim(pool, "index")
        await handler.process([again])
        waiting = await owner.fetchrow(
            "SELECT attempt, lease_id, run_at > now() AS is_later FROM job WHERE stage = 'index'"
        )
        assert dict(waiting) == {"attempt": again.attempt - 1, "lease_id": None, "is_later": True}
        assert await check(url) == []
    await free(owner)
    assert await owner.fetchval("SELECT name::regclass::oid FROM search_index WHERE is_valid") == leftover
    await tend(pool, handler)
    assert len(await indexes(owner)) == 2
    assert await owner.fetchval("SELECT 'chunk_tsv_gin_1'::regclass::oid") == leftover


async def test_collections_that_outgrow_together_are_built_one_after_the_other(url, pool, owner, handler):
    for name in ("first", "second", "third"):
        await publish_version(pool, texts(21, word=name), source_uri=f"inbox:{name}.md", collection=name)
    await handler.request_outdated()
    await pool.execute("UPDATE job SET run_at = now()")
    claimed = [await claim(pool, "index", batch_size=1) for _ in range(3)]
    async with held_up(url):
        first = asyncio.create_task(handler.process(claimed[0]))
        await begun(owner)
        for jobs in claimed[1:]:
            await handler.process(jobs)
        assert await owner.fetchval("SELECT count(*) FROM job WHERE lease_id IS NULL AND run_at > now()") == 2
    await first
    await tend(pool, handler)
    assert len(await indexes(owner)) == 6


async def test_build_that_takes_too_long_is_buried_and_left_alone_for_a_while(url, pool, owner, handler):
    impatient = make_handler(url, pool, seconds_max=0)
    await publish_version(pool, texts(21))
    (job,) = await request(pool, impatient)
    async with held_up(url):
        with pytest.raises(IndexTooSlow, match="ASKBOX_LEASE_DEADLINE_SECONDS"):
            await impatient.process([job])
    async with pool.acquire() as conn:
        await queue.bury_jobs(conn, job.lease_id, [job.id], error_code="index_too_slow", error="too slow")
    due = await embedder_store.list_due_indexes(pool, RULE)
    assert [index.is_wanted for index in due] == [False]  # the leftover goes, nothing is built
    await owner.execute("UPDATE dead_letter SET died_at = now() - interval '61 minutes'")
    await tend(pool, handler)
    assert len(await indexes(owner)) == 2
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_transaction_that_stays_open_is_named_as_the_reason(url, pool, handler, monkeypatch):
    monkeypatch.setattr(index_build, "LOCK_SECONDS_MAX", 0.2)
    await publish_version(pool, texts(21))
    jobs = await request(pool, handler)
    async with held_up(url):
        with pytest.raises(RetryableError, match="chunk_tsv_gin_1: a transaction stayed open"):
            await handler.process(jobs)
    with contextlib.suppress(LeaseLost):
        async with pool.acquire() as conn:
            await queue.release_jobs(conn, jobs[0].lease_id)
    await tend(pool, handler)


async def test_build_that_somebody_cancels_is_tried_again(url, pool, owner, handler):
    await publish_version(pool, texts(21))
    jobs = await request(pool, handler)
    async with held_up(url):
        working = asyncio.create_task(handler.process(jobs))
        await begun(owner)
        await owner.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'askbox index'"
        )
        with pytest.raises(RetryableError, match="somebody cancelled it"):
            await working


async def test_worker_that_lost_its_lease_writes_no_statistics(pool, owner, handler):
    await publish_version(pool, texts(21))
    jobs = await request(pool, handler)
    await owner.execute("UPDATE lease SET expires_at = now()")
    await queue.sweep_leases(pool)
    with pytest.raises(LeaseLost):
        await handler.process(jobs)
    assert await owner.fetchval("SELECT count(*) FROM collection_stat") == 0
    assert await indexes(owner) == []


async def test_heartbeat_gets_through_while_an_index_is_built(url, pool, owner):
    await publish_version(pool, texts(21))
    worker = indexing_worker(url, pool, RULE, WorkerSettings(poll_seconds=0.5, lease_seconds=12, stop_seconds=0.5))
    running = asyncio.create_task(worker.run())
    async with held_up(url):
        await begun(owner)
        first = await owner.fetchval("SELECT expires_at FROM lease")
        await until(
            lambda: owner.fetchval("SELECT expires_at > $1::timestamptz + interval '2 seconds' FROM lease", first)
        )
    await until(lambda: owner.fetchval(f"SELECT cardinality(({VALID})) = 2"))
    worker.stop()
    await running
