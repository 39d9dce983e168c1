"""Peers who make a connection wait: nothing sent, half a head, an answer that nobody takes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from services.query import connection
from services.query.connection import BoundedConnection
from tests.waiting import SECONDS_MAX, until

HEAD = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n"
# More than the kernel holds for a socket.
LONG_BYTES = 64 * 1024**2


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LONG_BYTES // 65_536):
            yield bytes(65_536)

    answer = StreamingResponse(pieces()) if scope["path"] == "/long" else PlainTextResponse("short")
    await answer(scope, receive, send)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test does not shorten ends nothing within its time."""
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 600.0)
    monkeypatch.setattr(connection, "TAKE_SECONDS_MAX", 600.0)


@pytest.fixture
async def state() -> ServerState:
    return ServerState()


@pytest.fixture
async def port(state: ServerState) -> AsyncIterator[int]:
    config = uvicorn.Config(application, http=BoundedConnection, log_config=None, lifespan="off", timeout_keep_alive=60)
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedConnection(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for open_connection in list(state.connections):
            open_connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def is_ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(SECONDS_MAX):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    return True


@pytest.mark.parametrize("sent", [b"", HEAD % b"/short"])
async def test_head_that_does_not_come_ends_the_connection(port, sent, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    assert await is_ended(reader)
    writer.close()


async def test_next_head_that_breaks_off_ends_the_connection_too(port, monkeypatch):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD % b"/short" + b"\r\n")
    assert (await reader.readuntil(b"short")).endswith(b"short")
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.1)
    writer.write(HEAD % b"/short")
    assert await is_ended(reader)
    writer.close()


async def test_connection_between_two_requests_is_kept(port, state):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(HEAD % b"/short" + b"\r\n")
        await reader.readuntil(b"short")
        (kept,) = state.connections
        assert kept._head_timer is None
    writer.close()


async def test_caller_who_takes_nothing_is_cut_off(port, state, monkeypatch):
    with socket.create_connection(("127.0.0.1", port)) as silent:
        await until(lambda: _are(state.connections))
        monkeypatch.setattr(connection, "TAKE_SECONDS_MAX", 0.1)
        silent.sendall(HEAD % b"/long" + b"\r\n")
        await until(lambda: _are_none(state.connections | state.tasks))


@pytest.mark.parametrize("unread", [b"", HEAD % b"/short" + b"Content-Length: 9\r\n\r\n"])
async def test_caller_who_does_not_take_the_end_is_cut_off(port, state, monkeypatch, unread):
    """What is less than a transport holds back for is nobody's to watch while the answer goes on."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: _are(state.connections))
    (slow,) = state.connections
    monkeypatch.setattr(connection, "TAKE_SECONDS_MAX", 0.05)
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.01)
    for transport in (slow.transport, slow.transport._transport):
        monkeypatch.setattr(transport, "get_write_buffer_size", lambda: 9, raising=False)
    inner = slow.transport._transport  # it goes on for as long as something waits to be taken
    monkeypatch.setattr(inner, "close", lambda: monkeypatch.setattr(inner, "is_closing", lambda: True))
    writer.write(unread)
    if not unread:
        slow.transport.close()
        slow.resume_writing()
    await until(lambda: _are_none(state.connections))
    writer.close()


async def test_caller_who_takes_a_little_is_given_time(port, state, monkeypatch):
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: _are(state.connections))
    (slow,) = state.connections
    waiting = [90, 80, 80]
    monkeypatch.setattr(slow.transport, "get_write_buffer_size", lambda: waiting.pop(0))
    slow.pause_writing()
    slow._look_again(90)
    assert not slow.transport.is_closing()
    slow._look_again(80)
    assert slow.transport.is_closing()
    writer.close()


async def _are(things: set[object]) -> bool:
    return bool(things)


async def _are_none(things: set[object]) -> bool:
    return not things
