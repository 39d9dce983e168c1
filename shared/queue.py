"""The queue: claim, extend, complete, retry, bury, release, sweep. One module for every stage.

**Invariants:** `lease.id` is the fencing token and is never used again. Whoever writes the effect of a batch calls
`hold_lease` first, in the same transaction; `LeaseLost` means that somebody else owns the jobs now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from shared.database import Connection, Session
from shared.errors import LeaseLost
from shared.failpoints import Failpoint, reach
from shared.statements import load_statements

Stage = Literal["ingest", "scan", "embed", "index"]
STATEMENTS = load_statements("shared", "queue.sql")
COST_UNBOUNDED = 2**62
SWEEP_LEASES_MAX = 100
TOUCH_TIMEOUT_SECONDS = 5.0
# Workers are seen every 5 s.
WORKER_SILENCE_MAX = timedelta(seconds=10)
# The first attempts are given back at once, whoever is to blame.
ATTEMPT_DOUBTED = 3

_CLAIM = STATEMENTS["claim_jobs"]
_NEXT_RUN_IN = STATEMENTS["next_run_in"]
_EXTEND = STATEMENTS["extend_lease"]
_HOLD = STATEMENTS["hold_lease"]
_DELETE = STATEMENTS["delete_jobs"]
_DROP_LEASE = STATEMENTS["drop_empty_lease"]
_RETRY = STATEMENTS["retry_jobs"]
_BURY = STATEMENTS["bury_jobs"]
_RELEASE = STATEMENTS["release_jobs"]
_WAKE = STATEMENTS["wake"]
_SWEEP = STATEMENTS["sweep_leases"]
_REGISTER = STATEMENTS["register_worker"]
_TOUCH = STATEMENTS["touch_worker"]
_FORGET = STATEMENTS["forget_worker"]
_FORGET_DEAD = STATEMENTS["forget_dead_workers"]


@dataclass(frozen=True, slots=True)
class Job:
    """One claimed unit of work."""

    id: int
    lease_id: int
    stage: Stage
    subject_id: int
    text_hash: bytes | None
    collection_id: int
    attempt: int
    max_attempts: int
    traceparent: str | None
    tracestate: str | None


@dataclass(frozen=True, slots=True)
class SweptJob:
    """A job that an expired lease gave back, or whose last attempt that was."""

    stage: Stage
    subject_id: int
    text_hash: bytes | None
    is_dead: bool


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """Which jobs a claim takes, and for how long."""

    stage: Stage
    batch_size: int
    lease: timedelta
    deadline: timedelta
    subject_id: int | None = None
    cost_max: int = COST_UNBOUNDED
    is_suspect: bool | None = None


async def claim_jobs(conn: Session, rule: ClaimRule, *, worker_id: int, is_fifo: bool = False) -> list[Job]:
    """Lease a batch of runnable jobs to a worker.

    Order: by rank, then age; by age alone when `is_fifo`.
    Transaction: call outside one; the claim is one autocommit statement.
    """
    rows = await conn.fetch(
        _CLAIM,
        rule.stage,
        rule.batch_size,
        worker_id,
        rule.lease,
        rule.deadline,
        rule.subject_id,
        rule.cost_max,
        is_fifo,
        rule.is_suspect,
    )
    if rows:
        await reach(Failpoint.JOBS_CLAIMED)
    return [Job(**row) for row in rows]


async def next_run_in(conn: Session, stage: Stage) -> float | None:
    """Return the seconds until a waiting job of `stage` can run, or None when none waits."""
    seconds: float | None = await conn.fetchval(_NEXT_RUN_IN, stage)
    return seconds


async def extend_lease(conn: Session, lease_id: int, lease: timedelta) -> None:
    """Push the end of a lease.

    Raises: LeaseLost when it has expired or passed its deadline.
    """
    if await conn.fetchval(_EXTEND, lease_id, lease, timeout=lease.total_seconds() / 3) is None:
        raise LeaseLost(f"lease {lease_id} has expired")
    await reach(Failpoint.LEASE_EXTENDED)


async def hold_lease(conn: Connection, lease_id: int) -> None:
    """Lock a lease until the end of the transaction.

    Raises: LeaseLost when a sweep has taken it.
    Transaction: must be called inside one, before the first write.
    """
    if await conn.fetchval(_HOLD, lease_id) is None:
        raise LeaseLost(f"lease {lease_id} was swept")


async def complete_jobs(conn: Connection, lease_id: int, job_ids: Sequence[int]) -> set[int]:
    """Delete finished jobs and return those that were still ours.

    Raises: LeaseLost when a sweep has taken the lease.
    Transaction: the caller's, together with the effect; locks the lease first.
    """
    await hold_lease(conn, lease_id)
    done = {row["id"] for row in await conn.fetch(_DELETE, lease_id, list(job_ids))}
    await conn.fetchval(_DROP_LEASE, lease_id)
    await reach(Failpoint.COMPLETION_WRITTEN)
    return done


async def retry_or_bury_jobs(
    conn: Connection, lease_id: int, job_ids: Sequence[int], *, error_code: str, error: str
) -> set[int]:
    """Give jobs back for a later attempt; bury those that have had their last, and return these.

    Raises: LeaseLost when a sweep has taken the lease.
    """
    async with conn.transaction():
        await hold_lease(conn, lease_id)
        retried = {row["id"] for row in await conn.fetch(_RETRY, lease_id, list(job_ids), error)}
        buried = {
            row["id"]
            for row in await conn.fetch(_BURY, lease_id, [i for i in job_ids if i not in retried], error_code, error)
        }
        await conn.fetchval(_DROP_LEASE, lease_id)
        await reach(Failpoint.JOBS_RETRIED_WRITTEN)
    await reach(Failpoint.JOBS_RETRIED_COMMITTED)
    return buried


async def bury_jobs(
    conn: Connection, lease_id: int, job_ids: Sequence[int], *, error_code: str, error: str
) -> set[int]:
    """Make dead letters of jobs and return those that were still ours.

    Raises: LeaseLost when a sweep has taken the lease.
    """
    async with conn.transaction():
        await hold_lease(conn, lease_id)
        buried = {row["id"] for row in await conn.fetch(_BURY, lease_id, list(job_ids), error_code, error)}
        await conn.fetchval(_DROP_LEASE, lease_id)
        await reach(Failpoint.BURIAL_WRITTEN)
    await reach(Failpoint.BURIAL_COMMITTED)
    return buried


async def release_jobs(conn: Connection, lease_id: int, *, delay: timedelta = timedelta(0)) -> int:
    """Give every job of a lease back as if it had not been claimed, wake others when it can run now, and return how many.

    Raises: LeaseLost when a sweep has taken the lease.
    """
    async with conn.transaction():
        await hold_lease(conn, lease_id)
        rows = await conn.fetch(_RELEASE, lease_id, delay)
        await conn.fetchval(_DROP_LEASE, lease_id)
        if rows and not delay:
            await conn.fetchval(_WAKE, rows[0]["stage"])
        await reach(Failpoint.RELEASE_WRITTEN)
    await reach(Failpoint.RELEASE_COMMITTED)
    return len(rows)


async def sweep_leases(conn: Session) -> list[SweptJob]:
    """Take the jobs of expired leases back, a bounded number of leases at a time.

    An attempt counts against a job when its worker died or stalled with it, not when the database was away.
    """
    await reach(Failpoint.SWEEP_BEGUN)
    rows = await conn.fetch(_SWEEP, SWEEP_LEASES_MAX, WORKER_SILENCE_MAX, ATTEMPT_DOUBTED)
    swept = [SweptJob(**row) for row in rows]
    if swept:
        await reach(Failpoint.LEASES_SWEPT)
    return swept


async def register_worker(conn: Session, *, kind: str, host: str, pid: int) -> int:
    """Announce a process and return its id."""
    worker_id: int = await conn.fetchval(_REGISTER, kind, host, pid)
    return worker_id


async def touch_worker(
    conn: Session,
    worker_id: int,
    *,
    is_listening: bool,
    note: str | None,
    is_hindered: bool = False,
    waiting_file_count: int = 0,
) -> bool:
    """Say that a worker lives, whether its note keeps it from its work, and how many files wait for it; False when its row is gone."""
    facts = (is_listening, note, is_hindered, waiting_file_count)
    touched = await conn.fetchval(_TOUCH, worker_id, *facts, timeout=TOUCH_TIMEOUT_SECONDS)
    return touched is not None


async def forget_worker(conn: Session, worker_id: int) -> None:
    """Remove a worker that stops."""
    await conn.fetchval(_FORGET, worker_id)


async def forget_dead_workers(conn: Session, silence: timedelta) -> int:
    """Remove the rows of processes that were not seen for long, and return how many."""
    return len(await conn.fetch(_FORGET_DEAD, silence))
