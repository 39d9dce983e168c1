"""Typed functions, one per statement of the query process."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pgvector import HalfVector

from services.query.bm25 import QuestionTerm
from services.query.citations import Hit
from services.query.fusion import Candidate, Ranked
from services.query.neighbours import WordCounts
from shared.database import Connection, Session
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "statements.sql")

_SET_SCOPE = STATEMENTS["set_scope"]
_LIST_COLLECTIONS = STATEMENTS["list_collections"]
_FIND_KEY = STATEMENTS["find_key"]
_LIST_GRANTED = STATEMENTS["list_granted"]
_RETRIEVE = STATEMENTS["retrieve"]
_RETRIEVE_NEAREST = STATEMENTS["retrieve_nearest"]
_QUESTION_TERMS = STATEMENTS["question_terms"]
_COUNT_WORDS = STATEMENTS["count_words"]
_GET_HITS = STATEMENTS["get_hits"]
_LIST_BESIDE = STATEMENTS["list_beside"]
_MATCH_LEXEMES = STATEMENTS["match_lexemes"]
_FRESHNESS = STATEMENTS["freshness"]
_LIST_DOCUMENTS = STATEMENTS["list_documents"]
_BURY_DOCUMENT = STATEMENTS["bury_document"]
_COUNT_STATES = STATEMENTS["count_states"]
_COUNT_WORK = STATEMENTS["count_work"]
_LIST_WORKERS = STATEMENTS["list_workers"]
_LIST_SKIPPED = STATEMENTS["list_skipped"]
_GET_PAUSES = STATEMENTS["get_pauses"]
_CONFIRM_PAUSE = STATEMENTS["confirm_pause"]
# A document of a hundred thousand chunks on a slow disk.
DELETE_SECONDS_MAX = 120.0
DIMENSION_MAX = 4000
DOCUMENT_ID_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A collection and the model it was filled with."""

    id: int
    name: str
    model_id: int


@dataclass(frozen=True, slots=True)
class FoundKey:
    """Whether there was ever a key, which one a hash belongs to, and its role in every collection."""

    has_keys: bool
    key_id: int | None
    everywhere: Literal["read", "write", "admin"] | None


@dataclass(frozen=True, slots=True)
class GrantedCollection:
    """A collection and what the caller may do there."""

    collection: CollectionRow
    role: Literal["read", "write", "admin"]


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document with the state of its newest version."""

    id: int
    collection_id: int
    collection: str
    source_uri: str
    title: str | None
    state: str
    error_code: str | None
    error: str | None
    version: int
    is_searchable: bool
    chunks: int | None
    file_bytes: int
    media_type: str | None
    detected_at: datetime
    ready_at: datetime | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkCounts:
    """What waits, and how much there is."""

    stages: dict[str, dict[str, int]]
    dead_letters: int
    oldest_pending_seconds: float | None
    chunks: int
    chunk_tokens: int
    truncated_inputs: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A process that was seen lately."""

    id: int
    kind: str
    host: str
    pid: int
    is_listening: bool
    note: str | None
    is_hindered: bool
    waiting_file_count: int
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file of the inbox that is not taken."""

    source_uri: str
    collection_name: str
    reason: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """A deletion that waits for a person."""

    kind: str
    reason: str
    missing_count: int
    paused_at: datetime
    confirmed_at: datetime | None


async def set_scope(conn: Connection, scope: Sequence[int]) -> None:
    """Open the walls for some collections until the end of the transaction."""
    await conn.fetchval(_SET_SCOPE, list(scope))


async def list_collections(conn: Session) -> list[CollectionRow]:
    """Return every collection, by name."""
    return [CollectionRow(**row) for row in await conn.fetch(_LIST_COLLECTIONS)]


async def find_key(conn: Session, sha256: bytes | None) -> FoundKey:
    """Return what a key's hash stands for."""
    row = await conn.fetchrow(_FIND_KEY, sha256)
    assert row is not None
    return FoundKey(**row)


