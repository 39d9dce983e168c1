"""One file of the inbox → a version: read it whole, store its bytes once, refuse what cannot be taken."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from services.ingester.inbox import READ_BYTES, FileChanged, FileUnreadable, Fingerprint, WholeFile, fingerprint
from services.ingester.paths import INBOX_SCHEME, collection_of, inbox_uri, shortened, skip_reason
from services.ingester.settings import IngesterSettings
from shared import intake
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool
from shared.errors import AskboxError
from shared.failpoints import Failpoint, reach
from shared.intake import Arrival
from shared.telemetry import Event, log
from shared.text import one_line, storable

# A file that is saved again and again is taken at most this often.
DEBOUNCE_SECONDS = 2.0
# Files taken within this pause of one another are one burst; a later file starts at place 0 and overtakes its tail.
BURST_PAUSE_SECONDS = 1.0
# A file that changes while it is read, or that fails for a reason nobody knows, is left alone for 2, 4, … up to 64 times the settle time.
UNSTABLE_COUNTED_MAX = 6
REFUSED_KEPT_MAX = 10_000


class StillWritten(AskboxError):
    """Somebody has the file open for writing: it is taken when that is over."""

    code = "still_written"


class FileTaker:
    """Takes files, and remembers what it took or refused, so that an unchanged file is not read twice."""

    def __init__(self, pool: Pool, settings: IngesterSettings, root: Path, model_id: int) -> None:
        self._pool = pool
        self._settings = settings
        self._root = root
        self._model_id = model_id
        self.known: dict[str, Fingerprint] = {}
        self.moved_from: dict[str, str] = {}
        self.written: set[str] = set()  # closed after writing: read again even if it could not be read before
        self.overdue: set[str] = set()  # open for writing and still for long: taken all the same
        self._refused: dict[str, tuple[str, Fingerprint | None]] = {}
        self._unstable: dict[str, int] = {}  # how often a file changed while it was read, or failed
        self._taken_at: dict[str, float] = {}
        self._last_taken_at = 0.0
        self._burst = 0

    @property
    def refused(self) -> dict[str, str]:
        """Why files were refused, by path."""
        return {path: reason for path, (reason, _) in self._refused.items()}

    def earliest(self, path: str) -> float:
        """When a file may be taken again."""
        return self._taken_at.get(path, -DEBOUNCE_SECONDS) + DEBOUNCE_SECONDS

    def is_done(self, path: str, current: Fingerprint) -> bool:
        """Whether a file was taken or refused as it is now; any change, of its mode too, is worth another look."""
        if path in self.moved_from or path in self.written:
            return False
        return self.known.get(path) == current or (path in self._refused and self._refused[path][1] == current)

    def forget(self, path: str) -> None:
        """A file is gone."""
        self.known.pop(path, None)
        self._refused.pop(path, None)

    def forget_all_but(self, present: dict[str, Fingerprint]) -> None:
        """Keep what is remembered of files that are present, so that memory follows the inbox."""
        now = time.monotonic()
        self.known = {path: known for path, known in self.known.items() if path in present}
        self.written &= present.keys()
        self.overdue &= present.keys()
        self._refused = {path: refusal for path, refusal in self._refused.items() if path in present}
        self._unstable = {path: count for path, count in self._unstable.items() if path in present}
        self._taken_at = {path: at for path, at in self._taken_at.items() if now - at < DEBOUNCE_SECONDS}

    async def take(self, path: str, detected: float) -> float | None:
        """Take a file; return when to look at it again, or None when that is settled.

        Raises: StillWritten; the errors of the connection. The file is then still to be taken.
        """
        if skip_reason(path) is not None:
            self.moved_from.pop(path, None)
            return None
        try:
            self.known[path] = await self._take_whole(path, detected)
            self.overdue.discard(path)
            self._refused.pop(path, None)
            self._unstable.pop(path, None)
        except FileChanged:
            log(Event.FILE_CHANGED_WHILE_READ, path=inbox_uri(path))
            return self._later(path)
        except FileUnreadable as error:
            self._refuse(path, str(error))
        except StillWritten:
            raise
        except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
            raise
        except Exception as error:
            self._refuse(path, f"cannot be stored: {one_line(storable(str(error))[0])}", is_final=False)
            return self._later(path)  # nobody knows whether it will happen again
        return None

    async def _take_whole(self, path: str, detected: float) -> Fingerprint:
        file, sha256 = await asyncio.to_thread(self._read, path)
        try:
            await self._store(path, file, sha256, detected)
        finally:
            file.close()
        return file.fingerprint

    def _read(self, path: str) -> tuple[WholeFile, bytes]:
        """Open a file and sum it, in a thread, unless somebody is still writing it, and not for too long.

        Raises: FileUnreadable, FileChanged, StillWritten.
        """
        file = WholeFile(self._root, path, file_bytes_max=self._settings.max_file_bytes)
        try:
            self._refuse_unfinished(path, file)
            return file, file.sha256()
        except BaseException:
            file.close()
            raise

    def _refuse_unfinished(self, path: str, file: WholeFile) -> None:
        if path not in self.overdue and file.has_writer():
            raise StillWritten

    async def _store(self, path: str, file: WholeFile, sha256: bytes, detected: float) -> None:
        collection_id = await intake.ensure_collection(self._pool, collection_of(path), self._model_id)
        moved_from = self._origin(path)
        is_written = path in self.written
        if moved_from is None and await intake.has_bytes(
            self._pool, collection_id, inbox_uri(path), sha256, even_failed=not is_written
        ):
            self.moved_from.pop(path, None)
            self.written.discard(path)
            return
        await reach(Failpoint.FILE_READ)
        stored = await intake.store_bytes(self._pool, pieces_of(file))
        intaken = await intake.add_version(
            self._pool,
            collection_id,
            inbox_uri(path),
            stored,
            burst_place=self._burst_place(),
            detected_ago=timedelta(seconds=max(0.0, time.monotonic() - detected)),
            moved_from=inbox_uri(moved_from) if moved_from is not None else None,
            retries_failed=is_written,
        )
        self.moved_from.pop(path, None)
        self.written.discard(path)
        self._taken_at[path] = self._last_taken_at = time.monotonic()
        if intaken.arrival is Arrival.NEW_VERSION:
            log(
                Event.FILE_TAKEN if moved_from is None else Event.DOCUMENT_MOVED,
                path=inbox_uri(path),
                document_id=intaken.document_id,
                version_id=intaken.version_id,
                bytes=stored.file_bytes,
            )

    def _origin(self, path: str) -> str | None:
        """Return the name that a file was moved from, when its document should follow it.

        A name that is in use again was not moved away for good: its document stays its own.
        """
        origin = self.moved_from.get(path)
        if origin is None or collection_of(origin) != collection_of(path):
            return None
        return None if fingerprint(self._root, origin) is not None else origin

    def _burst_place(self) -> int:
        self._burst = self._burst + 1 if time.monotonic() - self._last_taken_at < BURST_PAUSE_SECONDS else 0
        return self._burst

    def _later(self, path: str) -> float:
        """Return when to try a file again that could not be taken for a reason which may pass; each time later."""
        self._unstable[path] = min(self._unstable.get(path, 0) + 1, UNSTABLE_COUNTED_MAX)
        return time.monotonic() + self._settings.settle_seconds * 2.0 ** self._unstable[path]

    def _refuse(self, path: str, reason: str, *, is_final: bool = True) -> None:
        current = fingerprint(self._root, path) if is_final else None
        if self._refused.get(path) != (reason, current):
            log(Event.FILE_SKIPPED, path=INBOX_SCHEME + shortened(path), reason=reason)
        if len(self._refused) < REFUSED_KEPT_MAX:
            self._refused[path] = (reason, current)
        if is_final:
            self.written.discard(path)


async def pieces_of(file: WholeFile) -> AsyncIterator[bytes]:
    """Read a file without blocking the loop.

    Raises: FileChanged, FileUnreadable.
    """
    pieces = file.pieces()
    if file.fingerprint.file_bytes <= READ_BYTES:  # one way to another thread and back, where many files wait
        for piece in await asyncio.to_thread(list, pieces):
            yield piece
        return
    while (large := await asyncio.to_thread(next, pieces, None)) is not None:
        yield large
