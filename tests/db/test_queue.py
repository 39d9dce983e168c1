"""The verbs of the queue, one behaviour a test. Time is moved by updating rows, never by waiting."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from shared import queue
from shared.database import connect, open_pool
from shared.errors import LeaseLost
from shared.queue import ClaimRule, Job, Stage
from tests.db.clones import clone
from tests.waiting import SECONDS_MAX

LEASE = timedelta(seconds=30)
DEADLINE = timedelta(seconds=600)
WORKER = 7


@pytest.fixture(scope="module")
async def queue_url(server_url: str, template: str) -> AsyncIterator[str]:
    """One database for all tests of the queue, which leave nothing but rows."""
    async with clone(server_url, "test_queue", template=template) as url:
        yield url


@pytest.fixture(scope="module")
async def pool(queue_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(queue_url, "askbox_worker", "test worker", connections_max=8) as opened:
        yield opened


@pytest.fixture
async def owner(queue_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(queue_url, server_settings={"search_path": "askbox, public"})
    await connection.execute("TRUNCATE job, lease, dead_letter, worker RESTART IDENTITY")
    yield connection
    await connection.close()


def rule(stage: Stage = "ingest", batch_size: int = 1000, **kwargs: Any) -> ClaimRule:
    return ClaimRule(stage, batch_size, kwargs.pop("lease", LEASE), kwargs.pop("deadline", DEADLINE), **kwargs)


async def claim(
    session: asyncpg.Pool | asyncpg.Connection, *args: Any, is_fifo: bool = False, **kwargs: Any
) -> list[Job]:
    return await queue.claim_jobs(session, rule(*args, **kwargs), worker_id=WORKER, is_fifo=is_fifo)


async def add_jobs(owner: asyncpg.Connection, count: int, **columns: object) -> list[int]:
    """Insert jobs in one statement and return their ids; subjects go on from the greatest there is."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${place}" for place in range(2, len(columns) + 2))
    stage = "" if "stage" in columns else ", stage"
    rows = await owner.fetch(
        f"INSERT INTO job (subject_id, collection_id{names}{stage}) "
        f"SELECT coalesce((SELECT max(subject_id) FROM job), 0) + n, 1{values}{', $$ingest$$' if stage else ''} "
        "FROM generate_series(1, $1) AS n ORDER BY n RETURNING id",
        count,
        *columns.values(),
    )
    return [row["id"] for row in rows]


async def expire(owner: asyncpg.Connection) -> None:
    await owner.execute("UPDATE lease SET expires_at = now() - interval '1 second'")


async def everything(owner: asyncpg.Connection) -> list[list[tuple[object, ...]]]:
    """Return all rows of the queue, to see that nothing was written."""
    return [
        [tuple(row) for row in await owner.fetch(f"SELECT * FROM {table} ORDER BY id")]
        for table in ("job", "lease", "dead_letter")
    ]


async def complete(pool: asyncpg.Pool, jobs: list[Job]) -> set[int]:
    async with pool.acquire() as conn, conn.transaction():
        return await queue.complete_jobs(conn, jobs[0].lease_id, [job.id for job in jobs])


# -- claiming ----------------------------------------------------------------------------------------------------------


async def test_claim_takes_the_lowest_ranks_and_the_oldest_among_equals(pool: asyncpg.Pool, owner: asyncpg.Connection):
    late = await add_jobs(owner, 3, rank=5)
    early = await add_jobs(owner, 3, rank=1)
    assert {job.id for job in await claim(pool, batch_size=2)} == set(early[:2])
    assert {job.id for job in await claim(pool, batch_size=2)} == {early[2], late[0]}
    assert {job.id for job in await claim(pool, batch_size=2)} == set(late[1:])


async def test_fifo_claim_takes_the_oldest_whatever_their_rank(pool: asyncpg.Pool, owner: asyncpg.Connection):
    late = await add_jobs(owner, 2, rank=5)
    early = await add_jobs(owner, 2, rank=1)
    assert {job.id for job in await claim(pool, batch_size=2, is_fifo=True)} == set(late)
    assert {job.id for job in await claim(pool, batch_size=2, is_fifo=True)} == set(early)


