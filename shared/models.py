"""The embedding model that a database is filled with: registered by who can measure it, awaited by the others.

**Invariants:** how long a model's vectors are is what the model gave, never what somebody expects; so a model on a
server is registered by an embedder, the one process that asks it on its own account, and the ingester waits. The
embedder waits for nobody but the server: the order in which processes start is of no matter.
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import asyncpg

from shared import queue
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool, Session, at_the_end
from shared.errors import ConfigError, ProviderUnavailable
from shared.statements import load_statements
from shared.telemetry import Event, log
from shared.text import storable

T = TypeVar("T")
STATEMENTS = load_statements("shared", "models.sql")
LOOK_SECONDS = 1.0
HIDE_SECONDS_MAX = 2.0

# A pause is a courtesy: who cannot ask for it in time goes on, and a database that is silent takes no vectors either.
PAUSE_LOOK_SECONDS_MAX = 1.0
PAUSE_REASON_CHARACTERS_MAX = 1000

_FIND = STATEMENTS["find_model"]
_FIND_PAUSE = STATEMENTS["find_pause"]
_EXTEND_PAUSE = STATEMENTS["extend_pause"]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model that is known to the database."""

    id: int
    dimension: int


async def find_model(conn: Session, name: str) -> RegisteredModel | None:
    """Return a model, or None as long as it is not registered.

    Raises: ConfigError when the database was filled with another one.
    """
    row = await conn.fetchrow(_FIND, name)
    assert row is not None
    if row["others"]:
        raise ConfigError(
            f"ASKBOX_EMBEDDING_MODEL is {name}, but the database was filled with {', '.join(row['others'])}: "
            "set it back, or start with an empty database (another ASKBOX_HOME or ASKBOX_DATABASE_URL)"
        )
    return None if row["id"] is None else RegisteredModel(row["id"], row["dimension"])


class ModelPause:
    """The pause that the server of a model asked for, shared through the model's row by all embedders that ask the same.

    Of two servers, or two keys, it holds the last one told.
    """

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool = pool
        self._name = name

    async def find(self, server: str) -> tuple[float, str] | None:
        """Return for how many seconds a server wants no call, and why; None when it does, or the database does not say."""
        with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS, asyncpg.PostgresError):
            async with asyncio.timeout(PAUSE_LOOK_SECONDS_MAX):
                row = await self._pool.fetchrow(_FIND_PAUSE, self._name, server)
                return None if row is None else (row["seconds"], row["pause_reason"])
        return None

    async def extend(self, server: str, seconds: float, reason: str) -> None:
        """Tell every embedder that asks this server to wait; the longest pause counts."""
        told = storable(reason)[0][:PAUSE_REASON_CHARACTERS_MAX]
        with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS, asyncpg.PostgresError):
            async with asyncio.timeout(PAUSE_LOOK_SECONDS_MAX):
                await self._pool.execute(_EXTEND_PAUSE, self._name, timedelta(seconds=seconds), told, server)


class VisibleWait(Generic[T]):
    """Looks again and again for what a process needs before it can work, and tells health what it waits for."""

    def __init__(self, pool: Pool, kind: str, look: Callable[[], Awaitable[T | None]], reason: str) -> None:
        self._pool = pool
        self._kind = kind
        self._look = look
        self._reason = reason
        self._stopping = asyncio.Event()
        self._worker_id: int | None = None
        self._registering: asyncio.Task[int] | None = None

    def stop(self) -> None:
        """Give up."""
        self._stopping.set()

    async def run(self) -> T | None:
        """Return what was looked for, or None when told to stop."""
        # A look may ask a server that takes its time to say nothing.
        waiting = asyncio.create_task(self._wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
            stopping.cancel()
            await asyncio.wait({waiting, stopping}, timeout=HIDE_SECONDS_MAX)
            await self._hide()

    async def _wait(self) -> T:
        told = None
        while True:
            reason, event, level = self._reason, Event.WAIT_STARTED, logging.INFO
            try:
                found = await self._look_visibly(told or reason)
                if found is not None:
                    return found
            except ProviderUnavailable as error:  # a server that wants no call gets none: its gate is closed
                reason, event, level = str(error), Event.PROVIDER_UNAVAILABLE, logging.WARNING
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                reason, event, level = type(error).__name__, Event.DATABASE_UNAVAILABLE, logging.WARNING
            if reason != told:
                log(event, level, reason=reason)
                told = reason
            await self._show(reason)
            await asyncio.sleep(LOOK_SECONDS * (0.7 + 0.6 * random.random()))

    async def _look_visibly(self, reason: str) -> T | None:
        looking = asyncio.ensure_future(self._look())
        try:
            while not (await asyncio.wait({looking}, timeout=LOOK_SECONDS))[0]:
                await self._show(reason)
            return looking.result()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _show(self, reason: str) -> None:
        with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):
            if self._worker_id is None or not await queue.touch_worker(
                self._pool, self._worker_id, is_listening=False, note=reason, is_hindered=True
            ):
                # Whoever stops the wait stops this not half-way: a row whose number nobody heard would stay.
                self._registering = asyncio.create_task(self._register())
                worker_id = await asyncio.shield(self._registering)
                await queue.touch_worker(self._pool, worker_id, is_listening=False, note=reason, is_hindered=True)

    async def _register(self) -> int:
        self._worker_id = await queue.register_worker(
            self._pool, kind=self._kind, host=socket.gethostname(), pid=os.getpid()
        )
        return self._worker_id

    async def _hide(self) -> None:
        if self._registering is not None:
            await asyncio.wait({self._registering}, timeout=HIDE_SECONDS_MAX)
            self._registering.cancel()
        if self._worker_id is not None:
            await at_the_end(queue.forget_worker(self._pool, self._worker_id), seconds=HIDE_SECONDS_MAX)
