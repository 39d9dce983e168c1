"""Server-sent events, and the end of the work behind them when their client leaves.

**Invariants:** an answer's events are made by one task, which is cancelled as soon as the client has left, takes nothing
for too long, or the process stops; what fails before the first event is an ordinary error; the stream of an answer that is
read to its end ends with exactly one `done` or `error`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from services.query.openai_errors import is_openai, request_id
from services.query.problems import problem_of

T = TypeVar("T")
# Nobody sees it: the client has left.
STATUS_CLIENT_LEFT = 499
# A slow client holds the model back instead of filling memory.
EVENTS_HELD_MAX = 64
# Proxies close what is silent for a minute.
KEEP_ALIVE_SECONDS = 15.0
# A client that takes nothing for so long has left without saying so.
SEND_SECONDS_MAX = 30.0
# For how long a second event is waited for, where a failure is to be told as an ordinary error as long as that can be.
SECOND_SECONDS_MAX = 2.0
# What JSON leaves as it is and many clients take for the end of a line. Within JSON they stand in strings only.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event: its name, unless its reader knows none, and its data as JSON."""

    name: str | None
    data: str


class Source(Protocol):
    """Where a stream's events come from."""

    async def next(self) -> StreamEvent | Exception | None:
        """Wait for the next event; None or what went wrong is the end. A call that is cancelled loses nothing."""

    async def stop(self) -> None:
        """End what makes them."""


class ClientLeft(Exception):
    """Nobody waits for this answer any more."""


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, and stop it when the client leaves.

    Raises: ClientLeft then.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        await end_tasks(working, leaving)


async def open_stream(
    request: Request, events: AsyncGenerator[StreamEvent, None], *, waits_for_second: bool = False
) -> "EventStream":
    """Begin to make events and return when the first is there; `waits_for_second`: or, if it comes soon, the second.

    Raises: what making it raised; ClientLeft when the client did not wait for it.
    """
    production = _Production(events)
    try:
        begun = await unless_left(request, _begin(production, waits_for_second=waits_for_second))
        return EventStream(production, *begun, path=request.url.path)
    except BaseException:
        await production.stop()
        raise


async def _begin(production: "_Production", *, waits_for_second: bool) -> list[StreamEvent | None]:
    begun = [await production.first()]
    if not waits_for_second or begun[0] is None:
        return begun
    try:
        async with asyncio.timeout(SECOND_SECONDS_MAX):
            second = await production.next()
    except TimeoutError:
        return begun
    if isinstance(second, Exception):
        raise second
    return [*begun, second]


class _Production:
    """One task that makes events, and the few that are not sent yet. Behind the last comes None, or what went wrong."""

    def __init__(self, events: AsyncGenerator[StreamEvent, None]) -> None:
        self._made: asyncio.Queue[StreamEvent | Exception | None] = asyncio.Queue(EVENTS_HELD_MAX)
        self._task = asyncio.create_task(self._make(events))

    async def _make(self, events: AsyncGenerator[StreamEvent, None]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    await self._made.put(event)
        except Exception as error:  # noqa: BLE001 (whatever it is, the one who waits is told)
            end = error
        await self._made.put(end)

    async def first(self) -> StreamEvent | None:
        """Wait for the first event.

        Raises: what making it raised.
        """
        made = await self.next()
        if isinstance(made, Exception):
            raise made
        return made

    async def next(self) -> StreamEvent | Exception | None:
        """Wait for what comes next."""
        return await self._made.get()

    async def stop(self) -> None:
        """End the work, with everything that it has open."""
        await end_tasks(self._task)


class EventStream(StreamingResponse):
    """Sends events as they are made."""

    media_type = "text/event-stream"

    def __init__(self, source: Source, *begun: StreamEvent | None, path: str = "") -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._encode(begun), headers=headers | (request_id() if is_openai(path) else {}))
        self._source = source
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's signature)
        """Send until the last event, or until the client has left."""
        sending = asyncio.create_task(self.stream_response(_bounded(send)))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with suppress(OSError):  # the client left, or took nothing any more
                    sending.result()
        finally:
            await end_tasks(sending, leaving)
            await self._source.stop()

    async def _encode(self, begun: Sequence[StreamEvent | None]) -> AsyncIterator[bytes]:
        made: StreamEvent | Exception | None = begun[0]
        behind = deque(begun[1:])
        while isinstance(made, StreamEvent):
            yield format_sse_event(event=made.name, data_str=made.data.translate(_LINE_ENDS))
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                        made = behind.popleft() if behind else await self._source.next()
                    break
                except TimeoutError:
                    yield KEEPALIVE_COMMENT
        if made is not None:
            yield format_sse_event(
                event=None if is_openai(self._path) else "error",
                data_str=bytes(problem_of(made, self._path).body).decode(),
            )


def _bounded(send: Send) -> Send:
    async def bounded(message: Message) -> None:
        async with asyncio.timeout(SEND_SECONDS_MAX):
            await send(message)

    return bounded


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Stop some tasks, and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
