"""The queue against a model: whatever is done in whatever order, both agree on every job, lease and dead letter."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared import queue
from shared.database import connect
from shared.errors import LeaseLost
from shared.queue import ClaimRule, Job
from tests.db.clones import clone

LEASE = timedelta(minutes=10)
DEADLINE = timedelta(minutes=60)
MAX_ATTEMPTS = 3
SUBJECTS = 8

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass
class ModelJob:
    """What the model knows of a job."""

    id: int
    subject_id: int
    rank: int
    attempt: int = 0
    lease_id: int | None = None
    can_run: bool = True


@dataclass
class ModelQueue:
    """The queue in a few dictionaries."""

    jobs: dict[int, ModelJob] = field(default_factory=dict)
    # lease id → has it expired
    leases: dict[int, bool] = field(default_factory=dict)
    # subject → attempts
    dead: dict[int, int] = field(default_factory=dict)

    def of(self, lease_id: int) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.lease_id == lease_id]

    def bury(self, job: ModelJob) -> None:
        del self.jobs[job.id]
        self.dead[job.subject_id] = job.attempt

    def drop_if_empty(self, lease_id: int) -> None:
        if not self.of(lease_id):
            del self.leases[lease_id]


class QueueMachine(RuleBasedStateMachine):
    """Workers, zombies and sweepers in any order. A handle is what a worker holds in memory: it may be out of date."""

    def __init__(self, run: Run, worker: asyncpg.Connection, owner: asyncpg.Connection) -> None:
        super().__init__()
        self.run = run
        self.worker = worker
        self.owner = owner
        self.model = ModelQueue()
        self.handles: list[list[Job]] = []
        self.lease_ids_seen: set[int] = set()

    @initialize()
    def empty(self) -> None:
        self.run(self.owner.execute("TRUNCATE job, lease, dead_letter, worker RESTART IDENTITY"))

    # -- rules --------------------------------------------------------------------------------------------------------

    @rule(subject_id=st.integers(1, SUBJECTS), rank=st.integers(0, 2))
    def enqueue(self, subject_id: int, rank: int) -> None:
        job_id = self.run(
            self.worker.fetchval(
                "INSERT INTO job (stage, subject_id, collection_id, rank, max_attempts) VALUES ('ingest', $1, 1, $2, $3) "
                "ON CONFLICT ON CONSTRAINT one_job_per_subject DO NOTHING RETURNING id",
                subject_id,
                rank,
                MAX_ATTEMPTS,
            )
        )
        assert (job_id is None) == any(job.subject_id == subject_id for job in self.model.jobs.values())
        if job_id is not None:
            self.model.jobs[job_id] = ModelJob(job_id, subject_id, rank)

    @rule(batch_size=st.integers(1, 4), is_fifo=st.booleans(), is_suspect=st.sampled_from([None, False, True]))
    def claim(self, batch_size: int, is_fifo: bool, is_suspect: bool | None) -> None:  # noqa: FBT001 (drawn by name)
        claim_rule = ClaimRule("ingest", batch_size, LEASE, DEADLINE, is_suspect=is_suspect)
        jobs = self.run(queue.claim_jobs(self.worker, claim_rule, worker_id=1, is_fifo=is_fifo))
        waiting = [
            job
            for job in self.model.jobs.values()
            if job.lease_id is None and job.can_run and is_suspect in (None, job.attempt > 0)
        ]
        waiting.sort(key=lambda job: (0 if is_fifo else job.rank, job.id))
        expected = waiting[:batch_size]
        assert {job.id for job in jobs} == {job.id for job in expected}
        if not jobs:
            return
        (lease_id,) = {job.lease_id for job in jobs}
        assert lease_id not in self.lease_ids_seen, "a lease id was used again"
        self.lease_ids_seen.add(lease_id)
        self.model.leases[lease_id] = False
        for job in expected:
            job.lease_id = lease_id
            job.attempt += 1
        self.handles.append(jobs)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        lease_id = self.draw_handle(data)[0].lease_id
        is_ours = lease_id in self.model.leases and not self.model.leases[lease_id]
        self.expect_lost(queue.extend_lease(self.worker, lease_id, LEASE), is_lost=not is_ours)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def complete_some(self, data: st.DataObject) -> None:
        jobs, some = self.draw_part(data)
        lease_id = jobs[0].lease_id

        async def complete() -> set[int]:
            async with self.worker.transaction():
                return await queue.complete_jobs(self.worker, lease_id, some)

        if (done := self.expect_lost(complete(), is_lost=lease_id not in self.model.leases)) is not None:
            ours = [job for job in self.model.of(lease_id) if job.id in some]
            assert done == {job.id for job in ours}
            for job in ours:
                del self.model.jobs[job.id]
            self.model.drop_if_empty(lease_id)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def retry_some(self, data: st.DataObject) -> None:
        jobs, some = self.draw_part(data)
        lease_id = jobs[0].lease_id
        work = queue.retry_or_bury_jobs(self.worker, lease_id, some, error_code="x", error="again")
        if (buried := self.expect_lost(work, is_lost=lease_id not in self.model.leases)) is not None:
            ours = [job for job in self.model.of(lease_id) if job.id in some]
            assert buried == {job.id for job in ours if job.attempt == MAX_ATTEMPTS}
            for job in ours:
                if job.attempt == MAX_ATTEMPTS:
                    self.model.bury(job)
                else:
                    job.lease_id, job.can_run = None, False
            self.model.drop_if_empty(lease_id)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def bury_some(self, data: st.DataObject) -> None:
        jobs, some = self.draw_part(data)
        lease_id = jobs[0].lease_id
        work = queue.bury_jobs(self.worker, lease_id, some, error_code="x", error="never")
        if (buried := self.expect_lost(work, is_lost=lease_id not in self.model.leases)) is not None:
            ours = [job for job in self.model.of(lease_id) if job.id in some]
            assert buried == {job.id for job in ours}
            for job in ours:
                self.model.bury(job)
            self.model.drop_if_empty(lease_id)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease_id = self.draw_handle(data)[0].lease_id
        count = self.expect_lost(queue.release_jobs(self.worker, lease_id), is_lost=lease_id not in self.model.leases)
        if count is not None:
            ours = self.model.of(lease_id)
            assert count == len(ours)
            for job in ours:
                job.lease_id, job.can_run = None, True
                job.attempt -= 1
            self.model.drop_if_empty(lease_id)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), column=st.sampled_from(["expires_at", "deadline_at"]))
    def expire(self, data: st.DataObject, column: str) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.model.leases)))
        self.run(self.owner.execute(f"UPDATE lease SET {column} = now() - interval '1 second' WHERE id = $1", lease_id))
        self.model.leases[lease_id] = True

    @rule()
    def sweep(self) -> None:
        swept = self.run(queue.sweep_leases(self.worker))
        expected = set()
        for lease_id in [lease_id for lease_id, has_expired in self.model.leases.items() if has_expired]:
            for job in self.model.of(lease_id):
                is_dead = job.attempt == MAX_ATTEMPTS
                expected.add((job.subject_id, is_dead))
                if is_dead:
                    self.model.bury(job)
                else:
                    job.lease_id, job.can_run = None, True
            del self.model.leases[lease_id]
        assert {(job.subject_id, job.is_dead) for job in swept} == expected
        assert len(swept) == len(expected)

    @precondition(lambda self: any(not job.can_run for job in self.model.jobs.values()))
    @rule()
    def time_passes(self) -> None:
        self.run(self.owner.execute("UPDATE job SET run_at = now() WHERE run_at > now()"))
        for job in self.model.jobs.values():
            job.can_run = True

    # -- after every step ---------------------------------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self) -> None:
        rows = self.run(
            self.owner.fetch("SELECT id, subject_id, rank, attempt, lease_id, run_at <= now() AS can_run FROM job")
        )
        assert {row["id"]: tuple(row) for row in rows} == {
            job.id: (job.id, job.subject_id, job.rank, job.attempt, job.lease_id, job.can_run)
            for job in self.model.jobs.values()
        }
        leases = self.run(self.owner.fetch("SELECT id, least(expires_at, deadline_at) <= now() FROM lease"))
        assert dict(map(tuple, leases)) == self.model.leases
        letters = self.run(self.owner.fetch("SELECT subject_id, attempt FROM dead_letter"))
        assert sorted(map(tuple, letters)) == sorted(self.model.dead.items())

    @invariant()
    def lease_owns_jobs(self) -> None:
        assert {job.lease_id for job in self.model.jobs.values()} - {None} == set(self.model.leases)

    @invariant()
    def attempts_are_bounded(self) -> None:
        assert all(0 <= job.attempt <= MAX_ATTEMPTS for job in self.model.jobs.values())
        assert all(1 <= attempt <= MAX_ATTEMPTS for attempt in self.model.dead.values())

    @invariant()
    def subject_has_one_job(self) -> None:
        subjects = [job.subject_id for job in self.model.jobs.values()]
        assert len(subjects) == len(set(subjects))

    # -- helpers ------------------------------------------------------------------------------------------------------

    def draw_handle(self, data: st.DataObject) -> list[Job]:
        """Pick a batch that some worker holds or once held."""
        return data.draw(st.sampled_from(self.handles))

    def draw_part(self, data: st.DataObject) -> tuple[list[Job], list[int]]:
        """Pick some jobs for a worker to dispose of, which need not be its own any more."""
        jobs = self.draw_handle(data)
        ids = sorted({*(job.id for job in jobs), *self.model.jobs})
        return jobs, data.draw(st.lists(st.sampled_from(ids), unique=True, min_size=1))

    def expect_lost(self, work: Coroutine[Any, Any, Any], *, is_lost: bool) -> Any:
        """Run work that must lose its lease, or must not."""
        if not is_lost:
            return self.run(work)
        with pytest.raises(LeaseLost):
            self.run(work)
        return None


@pytest.fixture
async def model_url(server_url: str, template: str) -> AsyncIterator[str]:
    async with clone(server_url, "test_queue_model", template=template) as url:
        yield url


def test_queue_agrees_with_its_model(model_url: str):
    with asyncio.Runner() as runner:
        worker = runner.run(connect(model_url, "askbox_worker", "test model"))
        owner = runner.run(asyncpg.connect(model_url, server_settings={"search_path": "askbox, public"}))
        try:
            run_state_machine_as_test(
                lambda: QueueMachine(runner.run, worker, owner),
                settings=settings(max_examples=200, stateful_step_count=40),
            )
        finally:
            runner.run(worker.close())
            runner.run(owner.close())
