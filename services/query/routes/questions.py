"""`/query`, `/query/stream` and `/search`."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from services.query.ask import wait_first, whole, work
from services.query.deps import AccessParam, Deps, DepsParam, KeyFirst
from services.query.exchange import Asked, Offered
from services.query.question_schema import QuestionIn, SearchIn
from services.query.schema import AnswerOut, HitsOut, SourceOut
from services.query.stream import STATUS_CLIENT_LEFT, ClientLeft, StreamEvent, open_stream, unless_left
from services.query.wait import Awaited

router = APIRouter(tags=["questions"], route_class=KeyFirst)
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "sources, token…, citations, usage, done | error"}
}


@router.post(
    "/query",
    summary="Ask a question",
    response_model=AnswerOut,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def query(body: QuestionIn, request: Request, deps: DepsParam, access: AccessParam) -> AnswerOut | Response:
    """Answer with citations; no collection means every collection that the caller may read."""
    asked = body.asked(access.readable(body.names()), access.key_id)
    try:
        if body.stream:
            return await open_stream(request, _events(deps, asked, body.awaited(access.ids())))
        return (await unless_left(request, whole(deps, asked, body.awaited(access.ids())))).out
    except ClientLeft:
        return Response(status_code=STATUS_CLIENT_LEFT)


@router.post("/query/stream", summary="Ask a question and read the answer as it is made", responses=STREAMED)
async def stream(body: QuestionIn, request: Request, deps: DepsParam, access: AccessParam) -> Response:
    """Answer as server-sent events.

    `sources` once, with what was found; `token` with `text`, many times; `citations` with the sources that the answer names,
    which replace the first; `usage` with tokens and meta; at the end `done` with all that `POST /query` answers, or `error`
    with a problem. What `done` says holds where the pieces differ from it.
    """
    asked = body.asked(access.readable(body.names()), access.key_id)
    try:
        return await open_stream(request, _events(deps, asked, body.awaited(access.ids())))
    except ClientLeft:
        return Response(status_code=STATUS_CLIENT_LEFT)


@router.post("/search", summary="Rank chunks without answering", response_model=HitsOut)
async def search(body: SearchIn, request: Request, deps: DepsParam, access: AccessParam) -> HitsOut | Response:
    """Rank chunks, best first."""
    asked = body.asked(access.readable(body.names()), access.key_id)
    try:
        return await unless_left(request, _found(deps, asked, body.awaited(access.ids())))
    except ClientLeft:
        return Response(status_code=STATUS_CLIENT_LEFT)


async def _found(deps: Deps, asked: Asked, awaited: Awaited | None) -> HitsOut:
    """Rank chunks, after what is waited for."""
    await wait_first(deps, awaited)
    async with deps.concurrency:
        return HitsOut.of(await deps.answerer.search(asked))


async def _events(deps: Deps, asked: Asked, awaited: Awaited | None) -> AsyncGenerator[StreamEvent, None]:
    """Answer in events."""
    async with aclosing(work(deps, asked, awaited)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Offered):
                yield _event("sources", sources=[SourceOut.of(c).model_dump() for c in piece.citations])
            elif isinstance(piece, str):
                yield _event("token", text=piece)
            else:
                out = piece.out
                yield _event("citations", sources=[source.model_dump() for source in out.sources])
                yield _event("usage", tokens=out.tokens.model_dump(), meta=out.meta.model_dump(mode="json"))
                yield StreamEvent("done", out.model_dump_json())


def _event(name: str, **data: object) -> StreamEvent:
    return StreamEvent(name, json.dumps(data, ensure_ascii=False))
