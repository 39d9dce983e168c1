"""Large collections, planted in bulk: rows without their documents, and vectors in clusters, as those of real text are."""

from dataclasses import dataclass

import asyncpg
import numpy as np
from pgvector import HalfVector

from services.embedder.index import IndexHandler
from services.embedder.index_build import IndexBuilder
from services.embedder.store import IndexRule
from services.query import store
from services.query.store import CollectionRow
from shared import intake
from shared.database import connect, prepare_connection
from shared.embedding import Vectors
from shared.listener import Listener
from shared.settings import WorkerSettings
from shared.worker import Slot, Worker

CLUSTERS = 300
# Noise as long as the way to the cluster's middle.
SPREAD = 1.0
MEMORY_BYTES = 512 * 1024**2
# As often as words of a language are: the k-th about 1/k of the times.
WORDS = "(SELECT string_agg('word' || floor(exp(random() * ln(20000)))::int, ' ') FROM generate_series(1, $3::int) WHERE n > 0)"


@dataclass(frozen=True)
class Planted:
    """A collection and its vectors as they are stored: the chunk with id `first_id + i` has the i-th."""

    collection: CollectionRow
    vectors: Vectors
    first_id: int


def mixture(count: int, dimension: int, seed: int) -> Vectors:
    """Return vectors of length 1 around the same middles, whatever the seed."""
    random = np.random.default_rng(seed)
    middles = np.random.default_rng(0).normal(size=(CLUSTERS, dimension))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    noise = random.normal(size=(count, dimension)) * SPREAD / np.sqrt(dimension)
    vectors = middles[random.integers(CLUSTERS, size=count)] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


async def plant(url: str, sizes: dict[str, int], dimension: int, *, words: int = 4) -> dict[str, Planted]:
    """Plant a published collection of each size, with so many words a chunk, and no statistics."""
    connection = await connect(url, None, "test planting")
    await prepare_connection(connection)
    model_id = await intake.ensure_model(connection, "planted-model", dimension)
    await connection.execute("SET session_replication_role = replica; SELECT setseed(0.5)")
    planted = {}
    for seed, (name, count) in enumerate(sizes.items(), start=1):
        collection_id = await intake.ensure_collection(connection, name, model_id)
        collection = CollectionRow(collection_id, name, model_id)
        planted[name] = await _plant_one(connection, collection, mixture(count, dimension, seed), words)
    await connection.execute("SET session_replication_role = origin")
    await connection.close()
    return planted


async def _plant_one(conn: asyncpg.Connection, collection: CollectionRow, exact: Vectors, words: int) -> Planted:
    vectors = exact.astype(np.float16)
    await conn.execute("INSERT INTO collection_language VALUES ($1, 'english')", collection.id)
    await conn.execute(
        "INSERT INTO document_version (collection_id, document_id, blob_id, state, chunk_count, token_count, ready_at, ended_at) "
        "VALUES ($1, 1, 1, 'ready', 1, 1, now(), now())",
        collection.id,
    )
    first_id = await conn.fetchval(
        "WITH planted AS ("
        "  INSERT INTO chunk (collection_id, document_id, chunk_hash, text_hash, text, prefix, heading, language, token_count, tsv, "
        "  lexeme_count) SELECT $1, (n - 1) / 20, 'c', 't', '', '', '', 'english', 9, to_tsvector('english', w.words), $3::int "
        f" FROM generate_series(1, $2::int) AS n CROSS JOIN LATERAL {WORDS} AS w (words) RETURNING id"
        ") SELECT min(id) FROM planted",
        collection.id,
        len(vectors),
        words,
    )
    await conn.copy_records_to_table(
        "chunk_vector",
        schema_name="askbox",
        records=[
            (collection.id, collection.model_id, first_id + n, n // 20, HalfVector(vector))
            for n, vector in enumerate(vectors)
        ],
    )
    return Planted(collection, vectors.astype(np.float32), first_id)


def indexing_worker(url: str, pool: asyncpg.Pool, rule: IndexRule, settings: WorkerSettings) -> Worker:
    """Return an embedder that claims `index` jobs only."""
    handler = IndexHandler(pool, IndexBuilder(url, memory_bytes=MEMORY_BYTES), rule)
    listener = Listener(url, "askbox_worker", "test listener", ["index"])
    slots = [Slot("index", "index", handler)]
    return Worker(
        kind="embedder",
        pool=pool,
        listener=listener,
        settings=settings,
        slots=slots,
        sweepers=[handler.request_outdated],
    )


async def nearest(conn: asyncpg.Connection, planted: Planted, question: Vectors, *, words: str = "zzz") -> list[int]:
    """Return the places of the ten best by cosine, out of what both arms give a question."""
    scope = [planted.collection.id]
    terms = await store.question_terms(conn, scope, words)
    found = await store.retrieve(conn, scope, planted.collection, terms, HalfVector(question), arm_limit=100)
    best = sorted(found, key=lambda candidate: -candidate.cosine)[:10]
    return [candidate.chunk_id - planted.first_id for candidate in best]


def recall(planted: Planted, questions: Vectors, found: list[list[int]]) -> float:
    """Return the share of the true ten best that was found."""
    truth = np.argsort(-(questions @ planted.vectors.T), axis=1)[:, :10]
    return float(np.mean([len(set(row) & set(best.tolist())) / 10 for row, best in zip(found, truth, strict=True)]))


SHORT = WorkerSettings(poll_seconds=1, lease_seconds=30, stop_seconds=1)
