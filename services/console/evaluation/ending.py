"""End in order, whatever ends the command: the first signal ends the work, further ones do not cut the clearing up short."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALLED = 128


class Ending:
    """What the first signal does: raise, or wait while something is begun that could not be ended otherwise."""

    def __init__(self) -> None:
        self._is_held = False
        self._told: signal.Signals | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait until the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._told is not None:  # also when what was begun has failed, of the same signal maybe
                self._leave(self._told)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Take the first signal."""
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._told = signal.Signals(number)
        if not self._is_held:
            self._leave(self._told)

    @staticmethod
    def _leave(told: signal.Signals) -> None:
        if told is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(_SIGNALLED + told)


@contextlib.contextmanager
def in_order() -> Iterator[Ending]:
    """Turn signals into exceptions while the context lasts: KeyboardInterrupt, or SystemExit as a shell names it."""
    ending = Ending()
    before = {number: signal.signal(number, ending.on_signal) for number in _SIGNALS}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
