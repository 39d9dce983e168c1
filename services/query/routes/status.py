"""What waits, what is not taken, and whether everything runs."""

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from services.query import ingest_store, store
from services.query.accounts import sum_tokens_by_key
from services.query.deps import AccessParam, Deps, DepsParam, access_of
from services.query.document_schema import file_path
from services.query.health import SECONDS_MAX, health
from services.query.ingest_schema import KeyTokensOut, StageOut, StatsOut, TokenSumsOut
from services.query.problems import unavailable
from services.query.retrieve import snapshot
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS
from shared.errors import RequestError, Unauthorized

router = APIRouter(tags=["status"])
SKIPPED_SHOWN_MAX = 1000
READY_SECONDS_MAX = 2.0


@router.get("/ingest/stats", summary="What waits, and how much there is")
async def stats(deps: DepsParam, access: AccessParam) -> StatsOut:
    """Count the work and the documents of the collections that the caller may read, and the tokens they used."""
    scope = access.ids()
    async with snapshot(deps.pool, scope) as conn:
        states = await store.count_states(conn, scope)
        work = await store.count_work(conn, scope)
        is_everybody = access.everywhere is not None
        tokens = await ingest_store.sum_tokens(conn, scope, access.key_id, is_everybody=is_everybody)
        token_keys = await sum_tokens_by_key(conn, access.key_id, is_everybody=is_everybody)
    return StatsOut(
        pending_documents=sum(states.get(state, 0) for state in ("queued", "parsing", "embedding")),
        pending_embeddings=sum(work.stages.get("embed", {}).values()),
        stages={stage: StageOut(**counts) for stage, counts in work.stages.items()},
        oldest_pending_seconds=work.oldest_pending_seconds,
        dead_letters=work.dead_letters,
        documents=states,
        chunks=work.chunks,
        truncated_inputs=work.truncated_inputs,
        tokens=TokenSumsOut(chunks=work.chunk_tokens, **asdict(tokens)),
        token_keys=[KeyTokensOut(**asdict(used)) for used in token_keys],
    )


@router.get("/inbox", summary="What the inbox holds and is not taken, and why")
async def inbox(deps: DepsParam, access: AccessParam) -> dict[str, Any]:
    """List skipped files of the caller's collections, and deletions that wait for a person."""
    is_everywhere = access.everywhere is not None
    names = None if is_everywhere else [collection.name for collection in access.readable()]
    skipped = await store.list_skipped(deps.pool, names, SKIPPED_SHOWN_MAX)
    # A pause counts the files of every collection.
    pauses = await store.get_pauses(deps.pool) if is_everywhere else []
    return {
        "skipped": [
            {"file_path": file_path(s.source_uri), "collection": s.collection_name, "reason": s.reason} for s in skipped
        ],
        "deletion_paused": [asdict(pause) for pause in pauses if pause.confirmed_at is None],
    }


@router.post("/inbox/confirm-deletes", summary="Say that a mass disappearance is meant")
async def confirm(deps: DepsParam, access: AccessParam) -> dict[str, int]:
    """Let the deletions that wait go on."""
    access.require_everywhere("admin")
    count = await store.confirm_pause(deps.pool)
    if count is None:
        raise RequestError("no deletion waits for a confirmation")
    return {"confirmed": count}


@router.get("/health", summary="Is the whole system well?")
async def healthy(request: Request, deps: DepsParam) -> JSONResponse:
    """Tell what is not well; 503 when something is not. Counts, names and reasons are for who may read everything."""
    is_well, checks = await health(deps.pool, is_told=await _may_know(request, deps))
    return JSONResponse(
        {"status": "ok" if is_well else "degraded", "checks": checks}, status_code=200 if is_well else 503
    )


async def _may_know(request: Request, deps: Deps) -> bool:
    try:
        async with asyncio.timeout(SECONDS_MAX):
            return (await access_of(request, deps)).everywhere is not None
    except Unauthorized:
        return False
    except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
        return deps.is_loopback  # without the database nobody can be known; the machine's owner has to find out why


@router.get("/ready", summary="Can this process answer?")
async def ready(deps: DepsParam) -> Response:
    """Ask the database."""
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            await deps.pool.fetchval("SELECT 1")
    except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
        return unavailable("the database does not answer")
    return JSONResponse({"status": "ready"})


@router.get("/live", summary="Does this process run?")
async def live() -> dict[str, str]:
    """Answer without asking anybody."""
    return {"status": "live"}
