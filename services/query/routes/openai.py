"""`/v1`: the questions' interface in the form of OpenAI's, for every program that speaks it."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from services.query.ask import Finished, whole, work
from services.query.deps import AccessParam, Deps, DepsParam, KeyFirst
from services.query.exchange import Asked, Offered
from services.query.openai_errors import PREFIX, request_id
from services.query.openai_models import collections_of, list_models, unknown
from services.query.openai_schema import (
    ChatIn,
    ChatOut,
    Chunks,
    ErrorsOut,
    ModelOut,
    ModelsOut,
    UrlOf,
    annotations_of,
    chat_of,
)
from services.query.stream import STATUS_CLIENT_LEFT, ClientLeft, StreamEvent, open_stream, unless_left
from services.query.wait import Awaited

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorsOut, "content": {"application/json": {}}} for code in (400, 401, 403, 404, 413, 429, 503)
}
router = APIRouter(prefix=PREFIX, tags=["OpenAI-compatible"], route_class=KeyFirst, responses=ERRORS)
DONE = "[DONE]"


@router.post(
    "/chat/completions",
    summary="Ask a question in OpenAI's form",
    response_model=ChatOut,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def complete(body: ChatIn, request: Request, deps: DepsParam, access: AccessParam) -> Response:
    """Answer the last message from the documents of a collection, which is the `model`; `default` asks all of them.

    Markers of the text stand in `annotations`, and what they name in `citations`. A question that the documents do not answer
    gets a text that says so and no citations. Streamed, the chunks end with the annotations, then with a `finish_reason`.
    """
    asked = body.asked(collections_of(access, body.model), access.key_id)
    awaited = body.awaited(access.ids())
    created = int(time.time())

    def url_of(document_id: int) -> str:
        return f"{request.base_url}documents/{document_id}/content"

    try:
        if body.stream:
            chunks = Chunks(body.model, created, includes_usage=body.includes_usage)
            events = _events(deps, asked, awaited, chunks, url_of, includes_usage=body.includes_usage)
            return await open_stream(request, events, waits_for_second=True)
        finished = await unless_left(request, whole(deps, asked, awaited))
    except ClientLeft:
        return Response(status_code=STATUS_CLIENT_LEFT)
    out = chat_of(body.model, created, finished.answer, finished.out, url_of)
    return JSONResponse(out.model_dump(mode="json"), headers=request_id())


@router.get("/models", summary="List collections as models")
async def models(deps: DepsParam, access: AccessParam) -> ModelsOut:
    """List what can be asked: `default`, which is all that the caller may read, then each collection."""
    return ModelsOut(data=[ModelOut.of(found) for found in await list_models(deps.pool, access)])


@router.get("/models/{model:path}", summary="One collection as a model")
async def one_model(model: str, deps: DepsParam, access: AccessParam) -> ModelOut:
    """Show one of them."""
    for found in await list_models(deps.pool, access):
        if found.name == model:
            return ModelOut.of(found)
    raise unknown(model)


async def _events(
    deps: Deps, asked: Asked, awaited: Awaited | None, chunks: Chunks, url_of: UrlOf, *, includes_usage: bool
) -> AsyncGenerator[StreamEvent, None]:
    """Answer in chunks."""
    shown = ""
    async with aclosing(work(deps, asked, awaited)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Offered):
                yield _event(chunks.delta(role="assistant", content="", refusal=None))
            elif isinstance(piece, str):
                shown += piece
                yield _event(chunks.delta(content=piece))
            else:
                for data in _last(chunks, piece, shown, url_of):
                    yield _event(data)
                if includes_usage:
                    yield _event(chunks.usage(piece.out))
                yield _event(DONE)


def _last(chunks: Chunks, finished: Finished, shown: str, url_of: UrlOf) -> list[str]:
    """Write what stands behind the text: what of it was not shown, its annotations, and how it ended."""
    answer, out = finished.answer, finished.out
    written = []
    at = len(shown) - len(shown.lstrip())
    if shown.strip() != answer.text:
        # The model took back what it had begun to say, which nobody can unread.
        rest = f"\n\n{answer.text}" if shown.strip() else answer.text
        at = len(shown) + len(rest) - len(answer.text)
        written.append(chunks.delta(content=rest))
    if marks := [mark.moved(at) for mark in answer.marks]:
        annotations = annotations_of(marks, out.sources, url_of)
        written.append(chunks.delta(annotations=[annotation.model_dump() for annotation in annotations]))
    return [*written, chunks.finish(answer, out)]


def _event(data: str) -> StreamEvent:
    return StreamEvent(None, data)
