"""`index` jobs: text that a migration wants lexed anew, a collection's term statistics, and then the indexes that are due.

**Invariants:** statistics come first, so that no index is built or dropped by an old count; what is due is looked up under
the right to build, so that two workers never build one index; a login without that right does everything else.
"""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

from services.embedder import store
from services.embedder.index_build import IndexBuilder
from services.embedder.store import IndexRule
from shared import queue
from shared.database import Pool, retry_conflicts
from shared.failpoints import Failpoint, reach
from shared.queue import Job
from shared.telemetry import Event, log

# How soon to look again when somebody else builds.
BUSY_DELAY = timedelta(seconds=30)
BUILD_SECONDS_MAX = 1620.0
# How many chunks are lexed in one transaction, behind which the lease is looked at: 20 ms of prose, seconds of long code.
LEXED_PER_TRANSACTION = 100
# Of a job's time: the rest is for the statistics and the indexes, and what is left to lex for the next job.
LEXING_SHARE = 0.5
REFUSAL = (
    "large collections are searched without an index, exactly but slowly: this login may not take the role that owns the tables. "
    "Let an administrator run GRANT askbox_owner TO the login of ASKBOX_DATABASE_URL"
)


class IndexHandler:
    """Refreshes what an `index` job names. Batches hold one job; without a builder there are statistics only."""

    def __init__(
        self,
        pool: Pool,
        builder: IndexBuilder | None = None,
        rule: IndexRule | None = None,
        *,
        seconds_max: float = BUILD_SECONDS_MAX,
    ) -> None:
        self._pool = pool
        self._builder = builder
        self._rule = rule or IndexRule()
        self._seconds_max = seconds_max
        self._refusal: str | None = None

    def note(self) -> str | None:
        """Return what keeps this process from building indexes that are due."""
        return self._refusal

    async def process(self, jobs: list[Job]) -> None:
        """Count one collection's terms, then build and drop what is due.

        Raises: LeaseLost; IndexTooSlow; RetryableError when a build was held up.
        """
        (job,) = jobs
        until = time.monotonic() + self._seconds_max
        await self._lex_anew(job, until=time.monotonic() + LEXING_SHARE * self._seconds_max)
        await self._refresh_statistics(job)
        await reach(Failpoint.STATISTICS_COMMITTED)
        is_allowed = self._builder is not None and await store.may_index(self._pool)
        if self._builder is not None and not await self._tend_indexes(job, self._builder, until, is_allowed=is_allowed):
            return
        async with self._pool.acquire() as conn, conn.transaction():
            await queue.complete_jobs(conn, job.lease_id, [job.id])
            await store.forget_index_letter(conn, job.subject_id)
            if is_allowed:
                # The collection may have been deleted while this job, which stood for it, was running.
                await store.request_index_removal(conn, job.subject_id)
            await reach(Failpoint.INDEX_COMPLETED)

    async def after(self, jobs: Sequence[Job]) -> None:
        """Nothing follows."""

    async def buried(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for statistics."""

    async def request_outdated(self) -> None:
        """Make jobs for collections whose statistics are old, or whose indexes are due."""
        await store.request_outdated_statistics(self._pool, self._rule)
        if self._builder is None:
            return
        due = await store.list_due_indexes(self._pool, self._rule)
        self._refusal = REFUSAL if due and not await store.may_index(self._pool) else None
        if due and self._refusal is None:
            await store.request_index_jobs(self._pool, sorted({index.collection_id for index in due}))

    async def _lex_anew(self, job: Job, *, until: float) -> None:
        """Lex what was published before a migration changed how; each transaction goes on where the last one ended.

        What is left at the monotonic time `until` is for the job that the next sweep makes.

        Raises: LeaseLost.
        """

        async def once() -> bool:
            async with self._pool.acquire() as conn, conn.transaction():
                is_more = await store.lex_anew(conn, job.subject_id, LEXED_PER_TRANSACTION)
                if is_more:
                    await queue.hold_lease(conn, job.lease_id)
                return is_more

        while time.monotonic() < until and await retry_conflicts(once):
            pass

    async def _refresh_statistics(self, job: Job) -> None:
        """Count the terms of a collection, and nothing when it is gone.

        Raises: LeaseLost.
        """
        started = time.monotonic()
        async with self._pool.acquire() as conn, conn.transaction():
            await store.replace_term_stats(conn, job.subject_id)
            duration_ms = (time.monotonic() - started) * 1000
            chunk_count = await store.replace_collection_stat(
                conn, job.subject_id, duration_ms, self._rule.exact_chunks_max
            )
            # Last, since it locks the lease: the heartbeat must get through while the counting runs.
            await queue.hold_lease(conn, job.lease_id)
            await reach(Failpoint.STATISTICS_WRITTEN)
        log(
            Event.STATISTICS_REFRESHED,
            collection_id=job.subject_id,
            chunks=chunk_count,
            duration_ms=round(duration_ms, 1),
        )

    async def _tend_indexes(self, job: Job, builder: IndexBuilder, until: float, *, is_allowed: bool) -> bool:
        """Build and drop what is due; False when somebody else builds and the job was given back for later.

        Raises: LeaseLost; IndexTooSlow; RetryableError.
        """
        if not await store.list_due_indexes(self._pool, self._rule, job.subject_id):
            return True
        if not is_allowed:
            self._refusal = REFUSAL
            log(Event.INDEX_REFUSED, logging.WARNING, collection_id=job.subject_id, reason=REFUSAL)
            return True
        async with builder.session(until) as building:
            if building is None:
                async with self._pool.acquire() as conn:
                    await queue.release_jobs(conn, job.lease_id, delay=BUSY_DELAY)
                return False
            for index in await store.list_due_indexes(self._pool, self._rule, job.subject_id):
                await building.carry_out(index)
                await reach(Failpoint.INDEX_CHANGED)
        return True
