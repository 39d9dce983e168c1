"""Failpoints: named steps of the work at which a process can be told to die, to fail or to hang. Off unless a setting asks.

They show in tests, and to whoever doubts it, that nothing is lost whatever ends where. A failpoint strikes once, at its
nth reach. `kill` is SIGKILL; `raise` an exception that nobody expects; `hang` waits for ever, holding what is held (a
transaction, a lease), while the event loop and with it the heartbeat go on, as when a peer has fallen silent. Whoever
cancels the work ends the hang.
"""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NoReturn, cast, get_args

from shared.telemetry import Event, log

Action = Literal["kill", "raise", "hang"]
NTH_MAX = 1_000_000
_TRAP = re.compile(rf"([a-z_.]+)(?::(\d{{1,7}}))?(?::({'|'.join(get_args(Action))}))?")


class Failpoint(Enum):
    """Every failpoint there is, with what is done and what is not when it is reached."""

    # A file becomes a version.
    INBOX_LISTED = "inbox.listed", "the inbox was looked at; nothing of it is compared with the database"
    FILE_READ = "inbox.file_read", "a file was read and summed; nothing of it is stored"
    DELETION_NOTICED = "inbox.deletion_noticed", "a file is gone for good; its document is still there"
    PART_STORED = "intake.part_stored", "a part of the bytes is stored"
    BLOB_STORED = "intake.blob_stored", "all bytes are stored; no version names them"
    DOCUMENT_RENAMED = "intake.document_renamed", "a moved document has its new name, before the commit"
    VERSION_WRITTEN = "intake.version_written", "a version and its job are written, before the commit"
    VERSION_COMMITTED = "intake.version_committed", "a version and its job are committed; nobody remembers the file"
    DELETION_WRITTEN = "intake.deletion_written", "the document of a vanished file is deleted, before the commit"
    DELETION_COMMITTED = "intake.deletion_committed", "the document of a vanished file is gone"
    # Over HTTP.
    UPLOAD_RECEIVED = "upload.received", "all files of an upload are stored; none is a version"
    UPLOAD_TAKEN = "upload.taken", "all files of an upload are versions; the caller does not know"
    RETRY_WRITTEN = "retry.version_written", "a failed document has another version, before the commit"
    RETRY_COMMITTED = "retry.version_committed", "a failed document has another version; the caller does not know"
    TOMBSTONE_WRITTEN = "delete.tombstone_written", "a document is deleted on purpose, before the commit"
    TOMBSTONE_COMMITTED = "delete.tombstone_committed", "a document is deleted on purpose; the caller does not know"
    COLLECTION_WRITTEN = "collection.deletion_written", "a collection is deleted, before the commit"
    COLLECTION_COMMITTED = "collection.deletion_committed", "a collection is gone; the caller does not know"
    SCAN_REQUEST_WRITTEN = "scan.request_written", "a folder is asked for, before the commit"
    SCAN_REQUEST_COMMITTED = "scan.request_committed", "a folder is asked for; the caller does not know"
    # A folder is scanned.
    FOLDER_LISTED = "scan.folder_listed", "a folder was looked at; none of its files is taken"
    SCANNED_FILE_LINKED = "scan.file_linked", "a known file is linked to its request, before the commit"
    SCANNED_FILE_TAKEN = "scan.file_taken", "a file of the folder is a version, others are not yet"
    SCAN_WRITTEN = "scan.completion_written", "a scan is complete, before the commit"
    SCAN_COMMITTED = "scan.completion_committed", "a scan is complete"
    # The queue, whatever the stage.
    JOBS_CLAIMED = "queue.jobs_claimed", "jobs are claimed; their lease has no heartbeat yet"
    LEASE_EXTENDED = "queue.lease_extended", "a lease is extended while its work goes on"
    COMPLETION_WRITTEN = "queue.completion_written", "jobs are deleted, before their effect and the commit"
    JOBS_RETRIED_WRITTEN = "queue.retry_written", "failed jobs are given back, before the commit"
    JOBS_RETRIED_COMMITTED = "queue.retry_committed", "failed jobs are given back or buried; nobody was told"
    BURIAL_WRITTEN = "queue.burial_written", "jobs are dead letters, before the commit"
    BURIAL_COMMITTED = "queue.burial_committed", "jobs are dead letters; those who wait for them were not told"
    RELEASE_WRITTEN = "queue.release_written", "jobs are given back uncharged, before the commit"
    RELEASE_COMMITTED = "queue.release_committed", "jobs are given back uncharged"
    SWEEP_BEGUN = "queue.sweep_begun", "expired leases are about to be swept"
    LEASES_SWEPT = "queue.leases_swept", "jobs of expired leases are ready or dead"
    # A version is parsed and staged.
    PARSING_WRITTEN = "ingest.parsing_written", "a version is marked as being parsed, before the commit"
    PARSING_COMMITTED = "ingest.parsing_committed", "a version is being parsed; nothing of it is read"
    BLOB_READ = "ingest.blob_read", "the original was read; the parser has not seen it"
    HEAD_PARSED = "ingest.head_parsed", "the parser has told what the file is; no chunk is stored"
    ATTACHMENT_STORED = "ingest.attachment_stored", "the bytes of an attachment are stored; no document has them"
    ATTACHMENTS_WRITTEN = "ingest.attachments_written", "a mail's attachments are documents, before the commit"
    CHUNKS_WRITTEN = "ingest.chunks_written", "chunks are staged, before the commit"
    CHUNKS_COMMITTED = "ingest.chunks_committed", "chunks are staged, and more may come"
    STAGING_WRITTEN = "ingest.staging_written", "a version is staged and its texts have jobs, before the commit"
    STAGING_COMMITTED = "ingest.staging_committed", "a version is staged; nobody has asked whether it can be published"
    DEAD_INGESTS_WRITTEN = "ingest.failure_written", "versions that cannot be parsed have failed, before the commit"
    # Texts become vectors.
    TEXTS_FOUND = "embed.texts_found", "the texts of a batch are read; the model has not been asked"
    VECTORS_COMPUTED = "embed.vectors_computed", "the model has answered; nothing is stored"
    VECTORS_WRITTEN = "embed.vectors_written", "vectors are stored and jobs deleted, before the commit"
    VECTORS_COMMITTED = "embed.vectors_committed", "vectors are stored; nobody has asked what can be published"
    # A version is published.
    DOCUMENT_LOCKED = "publish.document_locked", "the document is locked; the version was not looked at"
    FAILURE_WRITTEN = "publish.failure_written", "a version has failed for a dead text, before the commit"
    CHUNKS_PUBLISHED = "publish.chunks_published", "new chunks stand beside the old ones, before the commit"
    VERSION_LIVE = "publish.version_live", "the new version is live, before the commit"
    VERSION_PUBLISHED = "publish.version_published", "the new version is live; nobody has asked for statistics"
    VERSIONS_SWEPT = "publish.versions_found", "the sweep has found versions that wait, and has not asked for them"
    # Statistics, indexes, housekeeping.
    STATISTICS_WRITTEN = "index.statistics_written", "terms are counted, before the commit"
    STATISTICS_COMMITTED = "index.statistics_committed", "terms are counted; indexes were not looked at"
    INDEX_CHANGED = "index.changed", "an index is built or dropped; its job is not complete"
    INDEX_COMPLETED = "index.completion_written", "the job of statistics and indexes is complete, before the commit"
    HOUSEKEEPING_BEGUN = "housekeeping.begun", "what nobody needs is about to be removed"
    STORAGE_SWEPT = "housekeeping.storage_swept", "old versions and originals are removed; old vectors are not"

    def __init__(self, label: str, meaning: str) -> None:
        self.label = label
        self.meaning = meaning


