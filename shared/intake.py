"""Bytes become a blob, a blob becomes a version of a document with a job: the same for the inbox and for uploads.

**Invariants:** parts are stored one by one, outside any transaction, so memory stays bounded and a slow sender blocks
nobody; the sum of the bytes that were stored is the identity of the content; version ids are drawn under the document's
lock, so their order is the order of arrival.
"""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

import asyncpg

from shared.database import (
    COMMAND_TIMEOUT_SECONDS,
    CONFLICT_ERRORS,
    CONNECTION_ERRORS,
    Connection,
    Pool,
    Session,
    retry_conflicts,
)
from shared.errors import ConfigError
from shared.failpoints import Failpoint, reach
from shared.publication import CHUNKS_PER_RANK, VersionKey, add_event
from shared.queue import hold_lease
from shared.spans import TraceContext, end_file_span, start_file_span, start_send_span
from shared.statements import load_statements

STATEMENTS = load_statements("shared", "intake.sql")
PART_BYTES = 1_048_576
BLOB_AGE_MIN = timedelta(hours=1)
ENDED_VERSION_AGE_MIN = timedelta(days=1)
REQUEST_AGE_MIN = timedelta(days=30)
SWEEP_ROWS_MAX = 500
# Of blobs: what is swept in good time on a machine that is busy, else the sweep would be cancelled again and again.
SWEEP_PARTS_MAX = 256
# A document of a hundred thousand chunks, or many originals, on a slow disk.
DELETE_SECONDS_MAX = 120.0
# To compare stored bytes with those of a known sum, or to remove them. On two cores under a load of ten 256 MiB took 10 s.
STORED_BYTES_PER_SECOND_MIN = 4 * 1024**2
CONTENT_ATTEMPTS_MAX = 4
T = TypeVar("T")

