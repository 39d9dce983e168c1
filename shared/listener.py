"""LISTEN on a connection of its own, which probes itself: a black-holed socket looks open for ever."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence

import tenacity

from shared.database import CONNECTION_ERRORS, OwnConnection, Role, connect
from shared.errors import ConfigError, DatabaseUnavailable
from shared.telemetry import Event, log

PROBE_SECONDS = 5.0
PROBE_TIMEOUT_SECONDS = 4.0
RECONNECT_SECONDS_MAX = 10.0


class Listener:
    """Wakes those who wait for a stage. A wake is a hint to look; after every connection it wakes all, since hints were lost."""

    def __init__(self, url: str, role: Role, application_name: str, stages: Sequence[str]) -> None:
        self._url = url
        self._role: Role = role
        self._application_name = application_name
        self._wakes: dict[str, list[asyncio.Event]] = {stage: [] for stage in stages}
        self.is_listening = False
        self.changed = asyncio.Event()  # set with `is_listening`; for one waiter, who clears it

    def subscribe(self, stage: str) -> asyncio.Event:
        """Return an event of the caller's own, set when there may be work in `stage`; clear it before looking.

        Two waiters with one event would clear each other's wakes.
        """
        event = asyncio.Event()
        self._wakes[stage].append(event)
        return event

    def wake(self) -> None:
        """Let everybody look."""
        for events in self._wakes.values():
            for event in events:
                event.set()

    async def run(self) -> None:
        """Listen until cancelled, connecting again with growing, jittered pauses."""
        while True:
            connection = await self._connect()
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _, lost=lost: lost.set())
            try:
                self._subscribed()
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_SECONDS):
                            await lost.wait()
                    await self._probe(connection)
            except CONNECTION_ERRORS as error:
                log(Event.LISTENER_LOST, logging.WARNING, reason=str(error) or type(error).__name__)
            finally:
                self._become(is_listening=False)
                connection.terminate()

    async def _connect(self) -> OwnConnection:
        async for attempt in tenacity.AsyncRetrying(
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=RECONNECT_SECONDS_MAX),
            retry=tenacity.retry_if_exception_type((ConfigError, DatabaseUnavailable, *CONNECTION_ERRORS)),
        ):
            with attempt:
                connection = await connect(self._url, self._role, self._application_name)
                try:
                    _keep_alive(connection)
                    for stage in self._wakes:
                        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                            await connection.add_listener(f"askbox_{stage}", self._on_notify)
                except BaseException:
                    connection.terminate()
                    raise
                return connection
        raise AssertionError("retrying has no last attempt")

    def _subscribed(self) -> None:
        self._become(is_listening=True)
        log(Event.LISTENER_CONNECTED, logging.DEBUG)
        self.wake()

    def _become(self, *, is_listening: bool) -> None:
        self.is_listening = is_listening
        self.changed.set()

    async def _probe(self, connection: OwnConnection) -> None:
        """Ask the same session whether it still listens.

        Raises: ConnectionError when it does not, TimeoutError when it does not answer.
        """
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            channels = await connection.fetchval("SELECT count(*) FROM pg_listening_channels()")
        if channels != len(self._wakes):
            raise ConnectionError(f"the session listens on {channels} of {len(self._wakes)} channels")

    def _on_notify(self, _connection: object, _pid: int, channel: str, _payload: object) -> None:
        for event in self._wakes[channel.removeprefix("askbox_")]:
            event.set()


def _keep_alive(connection: OwnConnection) -> None:
    """Let the kernel notice a dead peer too; asyncpg sets nothing."""
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
