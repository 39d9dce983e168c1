"""Late writes of every kind, over a real database.

A batch is claimed and held before its write, its lease expires and is swept, another worker takes the jobs and is at work, or
done; then the first one goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import asyncpg

from services.embedder.embed import EmbedHandler
from services.embedder.index import IndexHandler
from services.ingester.chunking import Chunk
from services.ingester.folder import Contents
from services.ingester.ingest import IngestHandler
from services.ingester.sandbox import ParsedHead
from services.ingester.scan import ScanHandler
from services.ingester.settings import IngesterSettings
from services.ingester.store import ScanRequest
from services.query import ingest_store, store
from shared import queue
from shared.database import open_pool
from shared.embedding import Vectors
from shared.errors import LeaseLost, PermanentError
from shared.publication import PublicationSweep
from shared.queue import Job, Stage
from tests.factories import LEASE, HashModel, arrive, claim, make_chunks, make_collection

RACED_JOBS = 4
PATIENCE_SECONDS = 120.0
_TABLES = (
    "job", "lease", "dead_letter", "staged_chunk", "embedding", "chunk", "chunk_position", "chunk_vector", "document",
    "document_version", "document_event", "ingest_request", "ingest_request_document", "term_stat", "collection_stat",
)  # fmt: skip


@dataclass
class Gate:
    """Where a zombie stands still: between its last look and its write."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


class _Parsers:
    """A parser that gives the chunks it is told to, or stands before the first of them."""

    def __init__(self, texts: Sequence[str], gate: Gate | None = None) -> None:
        self._texts = texts
        self._gate = gate

    async def parse(self, _name: str, _file: IO[bytes], _file_bytes: int) -> AsyncIterator[ParsedHead | Chunk]:
        yield ParsedHead("text/plain", None, {}, 0)
        if self._gate is not None:
            await self._gate.pass_through()
        for chunk in make_chunks(self._texts):
            yield chunk


class _Model(HashModel):
    """A model that stands still before it answers, or refuses."""

    def __init__(self, gate: Gate, *, refuses: bool = False) -> None:
        super().__init__()
        self._gate = gate
        self._refuses = refuses

    async def encode(self, texts: Sequence[str]) -> Vectors:
        await self._gate.pass_through()
        if self._refuses:
            raise PermanentError("a zombie does not like this text")
        return await super().encode(texts)


Work = Callable[[list[Job]], Awaitable[object]]


class Rig:
    """A database with one unit of work at a time, and two workers for it."""

    def __init__(self, url: str, pool: asyncpg.Pool, owner: asyncpg.Connection, folder: Path) -> None:
        self.url = url
        self.pool = pool
        self.owner = owner
        self.folder = folder
        self.count = 0
        self.model_id = 0

    def ingest(self, texts: Sequence[str], gate: Gate | None = None) -> IngestHandler:
        return IngestHandler(self.pool, _Parsers(texts, gate), self.folder, PublicationSweep(self.pool))

    def embed(self, model: HashModel | None = None) -> EmbedHandler:
        return EmbedHandler(self.pool, model or HashModel(), self.model_id)

    def scan(self) -> ScanHandler:
        settings = IngesterSettings(_env_file=None, ingest_roots=(self.folder,))
        return ScanHandler(self.pool, settings)

    def index(self) -> IndexHandler:
        return IndexHandler(self.pool)

    async def prepare(self, stage: Stage) -> None:
        """Make one job of a stage."""
        self.count += 1
        collection_id, self.model_id = await make_collection(self.pool)
        if stage == "scan":
            (self.folder / f"{self.count}.md").write_text(f"File {self.count} of the folder.")
            async with self.pool.acquire() as conn, conn.transaction():
                await store.set_scope(conn, [collection_id])
                await ingest_store.create_scan(
                    conn, [collection_id], collection_id, str(self.folder),
                    is_recursive=True, traceparent=None, waiting_max=9,
                )  # fmt: skip
            return
        await arrive(self.pool, f"content {self.count}", source_uri=f"inbox:{self.count}.md")
        if stage == "embed":
            await self.work_off("ingest")
        elif stage == "index":
            await self.work_off("ingest")
            await self.work_off("embed")
            await self.owner.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")

    async def work_off(self, stage: Stage, jobs: list[Job] | None = None) -> None:
        """Do what waits, as another worker does."""
        text = [f"text {self.count}", f"more of {self.count}"]
        handler: Any = {
            "ingest": lambda: self.ingest(text),
            "embed": self.embed,
            "scan": self.scan,
            "index": self.index,
        }[stage]()
        jobs = jobs or await claim(self.pool, stage, batch_size=1 if stage != "embed" else 64, worker_id=2)
        while jobs:
            await handler.process(jobs)
            await handler.after(jobs)
            if stage == "embed":
                await handler.finish()
            jobs = await claim(self.pool, stage, batch_size=1 if stage != "embed" else 64, worker_id=2)

    async def settle(self) -> None:
        """Leave no work of a stage that a case begins with."""
        for stage in ("scan", "ingest", "embed"):
            await self.work_off(stage)
        await self.owner.execute("DELETE FROM job WHERE stage = 'index'")

    async def expire(self) -> None:
        await self.owner.execute("UPDATE lease SET expires_at = now() - interval '1 second'")

    async def picture(self) -> dict[str, str]:
        """Return a sum of everything that a write could change."""
        statement = " UNION ALL ".join(
            f"SELECT '{table}' AS name, md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) AS sum FROM {table} AS t"
            for table in _TABLES
        )
        return {row["name"]: row["sum"] for row in await self.owner.fetch(statement)}