_ENSURE_MODEL = STATEMENTS["ensure_model"]
_CORRECT_DIMENSION = STATEMENTS["correct_dimension"]
_MODELS_IN_USE = STATEMENTS["model_names_in_use"]
_FIND_COLLECTION = STATEMENTS["find_collection"]
_CREATE_COLLECTION = STATEMENTS["create_collection"]
_CREATE_BLOB = STATEMENTS["create_blob"]
_ADD_PART = STATEMENTS["add_blob_part"]
_DELETE_BLOBS = STATEMENTS["delete_blobs"]
_SWEEP_BLOBS = STATEMENTS["sweep_blobs"]
_SWEEP_VERSIONS = STATEMENTS["sweep_ended_versions"]
_OPEN_COLLECTION = STATEMENTS["open_collection"]
_LOCK_DOCUMENT = STATEMENTS["lock_document"]
_NEWEST_VERSION = STATEMENTS["newest_version"]
_HAS_BYTES = STATEMENTS["has_bytes"]
_IS_TOMBSTONED = STATEMENTS["is_tombstoned"]
_CREATE_VERSION = STATEMENTS["create_version"]
_RENAME = STATEMENTS["rename_document"]
_MOVE_ATTACHMENTS = STATEMENTS["move_attachments"]
_MOVE_TOMBSTONES = STATEMENTS["move_tombstones"]
_DELETE = STATEMENTS["delete_documents"]
_CLEAR_TOMBSTONES = STATEMENTS["clear_tombstones"]
_LINK_REQUESTED = STATEMENTS["link_requested_document"]
_LIST_SKIPS = STATEMENTS["list_requested_skips"]
_PRUNE_REQUESTS = STATEMENTS["prune_requests"]


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Bytes that lie in the database and belong to no document yet."""

    blob_id: int
    sha256: bytes
    file_bytes: int


class Arrival(StrEnum):
    """What became of bytes that arrived."""

    NEW_VERSION = "new_version"
    UNCHANGED = "unchanged"
    TOMBSTONED = "tombstoned"


@dataclass(frozen=True, slots=True)
class Intake:
    """A document after bytes arrived under its name."""

    arrival: Arrival
    collection_id: int
    document_id: int
    version_id: int | None
    state: str = "queued"


@dataclass(frozen=True, slots=True)
class RequestedFile:
    """A file of an ingest request, to which its version is linked in the transaction that makes it.

    `lease_id` is that of the `scan` job which works on the request, if one does.
    """

    request_id: uuid.UUID
    file_path: str
    lease_id: int | None = None


class _Tombstoned(Exception):
    """These bytes under this name were deleted on purpose."""


async def ensure_model(conn: Session, name: str, dimension: int) -> int:
    """Return the id of an embedding model, making its row when it is new and correcting it while no collection uses it.

    Raises: ConfigError when the database was filled with another model, or the dimension of this one changed.
    """
    others = [row["name"] for row in await conn.fetch(_MODELS_IN_USE) if row["name"] != name]
    if others:
        raise ConfigError(
            f"ASKBOX_EMBEDDING_MODEL is {name}, but the database was filled with {', '.join(others)}: "
            f"set it back, or start with an empty database (another ASKBOX_HOME or ASKBOX_DATABASE_URL)"
        )
    row = None
    while row is None:  # a concurrent insert is visible on the next look
        row = await conn.fetchrow(_ENSURE_MODEL, name, dimension)
    model_id: int = row["id"]
    if row["dimension"] != dimension and await conn.fetchval(_CORRECT_DIMENSION, model_id, dimension) is None:
        raise ConfigError(
            f"ASKBOX_EMBEDDING_MODEL: {name} gave vectors of {row['dimension']} dimensions before and gives {dimension} now: "
            "set it, its server or ASKBOX_EMBEDDING_DIMENSION back, or start with an empty database"
        )
    return model_id


async def ensure_collection(conn: Session, name: str, model_id: int) -> int:
    """Return the id of a collection, making it when it is new."""
    while True:
        collection_id: int | None = await conn.fetchval(_FIND_COLLECTION, name)
        if collection_id is None:
            collection_id = await conn.fetchval(_CREATE_COLLECTION, name, model_id)
        if collection_id is not None:
            return collection_id


async def find_collection(conn: Session, name: str) -> int | None:
    """Return the id of a collection, or None when there is none of that name."""
    collection_id: int | None = await conn.fetchval(_FIND_COLLECTION, name)
    return collection_id


async def store_bytes(conn: Session, pieces: AsyncIterator[bytes]) -> StoredBytes:
    """Store bytes as they come, part by part, and sum them.

    Transaction: none; what a killed process leaves behind has no sum and is swept by age.
    """
    blob_id: int = await conn.fetchval(_CREATE_BLOB)
    digest = hashlib.sha256()
    buffer = bytearray()
    ordinal = file_bytes = 0
    try:
        async for piece in pieces:
            digest.update(piece)
            file_bytes += len(piece)
            buffer += piece
            while len(buffer) >= PART_BYTES:
                await conn.execute(_ADD_PART, blob_id, ordinal, bytes(buffer[:PART_BYTES]))
                await reach(Failpoint.PART_STORED)
                del buffer[:PART_BYTES]
                ordinal += 1
        if buffer:
            await conn.execute(_ADD_PART, blob_id, ordinal, bytes(buffer))
        await reach(Failpoint.BLOB_STORED)
    except BaseException:
        # What cannot be removed now is swept by its age.
        with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):
            await asyncio.shield(conn.execute(_DELETE_BLOBS, [blob_id], timeout=_patience_seconds(file_bytes)))
        raise
    return StoredBytes(blob_id, digest.digest(), file_bytes)


def _patience_seconds(file_bytes: int) -> float:
    return COMMAND_TIMEOUT_SECONDS + file_bytes / STORED_BYTES_PER_SECOND_MIN


async def has_bytes(conn: Session, collection_id: int, source_uri: str, sha256: bytes, *, even_failed: bool) -> bool:
    """Whether the newest version of a source has these bytes, or they were deleted on purpose under its name.

    Without `even_failed` bytes that could not be read do not count: they may be tried again.
    """
    known: bool = await conn.fetchval(_HAS_BYTES, collection_id, source_uri, sha256, even_failed)
    return known


async def discard_bytes(conn: Session, *unwanted: StoredBytes) -> None:
    """Remove bytes that turned out not to be wanted, all at once: a mail may hold hundreds of files."""
    if unwanted:
        seconds = _patience_seconds(sum(stored.file_bytes for stored in unwanted))
        await conn.execute(_DELETE_BLOBS, [stored.blob_id for stored in unwanted], timeout=seconds)


async def add_version(
    pool: Pool,
    collection_id: int,
    source_uri: str,
    stored: StoredBytes,
    *,
    burst_place: int = 0,
    detected_ago: timedelta = timedelta(0),
    moved_from: str | None = None,
    retries_failed: bool = False,
    ignores_tombstones: bool = False,
    requested: RequestedFile | None = None,
) -> Intake:
    """Make stored bytes the newest version of a document, unless it has just these bytes or they were deleted on purpose.

    A document `moved_from` another name keeps its identity; it gets a version even so, since its path is indexed. With
    `retries_failed` bytes that could not be read before are read again; with `ignores_tombstones` a deletion is undone.

    Raises: LeaseLost when the lease of a requested file is gone.
    Transaction: its own, run again when another one got in its way. It opens the walls for this collection alone.
    """
    appeared = start_file_span(
        source_uri, detected_ago, stored.file_bytes, is_requested=source_uri.startswith("upload:")
    )
    sending = start_send_span("ingest", parent=appeared)
    context, job_context = TraceContext.of(appeared), TraceContext.of(sending)

    async def once() -> Intake:
        async with pool.acquire() as conn, conn.transaction():
            await open_collection(conn, collection_id)
            await _hold(conn, requested)
            is_moved = moved_from is not None and await _rename(conn, collection_id, moved_from, source_uri)
            document_id: int = await conn.fetchval(_LOCK_DOCUMENT, collection_id, source_uri)
            if is_moved:
                await conn.execute(_MOVE_TOMBSTONES, collection_id, moved_from, source_uri)
                await _move_attachments(conn, collection_id, document_id, context, job_context)
            # Looked at under the lock: a deletion between a look and the lock would be undone.
            if not ignores_tombstones and await is_tombstoned(conn, collection_id, source_uri, stored.sha256):
                raise _Tombstoned
            intake = await settle_bytes(
                conn,
                collection_id,
                document_id,
                stored,
                burst_place=burst_place,
                detected_ago=detected_ago,
                is_moved=is_moved,
                retries_failed=retries_failed,
                context=context,
                job_context=job_context,
            )
            await _link(conn, requested, intake)
            if intake.arrival is Arrival.NEW_VERSION:
                await reach(Failpoint.VERSION_WRITTEN)
            return intake

    try:
        intake = await retry_conflicts(lambda: once_per_content(once))
    except _Tombstoned:
        await discard_bytes(pool, stored)
        return Intake(Arrival.TOMBSTONED, collection_id, 0, None)
    if intake.arrival is Arrival.NEW_VERSION:
        await reach(Failpoint.VERSION_COMMITTED)
        sending.end()
        end_file_span(appeared, collection_id, intake.document_id, intake.version_id)
    return intake


async def _rename(conn: Connection, collection_id: int, moved_from: str, source_uri: str) -> bool:
    """Give a document its new name, unless there is none by the old one or another has the new one."""
    is_moved = await conn.fetchval(_RENAME, collection_id, moved_from, source_uri) is not None
    if is_moved:
        await reach(Failpoint.DOCUMENT_RENAMED)
    return is_moved


async def is_tombstoned(conn: Connection, collection_id: int, source_uri: str, sha256: bytes) -> bool:
    """Whether these bytes under this name were deleted on purpose. Transaction: the caller's, which holds the document."""
    is_dead: bool = await conn.fetchval(_IS_TOMBSTONED, collection_id, source_uri, sha256)
    return is_dead


