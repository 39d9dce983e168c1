"""Bounds on what uvicorn waits for without end: the head of a request, and a caller who takes nothing of an answer."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX = 1000
# For a whole head, from the opening of the connection or its own first byte on.
HEAD_SECONDS_MAX = 20.0
# For the next few bytes of what waits to be taken.
TAKE_SECONDS_MAX = 30.0


class BoundedConnection(H11Protocol):
    """One connection, which ends when its peer makes it wait for too long."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head no longer than for a whole one; until one begins uvicorn waits, and not for long."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting_for_head()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to watch whether the caller takes anything."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Let the answer go on: the caller takes it."""
        self._stop_watching()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting_for_head()
        self._stop_watching()
        super().connection_lost(exc)

    def _stop_waiting_for_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_watching(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None

    def _watch(self, waiting_bytes: int) -> None:
        self._take_timer = self.loop.call_later(TAKE_SECONDS_MAX, self._look_again, waiting_bytes)

    def _look_again(self, waiting_bytes: int) -> None:
        now_waiting_bytes = self.transport.get_write_buffer_size()
        if now_waiting_bytes >= waiting_bytes:
            self.transport.abort()  # to close it would mean to wait until all is taken
        else:
            self._watch(now_waiting_bytes)