@dataclass(frozen=True)
class Kind:
    """A late write: what is claimed, what the zombie does with it, and whether it is told (else it goes on in silence)."""

    stage: Stage
    work: Callable[[Rig, Gate], Work]
    is_told: bool = True


def _verb(act: Callable[[asyncpg.Connection, list[Job]], Awaitable[object]]) -> Callable[[Rig, Gate], Work]:
    """A verb of the queue by itself."""

    def bind(rig: Rig, gate: Gate) -> Work:
        async def work(jobs: list[Job]) -> None:
            await gate.pass_through()
            async with rig.pool.acquire() as conn:
                await act(conn, jobs)

        return work

    return bind


async def _complete(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    async with conn.transaction():
        await queue.complete_jobs(conn, jobs[0].lease_id, [job.id for job in jobs])


async def _retry(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    ids = [job.id for job in jobs]
    await queue.retry_or_bury_jobs(conn, jobs[0].lease_id, ids, error_code="zombie", error="zombie")


async def _bury(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.bury_jobs(conn, jobs[0].lease_id, [job.id for job in jobs], error_code="zombie", error="zombie")


async def _release(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.release_jobs(conn, jobs[0].lease_id)


async def _extend(conn: asyncpg.Connection, jobs: list[Job]) -> None:
    await queue.extend_lease(conn, jobs[0].lease_id, LEASE)


def _begin(rig: Rig, gate: Gate) -> Work:
    async def work(jobs: list[Job]) -> None:
        await gate.pass_through()
        await rig.ingest(["written by a zombie"]).process(jobs)

    return work


def _stage(rig: Rig, gate: Gate) -> Work:
    return rig.ingest(["written by a zombie"], gate).process


def _finish_staging(rig: Rig, gate: Gate) -> Work:
    return rig.ingest([], gate).process  # nothing to stage before


def _embed(rig: Rig, gate: Gate) -> Work:
    return rig.embed(_Model(gate)).process


def _reject(rig: Rig, gate: Gate) -> Work:
    return rig.embed(_Model(gate, refuses=True)).process


def _scan(rig: Rig, gate: Gate) -> Work:
    async def work(jobs: list[Job]) -> None:
        await gate.pass_through()
        await rig.scan().process(jobs)

    return work


def _finish_scan(rig: Rig, gate: Gate) -> Work:
    scan = rig.scan()

    async def work(jobs: list[Job]) -> None:
        await gate.pass_through()
        (job,) = jobs
        request = await rig.owner.fetchrow("SELECT * FROM ingest_request WHERE number = $1", job.subject_id)
        names = ("id", "number", "collection_id", "directory", "is_recursive")
        await scan._finish(job, ScanRequest(*(request[name] for name in names)), Contents(), "a zombie")

    return work


def _count_terms(rig: Rig, gate: Gate) -> Work:
    async def work(jobs: list[Job]) -> None:
        await gate.pass_through()
        await rig.index().process(jobs)

    return work


KINDS: dict[str, Kind] = {
    "complete": Kind("embed", _verb(_complete)),
    "retry": Kind("embed", _verb(_retry)),
    "bury": Kind("ingest", _verb(_bury)),
    "release": Kind("ingest", _verb(_release)),
    "extend": Kind("embed", _verb(_extend)),
    "begin parsing": Kind("ingest", _begin),
    "stage chunks": Kind("ingest", _stage),
    "finish staging": Kind("ingest", _finish_staging),
    "store vectors": Kind("embed", _embed),
    "bury a rejected text": Kind("embed", _reject, is_told=False),
    "take a file of a scan": Kind("scan", _scan),
    "finish a scan": Kind("scan", _finish_scan),
    "count terms": Kind("index", _count_terms),
}


@asynccontextmanager
async def rigged(url: str, folder: Path) -> AsyncIterator[Rig]:
    """Open a rig on a database of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    try:
        async with open_pool(url, "askbox_worker", "zombies", connections_max=8) as pool:
            yield Rig(url, pool, owner, folder)
    finally:
        await owner.close()


async def wake_one(rig: Rig, name: str, *, is_finished: bool) -> str | None:
    """Let one zombie wake, after another worker has finished its work or while it is at it; say what did not hold."""
    kind = KINDS[name]
    gate = Gate()
    await rig.prepare(kind.stage)
    jobs = await claim(rig.pool, kind.stage, batch_size=1 if kind.stage != "embed" else 64, worker_id=1)
    zombie = asyncio.ensure_future(kind.work(rig, gate)(jobs))
    reached = asyncio.ensure_future(gate.reached.wait())
    await asyncio.wait({zombie, reached}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert gate.reached.is_set(), f"{name} never came to its write: {zombie}"
    await rig.expire()
    swept = await queue.sweep_leases(rig.pool)
    others = await claim(rig.pool, kind.stage, batch_size=1 if kind.stage != "embed" else 64, worker_id=2)
    if is_finished:
        await rig.work_off(kind.stage, others)
    before = await rig.picture()
    gate.opened.set()
    result = (await asyncio.gather(zombie, return_exceptions=True))[0]
    after = await rig.picture()
    if not is_finished:
        await rig.work_off(kind.stage, others)
    await rig.settle()
    if len(swept) != len(jobs):
        return f"{name}: {len(swept)} of {len(jobs)} jobs were swept"
    if kind.is_told and not isinstance(result, LeaseLost):
        return f"{name}: was told {result!r} instead of LeaseLost"
    if not kind.is_told and result is not None:
        return f"{name}: {result!r}"
    changed = [table for table in _TABLES if before[table] != after[table]]
    return f"{name}: wrote {', '.join(changed)}" if changed else None


async def race_one(rig: Rig, sweepers: int) -> tuple[bool, str | None]:
    """Let a completion and sweepers go for one expired lease at once; return whether it was completed, and what did not hold."""
    await rig.prepare("ingest")
    collection_id, _ = await make_collection(rig.pool)
    await rig.settle()
    first = 10_000_000 + rig.count * 100
    await rig.owner.execute(
        "INSERT INTO job (stage, subject_id, collection_id) SELECT 'scan', $1 + n, $2 FROM generate_series(1, $3::int) AS n",
        first, collection_id, RACED_JOBS,
    )  # fmt: skip
    jobs = await claim(rig.pool, "scan", worker_id=1)
    await rig.expire()

    async def complete() -> bool:
        async with rig.pool.acquire() as conn:
            try:
                await _complete(conn, jobs)
            except LeaseLost:
                return False
        return True

    was_completed, *sweeps = await asyncio.gather(complete(), *(queue.sweep_leases(rig.pool) for _ in range(sweepers)))
    swept = [job.subject_id for sweep in sweeps for job in sweep]
    left = await rig.owner.fetchval("SELECT count(*) FROM job WHERE stage = 'scan' AND lease_id IS NULL")
    leases = await rig.owner.fetchval("SELECT count(*) FROM lease")
    await rig.owner.execute("DELETE FROM job WHERE stage = 'scan'")
    expected = [] if was_completed else [job.subject_id for job in jobs]
    if sorted(swept) != sorted(expected) or left != len(expected) or leases:
        return was_completed, f"race: completed {was_completed}, swept {len(swept)}, ready {left}, leases {leases}"
    return was_completed, None
