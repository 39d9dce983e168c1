"""One `scan` job → the files of a folder as versions, linked to the request that asked for it.

A scan adds and updates; what has vanished from the folder stays. It can be killed at any point: files that are linked
already are passed over, the others are taken as if for the first time. Each claim works for a bounded time and then makes
way, so that a large folder neither outlives its lease nor keeps others waiting.
"""

import asyncio
import time
from collections.abc import Sequence

from services.ingester import store
from services.ingester.folder import (
    ENTRIES_MAX,
    FILES_MAX,
    FOLDER_SCHEME,
    Contents,
    FolderRefused,
    Located,
    list_folder,
    locate,
)
from services.ingester.inbox import FileChanged, FileUnreadable, WholeFile
from services.ingester.settings import IngesterSettings
from services.ingester.store import ScanRequest
from services.ingester.take import pieces_of
from shared import intake, queue
from shared.database import Pool, retry_conflicts
from shared.failpoints import Failpoint, reach
from shared.intake import Arrival, RequestedFile
from shared.queue import Job
from shared.telemetry import Event, log

SCAN_SECONDS_MAX = 300.0
READ_ATTEMPTS_MAX = 3
CHANGED_PAUSE_SECONDS = 0.2
DELETED_ON_PURPOSE = "deleted on purpose: change it, or upload it, to have it back"


class ScanHandler:
    """Takes the files of the folder that a `scan` job's request names. Batches hold one job."""

    def __init__(self, pool: Pool, settings: IngesterSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._seconds = min(SCAN_SECONDS_MAX, settings.lease_deadline_seconds / 2)

    async def process(self, jobs: list[Job]) -> None:
        """Take files until all are taken, or others are to have a turn."""
        (job,) = jobs
        started = time.monotonic()
        request = await store.get_scan(self._pool, job.subject_id, job.collection_id)
        if request is None:
            await self._complete(job)  # its subject has vanished, which is success
            return
        try:
            located = locate(request.directory, self._settings.ingest_roots or ())
            contents = await asyncio.to_thread(list_folder, located, is_recursive=request.is_recursive)
        except FolderRefused as error:
            await self._finish(job, request, Contents(), str(error))
            return
        await reach(Failpoint.FOLDER_LISTED)
        taken = await store.list_requested_paths(self._pool, request.id)
        taken_now = 0
        for place, relative in enumerate(contents.files):
            if located.name_of(relative) in taken:
                continue
            # Only after a file was taken: each turn has to bring the end nearer.
            if taken_now and time.monotonic() - started > self._seconds:
                await self._make_way(job, request)
                return
            taken_now += await self._take(job, request, located, relative, place, contents)
            await reach(Failpoint.SCANNED_FILE_TAKEN)
        cut = (
            f"it holds more than {FILES_MAX} files or {ENTRIES_MAX} entries: ask for its folders one by one"
            if contents.is_cut
            else None
        )
        await self._finish(job, request, contents, cut)
        log(
            Event.FOLDER_SCANNED,
            job_id=str(request.id),
            files=len(contents.files),
            skipped=contents.skipped_count,
            attempt=job.attempt,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )

    async def after(self, jobs: Sequence[Job]) -> None:
        """Nothing follows: each version has its own job."""

    async def buried(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002 (the sweep finds them)
        """Tell the requests that their scans have failed."""
        await self.fail_dead_scans()

    async def fail_dead_scans(self) -> None:
        """Write the reason of dead scans into their requests; who was killed at the last attempt could not."""
        await store.fail_dead_scans(self._pool)

    async def _take(
        self, job: Job, request: ScanRequest, located: Located, relative: str, place: int, contents: Contents
    ) -> bool:
        """Take one file; false when it is not taken, for the reason that is noted then."""
        name = located.name_of(relative)
        for attempt in range(1, READ_ATTEMPTS_MAX + 1):
            try:
                arrival = await self._store(job, request, located, relative, place)
            except FileUnreadable as error:
                contents.skip(name, str(error))
                return False
            except FileChanged:
                if attempt < READ_ATTEMPTS_MAX:
                    await asyncio.sleep(CHANGED_PAUSE_SECONDS)
            else:
                if arrival is Arrival.TOMBSTONED:
                    contents.skip(name, DELETED_ON_PURPOSE)
                return arrival is not Arrival.TOMBSTONED
        contents.skip(name, "it changed while it was read: ask again when it is whole")
        return False

    async def _store(self, job: Job, request: ScanRequest, located: Located, relative: str, place: int) -> Arrival:
        """Read a file whole and make it a version.

        Raises: FileUnreadable, FileChanged.
        """
        name = located.name_of(relative)
        file = await asyncio.to_thread(WholeFile, located.root, relative, file_bytes_max=self._settings.max_file_bytes)
        try:
            sha256 = await asyncio.to_thread(file.sha256)
            if await self._link_unchanged(job, request, name, sha256):
                return Arrival.UNCHANGED
            stored = await intake.store_bytes(self._pool, pieces_of(file))
        finally:
            file.close()
        arrived = await intake.add_version(
            self._pool,
            request.collection_id,
            FOLDER_SCHEME + name,
            stored,
            burst_place=place,
            retries_failed=True,
            requested=RequestedFile(request.id, name, job.lease_id),
        )
        return arrived.arrival

    async def _link_unchanged(self, job: Job, request: ScanRequest, name: str, sha256: bytes) -> bool:
        """Link the newest version of a file if it has these bytes, so that what is known is not stored again."""

        async def once() -> bool:
            async with self._pool.acquire() as conn, conn.transaction():
                await queue.hold_lease(conn, job.lease_id)
                is_linked = await store.link_unchanged(conn, request, FOLDER_SCHEME + name, sha256, name)
                if is_linked:
                    await reach(Failpoint.SCANNED_FILE_LINKED)
                return is_linked

        return await retry_conflicts(once)

    async def _make_way(self, job: Job, request: ScanRequest) -> None:
        """Give others a turn: this job ends, and one like it begins behind them."""

        async def once() -> None:
            async with self._pool.acquire() as conn, conn.transaction():
                await queue.complete_jobs(conn, job.lease_id, [job.id])
                await store.continue_scan(conn, request.number, job.traceparent)

        await retry_conflicts(once)

    async def _finish(self, job: Job, request: ScanRequest, contents: Contents, error: str | None) -> None:
        async def once() -> None:
            async with self._pool.acquire() as conn, conn.transaction():
                await queue.complete_jobs(conn, job.lease_id, [job.id])
                await intake.list_skips(conn, request.id, request.collection_id, list(contents.skipped.items()))
                await store.finish_scan(conn, request.id, error, contents.skipped_count)
                await reach(Failpoint.SCAN_WRITTEN)

        await retry_conflicts(once)
        await reach(Failpoint.SCAN_COMMITTED)

    async def _complete(self, job: Job) -> None:
        async with self._pool.acquire() as conn, conn.transaction():
            await queue.complete_jobs(conn, job.lease_id, [job.id])