async def list_granted(conn: Session, key_id: int) -> list[GrantedCollection]:
    """Return the collections that a key may use, by name."""
    return [
        GrantedCollection(CollectionRow(row["id"], row["name"], row["model_id"]), row["role"])
        for row in await conn.fetch(_LIST_GRANTED, key_id)
    ]


@functools.cache
def retrieve_statement(dimension: int, *, is_hybrid: bool = True) -> str:
    """Return a statement for vectors of `dimension`: a number that stands in an index's expression cannot be a parameter.

    Raises: ValueError when it is no dimension.
    """
    if not isinstance(dimension, int) or not 1 <= dimension <= DIMENSION_MAX:
        raise ValueError(f"{dimension!r} is not a dimension from 1 to {DIMENSION_MAX}")
    statement = _RETRIEVE if is_hybrid else _RETRIEVE_NEAREST
    return statement.replace("halfvec(384)", f"halfvec({dimension})")


async def retrieve(
    conn: Connection,
    scope: Sequence[int],
    collection: CollectionRow,
    terms: Sequence[QuestionTerm],
    vector: HalfVector,
    *,
    arm_limit: int,
) -> list[Candidate]:
    """Return the candidates of both arms, each with both scores; of the dense arm alone for a question without terms."""
    statement = retrieve_statement(vector.dimensions(), is_hybrid=bool(terms))
    words = [json.dumps([asdict(term) | {"languages": sorted(term.languages)} for term in terms])] if terms else []
    rows = await conn.fetch(statement, list(scope), collection.id, collection.model_id, *words, vector, arm_limit)
    return [Candidate(collection_id=collection.id, **row) for row in rows]


async def question_terms(conn: Connection, scope: Sequence[int], question: str) -> list[QuestionTerm]:
    """Return the question's lexemes in the languages of the collections, with the inverse document frequencies of their words."""
    return [
        QuestionTerm(**dict(row) | {"languages": frozenset(row["languages"])})
        for row in await conn.fetch(_QUESTION_TERMS, list(scope), question)
    ]


async def count_words(
    conn: Connection, scope: Sequence[int], collection_id: int, chunk_ids: Sequence[int], lexemes: Sequence[str]
) -> list[WordCounts]:
    """Return how often lexemes stand in chunks and in those next to them."""
    rows = await conn.fetch(_COUNT_WORDS, list(scope), collection_id, list(chunk_ids), list(lexemes))
    return [WordCounts(**row) for row in rows]


async def get_hits(
    conn: Connection, scope: Sequence[int], collection_id: int, ranked: Mapping[int, Ranked], lexemes: Sequence[str]
) -> list[Hit]:
    """Return ranked chunks with their text and place."""
    hits = []
    for row in await conn.fetch(_GET_HITS, list(scope), collection_id, list(ranked), list(lexemes)):
        fields = dict(row)
        rank = ranked[fields["chunk_id"]]
        fields["lexemes"] = frozenset(fields["lexemes"])
        fields["lines"] = tuple(fields["lines"])
        fields["page_turns"] = tuple(tuple(turn) for turn in json.loads(fields["page_turns"]))
        fields |= {
            "cosine": rank.candidate.cosine,
            "bm25": rank.candidate.bm25,
            "score": rank.score,
            "dense_share": rank.dense_share,
            "lexical_share": rank.lexical_share,
            "dense_place": rank.dense_place,
            "lexical_place": rank.lexical_place,
        }
        hits.append(Hit(**fields))
    return hits


