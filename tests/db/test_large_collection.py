"""A large collection beside a small one: indexed by its job, found by its indexes, and as well as by an exact scan."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import numpy as np
import pytest
from pgvector import HalfVector

from services.embedder.store import IndexRule
from services.query import store
from shared.database import open_pool
from tests.db.clones import clone
from tests.planting import SHORT, Planted, indexing_worker, mixture, nearest, plant, recall
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)
LARGE = 60_000
SMALL = 200
CROWD = 60_000
DIMENSION = 64
BUILD_SECONDS_MAX = 300


@pytest.fixture(scope="module")
async def large_url(server_url: str, template: str) -> AsyncIterator[str]:
    async with clone(server_url, "test_index_jobs", template=template) as url:
        yield url


@pytest.fixture(scope="module")
async def planted(large_url: str) -> dict[str, Planted]:
    """A large collection beside a small one and a crowd, tended by a real worker until nothing is due."""
    planted = await plant(large_url, {"large": LARGE, "small": SMALL}, DIMENSION)
    connection = await asyncpg.connect(large_url, server_settings={"search_path": "askbox, public"})
    # Vectors of other collections, which is all that the planner sees of them.
    await connection.execute(
        "SET session_replication_role = replica; INSERT INTO chunk_vector SELECT 100 + n % 2000, v.model_id, 10000000 + n, 1, v.vector "
        f"FROM generate_series(1, {CROWD}) AS n CROSS JOIN (SELECT model_id, vector FROM chunk_vector LIMIT 1) AS v"
    )
    async with open_pool(large_url, "askbox_worker", "test worker", connections_max=4) as workers:
        worker = indexing_worker(large_url, workers, IndexRule(), SHORT)
        running = asyncio.create_task(worker.run())
        await until(
            lambda: connection.fetchval("SELECT count(*) = 2 FROM search_index WHERE is_valid"), BUILD_SECONDS_MAX
        )
        await until(lambda: connection.fetchval("SELECT count(*) = 0 FROM job"))
        worker.stop()
        await running
    await connection.close()
    return planted


@pytest.fixture
async def reader(large_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with (
        open_pool(large_url, "askbox_reader", "test reader", connections_max=1) as readers,
        readers.acquire() as conn,
    ):
        yield conn


async def test_large_collection_gets_both_indexes_and_the_small_one_none(
    large_url: str, planted: dict[str, Planted], reader: asyncpg.Connection
):
    large = planted["large"].collection
    connection = await asyncpg.connect(large_url, server_settings={"search_path": "askbox, public"})
    assert await connection.fetchval("SELECT array_agg(name::text ORDER BY name) FROM search_index WHERE is_valid") == [
        f"chunk_tsv_gin_{large.id}",
        f"chunk_vector_hnsw_{large.id}_{large.model_id}",
    ]
    assert await connection.fetchval("SELECT count(*) FROM dead_letter") == 0
    analyzed = (
        "SELECT array_agg(relname::text ORDER BY relname) FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL"
    )
    assert await connection.fetchval(analyzed) == ["chunk", "chunk_vector"]
    assert dict(await connection.fetch("SELECT collection_id, chunk_count FROM collection_stat")) == {
        planted["large"].collection.id: LARGE,
        planted["small"].collection.id: SMALL,
    }
    await connection.close()


@dataclass(frozen=True)
class Scan:
    """How a plan reads a table."""

    index: str | None
    rows: int


async def scans_of(conn: asyncpg.Connection, planted: Planted) -> dict[str, Scan]:
    """Return how the plan of a question reads the vectors, by alias: to find the nearest, and to fill in scores."""
    statement = store.retrieve_statement(DIMENSION)
    collection = planted.collection
    question = HalfVector(mixture(1, DIMENSION, 99)[0])
    arguments = ([collection.id], collection.id, collection.model_id, "[]", question, 100)
    async with conn.transaction():
        await store.set_scope(conn, [collection.id])
        text = await conn.fetchval(f"EXPLAIN (FORMAT json) {statement}", *arguments)
    stack, found = [json.loads(text)[0]["Plan"]], {}
    while stack:
        node = stack.pop()
        stack += node.get("Plans", [])
        if node.get("Relation Name") == "chunk_vector":
            found[node["Alias"]] = Scan(node.get("Index Name"), node["Plan Rows"])
    return found


async def test_question_walks_the_index_of_the_large_collection_and_scans_the_small_one(
    planted: dict[str, Planted], reader: asyncpg.Connection
):
    """As the reader, behind its walls, and beside a crowd of collections that would mislead the planner."""
    large = planted["large"].collection
    scans = await scans_of(reader, planted["large"])
    assert scans["chunk_vector"].index == f"chunk_vector_hnsw_{large.id}_{large.model_id}"
    # Of a share that it takes for small the planner would rather scan all.
    assert scans["chunk_vector"].rows > LARGE / 3
    assert scans["v"].index == "chunk_vector_pkey"
    assert "hnsw" not in str((await scans_of(reader, planted["small"]))["chunk_vector"].index)


async def test_recall_is_high_with_the_index_and_perfect_without(
    planted: dict[str, Planted], reader: asyncpg.Connection
):
    questions = mixture(150, DIMENSION, 99)
    shares = {}
    for name, one in planted.items():
        async with reader.transaction():
            await store.set_scope(reader, [one.collection.id])
            found = [await nearest(reader, one, question) for question in questions]
        shares[name] = recall(one, questions, found)
    assert shares["small"] == 1
    assert shares["large"] >= 0.98


async def test_every_candidate_has_its_exact_scores(planted: dict[str, Planted], reader: asyncpg.Connection):
    large = planted["large"]
    question = mixture(1, DIMENSION, 98)[0]
    async with reader.transaction():
        await store.set_scope(reader, [large.collection.id])
        scope = [large.collection.id]
        terms = await store.question_terms(reader, scope, "word2991")
        found = await store.retrieve(reader, scope, large.collection, terms, HalfVector(question), arm_limit=100)
    lexical = [candidate for candidate in found if candidate.is_lexical_hit]
    assert lexical
    assert len(found) > len(lexical) + 90
    for candidate in found:
        exact = float(np.dot(large.vectors[candidate.chunk_id - large.first_id], question))
        assert candidate.cosine == pytest.approx(exact, abs=2e-3)
        assert (candidate.bm25 > 0) == candidate.is_lexical_hit


async def test_words_of_the_large_collection_are_found_by_its_own_text_index(
    large_url: str, planted: dict[str, Planted], reader: asyncpg.Connection
):
    looker = await asyncpg.connect(large_url, server_settings={"search_path": "askbox, public"})

    async def scans() -> int:
        await reader.execute("SELECT pg_stat_force_next_flush()")
        await reader.execute("SELECT 1")
        await looker.execute("SELECT pg_stat_clear_snapshot()")
        statement = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1"
        return await looker.fetchval(statement, f"chunk_tsv_gin_{planted['large'].collection.id}")

    counts = [await scans()]
    for name in ("small", "large"):
        collection_id = planted[name].collection.id
        async with reader.transaction():
            await store.set_scope(reader, [collection_id])
            hits = await reader.fetch("SELECT * FROM lexical_hits($1, 'word1 and word2991', '{}', 20)", collection_id)
            assert any(hit["is_hit"] for hit in hits)
        counts.append(await scans())
    await looker.close()
    assert counts[0] == counts[1] < counts[2]
