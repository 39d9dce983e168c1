"""The plans that the design counts on, on tables large enough that the planner has a choice."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import numpy as np
import pytest
from pgvector import HalfVector

from services.query import store
from services.query.retrieve import ARM_LIMIT
from services.query.store import CollectionRow
from shared import publication, queue
from shared.database import open_pool
from tests.db.clones import clone
from tests.factories import DEADLINE, DIMENSION, LEASE, make_collection, publish_version, vector_of

BACKLOG = 50_000
CHUNKS = 20_000


@pytest.fixture(scope="module")
async def large_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database with a long backlog and two large collections."""
    async with clone(server_url, "test_plans", template=template) as url:
        async with open_pool(url, "askbox_worker", "test worker", connections_max=2) as workers:
            for name in ("large", "neighbour"):
                await make_collection(workers, name)
        connection = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
        await connection.execute("SET session_replication_role = replica")  # rows without their documents
        await connection.execute(
            "INSERT INTO job (stage, subject_id, text_hash, collection_id, rank, attempt) "
            "SELECT s.stage, n, CASE s.stage WHEN 'embed' THEN sha256(n::text::bytea) END, 1, n % 1000, (n % 1000 = 7)::integer "
            f"FROM generate_series(1, {BACKLOG}) AS n, (VALUES ('embed'), ('ingest')) AS s (stage)"
        )
        await connection.execute(
            "INSERT INTO chunk (collection_id, document_id, chunk_hash, text_hash, text, prefix, heading, language, token_count, tsv, "
            "lexeme_count) SELECT 1 + n % 2, 1, 'c', 't', '', '', '', 'english', 9, t.tsv, 4 "
            f"FROM generate_series(1, {CHUNKS}) AS n "
            "CROSS JOIN LATERAL (SELECT to_tsvector('english', format('common word%s word%s topic%s', n, n % 997, n % 50))) AS t (tsv)"
        )
        await connection.execute(
            "INSERT INTO term_stat SELECT c.collection_id, w.lexeme, count(*) FROM chunk AS c, unnest(c.tsv) AS w GROUP BY 1, 2"
        )
        await connection.execute(
            "INSERT INTO collection_stat SELECT collection_id, count(*), sum(lexeme_count), now(), 1 FROM chunk GROUP BY 1"
        )
        await connection.execute("INSERT INTO collection_language SELECT id, 'english' FROM collection")
        await connection.execute("ANALYZE")
        yield url
        await connection.close()


@pytest.fixture(scope="module")
async def workers(large_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(large_url, "askbox_worker", "test worker", connections_max=2) as opened:
        yield opened


@pytest.fixture(scope="module")
async def readers(large_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(large_url, "askbox_reader", "test reader", connections_max=2) as opened:
        yield opened


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def explain(conn: asyncpg.Connection | asyncpg.Pool, statement: str, *arguments: object) -> list[dict[str, Any]]:
    """Return the nodes of a plan."""
    (document,) = json.loads(await conn.fetchval(f"EXPLAIN (FORMAT json) {statement}", *arguments))
    return list(nodes(document["Plan"]))


async def test_jobs_of_texts_are_looked_up_by_text_whatever_the_statistics_know(workers):
    statement = publication.STATEMENTS["advance_embed_jobs"]
    plan = await explain(workers, statement, 1, 1, 1, publication.CHUNKS_PER_RANK, 0, publication.ORDINAL_MAX)
    (look,) = [node for node in plan if node.get("Alias") == "k"]
    assert "text_hash" in look["Index Cond"]


@pytest.mark.parametrize("stage", ["embed", "ingest"])
@pytest.mark.parametrize(
    ("is_fifo", "is_suspect", "index"),
    [
        (False, None, "job_ready"),
        (False, False, "job_ready"),
        (True, None, "job_ready_fifo"),
        (True, False, "job_ready_fifo"),
        (False, True, "job_suspect"),
        (True, True, "job_suspect"),
    ],
)
async def test_claim_walks_an_index_of_waiting_jobs(
    workers: asyncpg.Pool, stage: str, *, is_fifo: bool, is_suspect: bool | None, index: str
):
    arguments = (stage, 64, 1, LEASE, DEADLINE, None, queue.COST_UNBOUNDED, is_fifo, is_suspect)
    plan = await explain(workers, queue.STATEMENTS["claim_jobs"], *arguments)
    assert index in {node.get("Index Name") for node in plan}
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "job"]
    if index != "job_suspect":  # suspects are few, and may be sorted
        assert not [node for node in plan if "Sort" in node["Node Type"]]


async def test_sweep_finds_the_jobs_of_a_lease_by_index(workers: asyncpg.Pool):
    plan = await explain(
        workers, queue.STATEMENTS["sweep_leases"], 100, queue.WORKER_SILENCE_MAX, queue.ATTEMPT_DOUBTED
    )
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "job"]


