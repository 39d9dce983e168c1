"""The chat half of the scripted server: each call of `/v1/chat/completions` plays the next script, then the default one.

A script is a `Chat`: the pieces of text that it writes, and what goes wrong. `server.chats` holds those to come, and
`server.chat_calls` what was called, with the moment at which the caller closed the connection.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

PATH = "/v1/chat/completions"
USAGE = {"prompt_tokens": 321, "completion_tokens": 12, "total_tokens": 333}


@dataclass(frozen=True)
class Chat:
    """One answer. `stall_at` waits before that piece until the caller leaves, `hold_at` until `server.released` is set."""

    pieces: Sequence[str] = ("The answer stands here [1].",)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    finish: str | None = "stop"
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    is_usage_in_last_choice: bool = False
    stall_at: int | None = None
    hold_at: int | None = None
    cut_at: int | None = None  # the connection breaks before that piece
    error_at: int | None = None  # an error object instead of that piece
    garbage: str | None = None  # this instead of a stream
    raw: Sequence[str] = ()  # data lines as they are, before the pieces
    silent_headers: bool = False  # not even the headers come
    lingers: bool = False  # the connection stays open behind the last word


@dataclass
class ChatCall:
    """What was asked, and when the caller left, if before the end."""

    body: dict[str, Any]
    key: str | None
    at: float = field(default_factory=time.monotonic)
    sent: int = 0
    ended_at: float | None = None
    left_at: float | None = None


class Chats:
    """The chat half's state. Touched by two threads: each field is only appended to, popped or set."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.scripts: deque[Chat] = deque()
        self.by_question: dict[str, Chat] = {}  # for calls that hold these words, where several come at once
        self.default = Chat()
        self.calls: list[ChatCall] = []
        self.is_released = False

    def play(self, *scripts: Chat) -> None:
        self.scripts += scripts


def chats_of(server: Any) -> Chats:
    """Return the chat half of a server."""
    if not hasattr(server, "chat"):
        server.chat = Chats()
    return server.chat


def routes(server: Any) -> list[BaseRoute]:
    chats = chats_of(server)

    async def completions(request: Request) -> Response:
        body = await request.json()
        recorded = server.record(request, body)
        call = ChatCall(body, recorded.key)
        chats.calls.append(call)
        asked = json.dumps(body["messages"][-1])
        script = next((script for words, script in list(chats.by_question.items()) if words in asked), None)
        script = script or (chats.scripts.popleft() if chats.scripts else chats.default)
        if script.silent_headers:
            await _until_left(request, call, server)
        if script.status != 200:
            recorded.status = script.status
            error = {"message": f"as the script says, with {body['messages']}", "type": "test", "code": script.code}
            return JSONResponse({"error": error}, script.status, headers=script.headers)
        if script.garbage is not None:
            return PlainTextResponse(script.garbage)
        if not body.get("stream"):
            return JSONResponse(_whole(script))
        return StreamingResponse(_stream(script, request, call, chats, server), media_type="text/event-stream")

    return [Route(PATH, completions, methods=["POST"])]


async def _stream(script: Chat, request: Request, call: ChatCall, chats: Chats, server: Any) -> AsyncIterator[str]:
    try:
        for line in script.raw:
            yield f"data: {line}\n\n"
        yield _data(_chunk({"role": "assistant", "content": ""}))
        for number, piece in enumerate([*script.pieces, None]):
            if number == script.stall_at:
                await _until_left(request, call, server)
                return
            while number == script.hold_at and not chats.is_released:  # noqa: ASYNC110 (set in another thread)
                await asyncio.sleep(0.005)
            if number == script.cut_at:
                raise ConnectionError("as the script says")
            if number == script.error_at:
                yield _data(
                    {"error": {"message": f"as the script says, with {call.body['messages']}", "code": "overloaded"}}
                )
                return
            if piece is not None:
                yield _data(_chunk({"content": piece}))
                call.sent += 1
                # Once the caller has left, sending waits for nothing, and its leaving must be heard.
                await asyncio.sleep(0)
        last = _chunk({}, finish=script.finish)
        if script.lingers:
            yield _data(last)
            await _until_left(request, call, server)
            return
        if script.is_usage_in_last_choice:
            yield _data(last | {"usage": script.usage})
        else:
            yield _data(last)
            if script.usage is not None:
                yield _data(_chunk(None) | {"usage": script.usage})
        yield "data: [DONE]\n\n"
        call.ended_at = time.monotonic()
    except (asyncio.CancelledError, GeneratorExit):
        call.left_at = call.left_at or time.monotonic()
        raise


async def _until_left(request: Request, call: ChatCall, server: Any) -> None:
    while not server.stopping.is_set() and not await request.is_disconnected():  # noqa: ASYNC110 (there is no event)
        await asyncio.sleep(0.005)
    call.left_at = time.monotonic()


def _chunk(delta: dict[str, Any] | None, *, finish: str | None = None) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "test-chat", "choices": choices}


def _data(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _whole(script: Chat) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(script.pieces)}
    choice = {"index": 0, "message": message, "finish_reason": script.finish}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": "test-chat",
        "choices": [choice],
        "usage": script.usage,
    }
