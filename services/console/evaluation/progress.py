"""What is under way, on standard error: a line that is written over on a terminal, else one from time to time."""

import sys
import time
from typing import TextIO

TERMINAL_SECONDS = 0.2
LINE_SECONDS = 10.0


class Progress:
    """Tells how far a step is; `say` tells it once."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._shown_at = 0.0
        self._begun: dict[str, tuple[float, int]] = {}
        self._is_open = False

    def show(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total`, with what is left at this pace; the last is always shown."""
        now = time.monotonic()
        since, from_done = self._begun.setdefault(what, (now, done))
        pause = TERMINAL_SECONDS if self._is_terminal else LINE_SECONDS
        if now - self._shown_at < pause and done < total:
            return
        self._shown_at = now
        pace = (done - from_done) / (now - since) if now > since else 0.0
        left = f", {_duration((total - done) / pace)} left" if pace > 0 and done < total else ""
        self._write(f"{what}: {done} of {total}{left}", is_whole=done >= total)

    def say(self, sentence: str) -> None:
        """Say something once."""
        self._write(sentence, is_whole=True)

    def _write(self, line: str, *, is_whole: bool) -> None:
        begin = "\r\x1b[K" if self._is_open else ""
        self._is_open = self._is_terminal and not is_whole
        print(f"{begin}{line}", end="" if self._is_open else "\n", file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
