"""Bounds on what uvicorn waits for and reads without end: heads, bodies that nobody wants, callers who take nothing."""

import asyncio
import contextlib
import json
import sys
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX = 1000
# At once. A body is read no further until somebody asks for it, so little more than this lies here of each; with 256 KiB,
# as a plain protocol is given, an upload costs 4.8 ms of processor time a MiB, so it costs 6.
READ_BYTES_MAX = 24_576
HEAD_BYTES_MAX = 32_768
# For a whole head, from the opening of the connection or its own first byte on.
HEAD_SECONDS_MAX = 20.0
# For the next few bytes of what waits to be taken.
TAKE_SECONDS_MAX = 30.0
# For an answer to be read by whoever still sends: to close while bytes are unread resets the connection, answer and all.
LINGER_SECONDS = 2.0
TOO_LARGE = 431
_HEAD_TOO_LARGE = json.dumps(
    {
        "type": "urn:askbox:head_too_large",
        "title": "head too large",
        "status": TOO_LARGE,
        "detail": f"the address and the headers may have at most {HEAD_BYTES_MAX} bytes together",
        "trace_id": None,
    }
).encode()
# A loop fills it and hands it over before it does anything else, and what is kept of it is copied.
_received = memoryview(bytearray(READ_BYTES_MAX))


class _Lingering:
    """A transport that closes as its connection wants it to."""

    def __init__(self, transport: asyncio.Transport, connection: "BoundedConnection") -> None:
        self._transport = transport
        self._connection = connection
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether there is nothing more to send."""
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close at once, or say that nothing more comes and give the caller time to read what came."""
        if self.is_lingering or self._transport.is_closing():
            return
        if not self._connection.has_unread_body():
            self._transport.close()
        else:
            self.is_lingering = True
            self._transport.pause_reading()
            with contextlib.suppress(OSError):  # the caller has left
                self._transport.write_eof()
            self._connection.loop.call_later(LINGER_SECONDS, self._end)
        self._connection.watch_the_rest()

    def _end(self) -> None:
        if self._transport.get_write_buffer_size():  # it is watched whether that is taken
            self._connection.loop.call_later(LINGER_SECONDS, self._end)
        else:
            self._transport.abort()


class BoundedConnection(H11Protocol, asyncio.BufferedProtocol):
    """One connection, which ends when its peer makes it wait for too long, and reads no more than is asked for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(cast("asyncio.Transport", _Lingering(transport, self)))
        self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, transport.abort)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (the loop's to give)
        """Let a bounded number of bytes come at once."""
        return _received

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came."""
        self.data_received(bytes(_received[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head no longer than for a whole one; until one begins uvicorn waits, and not for long."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting_for_head()
            if self.cycle.more_body and self.cycle.body:
                self.flow.pause_reading()  # until somebody asks for more: an answer may come before that
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.abort)

    def has_unread_body(self) -> bool:
        """Whether more of what the caller sends lies here unread, or is on its way."""
        return self.conn.their_state in {h11.SEND_BODY, h11.ERROR}

    def on_response_complete(self) -> None:
        """End the connection when it was answered before its body came: nobody reads that for nothing."""
        if self.has_unread_body():
            self.transport.close()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what was wrong with a head or a body, as long as nothing else is said; then nobody waits for more of it."""
        error = sys.exc_info()[1]
        is_too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == TOO_LARGE
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()  # in the middle of an answer, no other one can be given
        elif is_too_large:
            self._answer_too_large()
        else:
            super().send_400_response(msg)

    def _answer_too_large(self) -> None:
        headers = [("content-type", "application/problem+json"), ("connection", "close")]
        reason = HTTPStatus(TOO_LARGE).phrase.encode()
        for event in (
            h11.Response(status_code=TOO_LARGE, headers=headers, reason=reason),
            h11.Data(data=_HEAD_TOO_LARGE),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        """Begin to watch whether the caller takes anything."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Let the answer go on: the caller takes it."""
        if not self.transport.is_closing():
            self._stop_watching()
        super().resume_writing()

    def watch_the_rest(self) -> None:
        """Watch whether the end of the last answer is taken, however little it is: a transport would wait without end."""
        waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes and self._take_timer is None:
            self._watch(waiting_bytes)

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
