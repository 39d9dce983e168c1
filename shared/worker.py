"""The loop of every process that claims jobs: claim, heartbeat, dispose by the class of the error, sweep, stop.

**Invariants:** no transaction is open while a handler works; the heartbeat runs on the event loop, so handlers keep
models and parsers off it; a process that stops gives its jobs back at once.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from shared import queue
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, SERVER_ERRORS, Pool, at_the_end, distrust_idle
from shared.errors import (
    AskboxError,
    LeaseLost,
    PermanentError,
    ProviderUnavailable,
    RetryableError,
    ScratchUnavailable,
    Unavailable,
)
from shared.listener import Listener
from shared.metrics import count_jobs
from shared.queue import ClaimRule, Job, Stage
from shared.settings import WorkerSettings
from shared.spans import TraceContext, mark_current_failed, process_span
from shared.telemetry import Event, log
from shared.text import one_line, storable

FIFO_EVERY = 8
# A document that nobody was woken for waits for a poll at `ingest` and for one at `embed`: at most `poll_seconds` for both.
# With whole polls, jittered upwards, that was up to 12 s where 5 were set.
STAGES_POLLED = 2
TOUCH_SECONDS = 5.0
SWEEP_SECONDS = 7.0
DEAD_WORKER_SILENCE = timedelta(minutes=10)
PROVIDER_BACKOFF_SECONDS_MAX = 300.0
FAILURES_COUNTED_MAX = 10
# A claim is one short statement; whoever hangs on a silent connection tries another.
CLAIM_SECONDS_MAX = 10.0
# Together with `stop_seconds` less than the 10 s that supervisors wait before they kill, a silent database included.
TIDY_SECONDS_MAX = 0.5
RELEASE_SECONDS_MAX = 2.5
TROUBLE_SECONDS = 30.0
END_SECONDS_MAX = TIDY_SECONDS_MAX + RELEASE_SECONDS_MAX + 0.5
FORGET_SECONDS_MAX = 0.5


class WorkStuck(RuntimeError):
    """Work went on beyond its lease's deadline."""


class Handler(Protocol):
    """The work of one stage. It completes its jobs itself, in the transaction that writes their effect."""

    async def process(self, jobs: list[Job]) -> None:
        """Do the jobs of one lease, and end with the commit that completes them.

        Raises: the class decides: `ProviderUnavailable` charges nobody, `PermanentError` buries, anything else is
            tried again.
        """

    async def after(self, jobs: Sequence[Job]) -> None:
        """Do what follows the commit, without a lease: ask whether versions can be published."""

    async def buried(self, jobs: Sequence[Job]) -> None:
        """Tell whoever waits for jobs that they will not be tried again."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One claim loop: what it takes at a time and who does it."""

    name: str
    stage: Stage
    handler: Handler
    batch_size: int = 1
    subject_id: int | None = None
    cost_max: int = queue.COST_UNBOUNDED
    isolates_suspects: bool = False


