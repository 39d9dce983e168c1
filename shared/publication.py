"""`ask(v)`: publish a version when all its texts have vectors.

**Invariants:** whoever adds staged chunks or removes a job calls `ask` for each version concerned after its own commit,
in a new transaction; a sweep does so for every version in state `embedding`. The document is locked first. A reader sees
the old version or the new one. A newer version is never replaced by an older one.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import asyncpg

from shared import conventions as names
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Connection, Pool, Session, retry_conflicts
from shared.failpoints import Failpoint, reach
from shared.metrics import count_version_ready, count_versions_failed
from shared.spans import TraceContext, add_span, version_attributes
from shared.statements import load_statements
from shared.telemetry import Event, log
from shared.text import one_line, storable

STATEMENTS = load_statements("shared", "publication.sql")
# rank = (ordinal + place in the burst) / 32: every document's first batch comes before anyone's second.
CHUNKS_PER_RANK = 32
ORDINAL_MAX = 2**31 - 1
SWEEP_VERSIONS_MAX = 500
PUBLISH_ATTEMPTS_MAX = 3
# A version of a hundred thousand chunks takes longer than other statements may.
PUBLISH_SECONDS_MAX = 1800.0
# What the content itself is to blame for: a lexeme list over 1 MB, an index row over its size, a value out of range, or one
# that a constraint forbids.
UNPUBLISHABLE_ERRORS = (
    asyncpg.ProgramLimitExceededError,
    asyncpg.DataError,
    asyncpg.CheckViolationError,
    asyncpg.NotNullViolationError,
)

_LOCK = STATEMENTS["lock_document_of_version"]
_TRY_LOCK = STATEMENTS["try_lock_document_of_version"]
_GET = STATEMENTS["get_staged_version"]
_SUPERSEDE = STATEMENTS["supersede_version"]
_DELETE_STAGED = STATEMENTS["delete_staged_chunks"]
_FIND_DEAD = STATEMENTS["find_dead_text"]
_FAIL = STATEMENTS["fail_version"]
_IS_WAITING = STATEMENTS["has_waiting_text"]
_FORGET_DEAD = STATEMENTS["forget_dead_texts"]
_INSERT_JOBS = STATEMENTS["insert_embed_jobs"]
_ADVANCE_JOBS = STATEMENTS["advance_embed_jobs"]
_COUNT_MISSING = STATEMENTS["count_missing_texts"]
_PUBLISH = STATEMENTS["publish_chunks"]
_DELETE_POSITIONS = STATEMENTS["delete_positions"]
_DELETE_CHUNKS = STATEMENTS["delete_chunks"]
_MAKE_LIVE = STATEMENTS["make_live"]
_REQUEST_STATISTICS = STATEMENTS["request_statistics"]
_VERSIONS_WAITING = STATEMENTS["versions_waiting_for_texts"]
_VERSIONS_IN_EMBEDDING = STATEMENTS["versions_in_embedding"]
_FAIL_DEAD_INGESTS = STATEMENTS["fail_versions_with_dead_ingest"]
_ADD_EVENT = STATEMENTS["add_event"]
_PRUNE_EVENTS = STATEMENTS["prune_events"]


@dataclass(frozen=True, slots=True, order=True)
class VersionKey:
    """Names a version; the collection leads every key."""

    collection_id: int
    version_id: int


class Answer(StrEnum):
    """What `ask` found or did."""

    GONE = "gone"
    NOT_STAGED = "not_staged"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    WAITING = "waiting"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class _Ending:
    """What a span tells of the end of a version, once that is committed."""

    context: TraceContext
    document_id: int
    chunk_count: int = 0
    inserted_count: int = 0
    deleted_count: int = 0
    age_seconds: float | None = None
    error_code: str | None = None


class _CachePruned(Exception):
    """A vector vanished between the look and the publication."""


async def add_event(
    conn: Session,
    key: VersionKey,
    document_id: int,
    stage: str,
    outcome: str,
    *,
    attempt: int | None = None,
    duration_ms: float | None = None,
    detail: dict[str, object] | None = None,
) -> None:
    """Add one line to the story of a document, which names this process."""
    await conn.execute(
        _ADD_EVENT,
        key.collection_id,
        document_id,
        key.version_id,
        stage,
        outcome,
        attempt,
        duration_ms,
        json.dumps(detail or {}),
        socket.gethostname(),
        os.getpid(),
    )


async def prune_events(conn: Session, age: timedelta, limit: int) -> None:
    """Forget a bounded number of old lines of stories."""
    await conn.execute(_PRUNE_EVENTS, age, limit)


async def ask(pool: Pool, key: VersionKey, *, waits: bool = True) -> Answer:
    """Publish a version if it can be published; else see to it that something will ask again.

    Without `waits` a document that somebody holds is left to them: they will ask.

    Transaction: its own. Call it after the commit of what may have completed the version, never inside.
    """
    started = time.monotonic()

    async def once() -> tuple[Answer, _Ending | None]:
        async with pool.acquire() as conn, conn.transaction():
            return await _ask(conn, key, started, waits=waits)

    for _ in range(PUBLISH_ATTEMPTS_MAX):
        try:
            answer, ending = await retry_conflicts(once)
        except _CachePruned:
            continue
        if ending is not None:
            _tell(key, ending, time.monotonic() - started)
        if answer is Answer.PUBLISHED:
            await reach(Failpoint.VERSION_PUBLISHED)
            await pool.execute(_REQUEST_STATISTICS, key.collection_id)
        return answer
    return Answer.WAITING  # the sweep asks again


async def _ask(
    conn: Connection, key: VersionKey, started: float, *, waits: bool = True
) -> tuple[Answer, _Ending | None]:
    ids = (key.collection_id, key.version_id)
    if await conn.fetchval(_LOCK if waits else _TRY_LOCK, *ids) is None:
        return Answer.GONE if waits else Answer.WAITING, None
    await reach(Failpoint.DOCUMENT_LOCKED)
    version = await conn.fetchrow(_GET, *ids)
    if version is None:
        return Answer.GONE, None
    if version["state"] != "embedding":
        return Answer.NOT_STAGED, None
    if version["live_version_id"] is not None and key.version_id < version["live_version_id"]:
        await conn.fetchval(_SUPERSEDE, *ids)
        await conn.execute(_DELETE_STAGED, *ids)
        return Answer.SUPERSEDED, None
    model_id = version["model_id"]
    context = TraceContext(version["traceparent"], version["tracestate"])
    dead = await conn.fetchrow(_FIND_DEAD, *ids, model_id)
    if dead is not None:
        await fail_version(
            conn, key, "embed", dead["error_code"], f"chunk {dead['ordinal']} could not be embedded: {dead['error']}"
        )
        await reach(Failpoint.FAILURE_WRITTEN)
        return Answer.FAILED, _Ending(context, version["document_id"], error_code=dead["error_code"])
    if await conn.fetchval(_IS_WAITING, *ids, model_id):
        return Answer.WAITING, None
    if await conn.fetchval(_COUNT_MISSING, *ids, model_id):
        # The texts were pruned, or their jobs removed as vanished: a lost wake-up with no job. Repair it.
        await conn.fetch(_INSERT_JOBS, *ids, model_id, CHUNKS_PER_RANK, 0, ORDINAL_MAX, timeout=PUBLISH_SECONDS_MAX)
        return Answer.WAITING, None
    return Answer.PUBLISHED, await _publish(conn, key, version, started)


async def _publish(conn: Connection, key: VersionKey, version: asyncpg.Record, started: float) -> _Ending:
    ids = (key.collection_id, key.version_id)
    document_id, live_version_id = version["document_id"], version["live_version_id"]
    counts = await conn.fetchrow(
        _PUBLISH, *ids, document_id, live_version_id, version["model_id"], timeout=PUBLISH_SECONDS_MAX
    )
    assert counts is not None
    await reach(Failpoint.CHUNKS_PUBLISHED)
    if counts["inserted"] != counts["inserted_vectors"] or counts["positioned"] != counts["staged"]:
        raise _CachePruned
    if live_version_id is not None:
        await conn.execute(_DELETE_POSITIONS, key.collection_id, live_version_id)
    vanished = counts["vanished_ids"] or []
    if vanished:
        await conn.execute(_DELETE_CHUNKS, key.collection_id, vanished, timeout=PUBLISH_SECONDS_MAX)
    await conn.execute(_DELETE_STAGED, *ids)
    age_ms = await conn.fetchval(_MAKE_LIVE, *ids, document_id, live_version_id)
    duration_ms = round((time.monotonic() - started) * 1000, 1)
    facts: dict[str, object] = {"chunks": counts["staged"], "inserted": counts["inserted"], "deleted": len(vanished)}
    await add_event(conn, key, document_id, "publish", "ready", duration_ms=duration_ms, detail=facts)
    await reach(Failpoint.VERSION_LIVE)
    log(
        Event.DOCUMENT_PUBLISHED,
        document_id=document_id,
        version_id=key.version_id,
        chunks=counts["staged"],
        inserted=counts["inserted"],
        deleted=len(vanished),
        duration_ms=duration_ms,
        age_ms=round(age_ms),
    )
    context = TraceContext(version["traceparent"], version["tracestate"])
    return _Ending(context, document_id, counts["staged"], counts["inserted"], len(vanished), age_ms / 1000)


def _tell(key: VersionKey, ending: _Ending, seconds: float) -> None:
    """Count the end of a version and add its last span."""
    if ending.age_seconds is None:
        count_versions_failed(1)
    else:
        count_version_ready(ending.age_seconds)
    attributes = version_attributes(key.collection_id, ending.document_id, key.version_id) | {
        names.CHUNKS: ending.chunk_count,
        names.CHUNKS_INSERTED: ending.inserted_count,
        names.CHUNKS_DELETED: ending.deleted_count,
    }
    add_span(names.PUBLISH, ending.context, seconds, attributes, error_type=ending.error_code)


async def fail_version(
    conn: Connection, key: VersionKey, stage: str, code: str, reason: str, *, attempt: int | None = None
) -> bool:
    """End a version with a reason; the live one stays. False when it had ended before.

    Transaction: the caller's, which holds the document's lock.
    """
    document_id = await conn.fetchval(_FAIL, key.collection_id, key.version_id, code, reason)
    if document_id is None:
        return False
    await conn.execute(_DELETE_STAGED, key.collection_id, key.version_id)
    await add_event(conn, key, document_id, stage, "failed", attempt=attempt, detail={"code": code, "error": reason})
    log(
        Event.DOCUMENT_FAILED,
        logging.WARNING,
        document_id=document_id,
        version_id=key.version_id,
        code=code,
        reason=reason,
    )
    return True


async def delete_staged_chunks(conn: Connection, key: VersionKey) -> None:
    """Remove what is staged of a version."""
    await conn.execute(_DELETE_STAGED, key.collection_id, key.version_id)


async def insert_embed_jobs(
    conn: Connection, key: VersionKey, model_id: int, *, first_ordinal: int = 0, last_ordinal: int = ORDINAL_MAX
) -> int:
    """Make the jobs of a version's texts without a vector, hurry those that exist, and return how many are new.

    A long version is done in parts: the texts of 300,000 chunks took longer than a lease lasts.
    Transaction: the caller's, which must commit before it calls `ask`.
    """
    await conn.execute(_FORGET_DEAD, key.collection_id, key.version_id, model_id)
    wanted = (key.collection_id, key.version_id, model_id, CHUNKS_PER_RANK, first_ordinal, last_ordinal)
    new = await conn.fetch(_INSERT_JOBS, *wanted)
    await conn.fetch(_ADVANCE_JOBS, *wanted)
    return len(new)


async def versions_waiting_for_texts(conn: Session, model_id: int, text_hashes: Sequence[bytes]) -> list[VersionKey]:
    """Return the versions that stage any of these texts."""
    return [VersionKey(**row) for row in await conn.fetch(_VERSIONS_WAITING, model_id, list(text_hashes))]


async def ask_all(pool: Pool, keys: Iterable[VersionKey], *, waits: bool = True) -> None:
    """Ask for several versions, one transaction each; one that cannot be published stops no other.

    Raises: the last error of the connection, after all were asked for.
    """
    last: BaseException | None = None
    for key in sorted(set(keys)):
        try:
            await ask(pool, key, waits=waits)
        except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
            last = error
        except Exception as error:
            log(Event.PUBLICATION_FAILED, logging.ERROR, error=error, version_id=key.version_id)
            if isinstance(error, UNPUBLISHABLE_ERRORS):
                await _fail_unpublishable(pool, key, error)
    if last is not None:
        raise last


async def _fail_unpublishable(pool: Pool, key: VersionKey, error: Exception) -> None:
    """End a version whose content the database refuses; trying again cannot help."""
    async with pool.acquire() as conn, conn.transaction():
        await conn.fetchval(_LOCK, key.collection_id, key.version_id)
        reason = one_line(storable(str(error))[0])
        is_ended = await fail_version(
            conn, key, "publish", "unpublishable", f"the database refuses its content: {reason}"
        )
    if is_ended:
        count_versions_failed(1)


class PublicationSweep:
    """Asks for every version in state `embedding`, a bounded page at each call, round and round."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._after = 0

    async def __call__(self) -> None:
        """Ask for the next page, and end versions whose ingest job is a dead letter."""
        await self.fail_dead_ingests()
        rows = await self._pool.fetch(_VERSIONS_IN_EMBEDDING, self._after, SWEEP_VERSIONS_MAX)
        self._after = rows[-1]["version_id"] if len(rows) == SWEEP_VERSIONS_MAX else 0
        if rows:
            await reach(Failpoint.VERSIONS_SWEPT)
        await ask_all(self._pool, [VersionKey(**row) for row in rows], waits=False)

    async def fail_dead_ingests(self) -> None:
        """End versions whose ingest job is a dead letter."""
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(_FAIL_DEAD_INGESTS, SWEEP_VERSIONS_MAX)
            for row in rows:
                key = VersionKey(row["collection_id"], row["version_id"])
                detail: dict[str, object] = {"code": row["error_code"], "error": row["error"]}
                await add_event(
                    conn, key, row["document_id"], "ingest", "failed", attempt=row["attempt"], detail=detail
                )
                log(
                    Event.DOCUMENT_FAILED,
                    logging.WARNING,
                    document_id=row["document_id"],
                    version_id=row["version_id"],
                    code=row["error_code"],
                    reason=row["error"],
                )
            if rows:
                await reach(Failpoint.DEAD_INGESTS_WRITTEN)
        count_versions_failed(len(rows))
