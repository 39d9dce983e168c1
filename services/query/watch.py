"""The work, told live to whoever watches: one look at the database for all of them.

**Invariants:** nobody watches, nobody looks; there are at most two looks a second, and they take a fifth of the time at most;
a viewer who is slow gets the newest state next and holds up nobody; everybody sees the collections that their key may read,
which is asked again every few seconds, and each of them behind the walls of row-level security.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from starlette.requests import Request

from services.query.ingest_schema import EndedOut, InWorkOut, WorkOut
from services.query.progress import count_in_work, find_progress, list_ended, list_in_work
from services.query.retrieve import snapshot
from services.query.stream import EventStream, StreamEvent, end_tasks, unless_left
from shared.database import Pool
from shared.errors import TooBusy

LOOK_SECONDS = 0.5
# A look that takes long is followed by a rest of so many times as long.
REST_RATIO = 4
VIEWERS_MAX = 128
# So that one who forgets to leave keeps nobody out.
VIEWERS_OF_A_KEY_MAX = 32
# How long a key that was revoked may still show something.
KEY_SECONDS_MAX = 10.0
DOCUMENTS_SHOWN_MAX = 50
ENDED_SHOWN_MAX = 20
# Whoever missed an update still hears how a document ended.
ENDED_AGE = timedelta(minutes=1)

Scope = frozenset[int]


async def look(pool: Pool, scope: Sequence[int]) -> WorkOut:
    """Return the work in some collections at this moment."""
    async with snapshot(pool, scope) as conn:
        states = await count_in_work(conn, scope)
        documents = await list_in_work(conn, scope, DOCUMENTS_SHOWN_MAX) if states else []
        progress = await find_progress(conn, scope, [(row.version_id, row.state) for row in documents])
        ended = await list_ended(conn, scope, ENDED_AGE, ENDED_SHOWN_MAX)
    return WorkOut(
        states=states,
        documents=[InWorkOut.of(row, progress.get(row.version_id)) for row in documents],
        ended=[EndedOut.of(row) for row in ended],
    )


class Watch:
    """Everybody who watches, and the one task that looks for them."""

    def __init__(self) -> None:
        self._viewers: set[Viewer] = set()
        self._looking: asyncio.Task[None] | None = None
        self._next_look_at = 0.0
        self._latest: dict[Scope, str] = {}
        self._is_closed = False

    async def open_stream(self, pool: Pool, request: Request, viewer: "Viewer") -> EventStream:
        """Let somebody watch, and return when the first state is there.

        Raises: TooBusy when too many watch already; ClientLeft when the client did not wait; what looking raised.
        """
        self._make_room(viewer.key_id)
        self._viewers.add(viewer)
        if viewer.scope in self._latest:
            viewer.show(self._latest[viewer.scope])
        if self._is_closed:
            viewer.end(None)
        elif self._looking is None:
            self._looking = asyncio.create_task(self._look_on(pool))
        try:
            first = await unless_left(request, viewer.next())
        except BaseException:
            await viewer.stop()
            raise
        if isinstance(first, Exception):
            await viewer.stop()
            raise first
        return EventStream(viewer, first)

    async def leave(self, viewer: "Viewer") -> None:
        """Forget a viewer; with the last one the looking ends."""
        self._viewers.discard(viewer)
        if self._viewers or self._looking is None:
            return
        looking, self._looking = self._looking, None
        self._latest = {}
        await end_tasks(looking)

    def close(self) -> None:
        """End every stream, and those to come: the process stops."""
        self._is_closed = True
        for viewer in self._viewers:
            viewer.end(None)

    def _make_room(self, key_id: int | None) -> None:
        if len(self._viewers) >= VIEWERS_MAX:
            raise TooBusy(f"{VIEWERS_MAX} watch already: wait until one of them has left")
        held = sum(viewer.key_id == key_id for viewer in self._viewers)
        if key_id is not None and held >= VIEWERS_OF_A_KEY_MAX:
            raise TooBusy(f"{VIEWERS_OF_A_KEY_MAX} watch with this key already: wait until one of them has left")

    async def _look_on(self, pool: Pool) -> None:
        while True:
            await asyncio.sleep(self._next_look_at - time.monotonic())
            started = time.monotonic()
            self._next_look_at = started + LOOK_SECONDS  # whoever leaves now and comes back is not looked for at once
            try:
                await self._look(pool)
            except Exception as error:  # noqa: BLE001 (whatever it is, those who wait are told)
                for viewer in self._viewers:
                    viewer.end(error)
            seconds = time.monotonic() - started
            self._next_look_at = started + max(LOOK_SECONDS, (1 + REST_RATIO) * seconds)

    async def _look(self, pool: Pool) -> None:
        """Look once for all; those who may read the same see the same."""
        scopes = {viewer.scope for viewer in self._viewers}
        self._latest = {scope: (await look(pool, sorted(scope))).model_dump_json() for scope in scopes}
        for viewer in self._viewers:
            if viewer.scope in self._latest:
                viewer.show(self._latest[viewer.scope])


class Viewer:
    """One who watches: what they may read, which `find_scope` tells anew, and by which key."""

    def __init__(
        self, watch: Watch, scope: Scope, find_scope: Callable[[], Awaitable[Scope]], key_id: int | None
    ) -> None:
        self._watch = watch
        self._find_scope = find_scope
        self._scope_found_at = time.monotonic()
        self.scope = scope
        self.key_id = key_id
        self._newest: str | None = None
        self._sent: str | None = None
        self._is_ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def show(self, work: str) -> None:
        """Make this the newest state, instead of any that was not sent yet."""
        self._newest = work
        self._news.set()

    def end(self, error: Exception | None) -> None:
        """End the stream, with what went wrong if anything did."""
        self._is_ended, self._error = True, error
        self._news.set()

    async def next(self) -> StreamEvent | Exception | None:
        """Wait until there is something new; None or what went wrong is the end. A call that is cancelled loses nothing."""
        while True:
            await self._news.wait()
            if self._is_ended:
                return self._error
            self._news.clear()
            if time.monotonic() - self._scope_found_at > KEY_SECONDS_MAX:
                try:
                    await self._find_scope_again()
                except Exception as error:  # noqa: BLE001 (whatever it is, the one who waits is told)
                    return error
            if self._newest is not None and self._newest != self._sent:
                self._sent = self._newest
                return StreamEvent("work", self._newest)

    async def stop(self) -> None:
        """Watch no more."""
        await self._watch.leave(self)

    async def _find_scope_again(self) -> None:
        """Find out what this viewer may read now; what was seen of anything else is not shown any more."""
        found_at = time.monotonic()
        scope = await self._find_scope()
        if scope != self.scope:
            self.scope, self._newest = scope, None
        self._scope_found_at = found_at