class Worker:
    """Runs slots until it is told to stop."""

    def __init__(
        self,
        *,
        kind: str,
        pool: Pool,
        listener: Listener,
        settings: WorkerSettings,
        slots: Sequence[Slot],
        sweepers: Sequence[Callable[[], Awaitable[object]]] = (),
        note: Callable[[], str | None] = lambda: None,
        hindrance: Callable[[], str | None] = lambda: None,
        waiting_file_count: Callable[[], int] = lambda: 0,
    ) -> None:
        self._kind = kind
        self._pool = pool
        self._listener = listener
        self._settings = settings
        self._slots = slots
        self._sweepers = sweepers
        self._note = note
        self._hindrance = hindrance
        self._waiting_file_count = waiting_file_count
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._deadline = timedelta(seconds=settings.lease_deadline_seconds)
        self._stopping = asyncio.Event()
        self._trouble: tuple[str, float] | None = None
        self._is_left_unsaid = False  # jobs could not be given back at the end
        self.id = 0

    def stop(self) -> None:
        """Claim nothing more; work in hand has `stop_seconds` to finish, then it is given back."""
        self._stopping.set()
        self._listener.wake()

    async def run(self) -> None:
        """Work until `stop` is called."""
        self.id = await self._register()
        loops = [self._listener.run(), self._touch_loop(), self._sweep_loop(self._sweep_leases, "leases")]
        loops += [self._sweep_loop(sweeper, str(number)) for number, sweeper in enumerate(self._sweepers)]
        background = [asyncio.create_task(loop) for loop in loops]
        slots = [asyncio.create_task(self._slot_loop(slot), name=slot.name) for slot in self._slots]
        stopping = asyncio.create_task(self._stopping.wait())
        is_told = False
        try:
            # A loop that ends by itself is a fault of ours: end the process, its supervisor starts another.
            await asyncio.wait([*background, *slots, stopping], return_when=asyncio.FIRST_COMPLETED)
            is_told = self._stopping.is_set()
            if is_told:
                await asyncio.wait(slots, timeout=self._settings.stop_seconds)
        finally:
            self._stopping.set()
            for task in [*slots, *background, stopping]:
                task.cancel()
            # Not gathered: what hangs on a silent connection is left behind, and its lease expires.
            ended, hanging = await asyncio.wait([*slots, *background], timeout=END_SECONDS_MAX)
            has_said_so = await at_the_end(queue.forget_worker(self._pool, self.id), seconds=FORGET_SECONDS_MAX)
            if (
                hanging or self._is_left_unsaid or not has_said_so
            ):  # whatever else is asked of this database would be waited for as well
                self._pool.terminate()
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if not is_told:
            raise RuntimeError("a loop of the worker ended without being told to")

    # -- trouble ----------------------------------------------------------------------------------------------------

    def _note_trouble(self, error: BaseException) -> None:
        """Remember what keeps this process from its work and is no fault of the work's, for whoever looks at `health`."""
        if isinstance(error, (*SERVER_ERRORS, ScratchUnavailable)):
            self._trouble = (describe_error(error), time.monotonic())

    def _current_trouble(self) -> str | None:
        """Return that for as long as it is fresh: who has work left tries again before it is not."""
        if self._trouble is None or time.monotonic() - self._trouble[1] > TROUBLE_SECONDS:
            return None
        return self._trouble[0]

    # -- claiming ---------------------------------------------------------------------------------------------------

    async def _slot_loop(self, slot: Slot) -> None:
        wake = self._listener.subscribe(slot.stage)
        failures = 0
        for turn in itertools.count():
            if self._stopping.is_set():
                return
            wake.clear()
            try:
                jobs = await self._claim(slot, turn)
                if jobs:
                    contexts = [TraceContext(job.traceparent, job.tracestate) for job in jobs]
                    attempt = max(job.attempt for job in jobs)
                    with process_span(slot.stage, contexts, is_batch=slot.batch_size > 1, attempt=attempt):
                        await self._work(slot, jobs)
                    failures = 0
                    continue
                pause = await self._pause_when_idle(slot.stage)
                failures = 0
            except Unavailable as error:
                failures = min(failures + 1, FAILURES_COUNTED_MAX)
                pause = min(error.retry_after or 2.0**failures, PROVIDER_BACKOFF_SECONDS_MAX)
                pause *= 1 + random.random() / 4
                self._note_trouble(error)
                log(
                    Event.PROVIDER_UNAVAILABLE if isinstance(error, ProviderUnavailable) else Event.SCRATCH_UNAVAILABLE,
                    logging.WARNING,
                    slot=slot.name,
                    reason=describe_error(error),
                    pause_seconds=round(pause, 1),
                )
                await _wait(self._stopping, pause)  # a wake must not shorten what the provider asked for
                continue
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                failures = min(failures + 1, FAILURES_COUNTED_MAX)
                pause = min(0.1 * 2**failures, 10) * (0.5 + random.random() / 2)
                self._note_trouble(error)
                log(Event.DATABASE_UNAVAILABLE, logging.WARNING, slot=slot.name, reason=describe_error(error))
            await _wait(wake, pause)

    async def _claim(self, slot: Slot, turn: int) -> list[Job]:
        """Claim a batch; jobs that came back after a claim are taken one by one, on every second turn first."""
        rule = ClaimRule(slot.stage, slot.batch_size, self._lease, self._deadline, slot.subject_id, slot.cost_max)
        rules = [rule]
        if slot.isolates_suspects:
            fresh = dataclasses.replace(rule, is_suspect=False)
            suspect = dataclasses.replace(rule, is_suspect=True, batch_size=1)
            rules = [fresh, suspect] if turn % 2 == 0 else [suspect, fresh]
        # Every eighth pair of turns is first in, first out, so that a late rank waits but never starves.
        is_fifo = turn // 2 % FIFO_EVERY == FIFO_EVERY - 1
        for rule in rules:
            async with asyncio.timeout(CLAIM_SECONDS_MAX):
                jobs = await queue.claim_jobs(self._pool, rule, worker_id=self.id, is_fifo=is_fifo)
            if jobs:
                return jobs
        return []

    async def _pause_when_idle(self, stage: Stage) -> float:
        poll = self._settings.poll_seconds / STAGES_POLLED * (0.8 + 0.2 * random.random())
        due = await queue.next_run_in(self._pool, stage)
        return poll if due is None else min(poll, due + 0.005)

    # -- working ----------------------------------------------------------------------------------------------------

    async def _work(self, slot: Slot, jobs: list[Job]) -> None:
        """Process one lease and dispose of it by the class of what went wrong."""
        lease_id = jobs[0].lease_id
        started = time.monotonic()
        work = asyncio.create_task(slot.handler.process(jobs))
        heart = asyncio.create_task(self._beat(lease_id, work))
        outcome = "interrupted"
        try:
            await asyncio.wait({work})  # not awaited itself: a cancellation would wait until it has tidied up
            work.result()
            outcome = "completed"
        except asyncio.CancelledError:
            work.cancel()
            # What it still tidies up holds up nobody: its lease is given back, and what it writes later is refused.
            await asyncio.wait({asyncio.gather(work, return_exceptions=True)}, timeout=TIDY_SECONDS_MAX)
            outcome = await self._after_cancellation(slot, jobs, heart, started)
        except LeaseLost as error:
            outcome = "lease_lost"
            mark_current_failed(error)
            log(Event.LEASE_LOST, logging.WARNING, slot=slot.name, lease_id=lease_id)
        except Unavailable as error:
            outcome = "released"
            seconds = min(error.retry_after or 1.0, PROVIDER_BACKOFF_SECONDS_MAX)
            await self._release(slot, lease_id, timedelta(seconds=seconds))
            raise
        except CONNECTION_ERRORS as error:
            if isinstance(error, SERVER_ERRORS) or not await self._database_answers():
                outcome = "database_unavailable"
                with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):
                    await self._release(slot, lease_id, timedelta(seconds=1))
                raise
            # The fault is the job's: a statement that takes too long, a broken pipe.
            outcome = await self._charge(slot, jobs, error)
        except Exception as error:
            outcome = await self._charge(slot, jobs, error)
        finally:
            heart.cancel()
            seconds = time.monotonic() - started
            count_jobs(slot.stage, outcome, len(jobs), seconds)
            log(
                Event.JOBS_DISPOSED,
                logging.DEBUG,
                slot=slot.name,
                jobs=len(jobs),
                outcome=outcome,
                duration_ms=round(seconds * 1000, 1),
            )
        if outcome == "completed":
            await slot.handler.after(jobs)

    async def _after_cancellation(
        self, slot: Slot, jobs: list[Job], heart: "asyncio.Task[None]", started: float
    ) -> str:
        """Tell why the work was cancelled: its lease is lost, this process stops, or the handler did it to itself.

        Raises: CancelledError when this process stops; the jobs are given back first · WorkStuck past the deadline, which
            ends the process.
        """
        lease_id = jobs[0].lease_id
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            try:
                async with asyncio.timeout(RELEASE_SECONDS_MAX):
                    await asyncio.shield(self._release(slot, lease_id, timedelta(0)))
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
                self._is_left_unsaid = True
            raise asyncio.CancelledError
        if heart.done():
            log(Event.LEASE_LOST, logging.WARNING, slot=slot.name, lease_id=lease_id)
            if time.monotonic() - started >= self._deadline.total_seconds():
                # Whatever computes in a thread cannot be stopped, and what comes next would wait behind it.
                raise WorkStuck(f"the work of {slot.name} did not end within {self._deadline.total_seconds():g} s")
            return "lease_lost"
        return await self._charge(slot, jobs, RetryableError("the work was cancelled from inside"))

    async def _database_answers(self) -> bool:
        try:
            await self._pool.fetchval("SELECT 1", timeout=5)
        except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
            return False
        return True

    async def _beat(self, lease_id: int, work: "asyncio.Task[None]") -> None:
        """Extend a lease until cancelled; stop the work when the lease is lost, or must be: silence ends it as well."""
        seconds = self._settings.lease_seconds
        extended_at = time.monotonic()
        while time.monotonic() - extended_at < seconds:
            await asyncio.sleep(seconds / 3)
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(seconds / 3):
                    await queue.extend_lease(self._pool, lease_id, self._lease)
                extended_at = asked_at
            except LeaseLost:
                break
            except Exception as error:
                log(Event.DATABASE_UNAVAILABLE, logging.WARNING, lease_id=lease_id, reason=describe_error(error))
        work.cancel()

    async def _release(self, slot: Slot, lease_id: int, delay: timedelta) -> None:
        try:
            async with self._pool.acquire() as conn:
                count = await queue.release_jobs(conn, lease_id, delay=delay)
            log(Event.JOBS_RELEASED, slot=slot.name, jobs=count)
        except LeaseLost:
            log(Event.LEASE_LOST, logging.WARNING, slot=slot.name, lease_id=lease_id)

    async def _charge(self, slot: Slot, jobs: list[Job], error: BaseException) -> str:
        """Charge an item's fault to the jobs: bury what cannot succeed, else try again later."""
        mark_current_failed(error)
        code = error.code if isinstance(error, AskboxError) else type(error).__name__
        reason = describe_error(error)
        ids = [job.id for job in jobs]
        try:
            async with self._pool.acquire() as conn:
                if isinstance(error, PermanentError):
                    buried = await queue.bury_jobs(conn, jobs[0].lease_id, ids, error_code=code, error=reason)
                else:
                    buried = await queue.retry_or_bury_jobs(conn, jobs[0].lease_id, ids, error_code=code, error=reason)
        except LeaseLost:
            log(Event.LEASE_LOST, logging.WARNING, slot=slot.name, lease_id=jobs[0].lease_id)
            return "lease_lost"
        unexpected = None if isinstance(error, AskboxError) else error
        if len(buried) < len(ids):
            log(
                Event.JOB_RETRIED,
                logging.WARNING,
                error=unexpected,
                slot=slot.name,
                jobs=len(ids) - len(buried),
                code=code,
                reason=reason,
            )
        if buried:
            log(
                Event.JOB_BURIED,
                logging.WARNING,
                error=unexpected,
                slot=slot.name,
                jobs=len(buried),
                code=code,
                reason=reason,
            )
            await slot.handler.buried([job for job in jobs if job.id in buried])
        return "buried" if buried else "retried"

    # -- housekeeping -----------------------------------------------------------------------------------------------

    async def _touch_loop(self) -> None:
        while True:
            self._listener.changed.clear()
            try:
                hindrance = self._hindrance() or self._current_trouble()
                if not await queue.touch_worker(
                    self._pool,
                    self.id,
                    is_listening=self._listener.is_listening,
                    note=hindrance or self._note(),
                    is_hindered=hindrance is not None,
                    waiting_file_count=self._waiting_file_count(),
                ):
                    self.id = await self._register()
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                log(Event.DATABASE_UNAVAILABLE, logging.DEBUG, reason=describe_error(error))
                await distrust_idle(self._pool, error)
            with contextlib.suppress(TimeoutError):  # deafness and its end are told at once
                async with asyncio.timeout(TOUCH_SECONDS if self._listener.is_listening else 1.0):
                    await self._listener.changed.wait()

    async def _register(self) -> int:
        return await queue.register_worker(self._pool, kind=self._kind, host=socket.gethostname(), pid=os.getpid())

    async def _sweep_loop(self, sweep: Callable[[], Awaitable[object]], name: str) -> None:
        """Sweep as every worker does: jittered, bounded, without a leader. Each sweep has a loop of its own."""
        seconds = min(SWEEP_SECONDS, self._settings.lease_seconds / 4)
        while True:
            await asyncio.sleep(seconds * (0.7 + 0.6 * random.random()))
            try:
                await sweep()
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                log(Event.DATABASE_UNAVAILABLE, logging.DEBUG, sweep=name, reason=describe_error(error))

    async def _sweep_leases(self) -> None:
        swept = await queue.sweep_leases(self._pool)
        if swept:
            stages = dict(collections.Counter(job.stage for job in swept))
            log(Event.LEASES_SWEPT, logging.WARNING, stages=stages, dead=sum(job.is_dead for job in swept))
            self._listener.wake()
        await queue.forget_dead_workers(self._pool, DEAD_WORKER_SILENCE)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event or for a time. `wait_for` of Python 3.11 loses a cancellation that comes with the event."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def describe_error(error: BaseException) -> str:
    """Return an error's message in one storable line, or its class."""
    return one_line(storable(str(error))[0]) or type(error).__name__
