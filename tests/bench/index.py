"""Build an index by its job and compare: seconds, recall, and the whole retrieval before and after."""

import random
import statistics
import time
from dataclasses import dataclass

import asyncpg
from pgvector import HalfVector

from services.embedder.index import IndexHandler
from services.embedder.index_build import IndexBuilder
from services.query import store
from services.query.retrieve import ARM_LIMIT, retrieve
from shared.database import open_pool
from tests.factories import claim
from tests.planting import MEMORY_BYTES, Planted, mixture, nearest, plant, recall

SIZES = {"large": 100_000, "small": 200}
DIMENSION = 384
WORDS = 60
QUESTIONS = 150
HITS = 10
BARE = (
    "SELECT chunk_id FROM chunk_vector WHERE collection_id = $1 AND model_id = $2 "
    f"ORDER BY vector::halfvec({DIMENSION}) <#> $3::halfvec LIMIT $4"
)


# What is planted has no documents; a question reads them too.
DOCUMENTS = """
SET session_replication_role = replica;
INSERT INTO askbox.document (collection_id, id, source_uri, live_version_id) OVERRIDING SYSTEM VALUE
SELECT DISTINCT collection_id, document_id, 'upload:' || document_id, document_id + 1000000 FROM askbox.chunk;
INSERT INTO askbox.document_version (collection_id, id, document_id, blob_id, state, chunk_count, token_count, ready_at, ended_at)
OVERRIDING SYSTEM VALUE SELECT collection_id, live_version_id, id, 1, 'ready', 20, 1, now(), now() FROM askbox.document;
INSERT INTO askbox.chunk_position (collection_id, version_id, ordinal, chunk_id, char_start, char_end)
SELECT collection_id, document_id + 1000000, row_number() OVER (PARTITION BY collection_id, document_id ORDER BY id) - 1, id, 0, 1
FROM askbox.chunk;
SET session_replication_role = origin
"""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one part of a question."""

    p50: float
    p95: float

    def __str__(self) -> str:
        return f"p50 {self.p50:6.1f} ms, p95 {self.p95:6.1f} ms"


async def measure(url: str) -> None:
    """Plant, measure, build, measure again, print."""
    planted = await plant(url, SIZES, DIMENSION, words=WORDS)
    async with (
        open_pool(url, "askbox_worker", "bench worker", connections_max=4) as workers,
        open_pool(url, "askbox_reader", "bench reader", connections_max=1) as readers,
    ):
        connection = await asyncpg.connect(url)
        await connection.execute(DOCUMENTS)
        await _do_index_jobs(workers, IndexHandler(workers))
        for table in ("chunk", "chunk_vector", "chunk_position", "document", "document_version"):
            await connection.execute(f"VACUUM ANALYZE askbox.{table}")
        await connection.close()
        async with readers.acquire() as conn:
            exact = {name: await _time(conn, one, is_hybrid=False) for name, one in planted.items()}
            before = {name: await _time(conn, one, is_hybrid=True) for name, one in planted.items()}
            started = time.monotonic()
            await _do_index_jobs(workers, IndexHandler(workers, IndexBuilder(url, memory_bytes=MEMORY_BYTES)))
            seconds = time.monotonic() - started
            print(f"index: {SIZES['large']} + {SIZES['small']} chunks of {DIMENSION} dimensions and {WORDS} words")
            print(f"  job (statistics, text index, vector index)  {seconds:6.1f} s")
            for name, one in planted.items():
                bare, dense = await _time_bare(conn, one), await _time(conn, one, is_hybrid=False)
                hybrid = await _time(conn, one, is_hybrid=True)
                print(f"  {name}: recall@10 {await _recall(conn, one):.4f}")
                print(f"    vectors only, exact scan      {exact[name]}")
                print(f"    vectors only, after           {dense}  (ratio {exact[name].p50 / dense.p50:.1f})")
                print(f"    the bare statement of pgvector {bare}  (ratio {dense.p50 / bare.p50:.2f})")
                print(f"    both arms, exact scan         {before[name]}")
                print(f"    both arms, after              {hybrid}  (ratio {before[name].p50 / hybrid.p50:.1f})")


async def _do_index_jobs(pool: asyncpg.Pool, handler: IndexHandler) -> None:
    await handler.request_outdated()
    while jobs := await claim(pool, "index", batch_size=1):
        await handler.process(jobs)


async def _time(conn: asyncpg.Connection, planted: Planted, *, is_hybrid: bool) -> Timing:
    """Time the dense arm's statement, or all that a question asks of the database: terms, both arms, neighbours, hits."""
    words = random.Random(1)
    collection = planted.collection
    times = []
    for vector in mixture(QUESTIONS, DIMENSION, 99):
        question = " ".join(f"word{int(20_000 ** words.random())}" for _ in range(8))
        async with conn.transaction():
            await store.set_scope(conn, [collection.id])
            started = time.perf_counter()
            if is_hybrid:
                await retrieve(conn, [collection], question, vector, limit=HITS)
            else:
                await store.retrieve(conn, [collection.id], collection, [], HalfVector(vector), arm_limit=ARM_LIMIT)
            times.append((time.perf_counter() - started) * 1000)
    return _timing(times)


async def _time_bare(conn: asyncpg.Connection, planted: Planted) -> Timing:
    """Time what pgvector's manual asks for the nearest, in the same session."""
    collection = planted.collection
    times = []
    for vector in mixture(QUESTIONS, DIMENSION, 99):
        async with conn.transaction():
            await store.set_scope(conn, [collection.id])
            started = time.perf_counter()
            await conn.fetch(BARE, collection.id, collection.model_id, HalfVector(vector), ARM_LIMIT)
            times.append((time.perf_counter() - started) * 1000)
    return _timing(times)


def _timing(times: list[float]) -> Timing:
    return Timing(statistics.median(times), sorted(times)[int(0.95 * len(times))])


async def _recall(conn: asyncpg.Connection, planted: Planted) -> float:
    questions = mixture(QUESTIONS, DIMENSION, 99)
    async with conn.transaction():
        await store.set_scope(conn, [planted.collection.id])
        return recall(planted, questions, [await nearest(conn, planted, question) for question in questions])
