"""The story of a document: who did what, at which attempt, and for how long."""

import os
import socket
from collections.abc import AsyncIterator

import asyncpg

from services.embedder.embed import EmbedHandler
from services.ingester.ingest import IngestHandler
from services.ingester.sandbox import ParsedHead
from services.query import ingest_store, store
from services.query.ingest_store import EventRow
from shared import queue
from shared.publication import PublicationSweep, VersionKey, add_event
from tests.factories import HashModel, arrive, claim, make_chunks, make_collection

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HERE = f"{os.getpid()}@{socket.gethostname()}"


class Parsers:
    """Reads two chunks out of any file."""

    async def parse(self, *_: object) -> AsyncIterator[object]:
        for chunk in make_chunks(["One.", "Two."]):
            yield chunk
        yield ParsedHead("text/plain", None, {}, 0)


async def story(reader_pool: asyncpg.Pool, collection_id: int, document_id: int) -> list[EventRow]:
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [collection_id])
        return await ingest_store.list_events(conn, [collection_id], document_id, after_id=0, limit=100)


async def test_story_names_worker_attempt_and_duration_and_outlives_the_worker(pool, reader_pool, tmp_path):
    worker_id = await queue.register_worker(pool, kind="ingester", host=socket.gethostname(), pid=os.getpid())
    arrival = await arrive(pool, "text")
    await pool.execute("UPDATE document_version SET traceparent = $1", f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    _, model_id = await make_collection(pool)
    ingest = IngestHandler(pool, Parsers(), tmp_path, PublicationSweep(pool))
    (job,) = await claim(pool, "ingest")
    # The second attempt, with the bytes that are read.
    async with pool.acquire() as conn:
        await queue.retry_or_bury_jobs(conn, job.lease_id, [job.id], error_code="x", error="once")
    await pool.execute("UPDATE job SET run_at = now()")
    jobs = await claim(pool, "ingest")
    await ingest.process(jobs)
    await ingest.after(jobs)
    embed = EmbedHandler(pool, HashModel(), model_id)
    jobs = await claim(pool, "embed")
    await embed.process(jobs)
    await embed.after(jobs)
    await embed.finish()
    await queue.forget_worker(pool, worker_id)
    lines = {line.stage: line for line in await story(reader_pool, arrival.collection_id, arrival.document_id)}
    assert set(lines) == {"intake", "ingest", "publish"}
    assert {line.worker for line in lines.values()} == {f"ingester {HERE}"}
    assert lines["ingest"].attempt == 2
    assert lines["ingest"].duration_ms > 0
    assert lines["publish"].duration_ms > 0
    assert {line.trace_id for line in lines.values()} == {TRACE_ID}


async def test_process_without_a_row_is_named_all_the_same(pool, reader_pool):
    arrival = await arrive(pool, "text")
    await add_event(pool, VersionKey(arrival.collection_id, arrival.version_id), arrival.document_id, "retry", "queued")
    assert {line.worker for line in await story(reader_pool, arrival.collection_id, arrival.document_id)} == {HERE}
