"""A database that is silent, full, shut or announces its end: nobody hangs, no job is to blame, processes say why they end."""

import asyncio
import errno
import io
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx2
import pytest

from services.ingester.deletion_guard import DeletionGuard
from services.ingester.inbox import read_mark
from services.ingester.ingest import _write
from services.query.app import create_app
from shared import queue
from shared.database import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECTION_ERRORS,
    SERVER_ERRORS,
    distrust_idle,
    open_pool,
)
from shared.errors import DatabaseUnavailable, ScratchUnavailable
from shared.exit_codes import EXIT_UNAVAILABLE
from shared.queue import ClaimRule, Job
from shared.worker import Slot
from tests.api.conftest import make_deps
from tests.db.test_worker import Recorder, enqueue, working
from tests.proxy import proxied
from tests.waiting import until

# A statement's own time-out is far longer, and the wait for its cancellation was as long again.
SOON_SECONDS = COMMAND_TIMEOUT_SECONDS - 5
FATAL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


async def test_statement_on_a_silent_connection_is_given_up_with_its_cancellation(url):
    async with proxied(url) as (through, proxy), open_pool(through, "askbox_worker", "t", connections_max=1) as pool:
        await pool.fetchval("SELECT 1")
        proxy.silence()
        async with asyncio.timeout(SOON_SECONDS):
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT 1", timeout=0.2)
            assert await pool.fetchval("SELECT 1") == 1  # on a new connection


async def test_transaction_on_a_silent_connection_is_left_soon(url):
    async with proxied(url) as (through, proxy), open_pool(through, "askbox_worker", "t", connections_max=1) as pool:
        async with asyncio.timeout(SOON_SECONDS):
            with pytest.raises(CONNECTION_ERRORS):  # noqa: PT012 (leaving the transaction is what is tested)
                async with pool.acquire() as conn, conn.transaction():
                    proxy.silence()
                    await conn.fetchval("SELECT 1", timeout=0.2)
            assert await pool.fetchval("SELECT 1") == 1


async def test_nobody_waits_without_end_for_a_connection_of_a_pool(url, monkeypatch):
    monkeypatch.setattr("shared.database.ACQUIRE_SECONDS_MAX", 0.1)
    async with open_pool(url, "askbox_worker", "t", connections_max=1) as pool, pool.acquire():
        async with asyncio.timeout(SOON_SECONDS):
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT 1")


async def test_idle_connections_are_opened_anew_when_one_was_silent(url):
    async with proxied(url) as (through, proxy), open_pool(through, "askbox_worker", "t", connections_max=3) as pool:
        await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.2)") for _ in range(3)))
        proxy.silence()
        async with asyncio.timeout(SOON_SECONDS):
            with pytest.raises(TimeoutError) as caught:
                await pool.fetchval("SELECT 1", timeout=0.2)
            await distrust_idle(pool, caught.value)
            assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(3))) == [1, 1, 1]


async def test_session_whose_end_was_announced_is_an_error_of_the_connection(url):
    """The message comes before the end of the connection does; asyncpg calls a statement between the two its own fault."""
    async with proxied(url) as (through, proxy), open_pool(through, "askbox_worker", "t", connections_max=1) as pool:
        await pool.fetchval("SELECT 1")
        (link,) = proxy._links
        link.client[1].write(b"E" + (4 + len(FATAL)).to_bytes(4) + FATAL)
        await link.client[1].drain()
        for _ in range(10):  # it lies in the socket; the loop has to come by
            await asyncio.sleep(0)
        with pytest.raises(asyncpg.InternalClientError):
            await pool.fetchval("SELECT 1")
        assert issubclass(asyncpg.InternalClientError, CONNECTION_ERRORS)
        assert await pool.fetchval("SELECT 1") == 1


