"""The watcher: every file of the inbox becomes a version as soon as it is whole.

File-system events are a hint, the scan is the truth: it is armed before the first scan, the whole inbox is scanned again
every `rescan_seconds`, and a new folder at once. A file is whole when it was closed after writing or renamed into place;
where there are no such events, when it has not changed for `settle_seconds` and nobody has it open for writing.

**Invariants:** nothing that lies in the inbox, however much it is and however fast it changes, keeps the next scan or a deletion
waiting for longer than a round; what is remembered of a file goes with it.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.ingester import store
from services.ingester.deletion_guard import DeletionGuard
from services.ingester.events import watch_folder
from services.ingester.inbox import Fingerprint, Listing, fingerprint, is_open_for_writing, scan
from services.ingester.paths import INBOX_SCHEME, collection_of, decode_path, display_path, inbox_uri, shortened
from services.ingester.settings import IngesterSettings
from services.ingester.signals import Closed, FolderMoved, Lost, Moved, Opened, Removed, Signal, Touched, Watch
from services.ingester.take import FileTaker, StillWritten
from shared import intake
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool
from shared.failpoints import Failpoint, reach
from shared.telemetry import Event, log

# Programs replace a file by deleting and creating it: a deletion is believed when the name stays away this long.
DELETION_GRACE_SECONDS = 0.3
# A file that somebody opened for writing and never closed is taken when it has been still for this long.
OPEN_FILE_PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 1.0
ANOTHER_FOLDER_SECONDS = 5.0
SKIPPED_LISTED_MAX = 10_000
DELETED_AT_ONCE_MAX = 50
# A million files are listed in less, unless their server does not answer.
LISTING_SECONDS_MAX = 60.0
# Whoever says that a mass disappearance is meant is not to wait for the next scan.
CONFIRMED_LOOK_SECONDS = 1.0
# Then deletions and the next scan have their turn, however many files wait to be taken.
ROUND_SECONDS_MAX = 1.0
# Of the pool's connections the others are for parsing. Taking is mostly waiting for commits.
TAKEN_AT_ONCE_MAX = 4


class InboxWatcher:
    """Keeps the database's picture of one inbox."""

    def __init__(self, pool: Pool, settings: IngesterSettings, model_id: int) -> None:
        self._pool = pool
        self._settings = settings
        self._root = settings.inbox.resolve()
        self._taker = FileTaker(pool, settings, self._root, model_id)
        self._guard = DeletionGuard(pool, self._root)
        self._seen: dict[str, tuple[Fingerprint, float]] = {}  # candidates that settle
        self._due: dict[str, float] = {}  # path → when to look at it
        self._missing: dict[str, float] = {}  # path → since when
        self._opened: dict[str, float] = {}
        self._unproven: set[str] = set()  # has a document; whether it is still the same file nobody has looked
        self._changed = asyncio.Event()
        self._scan_now = True
        self._scanned_at = 0.0
        self._scan_seconds = 0.0
        self._listing_since: float | None = None
        self._watch: Watch | None = None

    @property
    def note(self) -> str | None:
        """What a person should know of the inbox, or None."""
        if self._listing_since is not None and time.monotonic() - self._listing_since > LISTING_SECONDS_MAX:
            return f"the inbox {self._root} has not been listed for {time.monotonic() - self._listing_since:.0f} s: does its disk answer?"
        notes = [self._guard.note, self._watch.note if self._watch is not None else None]
        return "; ".join(note for note in notes if note) or None

    @property
    def waiting_count(self) -> int:
        """How many files were seen and are not yet taken."""
        return len(self._due)

    async def run(self) -> None:
        """Watch until cancelled."""
        signals: asyncio.Queue[Signal] = asyncio.Queue()
        self._root.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # see is_open_for_writing
        while True:
            with watch_folder(self._root, signals) as told:
                self._watch = told
                reading = asyncio.create_task(self._read_signals(signals))
                try:
                    await self._look_until_root_changes()
                finally:
                    reading.cancel()
                    self._watch = None

    async def _look_until_root_changes(self) -> None:
        identity = _identity(self._root)
        self._scan_now = True
        while _identity(self._root) == identity:
            try:
                if self._guard.is_waiting and await self._guard.is_confirmed():
                    self._scan_now = True
                if time.monotonic() >= self._next_scan_at:
                    if not await self._guard.is_our_inbox():
                        await asyncio.sleep(min(self._settings.rescan_seconds, ANOTHER_FOLDER_SECONDS))
                        continue
                    await self._rescan()
                await self._take_due()
                await self._delete_missing()
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                log(Event.DATABASE_UNAVAILABLE, logging.WARNING, reason=str(error) or type(error).__name__)
                self._scan_now = True
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._wait()
        if identity is None:
            await asyncio.sleep(RETRY_SECONDS)

    @property
    def _next_scan_at(self) -> float:
        """When to scan: where folders come and go without end, half of the time is not for scans."""
        return self._scanned_at + (self._scan_seconds if self._scan_now else self._settings.rescan_seconds)

    async def _wait(self) -> None:
        now = time.monotonic()
        due = [self._next_scan_at, *self._due.values()]
        due += [since + DELETION_GRACE_SECONDS for since in self._missing.values()]
        due += [now + CONFIRMED_LOOK_SECONDS] if self._guard.is_waiting else []
        self._changed.clear()
        due += [self._next_scan_at]  # a signal that came since may ask for a scan
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(due) - now)):
                await self._changed.wait()

    # -- hints ------------------------------------------------------------------------------------------------------

    async def _read_signals(self, signals: asyncio.Queue[Signal]) -> None:
        while True:
            self._on_signal(await signals.get())
            self._changed.set()

    def _on_signal(self, signal: Signal) -> None:
        now = time.monotonic()
        match signal:
            case Opened(path):
                self._opened[path] = now
                self._due.pop(path, None)
            case Touched(path):
                self._opened[path] = now
            case Closed(path):
                self._opened.pop(path, None)
                self._seen.pop(path, None)
                self._taker.written.add(path)
                self._missing.pop(path, None)
                self._schedule(path, now)
            case Moved(source, target):
                self._opened.pop(source, None)
                self._missing.pop(target, None)
                if source in self._taker.known:
                    self._taker.moved_from[target] = source
                self._missing[source] = now
                self._schedule(target, now)
            case FolderMoved(source, target):
                self._on_folder_moved(f"{source}/", f"{target}/")
            case Removed(path):
                self._opened.pop(path, None)
                self._missing[path] = now
            case Lost():
                self._scan_now = True

    def _on_folder_moved(self, source: str, target: str) -> None:
        """Files of a folder have moved with it. Those that nobody knows yet are found by the scan that follows."""
        for path in [path for path in self._opened if path.startswith(source)]:
            self._opened[target + path.removeprefix(source)] = self._opened.pop(path)
        for path in [path for path in self._taker.known if path.startswith(source)]:
            self._on_signal(Moved(path, target + path.removeprefix(source)))

    def _schedule(self, path: str, at: float) -> None:
        self._unproven.discard(path)
        self._due[path] = max(at, self._taker.earliest(path))

    # -- truth ------------------------------------------------------------------------------------------------------

    async def _rescan(self) -> None:
        self._scan_now = False
        started = time.monotonic()
        try:
            self._listing_since = time.monotonic()
            listing = await asyncio.to_thread(self._list)
            self._listing_since = None
        except OSError as error:
            self._listing_since = None
            self._guard.cannot_read(f"the inbox {self._root} cannot be read: {error.strerror}")
            self._scanned_at = time.monotonic()
            return
        await reach(Failpoint.INBOX_LISTED)
        stored = await store.list_inbox_documents(self._pool)
        now = time.monotonic()
        self._forget_all_but(listing.files, started)
        for path, current in listing.files.items():
            if path not in self._due and not self._taker.is_done(path, current):
                if path not in self._taker.known and (collection_of(path), inbox_uri(path)) in stored:
                    self._unproven.add(path)
                self._settle(path, current, now)
        await self._list_skipped(listing)
        await self._find_vanished(listing, stored, now)
        self._scanned_at = time.monotonic()
        self._scan_seconds = self._scanned_at - started
        log(
            Event.INBOX_SCANNED,
            logging.DEBUG,
            files=len(listing.files),
            skipped=len(listing.skipped),
            duration_ms=round(self._scan_seconds * 1000, 1),
        )

    def _forget_all_but(self, present: dict[str, Fingerprint], listed_from: float) -> None:
        """Forget files that are gone, of which no event told; what came since the listing began is not in it."""
        self._taker.forget_all_but(present)
        self._unproven &= present.keys()
        self._opened = {path: at for path, at in self._opened.items() if path in present or at >= listed_from}
        self._seen = {path: seen for path, seen in self._seen.items() if path in present or path in self._due}

    def _list(self) -> Listing:
        """List the inbox, and watch each of its folders from before it is listed on."""
        if self._watch is None:
            return scan(self._root)
        self._watch.begin()
        return scan(self._root, self._watch.watch)

    def _settle(self, path: str, current: Fingerprint, now: float) -> None:
        """Take a file that has been still long enough; look again at the others."""
        if path in self._opened and is_open_for_writing(self._root, path) is False:
            del self._opened[path]  # its closing was missed, as happens in a folder that has just been made
        patience = OPEN_FILE_PATIENCE_SECONDS if path in self._opened else self._settings.settle_seconds
        before = self._seen.get(path)
        still_since = before[1] if before is not None and before[0] == current else now
        # The file system's clock may differ from ours; a file that looks old is old, one that looks new has to wait.
        age = time.time() - current.modified_ns / 1e9
        if path not in self._opened and age > self._settings.settle_seconds:
            self._due[path] = now
        elif now - still_since >= patience:
            if self._opened.pop(path, None) is not None:
                self._taker.overdue.add(path)
            self._due[path] = now
        else:
            self._seen[path] = (current, still_since)
            # Whoever writes may be done long before: the kernel is asked again, since no event need tell of it.
            self._due[path] = min(still_since + patience, now + self._settings.settle_seconds)
            return
        self._seen.pop(path, None)

    async def _list_skipped(self, listing: Listing) -> None:
        # A file that is written for ever is never whole; whoever waits for it should see why.
        unfinished = dict.fromkeys(
            self._opened.keys() & listing.files.keys(), "it is being written; it is taken when that is done"
        )
        skipped = [*listing.skipped.items(), *self._taker.refused.items(), *unfinished.items()][:SKIPPED_LISTED_MAX]
        rows = {shortened(path): (collection_of(path), reason) for path, reason in skipped}
        await store.replace_skipped_files(self._pool, [(INBOX_SCHEME + name, *row) for name, row in rows.items()])

    async def _find_vanished(self, listing: Listing, stored: set[tuple[str, str]], now: float) -> None:
        """Compare with the database what the file system no longer has."""
        if not listing.is_complete:
            return
        present = {(collection_of(path), inbox_uri(path)) for path in listing.files}
        vanished = [decode_path(display_path(uri)) for collection, uri in stored if (collection, uri) not in present]
        moving = self._moving()
        vanished = [path for path in vanished if path not in moving]
        if not await self._guard.allows(len(vanished), len(stored)):
            return
        for path in vanished:
            self._missing.setdefault(path, now)

    # -- taking -----------------------------------------------------------------------------------------------------

    async def _take_due(self) -> None:
        """Take what is due, several files at once, for as long as a round lasts.

        Raises: the errors of the connection; what could not be taken is still due.
        """
        now = time.monotonic()
        # A start looks at every file again: what is new does not wait behind what is probably as it was.
        due = sorted(
            (path for path, at in self._due.items() if at <= now),
            key=lambda path: (path in self._unproven, self._due[path]),
        )
        # Names that change hands depend on one another.
        moved = iter([path for path in due if path in self._taker.moved_from])
        await self._take_from(moved, now + ROUND_SECONDS_MAX)
        others = iter([path for path in due if path in self._due and path not in self._taker.moved_from])
        taking = [self._take_from(others, now + ROUND_SECONDS_MAX) for _ in range(TAKEN_AT_ONCE_MAX)]
        # Each is waited for: what one of them leaves open must not go on beside the next round.
        for outcome in await asyncio.gather(*taking, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _take_from(self, paths: Iterator[str], until: float) -> None:
        while time.monotonic() < until and (path := next(paths, None)) is not None:
            await self._take(path)

    async def _take(self, path: str) -> None:
        detected = self._due.pop(path, None)
        if detected is None:
            return
        current = fingerprint(self._root, path)
        if current is None:
            self._taker.moved_from.pop(path, None)
            return
        # Settling without events, or written to again since it was closed: look once more.
        if (path in self._seen or path in self._opened) and path not in self._taker.moved_from:
            self._settle(path, current, time.monotonic())
            if path not in self._due or self._due[path] > time.monotonic():
                return
            del self._due[path]
        if self._taker.is_done(path, current):
            return
        self._unproven.discard(path)
        try:
            again = await self._taker.take(path, detected)
        except StillWritten:
            self._opened[path] = time.monotonic()
            self._settle(path, current, time.monotonic())
        except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
            self._due[path] = time.monotonic() + RETRY_SECONDS
            raise
        else:
            if again is not None:
                self._due[path] = again

    # -- deleting ---------------------------------------------------------------------------------------------------

    async def _delete_missing(self) -> None:
        now = time.monotonic()
        due = {path for path, since in self._missing.items() if now - since >= DELETION_GRACE_SECONDS}
        if not due:
            return
        # Those whose grace is not over count too: files that are deleted together are not noticed together.
        moving = self._moving()
        absent = [path for path in self._missing if fingerprint(self._root, path) is None and path not in moving]
        gone = [path for path in absent if path in due]
        stored = await store.list_inbox_documents(self._pool) if gone else set()
        vanished = {uri for _, uri in stored} & {inbox_uri(path) for path in absent}
        is_paused = await self._guard.is_paused()
        is_doubtful = is_paused or self._guard.is_mass(len(vanished), len(stored))
        if vanished and is_doubtful and not await self._guard.is_confirmed(len(vanished)):
            if not is_paused:
                await self._guard.allows(len(vanished), len(stored))
            # A scan counts against all there are; what is noticed here, while files go, may be a part of them.
            self._scan_now = True
            gone = []
        for path in due:
            self._missing.pop(path, None)
        for number in range(0, len(gone), DELETED_AT_ONCE_MAX):
            await self._delete(gone[number : number + DELETED_AT_ONCE_MAX])

    def _moving(self) -> set[str]:
        """Names that are given up for others, which are not yet taken."""
        return {source for target, source in self._taker.moved_from.items() if target in self._due}

    async def _delete(self, paths: Sequence[str]) -> None:
        await reach(Failpoint.DELETION_NOTICED)
        by_collection: dict[str, list[str]] = {}
        for path in paths:
            self._taker.forget(path)
            by_collection.setdefault(collection_of(path), []).append(inbox_uri(path))
        for name, uris in by_collection.items():
            collection_id = await intake.find_collection(self._pool, name)
            if collection_id is None:
                continue
            try:
                deleted = await intake.delete_documents(self._pool, collection_id, uris)
            except TimeoutError:  # they are large: each may take as long
                deleted = {}
                for uri in uris:
                    deleted |= await intake.delete_documents(self._pool, collection_id, [uri])
            for uri, document_id in deleted.items():
                log(Event.DOCUMENT_DELETED, path=uri, document_id=document_id)


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
