"""A question that waits for files sent before it, so that they take part in its answer."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from services.query import ingest_store
from services.query.ingest_store import IN_WORK
from services.query.retrieve import snapshot
from shared.database import Pool
from shared.errors import NotFound

WAIT_SECONDS_MAX = 30.0
LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Awaited:
    """A request whose documents a question waits for, and the collections that its caller may read."""

    request_id: uuid.UUID
    scope: Sequence[int]


async def wait_for(pool: Pool, awaited: Awaited, *, seconds_max: float = WAIT_SECONDS_MAX) -> bool:
    """Return once every document of a request is ready or failed, or when the time is over; whether they are.

    Raises: NotFound when there is no such request in the scope.
    Transaction: one for each look; between them nothing is held.
    """
    deadline = time.monotonic() + seconds_max
    pause_seconds = LOOK_SECONDS_MIN
    while not await _has_ended(pool, awaited):
        if time.monotonic() + pause_seconds > deadline:
            return False
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, LOOK_SECONDS_MAX)
    return True


async def _has_ended(pool: Pool, awaited: Awaited) -> bool:
    async with snapshot(pool, awaited.scope) as conn:
        request = await ingest_store.get_request(conn, awaited.scope, awaited.request_id)
        if request is None:
            raise NotFound(f"there is no job {awaited.request_id}")
        states = await ingest_store.count_requested(conn, awaited.scope, awaited.request_id)
    return request.is_complete and not any(states.get(state) for state in IN_WORK)
