"""Carry out index DDL: as the owner, on a connection of its own, one build at a time in the whole database.

Two concurrent builds on one table wait for each other's snapshots until one is a deadlock's victim, so who builds holds
an advisory lock. It is only ever tried: a session that waits for it would itself be an old snapshot. It lives as long as
the session, so the backend of a killed worker keeps it and finishes the index, and nobody begins the same one beside it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from services.embedder.index_ddl import SearchIndex, analyze_statement, create_statement, drop_statement, index_name
from services.embedder.store import begin_building, bound_build
from shared.database import CONNECTION_ERRORS, OwnConnection, connect
from shared.errors import IndexTooSlow, RetryableError
from shared.telemetry import Event, log

# A build waits for every transaction that was open before it; one that is idle is ended after a minute.
LOCK_SECONDS_MAX = 300.0
CLOSE_SECONDS_MAX = 5.0
# The server's time-out speaks first: its error is the clearer one.
GRACE_SECONDS = 10.0
SECONDS_MIN = 1.0


class Building:
    """A session that owns the tables and the right to build."""

    def __init__(self, connection: OwnConnection, memory_bytes: int, until: float) -> None:
        self._connection = connection
        self._memory_bytes = memory_bytes
        self._until = until

    async def carry_out(self, index: SearchIndex) -> None:
        """Build or drop one index.

        Raises: IndexTooSlow when the time is up; RetryableError when an old transaction stands in the way.
        """
        started = time.monotonic()
        try:
            await self._run(create_statement(index) if index.is_wanted else drop_statement(index))
        except asyncpg.LockNotAvailableError:
            raise RetryableError(
                f"{index_name(index)}: a transaction stayed open for {LOCK_SECONDS_MAX:.0f} s; end it (pg_stat_activity tells which)"
            ) from None
        except asyncpg.QueryCanceledError:
            if time.monotonic() < self._until:
                raise RetryableError(f"{index_name(index)}: somebody cancelled it") from None
            raise IndexTooSlow from None
        if index.is_wanted:
            await self._run(analyze_statement(index))
        log(
            Event.INDEX_BUILT if index.is_wanted else Event.INDEX_DROPPED,
            index=index_name(index),
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )

    async def _run(self, statement: str) -> None:
        seconds = self._seconds_left()
        await bound_build(
            self._connection, seconds=seconds, lock_seconds=LOCK_SECONDS_MAX, memory_bytes=self._memory_bytes
        )
        await self._connection.execute(statement, timeout=seconds + GRACE_SECONDS)

    def _seconds_left(self) -> float:
        return max(self._until - time.monotonic(), SECONDS_MIN)


class IndexBuilder:
    """Opens building sessions. A serial build takes memory as its graph grows, up to `memory_bytes`."""

    def __init__(self, url: str, *, memory_bytes: int) -> None:
        self._url = url
        self._memory_bytes = memory_bytes

    @asynccontextmanager
    async def session(self, until: float) -> AsyncIterator[Building | None]:
        """Open a session that may build until the monotonic time `until`, or None when another one builds.

        Raises: ConfigError when the login may not take the owner's role; DatabaseUnavailable.
        """
        connection = await connect(self._url, "askbox_owner", "askbox index")
        try:
            is_alone = await begin_building(connection)
            yield Building(connection, self._memory_bytes, until) if is_alone else None
        finally:
            await _close(connection)


async def _close(connection: OwnConnection) -> None:
    """End a session even when its worker is being stopped."""
    try:
        with contextlib.suppress(*CONNECTION_ERRORS):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await connection.close()
    finally:
        if not connection.is_closed():
            connection.terminate()