async def test_claim_returns_what_the_job_says(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1, stage="embed", text_hash=b"h" * 32, max_attempts=3, traceparent="00-a", tracestate="b=c")
    (job,) = await claim(pool, "embed")
    lease_id = await owner.fetchval("SELECT id FROM lease")
    job_id = await owner.fetchval("SELECT id FROM job")
    assert job == Job(job_id, lease_id, "embed", 1, b"h" * 32, 1, 1, 3, "00-a", "b=c")


async def test_claim_takes_its_stage_and_what_can_run_now(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1, stage="index")
    (later,) = await add_jobs(owner, 1)
    await owner.execute("UPDATE job SET run_at = now() + interval '1 minute' WHERE id = $1", later)
    assert await claim(pool) == []
    await owner.execute("UPDATE job SET run_at = now() WHERE id = $1", later)
    assert [job.id for job in await claim(pool)] == [later]


async def test_claim_of_a_subject_takes_no_other(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 3)
    assert [job.subject_id for job in await claim(pool, subject_id=2)] == [2]


async def test_claim_takes_nothing_that_costs_more_than_it_may(pool: asyncpg.Pool, owner: asyncpg.Connection):
    small = await add_jobs(owner, 1, cost=100)
    large = await add_jobs(owner, 1, cost=101)
    assert [job.id for job in await claim(pool, cost_max=100)] == small
    assert [job.id for job in await claim(pool)] == large


async def test_suspects_are_claimed_apart(pool: asyncpg.Pool, owner: asyncpg.Connection):
    fresh = await add_jobs(owner, 2)
    suspects = await add_jobs(owner, 2, attempt=1)
    assert {job.id for job in await claim(pool, is_suspect=True)} == set(suspects)
    assert {job.id for job in await claim(pool, is_suspect=False)} == set(fresh)


