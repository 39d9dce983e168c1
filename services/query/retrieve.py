"""One question → ranked hits: both arms in each collection, one snapshot, fused."""

import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from pgvector import HalfVector

from services.query import store
from services.query.citations import Hit
from services.query.filters import Filters, retrieve_filtered
from services.query.fusion import Candidate, Ranked, fuse
from services.query.store import CollectionRow
from shared import conventions as names
from shared.database import Connection, Pool
from shared.embedding import Vectors
from shared.metrics import count_retrieval
from shared.spans import retrieval_span

ARM_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What was found, and how fresh it is."""

    hits: list[Hit]
    idf: dict[str, float]
    as_of: datetime
    pending: int


@asynccontextmanager
async def snapshot(pool: Pool, scope: Sequence[int]) -> AsyncIterator[Connection]:
    """Open a read-only transaction that sees one state of the collections in `scope` and nothing else."""
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        await store.set_scope(conn, scope)
        yield conn


async def retrieve(
    conn: Connection,
    collections: Sequence[CollectionRow],
    question: str,
    vector: Vectors,
    *,
    limit: int,
    filters: Filters | None = None,
) -> Retrieval:
    """Find the best chunks for a question, of the documents that `filters` leave.

    Order: fused score descending.
    Transaction: the caller's snapshot.
    """
    started = time.monotonic()
    with retrieval_span([collection.name for collection in collections], limit) as retrieving:
        retrieval = await _retrieve(conn, collections, question, vector, limit=limit, filters=filters)
        retrieving.set_attribute(names.HITS, len(retrieval.hits))
    count_retrieval(time.monotonic() - started)
    return retrieval


async def _retrieve(
    conn: Connection,
    collections: Sequence[CollectionRow],
    question: str,
    vector: Vectors,
    *,
    limit: int,
    filters: Filters | None,
) -> Retrieval:
    scope = [collection.id for collection in collections]
    candidates: list[Candidate] = []
    idf: dict[str, float] = {}
    for collection in collections:
        candidates += await _candidates(conn, scope, collection, question, HalfVector(vector), filters)
        for lexeme, weight in (await store.question_terms(conn, scope, collection.id, question)).items():
            # A word that is rare in one collection and common in another tells as much as where it is common.
            idf[lexeme] = min(weight, idf.get(lexeme, weight))
    ranked = fuse(candidates)[:limit]
    hits = await _load(conn, scope, ranked, idf)
    as_of, pending = await store.freshness(conn, scope)
    return Retrieval(hits, idf, as_of, pending)


async def _candidates(
    conn: Connection,
    scope: Sequence[int],
    collection: CollectionRow,
    question: str,
    vector: HalfVector,
    filters: Filters | None,
) -> list[Candidate]:
    if filters is None:
        return await store.retrieve(conn, scope, collection, question, vector, arm_limit=ARM_LIMIT)
    return await retrieve_filtered(conn, scope, collection, question, vector, filters, arm_limit=ARM_LIMIT)


async def _load(conn: Connection, scope: Sequence[int], ranked: Sequence[Ranked], idf: dict[str, float]) -> list[Hit]:
    by_collection = sorted(ranked, key=lambda r: r.candidate.collection_id)
    found: dict[int, Hit] = {}
    for collection_id, group in itertools.groupby(by_collection, key=lambda r: r.candidate.collection_id):
        members = {r.candidate.chunk_id: r for r in group}
        for hit in await store.get_hits(conn, scope, collection_id, members, list(idf)):
            found[hit.chunk_id] = hit
    return [found[r.candidate.chunk_id] for r in ranked if r.candidate.chunk_id in found]