async def test_session_that_was_ended_in_its_transaction_is_an_error_of_the_connection(url):
    async with open_pool(url, "askbox_worker", "t", connections_max=1) as pool:
        with pytest.raises(CONNECTION_ERRORS):  # noqa: PT012 (so is leaving it)
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute("SET LOCAL idle_in_transaction_session_timeout = '10ms'")
                await until(lambda: asyncio.sleep(0, conn.is_closed()))
                await conn.execute("SELECT 1")
        assert await pool.fetchval("SELECT 1") == 1
    assert issubclass(asyncpg.IdleInTransactionSessionTimeoutError, CONNECTION_ERRORS)


async def test_what_a_starting_process_meets_on_a_connection_says_that_the_database_is_away(url):
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        async with open_pool(url, "askbox_worker", "t", connections_max=1):
            raise asyncpg.ConnectionDoesNotExistError("as the test says")
    with pytest.raises(FileNotFoundError):  # not the database's fault
        async with open_pool(url, "askbox_worker", "t", connections_max=1):
            raise FileNotFoundError("as the test says")


async def test_process_whose_database_goes_away_while_it_starts_ends_with_its_code(url, tmp_path: Path):
    """Each connection breaks at its second statement: behind the login, and before anything works."""
    async with proxied(url) as (through, proxy):
        cutting = asyncio.create_task(_cut_on(proxy))
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.ingester",
                cwd=tmp_path, stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "OPENAI_"))}
                | {"ASKBOX_DATABASE_URL": through, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            )  # fmt: skip
            async with asyncio.timeout(60):
                _, said = await process.communicate()
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
    assert process.returncode == EXIT_UNAVAILABLE, said.decode()
    assert "cannot be reached" in said.decode()


async def _cut_on(proxy: object) -> None:
    while True:
        for link in list(proxy._links):
            if link.frames.is_started:
                link.end(is_reset=True)
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("path", ["/ready", "/health", "/documents"])
async def test_silent_database_is_told_of_soon(url, path, monkeypatch):
    monkeypatch.setattr("services.query.deps.ACCESS_SECONDS_MAX", 1.0)
    async with proxied(url) as (through, proxy), open_pool(through, "askbox_reader", "t", connections_max=2) as pool:
        app = create_app(make_deps(pool))
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.get(path)).status_code in (200, 503)
            await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.1)") for _ in range(2)))
            proxy.silence(and_new=True)
            async with asyncio.timeout(SOON_SECONDS):
                assert (await client.get(path)).status_code == 503
        pool.terminate()


@pytest.mark.parametrize(
    "error",
    [*SERVER_ERRORS, ScratchUnavailable],
    ids=[error.__name__ for error in [*SERVER_ERRORS, ScratchUnavailable]],
)
async def test_what_the_machine_lacks_charges_no_job_and_is_noted(url, pool, owner, error):
    is_lacking = True

    async def lack(_jobs: list[Job]) -> None:
        if is_lacking:
            raise error("there is no room, as the test says")

    recorder = Recorder(pool, lack)
    async with working(url, pool, Slot("one", "ingest", recorder), poll_seconds=0.1) as (worker, _):
        await enqueue(pool)
        await until(lambda: asyncio.sleep(0, len(recorder.seen) >= 2))
        assert await owner.fetchval("SELECT max(attempt) FROM job") <= 1
        assert "no room" in (worker._current_trouble() or "")
        is_lacking = False
        await until(lambda: asyncio.sleep(0, recorder.done))
    assert not recorder.dead
    assert recorder.seen[-1][0].attempt == 1


async def test_work_stops_when_silence_has_ended_its_lease(url, pool):
    """The lease cannot be extended, so another process has the job by now."""
    ended = asyncio.Event()

    async def work(_jobs: list[Job]) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with proxied(url) as (through, proxy), open_pool(through, "askbox_worker", "t", connections_max=4) as behind:
        recorder = Recorder(behind, work)
        async with working(through, behind, Slot("one", "ingest", recorder), lease_seconds=1):
            await enqueue(pool)
            await until(lambda: asyncio.sleep(0, recorder.seen))
            proxy.silence(and_new=True)
            async with asyncio.timeout(SOON_SECONDS):
                await ended.wait()
            proxy.heal()
            proxy.cut()
            await until(lambda: asyncio.sleep(0, len(recorder.seen) >= 2))


