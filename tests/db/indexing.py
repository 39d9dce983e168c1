"""Do `index` jobs by hand, on collections of a few chunks."""

import asyncpg

from services.embedder.index import IndexHandler
from services.embedder.index_build import IndexBuilder
from services.embedder.store import IndexRule
from shared import queue
from tests.factories import claim
from tests.planting import MEMORY_BYTES

RULE = IndexRule(exact_chunks_max=20)
VALID = "SELECT array_agg(name::text ORDER BY name) FROM search_index WHERE is_valid"
LEFTOVERS = "SELECT count(*) FROM search_index WHERE NOT is_valid"


def texts(count: int, *, word: str = "text") -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def make_handler(url: str, pool: asyncpg.Pool, rule: IndexRule = RULE, **bounds: float) -> IndexHandler:
    return IndexHandler(pool, IndexBuilder(url, memory_bytes=MEMORY_BYTES), rule, **bounds)


async def tend(pool: asyncpg.Pool, handler: IndexHandler) -> None:
    """Do every job that a sweep asks for, and those that come of them."""
    for _ in range(10):
        await handler.request_outdated()
        await pool.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
        jobs = await claim(pool, "index", batch_size=1)
        if not jobs:
            return
        await handler.process(jobs)
    raise AssertionError("the jobs do not come to an end")


async def indexes(conn: asyncpg.Connection) -> list[str]:
    return await conn.fetchval(VALID) or []


async def request(pool: asyncpg.Pool, handler: IndexHandler) -> list[queue.Job]:
    await handler.request_outdated()
    await pool.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
    return await claim(pool, "index", batch_size=1)
