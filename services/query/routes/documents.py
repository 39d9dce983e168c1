"""`/documents`: what there is, its story and its bytes, and its removal; what failed, and another try."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.responses import StreamingResponse

from services.query import ingest_store, store
from services.query.access import Access, Role
from services.query.accounts import count_document_tokens
from services.query.deps import AccessParam, Deps, DepsParam, KeyFirst
from services.query.document_schema import DocumentOut, DocumentsOut, DocumentState
from services.query.ingest_schema import (
    DeadLetterOut,
    DeadLettersOut,
    DroppedOut,
    EventOut,
    EventsOut,
    RetriesOut,
    RetryOut,
)
from services.query.original import headers_of, read_original
from services.query.progress import find_progress
from services.query.retrieve import snapshot
from services.query.retry import retry_document, retry_failed
from services.query.store import DocumentRow
from shared.database import retry_conflicts
from shared.errors import Conflict, NotFound
from shared.failpoints import Failpoint, reach
from shared.telemetry import Event, log

router = APIRouter(tags=["documents"], route_class=KeyFirst)
PAGE_SIZE_MAX = 200
EVENTS_PAGE_SIZE_MAX = 1000
LETTERS_DROPPED_MAX = 10_000


@router.get("/documents", summary="List documents with their state")
async def documents(
    deps: DepsParam,
    access: AccessParam,
    collection: Annotated[str | None, Query(max_length=200)] = None,
    state: DocumentState | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 50,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> DocumentsOut:
    """List documents by id; the next page begins `after` the last one."""
    scope = [c.id for c in access.readable(None if collection is None else [collection])]
    async with snapshot(deps.pool, scope) as conn:
        rows = await store.list_documents(
            conn, scope, collection=collection, state=state, after_id=after, limit=limit + 1
        )
        progress = await find_progress(conn, scope, [(row.version, row.state) for row in rows])
        tokens = await count_document_tokens(conn, scope, [row.id for row in rows])
    data = [DocumentOut.of(row, progress.get(row.version), tokens.get(row.id)) for row in rows[:limit]]
    return DocumentsOut(data=data, has_more=len(rows) > limit)


@router.get("/documents/{document_id}", summary="Show one document")
async def document(document_id: int, deps: DepsParam, access: AccessParam) -> DocumentOut:
    """Show one document with the state of its newest version, and how far that is."""
    row = await find_document(deps, access, document_id)
    scope = [row.collection_id]
    async with snapshot(deps.pool, scope) as conn:
        progress = await find_progress(conn, scope, [(row.version, row.state)])
        tokens = await count_document_tokens(conn, scope, [document_id])
    return DocumentOut.of(row, progress.get(row.version), tokens.get(row.id))


@router.delete(
    "/documents/{document_id}",
    status_code=204,
    summary="Delete a document; the same bytes under its name stay away",
)
async def delete(document_id: int, deps: DepsParam, access: AccessParam) -> Response:
    """Delete a document and leave a tombstone."""
    await find_document(deps, access, document_id, "write")
    scope = access.ids("write")

    async def once() -> bool:
        async with deps.pool.acquire() as conn, conn.transaction():
            await store.set_scope(conn, scope)
            is_buried = await store.bury_document(conn, scope, document_id)
            await reach(Failpoint.TOMBSTONE_WRITTEN)
            return is_buried

    if not await retry_conflicts(once):
        raise NotFound(f"there is no document {document_id}")
    await reach(Failpoint.TOMBSTONE_COMMITTED)
    log(Event.DOCUMENT_DELETED, document_id=document_id)
    return Response(status_code=204)


@router.get(
    "/documents/{document_id}/content",
    summary="Download the original",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def content(document_id: int, deps: DepsParam, access: AccessParam) -> StreamingResponse:
    """Send the bytes of the version that answers, or of the newest when none does yet."""
    row = await find_document(deps, access, document_id)
    scope = [row.collection_id]
    async with snapshot(deps.pool, scope) as conn:
        original = await ingest_store.get_original(conn, scope, document_id)
    if original is None:
        raise NotFound(f"there is no document {document_id}")
    return StreamingResponse(read_original(deps.pool, scope, original), headers=headers_of(original))


@router.get("/documents/{document_id}/events", summary="Tell the story of a document")
async def events(
    document_id: int,
    deps: DepsParam,
    access: AccessParam,
    limit: Annotated[int, Query(ge=1, le=EVENTS_PAGE_SIZE_MAX)] = 200,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> EventsOut:
    """List what happened to a document, oldest first; the next page begins `after` the last line."""
    scope = [(await find_document(deps, access, document_id)).collection_id]
    async with snapshot(deps.pool, scope) as conn:
        rows = await ingest_store.list_events(conn, scope, document_id, after_id=after, limit=limit + 1)
    return EventsOut(data=[EventOut.of(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.post("/documents/{document_id}/retry", status_code=202, summary="Read a failed document again")
async def retry(document_id: int, deps: DepsParam, access: AccessParam) -> RetryOut:
    """Make a new version of the same bytes, when the newest one failed."""
    row = await find_document(deps, access, document_id, "write")
    version_id = await retry_document(deps.pool, row.collection_id, row.id, row.source_uri)
    if version_id is None:
        raise Conflict(f"{row.source_uri.partition(':')[2]} has not failed: its newest version is {row.state}")
    return RetryOut(document_id=document_id, version=version_id, state="queued")


@router.post("/documents/retry", status_code=202, summary="Read every failed document again")
async def retry_all(
    deps: DepsParam,
    access: AccessParam,
    collection: Annotated[str | None, Query(max_length=200)] = None,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> RetriesOut:
    """Make a new version of every failed document of a collection, or of all that the caller may change.

    When there are more than one request takes, the next one goes on behind `next_after`.
    """
    retried, next_after = await retry_failed(deps.pool, _changeable(access, collection), after_id=after)
    return RetriesOut(retried=retried, has_more=next_after is not None, next_after=next_after)


@router.get("/dead-letters", summary="List jobs that will not be tried again")
async def dead_letters(
    deps: DepsParam,
    access: AccessParam,
    limit: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 50,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> DeadLettersOut:
    """List dead letters by id; the next page begins `after` the last one."""
    scope = access.ids()
    async with snapshot(deps.pool, scope) as conn:
        rows = await ingest_store.list_dead_letters(conn, scope, after_id=after, limit=limit + 1)
    return DeadLettersOut(data=[DeadLetterOut.of(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.delete("/dead-letters", summary="Forget dead letters")
async def drop_dead_letters(
    deps: DepsParam, access: AccessParam, collection: Annotated[str | None, Query(max_length=200)] = None
) -> DroppedOut:
    """Forget the dead letters of a collection, or of all that the caller may change; failed documents keep their reason."""
    scope = _changeable(access, collection)
    async with deps.pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, scope)
        dropped = await ingest_store.drop_dead_letters(conn, scope, LETTERS_DROPPED_MAX)
    log(Event.DEAD_LETTERS_DROPPED, letters=dropped)
    return DroppedOut(dropped=dropped, has_more=dropped == LETTERS_DROPPED_MAX)


def _changeable(access: Access, collection: str | None) -> list[int]:
    """Return the ids of a collection, or of all, that the caller may change.

    Raises: NotFound, Forbidden.
    """
    if collection is None:
        if not access.ids("write"):
            access.require_everywhere("write")
        return access.ids("write")
    found = access.writable(collection)
    if found is None:
        raise NotFound(f"there is no collection named {collection}")
    return [found.id]


async def find_document(deps: Deps, access: Access, document_id: int, role: Role = "read") -> DocumentRow:
    """Return a document that the caller has `role` for.

    Raises: NotFound when it is absent or not theirs; Forbidden when they may only read it.
    """
    row = None
    if 0 < document_id < 2**63:
        scope = access.ids()
        async with snapshot(deps.pool, scope) as conn:
            row = await store.get_document(conn, scope, document_id)
    if row is None:
        raise NotFound(f"there is no document {document_id}")
    access.require(row.collection_id, role)
    return row
