"""A pooler in transaction mode before Postgres: all clients share one server process, which each gets for a transaction."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

_ENCRYPTION_REQUESTS = frozenset({80877103, 80877104})


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read one message: its kind, and all of its bytes."""
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


async def _startup(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(struct.unpack("!I", length)[0] - 4)


class Pooler:
    """Logs in once, as its first client asks, and tells every client what the server told then."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._greeting = b""
        self._turn = asyncio.Lock()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            startup = await _startup(reader)
            while struct.unpack("!I", startup[4:8])[0] in _ENCRYPTION_REQUESTS:
                writer.write(b"N")
                startup = await _startup(reader)
            async with self._turn:
                server = await self._log_in(startup)
            writer.write(self._greeting)
            relay: asyncio.Task[None] | None = None
            while True:
                kind, message = await _message(reader)
                if kind == b"X":  # the client leaves; the server process stays for the others
                    break
                if relay is None or relay.done():
                    await self._turn.acquire()
                    relay = asyncio.create_task(self._relay(server[0], writer))
                server[1].write(message)
        writer.close()

    async def _log_in(self, startup: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server is None:
            self._server = await asyncio.open_unix_connection(self._socket_path)
            self._server[1].write(startup)
            while not self._greeting.endswith(b"Z\0\0\0\5I"):
                self._greeting += (await _message(self._server[0]))[1]
        return self._server

    async def _relay(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand a client what the server answers, until its transaction has ended."""
        try:
            is_over = False
            while not is_over:
                kind, message = await _message(server)
                writer.write(message)
                is_over = kind == b"Z" and message.endswith(b"I")
        finally:
            self._turn.release()

    def close(self) -> None:
        if self._server is not None:
            self._server[1].close()


@contextlib.asynccontextmanager
async def pooled(url: str) -> AsyncIterator[str]:
    """Name the database through the pooler."""
    parts = urlsplit(url)
    pooler = Pooler(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432")
    server = await asyncio.start_server(pooler.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        pooler.close()
        server.close()
