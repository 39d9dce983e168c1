"""Wait for a row or a fact, never for a time."""

import asyncio
from collections.abc import Awaitable, Callable

# Generous, since a busy machine is no fault; what comes at once costs nothing.
SECONDS_MAX = 60
# A process of its own that loads a model's libraries.
SUBPROCESS_SECONDS_MAX = 200


async def until(is_so: Callable[[], Awaitable[object]], seconds: float = SECONDS_MAX) -> object:
    """Return the first true answer.

    Raises: TimeoutError when there is none in time.
    """
    async with asyncio.timeout(seconds):
        while not (answer := await is_so()):  # noqa: ASYNC110 (what is waited for happens in the database)
            await asyncio.sleep(0.01)
        return answer