async def test_waiting_texts_of_one_version_are_found_by_index(workers: asyncpg.Pool):

    plan = await explain(workers, publication.STATEMENTS["has_waiting_text"], 1, 1, 1)
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "job"]


async def scans_of(connection: asyncpg.Connection, index: str) -> int:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    return await connection.fetchval("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1", index)


@pytest.mark.parametrize("question", ["word4711", "What is word4711 about, and topic7 with its common words?"])
async def test_lexical_arm_of_the_reader_uses_the_gin_index(large_url: str, readers: asyncpg.Pool, question: str):
    looker = await asyncpg.connect(large_url, server_settings={"search_path": "askbox, public"})
    async with readers.acquire() as conn:
        before = await scans_of(looker, "chunk_tsv")
        async with conn.transaction():
            await store.set_scope(conn, [1, 2])
            hits = await conn.fetch("SELECT * FROM lexical_hits(2, $1, '{}', 20)", question)
        await conn.execute("SELECT pg_stat_force_next_flush()")
        await conn.execute("SELECT 1")
        assert await scans_of(looker, "chunk_tsv") > before
    await looker.close()
    assert hits[0]["is_hit"]


async def test_text_is_searched_by_index_without_the_walls_of_row_level_security(large_url: str):
    connection = await asyncpg.connect(
        large_url, server_settings={"search_path": "askbox, public", "role": "askbox_owner"}
    )
    plan = await explain(
        connection,
        "SELECT c.id FROM chunk AS c WHERE c.collection_id = 2 AND c.tsv @@ '''word4711'' | ''topic7'''::tsquery "
        "ORDER BY ts_rank(c.tsv, '''word4711'' | ''topic7'''::tsquery, 1) DESC, c.id LIMIT 300",
    )
    await connection.close()
    assert "chunk_tsv" in {node.get("Index Name") for node in plan}


async def test_documents_of_the_scope_are_read_by_key(readers: asyncpg.Pool):
    async with readers.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [2])
        plan = await explain(conn, store.STATEMENTS["get_hits"], [2], 2, [1, 2, 3], ["word"])
    assert "chunk_pkey" in {node.get("Index Name") for node in plan}


async def test_readers_walk_vector_indexes_with_twice_the_candidates_of_an_arm(readers: asyncpg.Pool):
    async with readers.acquire() as conn:
        await conn.execute(
            "SELECT '[1]'::halfvec <#> '[1]'::halfvec"
        )  # pgvector is loaded now, and has read what was set
        assert int(await conn.fetchval("SHOW hnsw.ef_search")) >= 2 * ARM_LIMIT
        assert await conn.fetchval("SHOW hnsw.iterative_scan") == "relaxed_order"
        names = await conn.fetch("SELECT name FROM pg_settings WHERE name LIKE 'hnsw.%'")
    assert {"hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples"} <= {row["name"] for row in names}


async def test_exact_scan_ranks_by_cosine(pool: asyncpg.Pool, reader_pool: asyncpg.Pool):
    texts = [f"alpha {n} omega" for n in range(40)]
    key = await publish_version(pool, texts)
    question = vector_of("alpha 7 omega")
    collection = CollectionRow(key.collection_id, "default", (await make_collection(pool))[1])
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [key.collection_id])
        terms = await store.question_terms(conn, [key.collection_id], "zzz")
        found = await store.retrieve(conn, [key.collection_id], collection, terms, HalfVector(question), arm_limit=10)
        texts_by_id = dict(map(tuple, await conn.fetch("SELECT id, text FROM chunk")))
    cosines = {text: float(np.dot(vector_of(text), question)) for text in texts}
    assert len(question) == DIMENSION
    assert {texts_by_id[c.chunk_id] for c in found} == set(sorted(texts, key=cosines.__getitem__, reverse=True)[:10])
    for candidate in found:
        assert candidate.cosine == pytest.approx(cosines[texts_by_id[candidate.chunk_id]], abs=2e-3)  # halves
        assert candidate.bm25 == 0
        assert not candidate.is_lexical_hit
