"""One claimed version → staged chunks: read the blob, parse in a child, stage in bounded transactions, ask.

What is attached to a mail is stored on the way and becomes documents of their own when the mail is staged.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from services.ingester import store
from services.ingester.attachments import AttachmentStore, TakenAttachment, lock_holder, replace_attachments, tell
from services.ingester.chunking import Chunk
from services.ingester.language import chunk_configurations, text_search_configuration
from services.ingester.paths import display_path
from services.ingester.replies import refuse
from services.ingester.sandbox import AttachmentBegan, ParsedHead, ParserPool
from services.ingester.store import VersionToParse
from shared import conventions as names
from shared import queue
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool, retry_conflicts
from shared.errors import CorruptFile, ScratchUnavailable
from shared.failpoints import Failpoint, reach
from shared.intake import once_per_content
from shared.publication import (
    UNPUBLISHABLE_ERRORS,
    PublicationSweep,
    VersionKey,
    add_event,
    ask_all,
    delete_staged_chunks,
    insert_embed_jobs,
)
from shared.queue import Job
from shared.spans import describe_current, end_send_span, span, start_send_span, version_attributes
from shared.telemetry import Event, log
from shared.text import one_line, storable

CHUNKS_PER_TRANSACTION = 500
# Whose jobs are made in one transaction: but for the last, the lease cannot be extended while it lasts.
JOB_CHUNKS_PER_TRANSACTION = 5000
# How long a machine without room for a temporary file is left alone.
SCRATCH_SECONDS = 5.0


class IngestHandler:
    """Turns the version that an `ingest` job names into staged chunks. Batches hold one job."""

    def __init__(self, pool: Pool, parsers: ParserPool, scratch: Path, publication: PublicationSweep) -> None:
        self._pool = pool
        self._parsers = parsers
        self._scratch = scratch
        self._publication = publication
        self._staged: dict[int, VersionKey] = {}

    async def process(self, jobs: list[Job]) -> None:
        """Parse and stage one version."""
        (job,) = jobs
        started = time.monotonic()
        version = await store.get_version(self._pool, job.subject_id)
        if version is None or not await self._begin(version, job):
            await self._complete(job)  # its subject has vanished, which is success
            return
        await reach(Failpoint.PARSING_COMMITTED)
        describe_current(version_attributes(version.collection_id, version.document_id, version.version_id))
        found = AttachmentStore(self._pool, version.source_uri, version.file_bytes)
        try:
            with self._scratch_file() as file:
                await self._read_blob(version, file)
                await reach(Failpoint.BLOB_READ)
                with span(names.PARSE, attributes={names.FILE_BYTES: version.file_bytes}) as parsing:
                    head, chunk_count = await self._stage(version, job, file, found)
                    parsing.set_attributes({names.MEDIA_TYPE: head.media_type, names.CHUNKS: chunk_count})
            jobs_made = await self._finish(version, job, head, found, started, chunk_count)
        except BaseException as error:
            with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):
                await asyncio.shield(found.discard(self._pool))
            if isinstance(error, UNPUBLISHABLE_ERRORS):
                reason = one_line(storable(str(error))[0])
                raise CorruptFile(f"the database refuses its content: {reason}") from error
            raise
        log(
            Event.DOCUMENT_STAGED,
            document_id=version.document_id,
            version_id=version.version_id,
            chunks=chunk_count,
            embed_jobs=jobs_made,
            attempt=job.attempt,
            duration_ms=_elapsed_ms(started),
        )
        self._staged[job.id] = version.key

    async def after(self, jobs: Sequence[Job]) -> None:
        """Ask whether the version can be published: all its texts may have vectors already."""
        for job in jobs:
            key = self._staged.pop(job.id, None)
            if key is not None:
                await ask_all(self._pool, [key])

    async def buried(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002 (the sweep finds them)
        """End the versions that cannot be parsed."""
        await self._publication.fail_dead_ingests()

    def _scratch_file(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self._scratch)
        except OSError as error:
            raise _no_scratch(self._scratch, error) from None

    async def _begin(self, version: VersionToParse, job: Job) -> bool:
        async def once() -> bool:
            async with self._pool.acquire() as conn, conn.transaction():
                await queue.hold_lease(conn, job.lease_id)
                if not await store.begin_parsing(conn, version.key):
                    return False
                await delete_staged_chunks(conn, version.key)  # of an attempt that died
                await reach(Failpoint.PARSING_WRITTEN)
                return True

        return await retry_conflicts(once)

    async def _complete(self, job: Job) -> None:
        async with self._pool.acquire() as conn, conn.transaction():
            await queue.complete_jobs(conn, job.lease_id, [job.id])

    async def _read_blob(self, version: VersionToParse, file: IO[bytes]) -> None:
        ordinal = 0
        while (part := await store.read_blob_part(self._pool, version.blob_id, ordinal)) is not None:
            await asyncio.to_thread(_write, file, part, self._scratch)
            ordinal += 1
        if file.tell() != version.file_bytes:
            raise CorruptFile(
                f"the stored original has {file.tell()} of {version.file_bytes} bytes: drop the file again"
            )
        file.seek(0)

    async def _stage(
        self, version: VersionToParse, job: Job, file: IO[bytes], found: AttachmentStore
    ) -> tuple[ParsedHead, int]:
        head: ParsedHead | None = None
        batch: list[Chunk] = []
        language: str | None = None
        chunk_count = 0
        path_words = display_path(version.source_uri)
        items = self._parsers.parse(display_path(version.source_uri), file, version.file_bytes)
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, ParsedHead):
                    head = item
                    await reach(Failpoint.HEAD_PARSED)
                    continue
                if isinstance(item, AttachmentBegan):
                    await found.store(item.name, items)
                    continue
                if not isinstance(item, Chunk) or item.ordinal != chunk_count:
                    raise refuse()
                batch.append(item)
                chunk_count += 1
                if len(batch) == CHUNKS_PER_TRANSACTION:
                    language = language or text_search_configuration(" ".join(c.text for c in batch))
                    # What is staged at once needs no progress.
                    size = head if chunk_count == CHUNKS_PER_TRANSACTION else None
                    await self._write(version, job, batch, language, path_words, size=size)
                    batch = []
        if head is None:
            raise CorruptFile("the parser said nothing of the file")
        if batch:
            language = language or text_search_configuration(" ".join(c.text for c in batch))
            await self._write(version, job, batch, language, path_words)
        return head, chunk_count

    async def _write(
        self,
        version: VersionToParse,
        job: Job,
        chunks: list[Chunk],
        language: str,
        path_words: str,
        *,
        size: ParsedHead | None = None,
    ) -> None:
        languages = await asyncio.to_thread(chunk_configurations, [c.text for c in chunks], language)
        with span(names.STAGE_CHUNKS, attributes={names.CHUNKS: len(chunks)}):
            async with self._pool.acquire() as conn, conn.transaction():
                await queue.hold_lease(conn, job.lease_id)
                if size is not None:
                    await store.note_size(conn, version.key, size)
                await store.stage_chunks(conn, version.key, chunks, languages=languages, path_words=path_words)
                await reach(Failpoint.CHUNKS_WRITTEN)
            await reach(Failpoint.CHUNKS_COMMITTED)

    async def _finish(
        self,
        version: VersionToParse,
        job: Job,
        head: ParsedHead,
        found: AttachmentStore,
        started: float,
        staged_count: int,
    ) -> int:
        """Complete the job together with its effect.

        The version waits for its texts, each text has a job, and what is attached is documents of their own.
        """
        sending = start_send_span("embed")
        first_ordinal, made_before = await self._make_first_jobs(version, job, staged_count)

        async def once() -> tuple[int, list[TakenAttachment]]:
            async with self._pool.acquire() as conn, conn.transaction():
                holder = await lock_holder(conn, version.key, found.stored)
                chunk_count = await store.finish_staging(conn, version.key, found.noted(head))
                if chunk_count is None:  # it has ended meanwhile
                    await delete_staged_chunks(conn, version.key)
                    await found.discard(conn)
                    await queue.complete_jobs(conn, job.lease_id, [job.id])
                    return 0, []
                made = made_before + await insert_embed_jobs(
                    conn, version.key, version.model_id, first_ordinal=first_ordinal
                )
                taken = await replace_attachments(conn, version.key, holder, found.stored)
                await add_event(
                    conn,
                    version.key,
                    version.document_id,
                    "ingest",
                    "staged",
                    attempt=job.attempt,
                    duration_ms=_elapsed_ms(started),
                    detail={"chunks": chunk_count, "embed_jobs": made} | found.summary(taken),
                )
                await reach(Failpoint.STAGING_WRITTEN)
                # Last: it holds the lease, which has to be extended while something above waits for the document, for minutes
                # when another version of it is being published. Whoever has lost the lease rolls all of it back here.
                await queue.complete_jobs(conn, job.lease_id, [job.id])
                return made, taken

        made, taken = await once_per_content(lambda: retry_conflicts(once))
        found.stored.clear()  # they belong to documents now
        await reach(Failpoint.STAGING_COMMITTED)
        tell(taken)
        if made:
            end_send_span(sending, made)
        return made

    async def _make_first_jobs(self, version: VersionToParse, job: Job, staged_count: int) -> tuple[int, int]:
        """Make the jobs of a long version but for the last; return the first chunk that is left, and how many were made.

        An attempt that ends here leaves jobs whose texts vanish with it, or come again.
        """
        made = first = 0
        while staged_count - first > JOB_CHUNKS_PER_TRANSACTION:
            made += await retry_conflicts(lambda first=first: self._make_jobs(version, job, first))  # type: ignore[misc]
            first += JOB_CHUNKS_PER_TRANSACTION
        return first, made

    async def _make_jobs(self, version: VersionToParse, job: Job, first: int) -> int:
        last = first + JOB_CHUNKS_PER_TRANSACTION - 1
        async with self._pool.acquire() as conn, conn.transaction():
            await queue.hold_lease(conn, job.lease_id)
            return await insert_embed_jobs(conn, version.key, version.model_id, first_ordinal=first, last_ordinal=last)


def _elapsed_ms(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)


def _write(file: IO[bytes], part: bytes, scratch: Path) -> None:
    try:
        file.write(part)
        file.flush()
    except OSError as error:
        raise _no_scratch(scratch, error) from None


def _no_scratch(scratch: Path, error: OSError) -> ScratchUnavailable:
    reason = f"no temporary file can be written in {scratch} ({error.strerror}): free some space there, or set TMPDIR"
    return ScratchUnavailable(reason, retry_after=SCRATCH_SECONDS)