async def get_beside(
    conn: Connection, scope: Sequence[int], collection: CollectionRow, vector: HalfVector, chunk_ids: Sequence[int]
) -> list[Hit]:
    """Return what stands next to some chunks in the live versions of their documents.

    It has its cosine with the question, and no other score.
    """
    rows = await conn.fetch(_LIST_BESIDE, list(scope), collection.id, list(chunk_ids), collection.model_id, vector)
    unranked = {
        row["chunk_id"]: Ranked(Candidate(collection_id=collection.id, **row, bm25=0.0, is_lexical_hit=False), 0.0)
        for row in rows
    }
    return await get_hits(conn, scope, collection.id, unranked, []) if unranked else []


async def match_lexemes(
    conn: Session, texts: Sequence[str], languages: Sequence[str], lexemes: Sequence[str]
) -> list[frozenset[str]]:
    """Return which lexemes each text holds, in order."""
    rows = await conn.fetch(_MATCH_LEXEMES, list(texts), list(languages), list(lexemes))
    return [frozenset(row["lexemes"]) for row in rows]


async def freshness(conn: Connection, scope: Sequence[int]) -> tuple[datetime, int, int]:
    """Return the time of the snapshot, how many versions are still in work, and how many chunks there are."""
    row = await conn.fetchrow(_FRESHNESS, list(scope))
    assert row is not None
    return row["as_of"], row["pending"], row["chunk_count"]


async def list_documents(
    conn: Connection,
    scope: Sequence[int],
    *,
    collection: str | None = None,
    state: str | None = None,
    after_id: int = 0,
    last_id: int = DOCUMENT_ID_MAX,
    limit: int,
) -> list[DocumentRow]:
    """Return a page of documents, by id."""
    rows = await conn.fetch(_LIST_DOCUMENTS, list(scope), collection, state, after_id, last_id, limit)
    return [_document(dict(row)) for row in rows]


async def get_document(conn: Connection, scope: Sequence[int], document_id: int) -> DocumentRow | None:
    """Return one document, or None when there is none in the scope."""
    rows = await list_documents(conn, scope, after_id=document_id - 1, last_id=document_id, limit=1)
    return rows[0] if rows else None


def _document(fields: dict[str, Any]) -> DocumentRow:
    return DocumentRow(**{**fields, "metadata": json.loads(fields["metadata"])})


async def bury_document(conn: Connection, scope: Sequence[int], document_id: int) -> bool:
    """Delete a document for good; False when there is none in the scope."""
    buried = await conn.fetchval(_BURY_DOCUMENT, list(scope), document_id, timeout=DELETE_SECONDS_MAX)
    return buried is not None


async def count_states(conn: Connection, scope: Sequence[int]) -> dict[str, int]:
    """Return how many documents are in which state."""
    return {row["state"]: row["documents"] for row in await conn.fetch(_COUNT_STATES, list(scope))}


async def count_work(conn: Connection, scope: Sequence[int]) -> WorkCounts:
    """Return what waits."""
    row = await conn.fetchrow(_COUNT_WORK, list(scope))
    assert row is not None
    fields = dict(row)
    return WorkCounts(**{**fields, "stages": json.loads(fields["stages"])})


async def list_workers(conn: Session, silence: timedelta) -> list[WorkerRow]:
    """Return the processes that were seen lately."""
    return [WorkerRow(**row) for row in await conn.fetch(_LIST_WORKERS, silence)]


async def list_skipped(conn: Session, collections: Sequence[str] | None, limit: int) -> list[SkippedFile]:
    """Return files of the inbox that are not taken, of the named collections or of all."""
    names = None if collections is None else list(collections)
    return [SkippedFile(**row) for row in await conn.fetch(_LIST_SKIPPED, names, limit)]


async def get_pauses(conn: Session) -> list[Pause]:
    """Return the deletions that wait for a person."""
    return [Pause(**row) for row in await conn.fetch(_GET_PAUSES)]


async def confirm_pause(conn: Session) -> int | None:
    """Confirm waiting deletions and return how many documents they concern, or None when none waits."""
    rows = await conn.fetch(_CONFIRM_PAUSE)
    return sum(row["missing_count"] for row in rows) if rows else None
