"""File-system events of one folder as a stream of small facts, through watchdog."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog import events as fs
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from shared.telemetry import Event, log

SIGNALS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Opened:
    """A file was made or is being written; it will be closed."""

    path: str


@dataclass(frozen=True, slots=True)
class Touched:
    """A file that is open was written to."""

    path: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A file is whole: closed after writing, or it appeared whole."""

    path: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A file has another name now."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A file is gone."""

    path: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Something happened that only a scan can tell: a folder came, went or moved, or events were dropped."""


Signal = Opened | Touched | Closed | Moved | Removed | Lost


class _Forwarder(fs.FileSystemEventHandler):
    """Runs in watchdog's thread; passes facts to the event loop."""

    def __init__(self, root: Path, signals: asyncio.Queue[Signal]) -> None:
        self._prefix = os.fsdecode(root).rstrip("/") + "/"
        self._signals = signals
        self._loop = asyncio.get_running_loop()

    def dispatch(self, event: fs.FileSystemEvent) -> None:
        signal = self._signal_of(event)
        if signal is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process stops
                self._loop.call_soon_threadsafe(self._put, signal)

    def _put(self, signal: Signal) -> None:
        if self._signals.qsize() < SIGNALS_MAX:
            self._signals.put_nowait(signal)
        elif self._signals.qsize() == SIGNALS_MAX:
            self._signals.put_nowait(Lost())  # bounded: the scan finds the rest

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


@contextlib.contextmanager
def watch_folder(root: Path, signals: asyncio.Queue[Signal]) -> Iterator[None]:
    """Send the folder's events to `signals` while the context lasts. Without events the scan alone finds files."""
    observer: BaseObserver | None = None
    try:
        # Full events tell a file that was moved in (whole) from one that was created (not yet).
        kind: Any = Observer  # which class it is depends on the system
        observer = kind(generate_full_events=True) if sys.platform == "linux" else kind()
        assert observer is not None
        observer.daemon = True
        observer.schedule(
            _Forwarder(root, signals),
            os.fsdecode(root),
            recursive=True,
            event_filter=[
                fs.FileCreatedEvent,
                fs.FileModifiedEvent,
                fs.FileClosedEvent,
                fs.FileMovedEvent,
                fs.FileDeletedEvent,
                fs.DirCreatedEvent,
                fs.DirDeletedEvent,
                fs.DirMovedEvent,
            ],
        )
        observer.start()
    except OSError as error:
        log(
            Event.INBOX_SCANNED,
            logging.WARNING,
            reason=f"no file-system events ({error}): files are found by the scan alone",
        )
        observer = None
    try:
        yield
    finally:
        if observer is not None:
            observer.stop()
            observer.join(timeout=2)
