"""A deaf listener is seen and outlived; real processes and the promised times are in `python -m tests.crash listener`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from services.query.health import health
from shared import listener as listening
from shared import queue, worker
from shared.listener import Listener
from shared.queue import Job
from shared.settings import WorkerSettings
from shared.worker import Slot, Worker
from tests.factories import make_collection
from tests.proxy import Proxy, proxied
from tests.waiting import until

STORM = 4000


class Completer:
    """A handler that does nothing but complete."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.claims = 0

    async def process(self, jobs: list[Job]) -> None:
        self.claims += 1
        async with self._pool.acquire() as conn, conn.transaction():
            await queue.complete_jobs(conn, jobs[0].lease_id, [job.id for job in jobs])

    async def after(self, jobs: Sequence[Job]) -> None:
        pass

    async def buried(self, jobs: Sequence[Job]) -> None:
        pass


@contextlib.asynccontextmanager
async def working(url: str, pool: asyncpg.Pool, *, poll_seconds: float) -> AsyncIterator[tuple[Listener, Proxy]]:
    """A worker whose listener is behind a proxy, and nothing else of it."""
    async with proxied(url) as (through, proxy):
        ear = Listener(through, "askbox_worker", "test listener", ["ingest"])
        settings = WorkerSettings(poll_seconds=poll_seconds, lease_seconds=3, stop_seconds=0.3)
        slots = [Slot("one", "ingest", Completer(pool))]
        running = Worker(kind="ingester", pool=pool, listener=ear, settings=settings, slots=slots)
        task = asyncio.create_task(running.run())
        try:
            await until(lambda: asyncio.sleep(0, ear.is_listening or task.done()))
            yield ear, proxy
        finally:
            running.stop()
            await asyncio.wait_for(task, 15)


async def enqueue(pool: asyncpg.Pool, subject: int) -> None:
    collection_id, _ = await make_collection(pool)
    await pool.execute(
        "INSERT INTO job (stage, subject_id, collection_id) VALUES ('ingest', $1, $2)", subject, collection_id
    )


async def drained(pool: asyncpg.Pool) -> None:
    await until(lambda: pool.fetchval("SELECT count(*) = 0 FROM job"))


@pytest.fixture
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(listening, "PROBE_TIMEOUT_SECONDS", 1.0)
    # What is told at once is not told by the next touch.
    monkeypatch.setattr(worker, "TOUCH_SECONDS", 3600.0)


@pytest.mark.usefixtures("_quick_probes")
async def test_deaf_listener_shows_in_health_at_once_and_work_goes_on(url, pool, reader_pool):
    async def hears(*, is_so: bool) -> bool:
        _, checks = await health(reader_pool)
        return checks["listener"]["ok"] is is_so

    async with working(url, pool, poll_seconds=0.5) as (_, proxy):
        await until(lambda: pool.fetchval("SELECT is_listening FROM worker"))
        await until(lambda: hears(is_so=True))
        proxy.silence("listener", and_new=True)
        await until(lambda: hears(is_so=False))
        is_well, checks = await health(reader_pool)
        assert not is_well
        assert "not listening" in checks["listener"]["reason"]
        await enqueue(pool, 1)
        await drained(pool)
        proxy.heal()
        await until(lambda: hears(is_so=True))


async def test_listener_whose_callback_fails_goes_on_and_the_poll_finds_the_work(url, pool, monkeypatch):
    failed = asyncio.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("the callback is broken")

    monkeypatch.setattr(Listener, "_on_notify", fail)
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    try:
        async with working(url, pool, poll_seconds=0.5) as (ear, _):
            for number in range(3):
                failed.clear()
                await enqueue(pool, number + 1)
                await until(lambda: asyncio.sleep(0, failed.is_set()))
                await drained(pool)
            assert ear.is_listening
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert len(told) >= 3


async def test_storm_of_notifications_neither_stops_nor_floods_a_worker(url, pool, owner):
    async with working(url, pool, poll_seconds=20) as (ear, _):
        await owner.execute("SELECT pg_notify('askbox_ingest', n::text) FROM generate_series(1, $1::int) AS n", STORM)
        await enqueue(pool, 1)
        await drained(pool)  # long before the poll
        assert ear.is_listening


async def test_two_polls_take_no_longer_than_the_setting_says(url, pool):
    """A document that nobody was woken for waits at two stages."""
    settings = WorkerSettings(poll_seconds=10)
    ear = Listener(url, "askbox_worker", "test listener", ["ingest"])
    idle = Worker(kind="ingester", pool=pool, listener=ear, settings=settings, slots=[])
    pauses = [await idle._pause_when_idle("ingest") for _ in range(50)]
    assert max(pauses) * 2 <= settings.poll_seconds
    assert len(set(pauses)) > 1
