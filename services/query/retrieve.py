"""One question → ranked hits: both arms in each collection, one snapshot, fused."""

import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from pgvector import HalfVector

from services.query import store
from services.query.bm25 import QuestionTerm, idf_in
from services.query.citations import Hit
from services.query.filters import Filters, retrieve_filtered
from services.query.fusion import DENSE_WEIGHT, NEIGHBOURS_READ, Candidate, Ranked, fuse, weigh_neighbours
from services.query.neighbours import WordCounts, bm25_with_neighbours, most_telling
from services.query.reading import Beside
from services.query.store import CollectionRow
from shared import conventions as names
from shared.database import Connection, Pool
from shared.embedding import Vectors
from shared.metrics import count_retrieval
from shared.spans import retrieval_span

ARM_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What was found, and how fresh it is. `chunk_count` is how many chunks there were to choose from, when last counted."""

    hits: list[Hit]
    terms: list[QuestionTerm]
    as_of: datetime
    pending: int
    dense_weight: float = DENSE_WEIGHT
    chunk_count: int = 0
    beside: Beside = field(default_factory=dict)

    @property
    def has_lexical_hits(self) -> bool:
        """Whether a word of the question decided anything."""
        return any(hit.bm25 > 0 for hit in self.hits)

    def idf_for(self, hit: Hit) -> dict[str, float]:
        """Return the question's lexemes in the language of a hit, with what each tells."""
        return idf_in(self.terms, hit.language)

    def terms_of(self, hit: Hit) -> dict[str, float]:
        """Return the question's terms that a hit holds, with what each tells: the rarest first."""
        held = [(lexeme, weight) for lexeme, weight in self.idf_for(hit).items() if lexeme in hit.lexemes]
        return dict(sorted(held, key=lambda item: -item[1]))

    def missing(self) -> list[str]:
        """Return the question's terms that no hit holds, the rarest first."""
        held = {term.word for hit in self.hits for term in self.terms if term.lexeme in hit.lexemes}
        words = {term.word: term for term in self.terms if term.word not in held}
        return [term.lexeme for term in sorted(words.values(), key=lambda term: -term.idf)]


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
    dense_weight: float = DENSE_WEIGHT,
    widened: int = 0,
) -> Retrieval:
    """Find the best chunks for a question, of what `filters` leave, and what stands beside the best `widened` of them.

    Order: fused score descending.
    Transaction: the caller's snapshot.
    """
    started = time.monotonic()
    with retrieval_span([collection.name for collection in collections], limit) as retrieving:
        retrieval = await _retrieve(conn, collections, question, vector, limit, filters, dense_weight)
        retrieval = replace(retrieval, beside=await _beside(conn, collections, vector, retrieval.hits[:widened]))
        retrieving.set_attribute(names.HITS, len(retrieval.hits))
    count_retrieval(time.monotonic() - started)
    return retrieval


async def _retrieve(
    conn: Connection,
    collections: Sequence[CollectionRow],
    question: str,
    vector: Vectors,
    limit: int,
    filters: Filters | None,
    dense_weight: float,
) -> Retrieval:
    scope = [collection.id for collection in collections]
    candidates: list[Candidate] = []
    terms = await store.question_terms(conn, scope, question)
    for collection in collections:
        candidates += await _candidates(conn, scope, collection, question, terms, HalfVector(vector), filters)
    ranked = fuse(candidates, dense_weight=dense_weight, arm_limit=ARM_LIMIT)
    around = await _with_neighbours(conn, scope, [one.candidate for one in ranked[:NEIGHBOURS_READ]], terms)
    ranked = weigh_neighbours(ranked, around, dense_weight=dense_weight)[:limit]
    hits = await _load(conn, scope, ranked, terms)
    as_of, pending, chunk_count = await store.freshness(conn, scope)
    return Retrieval(hits, terms, as_of, pending, dense_weight, chunk_count)


async def _candidates(
    conn: Connection,
    scope: Sequence[int],
    collection: CollectionRow,
    question: str,
    terms: Sequence[QuestionTerm],
    vector: HalfVector,
    filters: Filters | None,
) -> list[Candidate]:
    if filters is None:
        return await store.retrieve(conn, scope, collection, terms, vector, arm_limit=ARM_LIMIT)
    return await retrieve_filtered(conn, scope, collection, question, vector, filters, arm_limit=ARM_LIMIT)


async def _with_neighbours(
    conn: Connection, scope: Sequence[int], candidates: Sequence[Candidate], terms: Sequence[QuestionTerm]
) -> dict[tuple[int, int], float]:
    """Return the BM25 of candidates with their neighbours, by collection and chunk."""
    telling = most_telling(terms)
    chunk_ids: dict[int, list[int]] = {}
    for candidate in candidates if telling else ():
        chunk_ids.setdefault(candidate.collection_id, []).append(candidate.chunk_id)
    counts: list[WordCounts] = []
    for collection_id, ids in chunk_ids.items():
        counts += await store.count_words(conn, scope, collection_id, ids, [term.lexeme for term in telling])
    return bm25_with_neighbours(counts, telling, {(c.collection_id, c.chunk_id) for c in candidates})


async def _beside(
    conn: Connection, collections: Sequence[CollectionRow], vector: Vectors, hits: Sequence[Hit]
) -> dict[tuple[int, int], Hit]:
    """Return the chunks next to hits, by document and ordinal."""
    found: dict[tuple[int, int], Hit] = {}
    scope = [collection.id for collection in collections]
    for collection in collections:
        ids = [hit.chunk_id for hit in hits if hit.collection == collection.name]
        if ids:
            beside = await store.get_beside(conn, scope, collection, HalfVector(vector), ids)
            found |= {(hit.document_id, hit.ordinal): hit for hit in beside}
    return found


async def _load(
    conn: Connection, scope: Sequence[int], ranked: Sequence[Ranked], terms: Sequence[QuestionTerm]
) -> list[Hit]:
    by_collection = sorted(ranked, key=lambda r: r.candidate.collection_id)
    found: dict[int, Hit] = {}
    for collection_id, group in itertools.groupby(by_collection, key=lambda r: r.candidate.collection_id):
        members = {r.candidate.chunk_id: r for r in group}
        for hit in await store.get_hits(conn, scope, collection_id, members, [term.lexeme for term in terms]):
            found[hit.chunk_id] = hit
    return [found[r.candidate.chunk_id] for r in ranked if r.candidate.chunk_id in found]
