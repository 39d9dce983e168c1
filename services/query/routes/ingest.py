"""`/ingest`: files that are sent, folders that an ingester reads, and what became of them."""

import contextlib
import uuid
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from services.query import ingest_store, store
from services.query.access import Access
from services.query.collections import create_collection
from services.query.deps import AccessParam, Deps, DepsParam, KeyFirst, access_of
from services.query.ingest_schema import (
    AcceptedOut,
    DirectoryIn,
    JobDocumentOut,
    JobOut,
    RequestState,
    SkippedOut,
    TakenOut,
    WorkOut,
)
from services.query.ingest_store import IN_WORK, RequestRow
from services.query.progress import find_progress
from services.query.receive import Upload
from services.query.retrieve import snapshot
from services.query.store import CollectionRow
from services.query.stream import STATUS_CLIENT_LEFT, ClientLeft
from services.query.upload import boundary_of, paced, read_parts
from services.query.watch import Viewer, look
from shared import intake
from shared.database import retry_conflicts
from shared.errors import Conflict, Forbidden, NotFound, RequestError
from shared.failpoints import Failpoint, reach
from shared.spans import TraceContext, end_send_span, start_send_span
from shared.telemetry import Event, log
from shared.text import storable

router = APIRouter(tags=["ingest"], route_class=KeyFirst)
DEFAULT_COLLECTION = "default"
JOB_PAGE_SIZE_MAX = 1000
SKIPPED_SHOWN_MAX = 1000
SCANS_WAITING_MAX = 100
WATCHED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "work…, and error if something goes wrong"}
}

_MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "collection": {"type": "string"},
                    },
                }
            }
        },
    }
}


@router.post(
    "/ingest/files",
    status_code=202,
    summary="Send files",
    openapi_extra=_MULTIPART,
    responses={200: {"model": AcceptedOut, "description": "Nothing is new"}},
)
async def ingest_files(
    request: Request,
    response: Response,
    deps: DepsParam,
    access: AccessParam,
    collection: Annotated[str | None, Query(max_length=200)] = None,
) -> AcceptedOut:
    """Take files into a collection, named by `collection` in the address or in the form; 200 when nothing is new.

    None named means `default`, or the only one that the key may write to.
    """
    _may_write(access, collection)
    unnamed = _unnamed(access)
    boundary = boundary_of(request.headers.get("content-type"))
    with deps.uploads_of_keys.held_by(access.key_id):
        async with deps.uploads, Upload(deps.pool, file_bytes_max=deps.settings.max_file_bytes) as upload:
            body = paced(request.stream(), bytes_max=deps.settings.max_upload_bytes)
            async with contextlib.aclosing(read_parts(body, boundary)) as pieces:
                await upload.receive(
                    pieces, lambda name: _may_write(access, name), must_name=collection is None and unnamed is None
                )
            access = await access_of(request, deps)  # the body took its time: the key may be closed by now
            name = _agreed(collection, upload.collection_name) or unnamed
            assert name is not None  # else no file was received
            target = await _find_or_create(deps, access, name)
            job_id, taken = await upload.take(target)
    documents = [TakenOut.of(file, target.name) for file in taken]
    documents += [TakenOut.refused(path, reason, target.name) for path, reason in upload.refused.items()]
    if not upload.refused and all(file.is_unchanged for file in taken):
        response.status_code = 200
    response.headers["Location"] = f"/ingest/jobs/{job_id}"
    is_working = any(document.state in IN_WORK for document in documents)
    ended = "failed" if upload.refused else "ready"
    return AcceptedOut(job_id=job_id, status="processing" if is_working else ended, documents=documents)


@router.post("/ingest/directory", status_code=202, summary="Take a folder that an ingester can see")
async def ingest_directory(body: DirectoryIn, response: Response, deps: DepsParam, access: AccessParam) -> AcceptedOut:
    """Ask an ingester to read a folder below one of ASKBOX_INGEST_ROOTS: what is new or changed is taken, nothing is removed."""
    _may_write(access, body.collection)
    directory = _below_a_root(deps, body.path)
    target = await _find_or_create(deps, access, body.collection)
    sending = start_send_span("scan")

    async def once() -> uuid.UUID | None:
        async with deps.pool.acquire() as conn, conn.transaction():
            await store.set_scope(conn, [target.id])
            made = await ingest_store.create_scan(
                conn,
                [target.id],
                target.id,
                directory,
                is_recursive=body.recursive,
                traceparent=TraceContext.of(sending).traceparent,
                waiting_max=SCANS_WAITING_MAX,
            )
            await reach(Failpoint.SCAN_REQUEST_WRITTEN)
            return made

    job_id = await retry_conflicts(once)
    await reach(Failpoint.SCAN_REQUEST_COMMITTED)
    if job_id is None:
        raise Conflict(f"{SCANS_WAITING_MAX} folders of {target.name} wait already: ask again when some are done")
    end_send_span(sending, 1)
    log(Event.SCAN_REQUESTED, job_id=str(job_id), collection_id=target.id)
    response.headers["Location"] = f"/ingest/jobs/{job_id}"
    return AcceptedOut(job_id=job_id, status="processing", documents=[])


