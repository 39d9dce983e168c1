"""A TCP proxy that does to connections what networks and dying processes do.

It stands before Postgres or before an HTTP server. Before Postgres it can also count statements and spring a trap at one.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

PIECE_BYTES = 65_536
SLICED_BYTES_MAX = 256
STOP_SECONDS_MAX = 1.0
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_STATEMENTS = frozenset(b"QE")  # a simple query; the execution of a prepared one
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Trap:
    """Springs once, at the Nth statement: before the server sees it, or when it has answered and nobody has heard."""

    number: int
    is_after: bool
    spring: Callable[[], None]
    seen: int = 0
    has_sprung: bool = False


@dataclass
class _Frames:
    """Where the messages of a Postgres client begin."""

    buffer: bytearray = field(default_factory=bytearray)
    is_started: bool = False
    opening: bytes = b""  # what the client says first, its `application_name` among it

    def split(self, data: bytes) -> list[bytes]:
        """Return the whole messages that are there now."""
        self.buffer += data
        messages = []
        while (size := self._size()) is not None and len(self.buffer) >= size:
            message = bytes(self.buffer[:size])
            del self.buffer[:size]
            if not self.is_started:
                (code,) = struct.unpack("!i", message[4:8])
                self.is_started = code not in (_SSL_REQUEST, _GSS_REQUEST)
                self.opening = message
            messages.append(message)
        return messages

    def _size(self) -> int | None:
        head = 5 if self.is_started else 4
        if len(self.buffer) < head:
            return None
        (size,) = struct.unpack("!i", self.buffer[head - 4 : head])
        return int(size) + head - 4


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: Stream, server: Stream) -> None:
        self.client = client
        self.server = server
        self.frames = _Frames()
        self.is_silent = False
        self.answers_to: Trap | None = None

    def end(self, *, is_reset: bool) -> None:
        for _, writer in (self.client, self.server):
            if is_reset:
                with contextlib.suppress(OSError):
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Forwards bytes. What is done to it concerns the connections that are open now, or all until it is healed."""

    def __init__(self, open_upstream: Callable[[], Awaitable[Stream]], *, speaks_postgres: bool) -> None:
        self._open_upstream = open_upstream
        self._speaks_postgres = speaks_postgres
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.delay_seconds = 0.0
        self.is_slicing = False
        self.is_refusing = False
        self.silenced_name: str | None = None
        self.trap: Trap | None = None
        self.hits = 0  # how often something that was done to it met a connection or its bytes

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        self._flowing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS_MAX)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        return len(self._links)

    def silence(self, name: str = "", *, and_new: bool = False) -> None:
        """A black hole: what is open now stays open and hears nothing more, for ever.

        With a `name` only the connections whose `application_name` holds it; `and_new`: those to come as well, until `heal`.
        """
        for link in self._links:
            if name.encode() in link.frames.opening or not name:
                link.is_silent = True
        if and_new:
            self.silenced_name = name

    def stall(self) -> None:
        """Hold every byte until `heal`, those of new connections too."""
        self._flowing.clear()

    def cut(self) -> None:
        """Close what is open now."""
        for link in list(self._links):
            self.hits += 1
            link.end(is_reset=False)

    def reset(self) -> None:
        """Reset what is open now."""
        for link in list(self._links):
            self.hits += 1
            link.end(is_reset=True)

    def heal(self) -> None:
        """Let everything through again, at once and whole; what was cut or silenced stays so."""
        self.delay_seconds = 0.0
        self.is_slicing = self.is_refusing = False
        self.silenced_name = None
        self._flowing.set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.is_refusing:
            self.hits += 1
            writer.transport.abort()
            return
        try:
            server = await self._open_upstream()
        except OSError:
            writer.transport.abort()
            return
        link = _Link((reader, writer), server)
        self._links.add(link)
        try:
            pumps = [
                asyncio.create_task(self._pump_out(link)),
                asyncio.create_task(self._pump_back(link)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if link.is_silent:
                await asyncio.wait(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
            link.end(is_reset=False)

    async def _pump_out(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := await link.client[0].read(PIECE_BYTES):
                if self._speaks_postgres and self._is_trapped(link, data):
                    return
                await self._forward(link, data, link.server[1])

    async def _pump_back(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := await link.server[0].read(PIECE_BYTES):
                if link.answers_to is not None:
                    link.answers_to.spring()
                    return
                await self._forward(link, data, link.client[1])

    async def _forward(self, link: _Link, data: bytes, writer: asyncio.StreamWriter) -> None:
        self.hits += not self._flowing.is_set() or link.is_silent or self.is_slicing or self.delay_seconds > 0
        await self._flowing.wait()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if link.is_silent:
            return
        if self.is_slicing:
            for at in range(min(len(data), SLICED_BYTES_MAX)):
                writer.write(data[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0)
            data = data[SLICED_BYTES_MAX:]
        writer.write(data)
        await writer.drain()

    def _is_trapped(self, link: _Link, data: bytes) -> bool:
        """Count statements; at the trapped one spring the trap now, or mark the link for its answer."""
        for message in link.frames.split(data):
            if self.silenced_name is not None and self.silenced_name.encode() in link.frames.opening:
                link.is_silent = True
            trap = self.trap
            if message[0] not in _STATEMENTS or trap is None or trap.has_sprung:
                continue
            trap.seen += 1
            if trap.seen == trap.number:
                trap.has_sprung = True
                if not trap.is_after:
                    trap.spring()
                    return True
                link.answers_to = trap
        return False


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """Name the database of a socket file through a proxy."""
    parts = urlsplit(url)
    path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    proxy = Proxy(lambda: asyncio.open_unix_connection(path), speaks_postgres=True)
    await proxy.start()
    try:
        yield f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}", proxy
    finally:
        await proxy.stop()