async def settle_bytes(
    conn: Connection,
    collection_id: int,
    document_id: int,
    stored: StoredBytes,
    *,
    burst_place: int,
    detected_ago: timedelta,
    is_moved: bool,
    retries_failed: bool,
    context: TraceContext,
    job_context: TraceContext,
) -> Intake:
    """Make stored bytes the newest version of a document with its job, or drop them when it has just these.

    Transaction: the caller's, which has opened the collection and holds the document's lock.
    """
    newest = await conn.fetchrow(_NEWEST_VERSION, collection_id, document_id)
    is_same = newest is not None and newest["sha256"] == stored.sha256
    is_retry = newest is not None and is_same and retries_failed and newest["state"] == "failed"
    if newest is not None and is_same and not is_moved and not is_retry:
        await discard_bytes(conn, stored)
        return Intake(Arrival.UNCHANGED, collection_id, document_id, newest["id"], newest["state"])
    version_id: int = await conn.fetchval(
        _CREATE_VERSION,
        collection_id,
        document_id,
        *(stored.blob_id, stored.sha256, stored.file_bytes),
        *(burst_place, detected_ago, is_retry),
        *(context.traceparent, job_context.traceparent, context.tracestate),
        CHUNKS_PER_RANK,
        timeout=_patience_seconds(stored.file_bytes),
    )
    key = VersionKey(collection_id, version_id)
    await add_event(conn, key, document_id, "intake", "queued", detail={"bytes": stored.file_bytes})
    return Intake(Arrival.NEW_VERSION, collection_id, document_id, version_id)