async def lease_of(pool: asyncpg.Pool, owner: asyncpg.Connection, worker_id: int, attempt: int) -> None:
    """Claim one job for a worker, which then has had so many attempts, and let the lease expire."""
    rule = ClaimRule("ingest", 1, timedelta(seconds=30), timedelta(seconds=600))
    assert await queue.claim_jobs(pool, rule, worker_id=worker_id)
    await owner.execute("UPDATE job SET attempt = $1", attempt)
    await owner.execute("UPDATE lease SET expires_at = now() - interval '1 second'")


@pytest.mark.parametrize("attempt", [1, 3, 5])
async def test_attempt_that_the_database_lost_is_not_counted(pool, owner, attempt):
    """Its worker was seen after the lease had expired."""
    await enqueue(pool)
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await lease_of(pool, owner, worker_id, attempt)
    assert [job.is_dead for job in await queue.sweep_leases(pool)] == [False]
    assert await owner.fetchval("SELECT attempt FROM job") == attempt - 1


async def test_attempt_whose_deadline_has_passed_counts_whoever_lives(pool, owner):
    await enqueue(pool)
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await lease_of(pool, owner, worker_id, 5)
    await owner.execute("UPDATE lease SET deadline_at = now() - interval '1 second'")
    assert [job.is_dead for job in await queue.sweep_leases(pool)] == [True]


async def test_job_that_loses_its_lease_for_a_day_is_to_blame_after_all(pool, owner):
    await enqueue(pool)
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await lease_of(pool, owner, worker_id, 5)
    await owner.execute("UPDATE job SET created_at = now() - interval '2 days'")
    assert [job.is_dead for job in await queue.sweep_leases(pool)] == [True]


async def test_doubtful_attempt_waits_until_its_worker_was_silent_for_long(pool, owner):
    await enqueue(pool)
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await lease_of(pool, owner, worker_id, 5)
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '2 seconds'")
    assert await queue.sweep_leases(pool) == []
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '1 hour'")
    # A server that has just started may not have been there to see anybody.
    is_fresh = await owner.fetchval("SELECT pg_postmaster_start_time() > now() - interval '10 seconds'")
    if is_fresh:
        await until(lambda: owner.fetchval("SELECT pg_postmaster_start_time() < now() - interval '10 seconds'"))
    assert [job.is_dead for job in await queue.sweep_leases(pool)] == [True]


async def test_first_attempts_are_given_back_at_once(pool, owner):
    await enqueue(pool)
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await lease_of(pool, owner, worker_id, 2)
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '2 seconds'")
    assert [job.is_dead for job in await queue.sweep_leases(pool)] == [False]
    assert await owner.fetchval("SELECT attempt FROM job") == 2


async def test_inbox_that_cannot_be_written_to_stays_our_inbox(pool, owner, monkeypatch):
    """A mark that stood in the database alone made the same folder another one at the next look, for ever."""
    with tempfile.TemporaryDirectory() as folder:
        inbox = Path(folder)
        await enqueue(pool)
        await owner.execute(
            "INSERT INTO document (collection_id, source_uri) SELECT id, 'inbox:a.md' FROM collection LIMIT 1"
        )
        guard = DeletionGuard(pool, inbox)
        with monkeypatch.context() as patched:
            patched.setattr("services.ingester.deletion_guard.write_mark", lambda *_: False)
            assert await guard.is_our_inbox()
            assert await guard.is_our_inbox()
            assert "cannot be written to" in (guard.note or "")
        assert await guard.is_our_inbox()
        assert guard.note is None
        assert read_mark(inbox) is not None


def test_full_scratch_is_told_from_a_fault_of_the_file(tmp_path: Path):
    """Charged to the file, half a minute of a full disk buried every document that came meanwhile."""

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ScratchUnavailable, match="No space left on device"):
        _write(Full(), b"text", tmp_path)