class FailpointReached(Exception):
    """A failpoint was told to raise here."""


@dataclass(frozen=True, slots=True)
class Trap:
    """What happens at the nth reach of a failpoint."""

    point: Failpoint
    nth: int = 1
    action: Action = "kill"


_BY_LABEL = {point.label: point for point in Failpoint}
_traps: dict[Failpoint, Trap] = {}
_reached: dict[Failpoint, int] = {}


def parse_trap(text: str) -> Trap:
    """Read `name[:nth][:kill|raise|hang]`.

    Raises: ValueError, which lists the names when there is none such.
    """
    match = _TRAP.fullmatch(text.strip())
    if match is None or (match[2] is not None and not 1 <= int(match[2]) <= NTH_MAX):
        raise ValueError(f"{text!r} is not NAME[:NTH][:kill|raise|hang]; `askbox failpoints` lists the names")
    name, nth, action = match.groups()
    if name not in _BY_LABEL:
        raise ValueError(f"there is no failpoint {name!r}, but: {', '.join(_BY_LABEL)}")
    return Trap(_BY_LABEL[name], int(nth or 1), cast("Action", action or "kill"))


def arm(traps: Sequence[Trap]) -> None:
    """Let failpoints strike from now on, instead of those that were armed before."""
    _traps.clear()
    _reached.clear()
    _traps.update({trap.point: trap for trap in traps})
    if traps:
        shown = [f"{trap.point.label}:{trap.nth}:{trap.action}" for trap in traps]
        log(Event.FAILPOINTS_ARMED, logging.WARNING, failpoints=shown)


async def reach(point: Failpoint) -> None:
    """Pass a failpoint, which is one look at an empty dictionary unless any is armed.

    Raises: FailpointReached when it is told to.
    """
    if _traps and point in _traps:
        await _count(_traps[point])


async def _count(trap: Trap) -> None:
    _reached[trap.point] = _reached.get(trap.point, 0) + 1
    if _reached[trap.point] == trap.nth:
        await _strike(trap)


async def _strike(trap: Trap) -> NoReturn:
    log(Event.FAILPOINT_REACHED, logging.WARNING, failpoint=trap.point.label, action=trap.action)
    match trap.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise FailpointReached(trap.point.label)
        case "hang":
            pass
    await asyncio.Event().wait()  # nobody sets it
    raise AssertionError("a hang ends by cancellation alone")
