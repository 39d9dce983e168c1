"""Typed functions, one per statement of ingest over HTTP."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.database import Connection
from shared.spans import TraceContext
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "ingest.sql")

# Neither ready nor failed.
IN_WORK = ("queued", "parsing", "embedding")

_CREATE_SCAN = STATEMENTS["create_scan"]
_GET_REQUEST = STATEMENTS["get_request"]
_COUNT_REQUESTED = STATEMENTS["count_requested"]
_LIST_REQUESTED = STATEMENTS["list_requested"]
_LIST_SKIPS = STATEMENTS["list_request_skips"]
_LIST_EVENTS = STATEMENTS["list_events"]
_LIST_FAILED = STATEMENTS["list_failed"]
_RETRY = STATEMENTS["retry_document"]
_LIST_DEAD = STATEMENTS["list_dead_letters"]
_DROP_DEAD = STATEMENTS["drop_dead_letters"]
_GET_ORIGINAL = STATEMENTS["get_original"]
_READ_PART = STATEMENTS["read_part"]
_SUM_TOKENS = STATEMENTS["sum_tokens"]


@dataclass(frozen=True, slots=True)
class RequestRow:
    """An ingest request. `is_complete`: no document will be added to it."""

    id: uuid.UUID
    collection: str
    directory: str | None
    error: str | None
    skipped_count: int
    created_at: datetime
    is_complete: bool


@dataclass(frozen=True, slots=True)
class RequestedDocument:
    """A document of a request, with what became of its version or of the one that overtook it, which is then counted."""

    document_id: int
    version_id: int
    counted_version_id: int | None
    file_path: str
    state: str
    error: str | None
    chunks: int | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the story of a document."""

    id: int
    version: int
    stage: str
    outcome: str
    attempt: int | None
    worker: str | None
    duration_ms: float | None
    detail: dict[str, Any]
    at: datetime
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class FailedDocument:
    """A document whose newest version failed."""

    collection_id: int
    document_id: int
    source_uri: str


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A job that will not be tried again; one that read a document names it."""

    id: int
    stage: str
    collection: str
    document_id: int | None
    source_uri: str | None
    attempt: int
    error_code: str
    error: str
    created_at: datetime
    died_at: datetime


@dataclass(frozen=True, slots=True)
class Original:
    """Where the bytes of a document lie."""

    blob_id: int
    file_bytes: int
    sha256: bytes
    media_type: str | None
    source_uri: str


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Tokens used."""

    prompt: int
    completion: int
    embedding: int


async def create_scan(
    conn: Connection,
    scope: Sequence[int],
    collection_id: int,
    directory: str,
    *,
    is_recursive: bool,
    traceparent: str | None,
    waiting_max: int,
) -> uuid.UUID | None:
    """Make a request with its `scan` job and return its id, or None when too many wait."""
    request_id: uuid.UUID | None = await conn.fetchval(
        _CREATE_SCAN, list(scope), collection_id, directory, is_recursive, traceparent, waiting_max
    )
    return request_id


async def get_request(conn: Connection, scope: Sequence[int], request_id: uuid.UUID) -> RequestRow | None:
    """Return a request, or None when there is none in the scope."""
    row = await conn.fetchrow(_GET_REQUEST, list(scope), request_id)
    return RequestRow(**row) if row else None


async def count_requested(conn: Connection, scope: Sequence[int], request_id: uuid.UUID) -> dict[str, int]:
    """Return how many documents of a request are in which state."""
    return {row["state"]: row["documents"] for row in await conn.fetch(_COUNT_REQUESTED, list(scope), request_id)}


async def list_requested(
    conn: Connection, scope: Sequence[int], request_id: uuid.UUID, *, after_version_id: int, limit: int
) -> list[RequestedDocument]:
    """Return a page of a request's documents, in the order in which they were taken."""
    rows = await conn.fetch(_LIST_REQUESTED, list(scope), request_id, after_version_id, limit)
    return [RequestedDocument(**row) for row in rows]


async def list_request_skips(
    conn: Connection, scope: Sequence[int], request_id: uuid.UUID, limit: int
) -> list[tuple[str, str]]:
    """Return (path, reason) of files of a request that were not taken."""
    rows = await conn.fetch(_LIST_SKIPS, list(scope), request_id, limit)
    return [(row["file_path"], row["reason"]) for row in rows]


async def list_events(
    conn: Connection, scope: Sequence[int], document_id: int, *, after_id: int, limit: int
) -> list[EventRow]:
    """Return a page of a document's story, oldest line first."""
    rows = await conn.fetch(_LIST_EVENTS, list(scope), document_id, after_id, limit)
    made = []
    for row in rows:
        fields = dict(row)
        fields["detail"] = json.loads(fields["detail"])
        made.append(EventRow(**fields))
    return made


async def list_failed(conn: Connection, scope: Sequence[int], *, after_id: int, limit: int) -> list[FailedDocument]:
    """Return a page of documents whose newest version failed, by id."""
    return [FailedDocument(**row) for row in await conn.fetch(_LIST_FAILED, list(scope), after_id, limit)]


async def retry_document(
    conn: Connection, collection_id: int, document_id: int, context: TraceContext, job_context: TraceContext
) -> int | None:
    """Make a version of the same bytes and return its id, or None when the newest one has not failed.

    Transaction: the caller's, with the scope set; locks the document.
    """
    version_id: int | None = await conn.fetchval(
        _RETRY, collection_id, document_id, context.traceparent, job_context.traceparent, context.tracestate
    )
    return version_id


async def list_dead_letters(
    conn: Connection, scope: Sequence[int], *, after_id: int, limit: int
) -> list[DeadLetterRow]:
    """Return a page of dead letters, by id."""
    return [DeadLetterRow(**row) for row in await conn.fetch(_LIST_DEAD, list(scope), after_id, limit)]


async def drop_dead_letters(conn: Connection, scope: Sequence[int], limit: int) -> int:
    """Forget dead letters and return how many."""
    return len(await conn.fetch(_DROP_DEAD, list(scope), limit))


async def get_original(conn: Connection, scope: Sequence[int], document_id: int) -> Original | None:
    """Return where a document's bytes lie, or None when there is none in the scope."""
    row = await conn.fetchrow(_GET_ORIGINAL, list(scope), document_id)
    return Original(**row) if row else None


async def read_part(conn: Connection, scope: Sequence[int], blob_id: int, ordinal: int) -> bytes | None:
    """Return one part of an original, or None behind the last."""
    part: bytes | None = await conn.fetchval(_READ_PART, list(scope), blob_id, ordinal)
    return part


async def sum_tokens(conn: Connection, scope: Sequence[int], key_id: int | None, *, is_everybody: bool) -> TokenSums:
    """Return the tokens used in the scope and by a key, or by everybody."""
    row = await conn.fetchrow(_SUM_TOKENS, list(scope), key_id, is_everybody)
    assert row is not None
    return TokenSums(**row)
