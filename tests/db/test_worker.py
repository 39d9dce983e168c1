"""The worker's loop: what each class of error does to the work, stopping, waking, polling."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest

from shared import queue
from shared.database import connect
from shared.errors import PermanentError, ProviderUnavailable, RetryableError
from shared.listener import Listener
from shared.queue import Job
from shared.settings import WorkerSettings
from shared.telemetry import Event
from shared.worker import Slot, Worker, WorkStuck
from tests.factories import LEASE, make_collection
from tests.proxy import proxied
from tests.waiting import SECONDS_MAX, until

Work = Callable[[list[Job]], Awaitable[None]]


class Recorder:
    """A handler that does what the test says, and keeps what it was given."""

    def __init__(self, pool: asyncpg.Pool, work: Work | None = None) -> None:
        self._pool = pool
        self._work = work
        self.seen: list[list[Job]] = []
        self.done: list[Job] = []
        self.dead: list[Job] = []

    async def process(self, jobs: list[Job]) -> None:
        self.seen.append(jobs)
        if self._work is not None:
            await self._work(jobs)
        async with self._pool.acquire() as conn, conn.transaction():
            await queue.complete_jobs(conn, jobs[0].lease_id, [job.id for job in jobs])

    async def after(self, jobs: Sequence[Job]) -> None:
        self.done += jobs

    async def buried(self, jobs: Sequence[Job]) -> None:
        self.dead += jobs


async def enqueue(pool: asyncpg.Pool, count: int = 1, *, first: int = 1) -> None:
    collection_id, _ = await make_collection(pool)
    await pool.execute(
        "INSERT INTO job (stage, subject_id, collection_id) SELECT 'ingest', n, $1 FROM generate_series($2::int, $3::int) n",
        collection_id,
        first,
        first + count - 1,
    )


@contextlib.asynccontextmanager
async def working(
    url: str, pool: asyncpg.Pool, *slots: Slot, **settings: float
) -> AsyncIterator[tuple[Worker, Listener]]:
    listener = Listener(url, "askbox_worker", "test listener", ["ingest"])
    # No poll comes within a test, so what drains was woken; leases outlive any stall of a busy machine.
    values = {"poll_seconds": 3600, "lease_seconds": 30, "stop_seconds": 0.3} | settings
    chosen = WorkerSettings(_env_file=None).model_copy(update=values)
    worker = Worker(kind="ingester", pool=pool, listener=listener, settings=chosen, slots=slots)
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: asyncio.sleep(0, listener.is_listening or running.done()))
        yield worker, listener
    finally:
        worker.stop()
        await asyncio.wait_for(running, SECONDS_MAX)


async def test_notify_wakes_every_slot_long_before_the_poll(url, pool):
    first, second = Recorder(pool), Recorder(pool)
    slots = [Slot("one", "ingest", first), Slot("two", "ingest", second)]
    async with working(url, pool, *slots):
        for number in range(5):
            await enqueue(pool, first=number + 1)
            await until(lambda wanted=number + 1: asyncio.sleep(0, len(first.done) + len(second.done) == wanted))
    assert await pool.fetchval("SELECT count(*) = 0 FROM job")


async def test_without_triggers_everything_drains_at_the_polls_pace(url, pool, owner):
    await owner.execute("DROP TRIGGER job_wakes_workers ON job")
    recorder = Recorder(pool)
    async with working(url, pool, Slot("one", "ingest", recorder), poll_seconds=0.3):
        await enqueue(pool, 3)
        await until(lambda: asyncio.sleep(0, len(recorder.done) == 3))
    assert await pool.fetchval("SELECT count(*) = 0 FROM job")


async def test_listener_that_is_cut_off_listens_again_and_looks_at_once(url, pool, owner):
    recorder = Recorder(pool)
    async with working(url, pool, Slot("one", "ingest", recorder)) as (_, listener):
        who = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'test listener' AND datname = current_database()"
        )
        before = await owner.fetchval(who)
        await owner.execute("SELECT pg_terminate_backend($1)", before)
        await until(lambda: owner.fetchval(f"SELECT count(*) > 0 FROM ({who}) AS w WHERE pid <> $1", before))
        await until(lambda: asyncio.sleep(0, listener.is_listening))
        await enqueue(pool)
        await until(lambda: pool.fetchval("SELECT count(*) = 0 FROM job"))


async def test_black_holed_listener_is_noticed_and_replaced(url, pool, caplog):
    """Its socket stays open and nothing comes through: only a question of its own can tell."""
    recorder = Recorder(pool)
    async with (
        proxied(url) as (through, proxy),
        working(through, pool, Slot("one", "ingest", recorder)) as (_, listener),
    ):
        # Whoever still looks after the first connection would find the job without being told.
        await until(lambda: asyncio.sleep(0, all(wake._waiters for wake in listener._wakes["ingest"])))
        proxy.silence()
        await enqueue(pool)  # its notification is swallowed
        # Told by its log line: the next connection may stand before anybody sees that the last one is gone.
        await until(lambda: asyncio.sleep(0, Event.LISTENER_LOST in caplog.messages))
        await until(lambda: pool.fetchval("SELECT count(*) = 0 FROM job"))
        await until(lambda: asyncio.sleep(0, listener.is_listening))


async def test_permanent_error_buries_at_once_with_its_reason(url, pool, owner):
    async def refuse(_jobs: list[Job]) -> None:
        raise PermanentError("cannot be read \x00: convert it")

    recorder = Recorder(pool, refuse)
    async with working(url, pool, Slot("one", "ingest", recorder)):
        await enqueue(pool)
        await until(lambda: asyncio.sleep(0, recorder.dead))  # told after the commit that buried it
    assert len(recorder.seen) == 1
    assert len(recorder.dead) == 1
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 1
    assert "convert it" in await owner.fetchval("SELECT error FROM dead_letter")


@pytest.mark.parametrize("error", [RetryableError("later"), ValueError("odd"), FileNotFoundError("not the database's")])
async def test_fault_of_an_item_is_charged_to_it_until_it_is_buried(url, pool, owner, error):
    async def fail(_jobs: list[Job]) -> None:
        raise error

    recorder = Recorder(pool, fail)
    async with working(url, pool, Slot("one", "ingest", recorder)) as (_, listener):
        await enqueue(pool)

        async def is_buried() -> bool:
            await pool.execute("UPDATE job SET run_at = now() WHERE lease_id IS NULL")
            listener.wake()
            return await pool.fetchval("SELECT count(*) = 1 FROM dead_letter")

        await until(is_buried)
    assert [jobs[0].attempt for jobs in recorder.seen] == [1, 2, 3, 4, 5]
    assert await owner.fetchval("SELECT attempt FROM dead_letter") == 5


async def test_fault_of_the_provider_is_charged_to_nobody(url, pool, owner):
    calls = 0

    async def refuse_twice(_jobs: list[Job]) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise ProviderUnavailable("too many requests", retry_after=0.05)

    recorder = Recorder(pool, refuse_twice)
    async with working(url, pool, Slot("one", "ingest", recorder), poll_seconds=0.1):
        await enqueue(pool)
        await until(lambda: asyncio.sleep(0, recorder.done))
    assert [jobs[0].attempt for jobs in recorder.seen] == [1, 1, 1]
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_work_that_cancels_itself_is_charged_and_ends_no_slot(url, pool):
    async def cancel(_jobs: list[Job]) -> None:
        raise asyncio.CancelledError

    recorder = Recorder(pool, cancel)
    async with working(url, pool, Slot("one", "ingest", recorder)) as (_, listener):
        await enqueue(pool)

        async def is_tried_again() -> bool:
            await pool.execute("UPDATE job SET run_at = now() WHERE lease_id IS NULL")
            listener.wake()
            return len(recorder.seen) >= 2

        await until(is_tried_again)
    assert [jobs[0].attempt for jobs in recorder.seen[:2]] == [1, 2]


async def test_stop_gives_work_in_hand_back_uncharged(url, pool, owner):
    begun = asyncio.Event()

    async def hang(_jobs: list[Job]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with working(url, pool, Slot("one", "ingest", Recorder(pool, hang))):
        await enqueue(pool)
        await begun.wait()
    row = await owner.fetchrow("SELECT attempt, lease_id FROM job")
    assert (row["attempt"], row["lease_id"]) == (0, None)
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0
    assert await owner.fetchval("SELECT count(*) FROM worker") == 0


async def test_heartbeat_keeps_a_lease_that_works_longer_than_it_lasts(url, pool, owner):
    finish = asyncio.Event()
    recorder = Recorder(pool, lambda _jobs: finish.wait())
    # A lease of the usual length and the heartbeat of a shorter one, so that a stall of the machine loses nothing.
    async with working(url, pool, Slot("one", "ingest", recorder), lease_seconds=6) as (worker, _):
        worker._lease = LEASE
        await enqueue(pool)
        await until(lambda: pool.fetchval("SELECT count(*) = 1 FROM lease"))
        for _ in range(2):  # a part of it is over, and over again
            await owner.execute("UPDATE lease SET expires_at = now() + interval '20 seconds'")
            await until(lambda: pool.fetchval("SELECT expires_at > now() + interval '25 seconds' FROM lease"))
        finish.set()
        await until(lambda: asyncio.sleep(0, recorder.done))
    assert len(recorder.seen) == 1


async def test_lost_lease_stops_the_work_and_writes_nothing(url, pool, owner):
    recorder = Recorder(pool, lambda _jobs: asyncio.Event().wait())
    async with working(url, pool, Slot("one", "ingest", recorder), lease_seconds=0.6):
        await enqueue(pool)
        await until(lambda: pool.fetchval("SELECT count(*) = 1 FROM lease"))
        await owner.execute("UPDATE lease SET deadline_at = now()")
        await until(lambda: asyncio.sleep(0, len(recorder.seen) >= 2))  # swept, and claimed again
    assert recorder.done == []


async def test_work_beyond_its_deadline_ends_the_worker(url, pool):
    """What computes in a thread cannot be stopped, and would make every later job wait behind it until it is buried."""
    recorder = Recorder(pool, lambda _jobs: asyncio.Event().wait())
    working_on = working(url, pool, Slot("one", "ingest", recorder), lease_seconds=0.6, lease_deadline_seconds=1)
    worker, _ = await working_on.__aenter__()
    await enqueue(pool)
    await until(lambda: asyncio.sleep(0, worker._stopping.is_set()))
    with pytest.raises(WorkStuck, match="did not end within 1 s"):
        await working_on.__aexit__(None, None, None)
    assert recorder.done == []


async def test_job_that_came_back_is_claimed_alone(url, pool, owner):
    recorder = Recorder(pool)
    await enqueue(pool, 6)
    await owner.execute("UPDATE job SET attempt = 1 WHERE subject_id <= 3")
    async with working(url, pool, Slot("one", "ingest", recorder, batch_size=10, isolates_suspects=True)):
        await until(lambda: pool.fetchval("SELECT count(*) = 0 FROM job"))
    sizes = sorted(len(jobs) for jobs in recorder.seen)
    assert sizes == [1, 1, 1, 3]


async def test_late_rank_waits_but_does_not_starve(url, pool, owner):
    """Better ranks that keep coming would keep a late one out for ever, were some claims not by age alone."""
    await enqueue(pool)
    await owner.execute("UPDATE job SET rank = 1000")
    await enqueue(pool, 60, first=2)
    recorder = Recorder(pool)
    async with working(url, pool, Slot("one", "ingest", recorder)):
        await until(lambda: pool.fetchval("SELECT count(*) = 0 FROM job"))
    places = {jobs[0].subject_id: place for place, jobs in enumerate(recorder.seen)}
    assert 0 < places[1] < 40


async def test_wake_does_not_shorten_what_the_provider_asked_for(url, pool, owner):
    async def refuse(_jobs: list[Job]) -> None:
        raise ProviderUnavailable("too many requests", retry_after=600)

    refused = Recorder(pool, refuse)
    other = Recorder(pool)
    slots = [Slot("one", "ingest", refused, subject_id=1), Slot("two", "ingest", other, subject_id=2)]
    async with working(url, pool, *slots):
        await enqueue(pool)
        await until(lambda: pool.fetchval("SELECT count(*) = 1 FROM job WHERE attempt = 0 AND run_at > now()"))
        await owner.execute("UPDATE job SET run_at = now()")
        # Each of these wakes both slots, and the second one shows that it was heard.
        for number in range(1, 4):
            await enqueue(pool, first=2)
            await until(lambda number=number: asyncio.sleep(0, len(other.done) == number))
    assert len(refused.seen) == 1


async def test_two_waiters_do_not_clear_each_others_wakes():
    listener = Listener("postgresql://nowhere", "askbox_worker", "test listener", ["ingest"])
    first, second = listener.subscribe("ingest"), listener.subscribe("ingest")
    listener.wake()
    first.clear()
    assert second.is_set()


async def test_listener_whose_session_was_made_to_forget_listens_again(url, pool, monkeypatch):
    """A pooler that hands sessions round, or an administrator, ends a subscription without ending the connection."""
    connections = []

    async def remember(*arguments: str) -> asyncpg.Connection:
        connections.append(await connect(*arguments))
        return connections[-1]

    monkeypatch.setattr("shared.listener.connect", remember)
    monkeypatch.setattr("shared.listener.PROBE_SECONDS", 0.05)
    async with working(url, pool, Slot("one", "ingest", Recorder(pool))) as (_, listener):
        await connections[0].execute("UNLISTEN *")
        await until(lambda: asyncio.sleep(0, len(connections) > 1 and listener.is_listening))


async def test_slow_sweeper_delays_no_sweep_of_leases(url, pool, owner):
    listener = Listener(url, "askbox_worker", "test listener", ["ingest"])

    async def slow() -> None:
        await asyncio.Event().wait()

    recorder = Recorder(pool)
    worker = Worker(
        kind="ingester",
        pool=pool,
        listener=listener,
        settings=WorkerSettings(lease_seconds=1),
        slots=[Slot("one", "ingest", recorder)],
        sweepers=[slow],
    )
    await enqueue(pool)
    await queue.claim_jobs(pool, queue.ClaimRule("ingest", 1, LEASE, LEASE), worker_id=99)
    running = asyncio.create_task(worker.run())
    await until(lambda: asyncio.sleep(0, listener.is_listening))
    await owner.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await until(lambda: asyncio.sleep(0, recorder.done))
    worker.stop()
    await running


async def test_loop_that_ends_by_itself_ends_the_worker(url, pool):
    listener = Listener(url, "askbox_worker", "test listener", ["ingest"])

    async def broken() -> None:
        raise KeyError("a fault of ours")

    worker = Worker(
        kind="ingester",
        pool=pool,
        listener=listener,
        settings=WorkerSettings(lease_seconds=0.5),
        slots=[Slot("one", "ingest", Recorder(pool))],
        sweepers=[broken],
    )
    with pytest.raises(KeyError):
        await asyncio.wait_for(worker.run(), SECONDS_MAX)
