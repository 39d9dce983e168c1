"""A TCP proxy before Postgres that can fall silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit


class SilentProxy:
    """Forwards bytes; `silence` swallows those of the connections that are open now, whose sockets stay open."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._silenced: set[int] = set()
        self._count = 0
        self._writers: list[asyncio.StreamWriter] = []

    def silence(self) -> None:
        self._silenced = set(range(self._count))

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._count
        self._count += 1
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket_path)
        self._writers += [writer, server_writer]
        pumps = (self._pump(number, reader, server_writer), self._pump(number, server_reader, writer))
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if number not in self._silenced:
                writer.write(data)
                await writer.drain()
        if number not in self._silenced:
            writer.close()


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, SilentProxy]]:
    """Name the database through a proxy."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query)["host"][0]
    proxy = SilentProxy(f"{folder}/.s.PGSQL.5432")
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}", proxy
    finally:
        proxy.close()
        server.close()