@router.get("/ingest/jobs/{job_id}", summary="What became of a request")
async def ingest_job(
    job_id: uuid.UUID,
    deps: DepsParam,
    access: AccessParam,
    limit: Annotated[int, Query(ge=1, le=JOB_PAGE_SIZE_MAX)] = 200,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> JobOut:
    """Tell the state of a request and of its documents; a version that was overtaken counts by what overtook it."""
    scope = access.ids()
    async with snapshot(deps.pool, scope) as conn:
        request = await ingest_store.get_request(conn, scope, job_id)
        if request is None:
            raise NotFound(f"there is no job {job_id}")
        states = await ingest_store.count_requested(conn, scope, job_id)
        rows = await ingest_store.list_requested(conn, scope, job_id, after_version_id=after, limit=limit + 1)
        moving = [(row.counted_version_id, row.state) for row in rows if row.counted_version_id is not None]
        progress = await find_progress(conn, scope, moving)
        skips = await ingest_store.list_request_skips(conn, scope, job_id, SKIPPED_SHOWN_MAX)
    documents = [JobDocumentOut.of(row, progress.get(row.counted_version_id or 0)) for row in rows[:limit]]
    refused = skips if request.directory is None else []
    if refused and after == 0:
        documents += [
            JobDocumentOut(document_id=None, file_path=path, state="failed", error=reason, chunks=None, embedded=0)
            for path, reason in refused
        ]
    if refused:
        states["failed"] = states.get("failed", 0) + len(refused)
    has_more = len(rows) > limit
    return JobOut(
        job_id=request.id,
        status=_status(request, states),
        error=request.error,
        collection=request.collection,
        directory=request.directory,
        created_at=request.created_at,
        documents=documents,
        has_more=has_more,
        next_after=rows[limit - 1].version_id if has_more else None,
        states=states,
        skipped=[] if refused else [SkippedOut(file_path=path, reason=reason) for path, reason in skips],
        skipped_count=request.skipped_count,
    )


@router.get("/ingest/work", summary="What is in work now, and how far it is")
async def ingest_work(deps: DepsParam, access: AccessParam) -> WorkOut:
    """Show the documents in work that are nearest to their end, and those that ended within a minute."""
    return await look(deps.pool, access.ids())


@router.get("/ingest/events", summary="What is in work, live", responses=WATCHED)
async def ingest_events(request: Request, deps: DepsParam, access: AccessParam) -> Response:
    """Send `work`, with what `GET /ingest/work` answers, as a server-sent event whenever it has changed: at most twice a second.

    Each event is the whole state, so whoever missed one has missed nothing. The stream ends when the process stops, and with
    `error` when the key is no longer valid or the database cannot be asked: connect again.
    """

    async def find_scope() -> frozenset[int]:
        return frozenset((await access_of(request, deps)).ids())

    viewer = Viewer(deps.watch, frozenset(access.ids()), find_scope, access.key_id)
    try:
        return await deps.watch.open_stream(deps.pool, request, viewer)
    except ClientLeft:
        return Response(status_code=STATUS_CLIENT_LEFT)


def _status(request: RequestRow, states: dict[str, int]) -> RequestState:
    if request.error is not None and request.is_complete:
        return "failed"
    if not request.is_complete or any(states.get(state) for state in IN_WORK):
        return "processing"
    return "failed" if states.get("failed") else "ready"


def _may_write(access: Access, name: str | None) -> None:
    """Refuse what this caller may not do before anything of the body is read.

    Raises: NotFound, Forbidden.
    """
    if name is not None:
        access.writable(name)
    elif not access.ids("write"):
        access.require_everywhere("write")


def _unnamed(access: Access) -> str | None:
    """Return where files go that name no collection, or None when they have to name one."""
    writable = [collection.name for collection in access.writables()]
    if access.everywhere in {"write", "admin"} or DEFAULT_COLLECTION in writable:
        return DEFAULT_COLLECTION
    return writable[0] if len(writable) == 1 else None


def _agreed(in_address: str | None, in_form: str | None) -> str | None:
    if in_address is not None and in_form is not None and in_address != in_form:
        raise RequestError("the address and the form name different collections: name it once")
    return in_address or in_form


async def _find_or_create(deps: Deps, access: Access, name: str) -> CollectionRow:
    """Return the collection, which a caller who may write everywhere makes by naming it."""
    found = access.writable(name)
    if found is not None:
        return found
    try:
        await create_collection(deps.pool, name, deps.answerer.model_name)
        log(Event.COLLECTION_CREATED, collection=name)
    except Conflict:
        # Somebody made it meanwhile, or its model is not known yet.
        if await intake.find_collection(deps.pool, name) is None:
            raise
    for row in await store.list_collections(deps.pool):
        if row.name == name:
            return row
    raise NotFound(f"there is no collection named {name}")


def _below_a_root(deps: Deps, path: str) -> str:
    """Return a folder's path without what means nothing. The ingester looks at the folder itself, and decides.

    Raises: Forbidden when it is not below one of the roots; RequestError when it is no absolute path.
    """
    roots = deps.settings.ingest_roots
    if not roots:
        raise Forbidden(
            "no folder may be read: set ASKBOX_INGEST_ROOTS to the folders that may, for the query process and the ingester"
        )
    folder = PurePosixPath(path)
    if not folder.is_absolute() or ".." in folder.parts or storable(path)[1]:
        raise RequestError("an absolute path without `..` is wanted")
    if not any(folder.is_relative_to(root) for root in roots):
        raise Forbidden("the folder is not below any of ASKBOX_INGEST_ROOTS: move it there, or add its folder")
    return str(folder)