async def test_attempt_is_counted_at_the_claim(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    (job,) = await claim(pool)
    assert job.attempt == 1
    assert await owner.fetchval("SELECT attempt FROM job") == 1


async def test_claim_makes_one_lease_for_its_batch(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 5)
    jobs = await claim(pool)
    lease = await owner.fetchrow(
        "SELECT id, worker_id, expires_at - now() AS left, deadline_at - now() AS deadline FROM lease"
    )
    assert {job.lease_id for job in jobs} == {lease["id"]}
    assert lease["worker_id"] == WORKER
    assert LEASE - timedelta(seconds=10) < lease["left"] <= LEASE
    assert DEADLINE - timedelta(seconds=10) < lease["deadline"] <= DEADLINE


async def test_empty_claim_makes_no_lease(pool: asyncpg.Pool, owner: asyncpg.Connection):
    assert await claim(pool) == []
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0


async def test_a_claimer_skips_what_another_is_claiming(pool: asyncpg.Pool, owner: asyncpg.Connection):
    ids = await add_jobs(owner, 4)
    async with pool.acquire() as first, pool.acquire() as second:
        transaction = first.transaction()
        await transaction.start()
        assert {job.id for job in await claim(first, batch_size=2)} == set(ids[:2])
        assert {job.id for job in await claim(second, batch_size=2)} == set(ids[2:])
        await transaction.rollback()
    assert {job.id for job in await claim(pool)} == set(ids[:2])


async def test_no_job_is_claimed_twice_by_eight_claimers(pool: asyncpg.Pool, owner: asyncpg.Connection):
    ids = await add_jobs(owner, 600)

    async def drain(place: int) -> list[Job]:
        taken: list[Job] = []
        async with pool.acquire() as conn:
            while jobs := await claim(conn, batch_size=3 + place, is_fifo=place % 2 == 0):
                taken += jobs
        return taken

    claimed = list(itertools.chain(*await asyncio.gather(*map(drain, range(8)))))
    assert sorted(job.id for job in claimed) == ids
    assert await owner.fetchval("SELECT count(*) FROM job WHERE attempt <> 1 OR lease_id IS NULL") == 0
    assert await owner.fetchval("SELECT count(*) FROM lease") == len({job.lease_id for job in claimed})


@pytest.mark.parametrize("joins", ["hashjoin", "mergejoin", "nestloop"])
@pytest.mark.parametrize("scans", ["seqscan", "indexscan, bitmapscan", "indexscan, bitmapscan, material, sort"])
async def test_limit_holds_under_every_plan(pool: asyncpg.Pool, owner: asyncpg.Connection, joins: str, scans: str):
    await add_jobs(owner, 300)
    # Statistics of a table that was empty, so that any plan looks good.
    await owner.execute(
        "UPDATE pg_class SET reltuples = 0, relpages = 1 WHERE oid IN ('job'::regclass, 'lease'::regclass)"
    )
    off = [j for j in ("hashjoin", "mergejoin", "nestloop") if j != joins] + scans.split(", ")
    async with pool.acquire() as conn:
        for name in off:
            await conn.execute(f"SET enable_{name} = off")
        assert len(await claim(conn, batch_size=5)) == 5
        assert await owner.fetchval("SELECT count(*) FROM job WHERE lease_id IS NOT NULL") == 5


# -- expiry and fencing ------------------------------------------------------------------------------------------------


async def test_expired_lease_is_claimed_again(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 2)
    first = await claim(pool)
    assert await queue.sweep_leases(pool) == []
    await expire(owner)
    swept = await queue.sweep_leases(pool)
    assert sorted((job.stage, job.subject_id, job.text_hash, job.is_dead) for job in swept) == [
        ("ingest", 1, None, False),
        ("ingest", 2, None, False),
    ]
    second = await claim(pool)
    assert {job.id for job in second} == {job.id for job in first}
    assert {job.attempt for job in second} == {2}
    assert second[0].lease_id > first[0].lease_id
    assert await owner.fetchval("SELECT min(last_error) FROM job") == "its worker died or stalled"


def test_no_statement_is_given_a_time_by_a_worker():
    """Workers' clocks differ: they may say how long, never when."""
    given = [name for name, text in queue.STATEMENTS.items() if re.search(r"\$\d+::(timestamp|date|time)", text)]
    assert given == []


async def test_lease_past_its_deadline_is_swept(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    await claim(pool)
    await owner.execute("UPDATE lease SET deadline_at = now()")
    assert len(await queue.sweep_leases(pool)) == 1


Deed = Callable[[asyncpg.Connection, list[Job]], Coroutine[Any, Any, object]]


async def _complete(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    async with conn.transaction():
        await queue.complete_jobs(conn, jobs[0].lease_id, [job.id for job in jobs])


async def _hold(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    async with conn.transaction():
        await queue.hold_lease(conn, jobs[0].lease_id)


async def _retry(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.retry_or_bury_jobs(conn, jobs[0].lease_id, [job.id for job in jobs], error_code="x", error="zombie")


async def _bury(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.bury_jobs(conn, jobs[0].lease_id, [job.id for job in jobs], error_code="x", error="zombie")


async def _release(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.release_jobs(conn, jobs[0].lease_id)


async def _extend(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.extend_lease(conn, jobs[0].lease_id, LEASE)


@pytest.mark.parametrize("deed", [_complete, _hold, _retry, _bury, _release, _extend])
@pytest.mark.parametrize("is_claimed_again", [False, True])
async def test_zombie_writes_nothing(
    pool: asyncpg.Pool, owner: asyncpg.Connection, deed: Deed, *, is_claimed_again: bool
):
    await add_jobs(owner, 3)
    zombie = await claim(pool)
    await expire(owner)
    await queue.sweep_leases(pool)
    if is_claimed_again:
        await claim(pool)
    before = await everything(owner)
    async with pool.acquire() as conn:
        with pytest.raises(LeaseLost):
            await deed(conn, zombie)
    assert await everything(owner) == before


async def test_expired_lease_cannot_be_extended_even_before_the_sweep(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    (job,) = await claim(pool)
    await expire(owner)
    before = await everything(owner)
    with pytest.raises(LeaseLost, match=f"lease {job.lease_id} has expired"):
        await queue.extend_lease(pool, job.lease_id, LEASE)
    assert await everything(owner) == before


async def test_heartbeat_pushes_the_end(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    (job,) = await claim(pool)
    await owner.execute("UPDATE lease SET expires_at = now() + interval '15 seconds'")
    await queue.extend_lease(pool, job.lease_id, LEASE)
    assert await owner.fetchval("SELECT expires_at > now() + interval '20 seconds' FROM lease")


async def test_heartbeat_never_passes_the_deadline(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    (job,) = await claim(pool)
    await owner.execute("UPDATE lease SET deadline_at = now() + interval '20 seconds'")
    await queue.extend_lease(pool, job.lease_id, LEASE)
    assert await owner.fetchval("SELECT expires_at = deadline_at FROM lease")
    await owner.execute("UPDATE lease SET deadline_at = now()")
    with pytest.raises(LeaseLost):
        await queue.extend_lease(pool, job.lease_id, LEASE)


async def test_lease_ids_are_never_used_again(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    seen = []
    for _ in range(3):
        (job,) = await claim(pool)
        seen.append(job.lease_id)
        async with pool.acquire() as conn:
            await queue.release_jobs(conn, job.lease_id)
    assert seen == sorted(set(seen))


# -- sweeping ----------------------------------------------------------------------------------------------------------


async def test_sweep_buries_after_the_last_attempt_with_a_reason(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1, max_attempts=2, last_error="out of memory")
    for _ in range(2):
        assert len(await claim(pool)) == 1
        await expire(owner)
        (swept,) = await queue.sweep_leases(pool)
    assert swept.is_dead
    assert await owner.fetchval("SELECT count(*) FROM job") == 0
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0
    letter = await owner.fetchrow("SELECT stage, subject_id, attempt, error_code, error FROM dead_letter")
    assert tuple(letter) == (
        "ingest",
        1,
        2,
        "worker_died",
        "its worker died or stalled at every attempt (2); before that: out of memory",
    )


async def test_sweep_gives_a_reason_when_none_was_reported(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1, max_attempts=1)
    await claim(pool)
    await expire(owner)
    await queue.sweep_leases(pool)
    assert "no error was reported" in await owner.fetchval("SELECT error FROM dead_letter")


async def test_sweep_parts_the_living_from_the_dead_of_one_lease(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 2, max_attempts=1)
    await add_jobs(owner, 2, max_attempts=2)
    await claim(pool)
    await expire(owner)
    assert sorted((job.subject_id, job.is_dead) for job in await queue.sweep_leases(pool)) == [
        (1, True),
        (2, True),
        (3, False),
        (4, False),
    ]


async def test_sweep_skips_a_lease_that_is_being_completed(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    jobs = await claim(pool)
    await expire(owner)
    async with pool.acquire() as conn:
        async with conn.transaction():
            await queue.hold_lease(conn, jobs[0].lease_id)
            assert await queue.sweep_leases(pool) == []
            assert await queue.complete_jobs(conn, jobs[0].lease_id, [jobs[0].id]) == {jobs[0].id}
            assert await queue.sweep_leases(pool) == []
    assert await queue.sweep_leases(pool) == []
    assert await everything(owner) == [[], [], []]


async def test_two_sweepers_share_the_leases(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 4)
    while await claim(pool, batch_size=1):
        pass
    await expire(owner)
    one_lease = queue.STATEMENTS["sweep_leases"]
    async with pool.acquire() as first:
        async with first.transaction():
            doubt = (queue.WORKER_SILENCE_MAX, queue.ATTEMPT_DOUBTED)
            mine = {row["subject_id"] for row in await first.fetch(one_lease, 1, *doubt)}
            others = {job.subject_id for job in await queue.sweep_leases(pool)}
    assert mine == {1}
    assert others == {2, 3, 4}
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0
    assert await owner.fetchval("SELECT count(*) FROM job WHERE lease_id IS NULL") == 4


async def test_racing_sweepers_sweep_each_job_once(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 200)
    while await claim(pool, batch_size=2):
        pass
    await expire(owner)
    swept = list(itertools.chain(*await asyncio.gather(*(queue.sweep_leases(pool) for _ in range(8)))))
    assert sorted(job.subject_id for job in swept) == list(range(1, 201))


async def test_sweep_is_bounded(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, queue.SWEEP_LEASES_MAX + 1)
    while await claim(pool, batch_size=1):
        pass
    await expire(owner)
    assert len(await queue.sweep_leases(pool)) == queue.SWEEP_LEASES_MAX
    assert len(await queue.sweep_leases(pool)) == 1


# -- disposing ---------------------------------------------------------------------------------------------------------


async def test_completing_some_keeps_the_lease_for_the_others(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 3)
    jobs = await claim(pool)
    assert await complete(pool, jobs[:1]) == {jobs[0].id}
    assert await owner.fetchval("SELECT count(*) FROM lease") == 1
    assert await complete(pool, jobs) == {jobs[1].id, jobs[2].id}
    assert await everything(owner) == [[], [], []]


async def test_completion_touches_no_job_of_another_lease(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 2)
    (mine,) = await claim(pool, batch_size=1)
    (other,) = await claim(pool, batch_size=1)
    async with pool.acquire() as conn, conn.transaction():
        assert await queue.complete_jobs(conn, mine.lease_id, [mine.id, other.id]) == {mine.id}
    assert await owner.fetchval("SELECT lease_id FROM job") == other.lease_id


async def test_retry_and_burial_touch_no_job_of_another_lease(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 3)
    (retried,) = await claim(pool, batch_size=1)
    (buried,) = await claim(pool, batch_size=1)
    (other,) = await claim(pool, batch_size=1)
    async with pool.acquire() as conn:
        ids = [retried.id, other.id]
        assert await queue.retry_or_bury_jobs(conn, retried.lease_id, ids, error_code="x", error="later") == set()
        ids = [buried.id, other.id]
        assert await queue.bury_jobs(conn, buried.lease_id, ids, error_code="x", error="no") == {buried.id}
    rows = await owner.fetch("SELECT id, lease_id, last_error FROM job ORDER BY id")
    assert [tuple(row) for row in rows] == [(retried.id, None, "later"), (other.id, other.lease_id, None)]


async def test_release_touches_no_job_of_another_lease(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 2)
    (mine,) = await claim(pool, batch_size=1)
    (other,) = await claim(pool, batch_size=1)
    async with pool.acquire() as conn:
        assert await queue.release_jobs(conn, mine.lease_id) == 1
    rows = await owner.fetch("SELECT lease_id, attempt FROM job ORDER BY id")
    assert [tuple(row) for row in rows] == [(None, 0), (other.lease_id, 1)]


async def test_completion_rolls_back_with_its_effect(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    jobs = await claim(pool)
    before = await everything(owner)
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await queue.complete_jobs(conn, jobs[0].lease_id, [jobs[0].id])
        await transaction.rollback()
    assert await everything(owner) == before


@pytest.mark.parametrize("attempt", [1, 2, 5, 8, 9, 40])
async def test_retry_waits_longer_each_time_up_to_a_bound(pool: asyncpg.Pool, owner: asyncpg.Connection, attempt: int):
    await add_jobs(owner, 40, attempt=attempt - 1, max_attempts=99)
    jobs = await claim(pool)
    async with pool.acquire() as conn:
        buried = await queue.retry_or_bury_jobs(
            conn, jobs[0].lease_id, [job.id for job in jobs], error_code="x", error="try later"
        )
    assert buried == set()
    rows = await owner.fetch(
        "SELECT extract(epoch FROM run_at - now())::float8 AS delay, lease_id, last_error, attempt FROM job"
    )
    full = min(300, 2**attempt)
    delays = [row["delay"] for row in rows]
    # The clock went on between the two statements.
    assert all(full / 2 - 10 < delay <= full for delay in delays)
    assert max(delays) - min(delays) > full / 8, "retries march in step"
    assert {(row["lease_id"], row["last_error"], row["attempt"]) for row in rows} == {(None, "try later", attempt)}
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0


async def test_retry_after_the_last_attempt_buries(pool: asyncpg.Pool, owner: asyncpg.Connection):
    alive, *_ = await add_jobs(owner, 1, max_attempts=2)
    dead, *_ = await add_jobs(owner, 1, max_attempts=1)
    jobs = await claim(pool)
    async with pool.acquire() as conn:
        buried = await queue.retry_or_bury_jobs(
            conn, jobs[0].lease_id, [job.id for job in jobs], error_code="bad", error="still no good"
        )
    assert buried == {dead}
    assert [row["id"] for row in await owner.fetch("SELECT id FROM job")] == [alive]
    assert tuple(await owner.fetchrow("SELECT attempt, error_code, error FROM dead_letter")) == (
        1,
        "bad",
        "still no good",
    )


async def test_burying_keeps_the_story_of_the_job(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1, stage="embed", text_hash=b"h" * 32, traceparent="00-a", tracestate="b=c")
    created_at = await owner.fetchval("SELECT created_at FROM job")
    (job,) = await claim(pool, "embed")
    async with pool.acquire() as conn:
        assert await queue.bury_jobs(conn, job.lease_id, [job.id], error_code="rejected", error="no") == {job.id}
    letter = await owner.fetchrow(
        "SELECT stage, subject_id, text_hash, collection_id, attempt, error_code, error, traceparent, tracestate, created_at "
        "FROM dead_letter"
    )
    assert tuple(letter) == ("embed", 1, b"h" * 32, 1, 1, "rejected", "no", "00-a", "b=c", created_at)


async def test_burying_a_subject_again_replaces_its_dead_letter(pool: asyncpg.Pool, owner: asyncpg.Connection):
    for reason in ("first", "second"):
        await add_jobs(owner, 1)
        (job,) = await claim(pool)
        async with pool.acquire() as conn:
            await queue.bury_jobs(conn, job.lease_id, [job.id], error_code="x", error=reason)
    assert [row["error"] for row in await owner.fetch("SELECT error FROM dead_letter")] == ["second"]


async def test_release_refunds_the_attempt(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 2, attempt=3)
    jobs = await claim(pool)
    async with pool.acquire() as conn:
        assert await queue.release_jobs(conn, jobs[0].lease_id) == 2
    assert {job.attempt for job in await claim(pool)} == {4}
    assert await owner.fetchval("SELECT count(*) FROM lease") == 1


async def test_release_with_a_delay_waits(pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 1)
    (job,) = await claim(pool)
    async with pool.acquire() as conn:
        await queue.release_jobs(conn, job.lease_id, delay=timedelta(minutes=5))
    assert await claim(pool) == []
    seconds = await queue.next_run_in(pool, "ingest")
    assert seconds is not None
    assert 280 < seconds <= 300


async def test_next_run_looks_at_waiting_jobs_of_the_stage_only(pool: asyncpg.Pool, owner: asyncpg.Connection):
    assert await queue.next_run_in(pool, "ingest") is None
    await add_jobs(owner, 1)
    await add_jobs(owner, 1, stage="index")
    await owner.execute("UPDATE job SET run_at = now() + interval '1 minute' WHERE stage = 'index'")
    assert await queue.next_run_in(pool, "ingest") is None
    assert await queue.next_run_in(pool, "index") is not None


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_worker_is_registered_touched_and_forgotten(pool: asyncpg.Pool, owner: asyncpg.Connection):
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '1 hour'")
    assert await queue.touch_worker(pool, worker_id, is_listening=True, note="busy")
    assert tuple(
        await owner.fetchrow("SELECT is_listening, note, last_seen_at > now() - interval '1 minute' FROM worker")
    ) == (
        True,
        "busy",
        True,
    )
    await queue.forget_worker(pool, worker_id)
    assert not await queue.touch_worker(pool, worker_id, is_listening=True, note=None)


async def test_silent_workers_are_forgotten(pool: asyncpg.Pool, owner: asyncpg.Connection):
    silent = await queue.register_worker(pool, kind="embedder", host="there", pid=1)
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '11 minutes' WHERE id = $1", silent)
    alive = await queue.register_worker(pool, kind="embedder", host="here", pid=2)
    assert await queue.forget_dead_workers(pool, timedelta(minutes=10)) == 1
    assert [row["id"] for row in await owner.fetch("SELECT id FROM worker")] == [alive]


# -- NOTIFY ------------------------------------------------------------------------------------------------------------


class Ear:
    """Hears all channels; `heard` waits for what was committed before it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._channels: list[str] = []
        self._end = asyncio.Event()

    async def listen(self) -> None:
        for stage in ("ingest", "scan", "embed", "index"):
            await self._connection.add_listener(f"askbox_{stage}", self._on_notify)
        await self._connection.add_listener("the_end", self._on_notify)

    def _on_notify(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        assert payload == ""
        if channel == "the_end":
            self._end.set()
        else:
            self._channels.append(channel)

    async def heard(self) -> list[str]:
        """Return the channels that were notified since the last call. Notifications arrive in the order of the commits."""
        self._end.clear()
        await self._connection.execute("NOTIFY the_end")
        await asyncio.wait_for(self._end.wait(), SECONDS_MAX)
        heard, self._channels = self._channels, []
        return heard


@pytest.fixture
async def ear(queue_url: str) -> AsyncIterator[Ear]:
    connection = await connect(queue_url, "askbox_worker", "test ear")
    ear = Ear(connection)
    await ear.listen()
    yield ear
    await connection.close()


async def test_insert_notifies_once_per_stage_and_statement(ear: Ear, owner: asyncpg.Connection):
    await add_jobs(owner, 100)
    assert await ear.heard() == ["askbox_ingest"]
    await owner.execute(
        "INSERT INTO job (stage, subject_id, collection_id) "
        "SELECT (ARRAY['ingest', 'scan', 'index'])[1 + n % 3], 1000 + n, 1 FROM generate_series(1, 90) AS n"
    )
    assert sorted(await ear.heard()) == ["askbox_index", "askbox_ingest", "askbox_scan"]


async def test_jobs_that_wait_for_their_time_notify_nobody(ear: Ear, owner: asyncpg.Connection):
    await owner.execute(
        "INSERT INTO job (stage, subject_id, collection_id, run_at) VALUES ('ingest', 1, 1, now() + interval '1 second')"
    )
    await owner.execute("INSERT INTO job (stage, subject_id, collection_id) SELECT 'ingest', 2, 1 WHERE false")
    await owner.execute(
        "INSERT INTO job (stage, subject_id, collection_id) VALUES ('ingest', 1, 1) "
        "ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING"
    )
    assert await ear.heard() == []


async def test_nothing_but_an_insert_and_a_release_notifies(ear: Ear, pool: asyncpg.Pool, owner: asyncpg.Connection):
    await add_jobs(owner, 6)
    assert await ear.heard() == ["askbox_ingest"]
    jobs = await claim(pool)
    lease_id = jobs[0].lease_id
    await queue.extend_lease(pool, lease_id, LEASE)
    await complete(pool, jobs[:1])
    async with pool.acquire() as conn:
        await queue.retry_or_bury_jobs(conn, lease_id, [jobs[1].id], error_code="x", error="again")
        await queue.bury_jobs(conn, lease_id, [jobs[2].id], error_code="x", error="never")
        await queue.release_jobs(conn, lease_id, delay=timedelta(seconds=1))
    await owner.execute("UPDATE job SET run_at = now()")
    jobs = await claim(pool)
    await expire(owner)
    await queue.sweep_leases(pool)
    worker_id = await queue.register_worker(pool, kind="ingester", host="here", pid=1)
    await queue.touch_worker(pool, worker_id, is_listening=True, note=None)
    assert await ear.heard() == []

    (job,) = await claim(pool, batch_size=1)
    async with pool.acquire() as conn:
        await queue.release_jobs(conn, job.lease_id)
    assert await ear.heard() == ["askbox_ingest"]


# -- constraints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("'cook', 1, NULL, 0, 5", "stage_is_known"),
        ("'embed', 1, NULL, 0, 5", "embed_job_names_a_text"),
        ("'ingest', 1, 'h', 0, 5", "embed_job_names_a_text"),
        ("'ingest', 1, NULL, 6, 5", "attempts_are_bounded"),
        ("'ingest', 9, NULL, 0, 5", "one_job_per_subject"),
    ],
)
async def test_the_table_refuses_jobs_that_cannot_be(owner: asyncpg.Connection, values: str, constraint: str):
    await owner.execute("INSERT INTO job (stage, subject_id, collection_id) VALUES ('ingest', 9, 1)")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        await owner.execute(
            f"INSERT INTO job (stage, subject_id, text_hash, attempt, max_attempts, collection_id) VALUES ({values}, 1)"
        )
    assert caught.value.constraint_name == constraint
