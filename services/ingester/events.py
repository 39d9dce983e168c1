"""The inbox's file-system events as a stream of signals: through inotify on Linux, through watchdog elsewhere.

**Invariants:** events that were dropped are told of as `Lost`, so that a scan finds what they were about; a folder is watched before
it is listed, by the scan that lists it, so that nothing falls between the two.
"""

import asyncio
import contextlib
import errno
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from services.ingester import inotify
from services.ingester.inotify import Happening, Inotify
from services.ingester.signals import Closed, FolderMoved, Lost, Moved, Opened, Removed, Signal, Touched, Watch
from shared.metrics import count_events_dropped
from shared.telemetry import Event, log

if sys.platform != "linux":
    from services.ingester.observer import ObserverWatch

SIGNALS_MAX = 50_000
# A move is told in two halves, one behind the other. The half of one that led out of the inbox waits in vain.
HALF_MOVE_SECONDS = 0.5
HALF_MOVES_MAX = 50_000
# A flood drops events again and again; all are counted, and told of as often as this.
DROPPED_TOLD_SECONDS = 10.0


class InotifyWatch:
    """Watches folder by folder, as scans find them."""

    def __init__(self, root: Path, send: Callable[[Signal], None]) -> None:
        """Begin to watch nothing.

        Raises: OSError when the system does not let us.
        """
        self._send = send
        self._inotify = Inotify(root)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.descriptor, self._on_readable)
        self._halves: dict[int, Happening] = {}
        self._is_closed = False
        self._folders = 0
        self._unwatched = 0
        self._is_short = False
        self._dropped_told_next = 0.0

    @property
    def note(self) -> str | None:
        """What a person should know: not every folder may be watched."""
        if not self._unwatched:
            return None
        return (
            f"{self._unwatched} of {self._folders} folders of the inbox are not watched, so that their files are found by the scan "
            "alone: raise fs.inotify.max_user_watches"
        )

    def begin(self) -> None:
        """Count the folders anew."""
        self._folders = self._unwatched = 0

    def watch(self, folder: str) -> None:
        """Watch a folder; what cannot be watched is counted."""
        self._folders += 1
        if self._is_closed:  # the inbox is another folder now, and this scan is of the one before
            return
        try:
            self._inotify.watch(folder)
        except OSError as error:
            self._unwatched += 1
            if not self._is_short:
                self._is_short = True
                reason = "the limit is reached" if error.errno == errno.ENOSPC else str(error)
                log(Event.FOLDER_NOT_WATCHED, logging.WARNING, folders=self._folders, reason=reason)

    def close(self) -> None:
        """Watch nothing any more."""
        self._is_closed = True
        self._loop.remove_reader(self._inotify.descriptor)
        self._inotify.close()

    # -- reading ----------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        for happening in self._inotify.read():
            self._tell(happening)

    def _tell(self, happening: Happening) -> None:
        mask, path = happening.mask, happening.path
        if mask & inotify.IN_Q_OVERFLOW:
            self._on_overflow()
        elif path is None:  # of a folder that is watched this very moment
            self._send(Lost())
        elif mask & inotify.IN_MOVED_FROM:
            self._keep_half(happening)
        elif mask & inotify.IN_MOVED_TO:
            self._tell_move(self._halves.pop(happening.cookie, None), happening, path)
        elif happening.is_folder:
            self._send(Lost())
        elif mask & inotify.IN_DELETE:
            self._send(Removed(path))
        elif mask & inotify.IN_CLOSE_WRITE:
            self._send(Closed(path))
        elif mask & inotify.IN_CREATE:
            self._send(Opened(path))
        elif mask & inotify.IN_MODIFY:
            self._send(Touched(path))

    def _on_overflow(self) -> None:
        """The kernel's queue was full: what came since the last event in it is not known."""
        count_events_dropped()
        now = self._loop.time()
        if now >= self._dropped_told_next:
            self._dropped_told_next = now + DROPPED_TOLD_SECONDS
            log(
                Event.EVENTS_DROPPED,
                logging.WARNING,
                reason="more events at once than fs.inotify.max_queued_events: the inbox is scanned",
            )
        self._send(Lost())

    def _tell_move(self, half: Happening | None, happening: Happening, target: str) -> None:
        source = half.path if half is not None else None
        if happening.is_folder:
            if source is not None:
                self._inotify.rename(source, target)
                self._send(FolderMoved(source, target))
            self._send(Lost())
        elif source is not None:
            self._send(Moved(source, target))
        else:
            self._send(Closed(target))  # renamed into place from outside

    def _keep_half(self, happening: Happening) -> None:
        if len(self._halves) >= HALF_MOVES_MAX:
            self._send(Lost())
            return
        self._halves[happening.cookie] = happening
        self._loop.call_later(HALF_MOVE_SECONDS, self._give_up_half, happening)

    def _give_up_half(self, half: Happening) -> None:
        """A move led out of the inbox."""
        if self._is_closed or self._halves.get(half.cookie) is not half or half.path is None:
            return
        del self._halves[half.cookie]
        if half.is_folder:
            self._inotify.forget(half.path)
            self._send(Lost())
        else:
            self._send(Removed(half.path))


def _watch(root: Path, send: Callable[[Signal], None]) -> Watch:
    if sys.platform != "linux":
        return ObserverWatch(root, send)
    return InotifyWatch(root, send)


@contextlib.contextmanager
def watch_folder(root: Path, signals: asyncio.Queue[Signal]) -> Iterator[Watch | None]:
    """Send what happens in a folder to `signals` while the context lasts. Without events, None, the scan alone finds files."""

    def send(signal: Signal) -> None:
        if signals.qsize() < SIGNALS_MAX:
            signals.put_nowait(signal)
        elif signals.qsize() == SIGNALS_MAX:
            count_events_dropped()
            signals.put_nowait(Lost())  # bounded: the scan finds the rest

    try:
        watch = _watch(root, send)
    except OSError as error:
        log(
            Event.INBOX_SCANNED,
            logging.WARNING,
            reason=f"no file-system events ({error}): files are found by the scan alone",
        )
        yield None
        return
    try:
        yield watch
    finally:
        watch.close()
