"""Answers that come before the body: the rest is not read, the answer arrives all the same, and the connection ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from services.query import connection
from services.query.connection import HEAD_BYTES_MAX, READ_BYTES_MAX, BoundedConnection
from tests.waiting import SECONDS_MAX, until

HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# More than the kernel holds on both sides.
LONG_BYTES = 64 * 1024**2


class Application:
    """`/refuse` answers at once, `/wait` waits before it does, `/long` sends much, `/size` the size of the body.

    `/begin` begins to answer, and waits. `told` is what went wrong and nobody but the loop was told of.
    """

    def __init__(self) -> None:
        self.has_read = asyncio.Event()
        self.has_left = asyncio.Event()
        self.is_waiting = asyncio.Event()
        self.may_end = asyncio.Event()
        self.told: list[dict[str, object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = {"/size": self.size, "/wait": self.wait, "/begin": self.begin, "/long": self.long}
        answer = await answers.get(scope["path"], self.refuse)(Request(scope, receive))
        await answer(scope, receive, send)

    async def refuse(self, _: Request) -> Response:
        return PlainTextResponse("no", 401)

    async def wait(self, request: Request) -> Response:
        self.is_waiting.set()
        await self.may_end.wait()
        return await self.refuse(request)

    async def size(self, request: Request) -> Response:
        size = 0
        try:
            async for piece in request.stream():
                size += len(piece)
                self.has_read.set()
        except ClientDisconnect:
            self.has_left.set()
        return PlainTextResponse(str(size))

    async def begin(self, _: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            await self.may_end.wait()

        return StreamingResponse(pieces())

    async def long(self, _: Request) -> Response:
        return Response(bytes(LONG_BYTES))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test does not shorten ends nothing within its time."""
    for name in ("HEAD_SECONDS_MAX", "TAKE_SECONDS_MAX", "LINGER_SECONDS"):
        monkeypatch.setattr(connection, name, 600.0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes the server has read, each time."""
    counts: list[int] = []

    class Counting(BoundedConnection):
        def buffer_updated(self, nbytes: int) -> None:
            counts.append(nbytes)
            super().buffer_updated(nbytes)

    monkeypatch.setattr(connection, "BoundedConnection", Counting)
    return counts


@pytest.fixture
async def state() -> ServerState:
    return ServerState()


@pytest.fixture
async def application() -> Application:
    return Application()


@pytest.fixture
async def port(read: list[int], state: ServerState, application: Application) -> AsyncIterator[int]:
    config = uvicorn.Config(
        application,
        http=connection.BoundedConnection,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=60,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    config.load()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: application.told.append(context))
    server = await loop.create_server(lambda: connection.BoundedConnection(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        application.may_end.set()
        for open_connection in list(state.connections):
            open_connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)
    loop.set_exception_handler(None)


@contextlib.asynccontextmanager
async def caller(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            yield reader, writer
    finally:
        writer.transport.abort()


async def pour(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(bytes(65_536))
            await writer.drain()


@pytest.mark.parametrize(
    "head", [b"Content-Length: 9000000000\r\n", b"Content-Length: 9000000000\r\nConnection: close\r\n"]
)
async def test_refusal_arrives_while_the_body_is_sent_and_the_body_is_not_read(port, read, head):
    async with caller(port) as (reader, writer):
        writer.write(b"POST /refuse HTTP/1.1\r\n" + HOST + head + b"\r\n")
        pouring = asyncio.create_task(pour(writer))
        answer = await reader.read()
        pouring.cancel()
        assert answer.startswith(b"HTTP/1.1 401")
        assert answer.endswith(b"\r\n\r\nno")
        assert sum(read) <= 2 * READ_BYTES_MAX


async def test_body_that_nobody_asks_for_yet_is_not_read(port, read, application):
    async with caller(port) as (reader, writer):
        writer.write(b"POST /wait HTTP/1.1\r\n" + HOST + b"Content-Length: 9000000000\r\n\r\n")
        await application.is_waiting.wait()
        writer.write(bytes(LONG_BYTES))
        for _ in range(3):  # each answer shows that the loop has looked at what came until then
            async with caller(port) as (other_reader, other_writer):
                other_writer.write(b"GET /refuse HTTP/1.1\r\n" + HOST + b"\r\n")
                await other_reader.readuntil(b"no")
        assert sum(read) <= 2 * READ_BYTES_MAX
        application.may_end.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")


async def test_connection_of_who_goes_on_after_a_refusal_ends(port, state, monkeypatch):
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)
    async with caller(port) as (reader, writer):
        writer.write(b"POST /refuse HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        await until(lambda: asyncio.sleep(0, not state.connections))


async def test_long_answer_to_an_unread_body_is_not_cut_off(port, monkeypatch):
    has_looked = asyncio.Event()
    end = connection._Lingering._end

    def noted(lingering: connection._Lingering) -> None:
        end(lingering)
        has_looked.set()

    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.01)
    monkeypatch.setattr(connection._Lingering, "_end", noted)
    async with caller(port) as (reader, writer):
        writer.write(b"POST /long HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nConnection: close\r\n\r\n")
        await has_looked.wait()
        answer = await reader.read()
        assert len(answer) > LONG_BYTES


async def test_connection_whose_bodies_were_read_is_kept(port):
    body = b"x" * (3 * READ_BYTES_MAX)
    async with caller(port) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST /size HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert (await reader.readuntil(b"%d" % len(body))).startswith(b"HTTP/1.1 200")


async def test_body_in_crumbs_is_read_to_its_end(port, read):
    """A piece that holds nothing but the size of what comes must not stop the reading."""
    async with caller(port) as (reader, writer):
        crumbs = [
            b"POST /size HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n",
            b"5\r\nhe",
            b"llo",
            b"\r\n",
            b"3\r",
            b"\nyou\r\n",
        ]
        for number, crumb in enumerate([*crumbs, b"0\r\n", b"\r\n"], start=1):
            writer.write(crumb)
            await until(lambda number=number: asyncio.sleep(0, len(read) >= number))
        assert (await reader.readuntil(b"\r\n\r\n8")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /refuse HTTP/1.1\r\nX-Long: " + b"x" * 2**20,
        b"GET /refuse HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(90_000)),
        b"GET /" + b"x" * 2**20,
    ],
)
async def test_head_that_is_too_long_is_told_so_and_not_read(port, read, head):
    async with caller(port) as (reader, writer):
        writer.write(head)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert b"urn:askbox:head_too_large" in answer
        assert sum(read) <= HEAD_BYTES_MAX + READ_BYTES_MAX


async def test_head_that_is_none_is_told_so(port):
    async with caller(port) as (reader, writer):
        writer.write(b"rubbish\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")


async def test_body_that_turns_into_rubbish_is_told_so_and_nobody_waits_for_its_end(port, application):
    async with caller(port) as (reader, writer):
        writer.write(b"POST /size HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n5\r\nhello\r\n")
        await application.has_read.wait()
        writer.write(b"no size\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        await application.has_left.wait()
    assert application.told == []


async def test_body_that_turns_into_rubbish_behind_the_beginning_of_its_answer_ends_the_connection(
    port, state, application
):
    async with caller(port) as (reader, writer):
        writer.write(b"POST /begin HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
        await reader.readuntil(b"begun")
        writer.write(b"no size\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1" not in await reader.read()
        await until(lambda: asyncio.sleep(0, not state.connections))
    assert application.told == []
