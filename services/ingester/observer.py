"""File-system events where there is no inotify: through watchdog, which knows the ways of other systems."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from watchdog import events as fs
from watchdog.observers import Observer

from services.ingester.signals import Closed, Lost, Moved, Opened, Removed, Signal, Touched

END_SECONDS_MAX = 2.0


class ObserverWatch:
    """Watches a whole tree at once. What the system drops it does not tell."""

    note: str | None = None

    def __init__(self, root: Path, send: Callable[[Signal], None]) -> None:
        """Begin to watch.

        Raises: OSError when the system does not let us.
        """
        self._observer = Observer()
        self._observer.daemon = True
        self._observer.schedule(_Forwarder(root, send), os.fsdecode(root), recursive=True)
        self._observer.start()

    def begin(self) -> None:
        """A scan begins: nothing is to be done."""

    def watch(self, folder: str) -> None:
        """A folder is about to be listed: it is watched already."""

    def close(self) -> None:
        """Watch nothing any more."""
        self._observer.stop()
        self._observer.join(timeout=END_SECONDS_MAX)


class _Forwarder(fs.FileSystemEventHandler):  # type: ignore[misc]  # not there on Linux
    """Runs in watchdog's thread; passes facts to the event loop."""

    def __init__(self, root: Path, send: Callable[[Signal], None]) -> None:
        self._prefix = os.fsdecode(root).rstrip("/") + "/"
        self._send = send
        self._loop = asyncio.get_running_loop()

    def dispatch(self, event: fs.FileSystemEvent) -> None:
        signal = self._signal_of(event)
        if signal is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process stops
                self._loop.call_soon_threadsafe(self._send, signal)

    def _signal_of(self, event: fs.FileSystemEvent) -> Signal | None:
        source, target = self._relative(event.src_path), self._relative(event.dest_path)
        if event.is_directory:
            return None if isinstance(event, fs.DirModifiedEvent) else Lost()
        match event:
            case fs.FileMovedEvent() if source and target:
                return Moved(source, target)
            case fs.FileMovedEvent() if target:
                return Closed(target)  # renamed into place from outside
            case fs.FileMovedEvent() | fs.FileDeletedEvent() if source:
                return Removed(source)
            case fs.FileClosedEvent() if source:
                return Closed(source)
            case fs.FileCreatedEvent() if source:
                return Opened(source)
            case fs.FileModifiedEvent() if source:
                return Touched(source)
            case _:
                return None

    def _relative(self, path: bytes | str) -> str | None:
        name = os.fsdecode(path)
        return name.removeprefix(self._prefix) if name.startswith(self._prefix) else None
