"""How much is worked on at once, how much may wait for that, and how much of it may be one key's."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from shared.errors import TooBusy

WAIT_SECONDS_MAX = 15.0


class Slots:
    """Lets `count` in at once and `waiting_max` wait, each for a bounded time. `async with slots:` is one question."""

    def __init__(self, count: int, *, waiting_max: int, wait_seconds_max: float = WAIT_SECONDS_MAX) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting_max = waiting_max
        self._wait_seconds_max = wait_seconds_max
        self._waiting = 0

    async def __aenter__(self) -> None:
        """Wait for a slot.

        Raises: TooBusy when too many wait already, or none came free in time.
        """
        if self._free.locked() and self._waiting >= self._waiting_max:
            raise TooBusy
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds_max):
                await self._free.acquire()
        except TimeoutError:
            raise TooBusy from None
        finally:
            self._waiting -= 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the slot back."""
        self._free.release()


class Shares:
    """Lets one key do so many things at once, so that others find room whatever it does."""

    def __init__(self, each_max: int) -> None:
        self.each_max = each_max
        self._held: Counter[int] = Counter()

    @contextmanager
    def held_by(self, key_id: int | None) -> Iterator[None]:
        """Count one thing while the block lasts; without keys there is nobody to share with.

        Raises: TooBusy when the key does as many already.
        """
        if key_id is None:
            yield
            return
        if self._held[key_id] >= self.each_max:
            raise TooBusy(f"{self.each_max} requests like this with this key run already: wait until one has ended")
        self._held[key_id] += 1
        try:
            yield
        finally:
            self._held[key_id] -= 1
            self._held += Counter()  # forgets who holds nothing
