"""`/query`, `/query/stream` and `/search`."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from services.query.answer import Answer, Asked, Offered, elapsed_ms
from services.query.deps import AccessParam, Deps, DepsParam, KeyFirst
from services.query.schema import AnswerOut, HitOut, HitsOut, QuestionIn, SearchIn, SourceOut
from services.query.stream import STATUS_CLIENT_LEFT, ClientLeft, StreamEvent, open_stream, unless_left
from services.query.wait import Awaited, wait_for
from shared import conventions as names
from shared.errors import RequestError
from shared.metrics import count_first_token, count_question, count_question_tokens
from shared.spans import current_trace_id, span
from shared.telemetry import Event, log

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
        return await unless_left(request, _whole(deps, asked, body.awaited(access.ids())))
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


@router.post("/search", summary="Rank chunks without answering")
async def search(body: SearchIn, deps: DepsParam, access: AccessParam) -> HitsOut:
    """Rank chunks, best first."""
    asked = body.asked(access.readable(body.names()), access.key_id)
    await _wait(deps, body.awaited(access.ids()))
    async with deps.concurrency:
        retrieval = await deps.answerer.search(asked)
    return HitsOut(data=[HitOut.of(hit) for hit in retrieval.hits], pending=retrieval.pending)


async def _wait(deps: Deps, awaited: Awaited | None) -> None:
    """Wait for files before a question takes its slot: those that do not wait are not held up."""
    if awaited is not None:
        async with deps.waits:
            await wait_for(deps.pool, awaited)


async def _whole(deps: Deps, asked: Asked, awaited: Awaited | None) -> AnswerOut:
    """Wait for the whole answer."""
    out: AnswerOut | None = None
    async with aclosing(_work(deps, asked, awaited)) as pieces:
        async for piece in pieces:
            if isinstance(piece, AnswerOut):
                out = piece
    assert out is not None
    return out


async def _events(deps: Deps, asked: Asked, awaited: Awaited | None) -> AsyncGenerator[StreamEvent, None]:
    """Answer in events."""
    async with aclosing(_work(deps, asked, awaited)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Offered):
                yield _event("sources", sources=[SourceOut.of(c).model_dump() for c in piece.citations])
            elif isinstance(piece, str):
                yield _event("token", text=piece)
            else:
                yield _event("citations", sources=[source.model_dump() for source in piece.sources])
                yield _event("usage", tokens=piece.tokens.model_dump(), meta=piece.meta.model_dump(mode="json"))
                yield StreamEvent("done", piece.model_dump_json())


def _event(name: str, **data: object) -> StreamEvent:
    return StreamEvent(name, json.dumps(data, ensure_ascii=False))


async def _work(deps: Deps, asked: Asked, awaited: Awaited | None) -> AsyncGenerator[Offered | str | AnswerOut, None]:
    """Answer one question within its slot and its span, after what it waits for, and tell how it ended."""
    await _wait(deps, awaited)
    started = time.monotonic()
    first_text_seconds = 0.0
    answer: Answer | None = None
    with span(names.ANSWER_QUESTION):
        try:
            async with deps.concurrency, aclosing(deps.answerer.answer(asked)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        answer = piece
                        continue
                    if isinstance(piece, str):
                        first_text_seconds = first_text_seconds or time.monotonic() - started
                    yield piece
        except (GeneratorExit, asyncio.CancelledError):
            log(Event.QUESTION_ABANDONED, duration_ms=elapsed_ms(started))
            raise
        except Exception as error:
            if not isinstance(error, RequestError):
                count_question("failed", time.monotonic() - started)
            raise
        assert answer is not None
        out = AnswerOut.of(asked.question, answer, latency_ms=elapsed_ms(started), trace_id=current_trace_id())
        _tell(asked, out, first_text_seconds)
    yield out


def _tell(asked: Asked, out: AnswerOut, first_text_seconds: float) -> None:
    log(
        Event.QUESTION_ANSWERED,
        answered=out.answered,
        sources=len(out.sources),
        collections=len(asked.collections),
        confidence=out.meta.confidence,
        model=out.meta.model,
        prompt_tokens=out.tokens.prompt,
        completion_tokens=out.tokens.completion,
        duration_ms=out.meta.latency_ms,
    )
    count_question("answered" if out.answered else "refused", out.meta.latency_ms / 1000)
    count_question_tokens("embedding", out.tokens.embedding)
    if out.meta.model is not None:
        count_first_token(first_text_seconds)
        count_question_tokens("prompt", out.tokens.prompt)
        count_question_tokens("completion", out.tokens.completion)