async def _move_attachments(
    conn: Connection, collection_id: int, document_id: int, context: TraceContext, job_context: TraceContext
) -> None:
    """Let what a renamed document holds follow it."""
    traces = (context.traceparent, job_context.traceparent, context.tracestate)
    for moved in await conn.fetch(_MOVE_ATTACHMENTS, collection_id, document_id, *traces):
        key = VersionKey(collection_id, moved["version_id"])
        await add_event(conn, key, moved["document_id"], "intake", "queued")


async def once_per_content(work: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction again while others complete the same content before it.

    Raises: the conflict of the last attempt.
    """
    for _ in range(CONTENT_ATTEMPTS_MAX - 1):
        with contextlib.suppress(asyncpg.UniqueViolationError):
            return await work()
    return await work()


async def _hold(conn: Connection, requested: RequestedFile | None) -> None:
    if requested is not None and requested.lease_id is not None:
        await hold_lease(conn, requested.lease_id)


async def _link(conn: Connection, requested: RequestedFile | None, intake: Intake) -> None:
    if requested is not None:
        ids = (requested.request_id, intake.collection_id, intake.document_id, intake.version_id)
        await conn.execute(_LINK_REQUESTED, *ids, requested.file_path)


async def open_collection(conn: Connection, collection_id: int) -> None:
    """Open the walls of row-level security for one collection.

    Transaction: the caller's; they close at its end.
    """
    await conn.fetchval(_OPEN_COLLECTION, collection_id)


async def list_skips(
    conn: Connection, request_id: uuid.UUID, collection_id: int, skipped: Sequence[tuple[str, str]]
) -> None:
    """Store (path, reason) of files of a request that are not taken.

    Transaction: the caller's, which has opened the collection.
    """
    await conn.execute(
        _LIST_SKIPS, request_id, collection_id, [path for path, _ in skipped], [reason for _, reason in skipped]
    )


async def delete_documents(pool: Pool, collection_id: int, source_uris: Sequence[str]) -> dict[str, int]:
    """Remove documents whose files are gone and return their ids by source; their tombstones go too.

    Transaction: its own, one for all of them: one by one, a thousand took several seconds.
    """
    uris = list(source_uris)

    async def once() -> dict[str, int]:
        async with pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(_DELETE, collection_id, uris, timeout=DELETE_SECONDS_MAX)
            await conn.execute(_CLEAR_TOMBSTONES, collection_id, uris)
            await reach(Failpoint.DELETION_WRITTEN)
            return {row["source_uri"]: row["id"] for row in rows}

    deleted = await retry_conflicts(once)
    await reach(Failpoint.DELETION_COMMITTED)
    return deleted


async def sweep_storage(conn: Session) -> None:
    """Remove ended versions, bytes that no version names any more and old requests, a bounded number at a time."""
    await conn.fetch(_SWEEP_VERSIONS, ENDED_VERSION_AGE_MIN, SWEEP_ROWS_MAX, timeout=DELETE_SECONDS_MAX)
    await conn.fetch(_SWEEP_BLOBS, BLOB_AGE_MIN, SWEEP_ROWS_MAX, SWEEP_PARTS_MAX, timeout=DELETE_SECONDS_MAX)
    await conn.execute(_PRUNE_REQUESTS, REQUEST_AGE_MIN, SWEEP_ROWS_MAX, timeout=DELETE_SECONDS_MAX)
