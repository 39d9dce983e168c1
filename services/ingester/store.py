"""Typed functions, one per statement of the ingester."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.ingester.chunking import Chunk
from services.ingester.sandbox import ParsedHead
from shared.database import Connection, Session
from shared.publication import VersionKey
from shared.statements import load_statements
from shared.text import embedded_text, sha256

STATEMENTS = load_statements("services.ingester", "statements.sql")

_GET_VERSION = STATEMENTS["get_version"]
_BEGIN = STATEMENTS["begin_parsing"]
_NOTE_SIZE = STATEMENTS["note_size"]
_READ_PART = STATEMENTS["read_blob_part"]
_STAGE = STATEMENTS["stage_chunks"]
_FINISH = STATEMENTS["finish_staging"]
_LIST = STATEMENTS["list_inbox_documents"]
_SKIPPED = STATEMENTS["replace_skipped_files"]
_PAUSE = STATEMENTS["pause_deletion"]
_IS_PAUSED = STATEMENTS["is_paused"]
_IS_CONFIRMED = STATEMENTS["is_confirmed"]
_END_PAUSE = STATEMENTS["end_pause"]
_GET_MARK = STATEMENTS["get_mark"]
_SET_MARK = STATEMENTS["set_mark"]
_GET_SCAN = STATEMENTS["get_scan"]
_LIST_REQUESTED_PATHS = STATEMENTS["list_requested_paths"]
_LINK_UNCHANGED = STATEMENTS["link_unchanged"]
_CONTINUE_SCAN = STATEMENTS["continue_scan"]
_FINISH_SCAN = STATEMENTS["finish_scan"]
_FAIL_DEAD_SCANS = STATEMENTS["fail_dead_scans"]
DEAD_SCANS_MAX = 100

PauseKind = Literal["vanished", "another_folder"]


@dataclass(frozen=True, slots=True)
class VersionToParse:
    """A version as its ingest job finds it."""

    collection_id: int
    version_id: int
    document_id: int
    state: str
    blob_id: int
    source_uri: str
    file_bytes: int
    model_id: int

    @property
    def key(self) -> VersionKey:
        """Name the version."""
        return VersionKey(self.collection_id, self.version_id)


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """A folder that somebody asked for. `number` is what its job names it by."""

    id: uuid.UUID
    number: int
    collection_id: int
    directory: str
    is_recursive: bool


async def get_version(conn: Session, version_id: int) -> VersionToParse | None:
    """Return a version, or None when its document is gone."""
    row = await conn.fetchrow(_GET_VERSION, version_id)
    return VersionToParse(**row) if row else None


async def begin_parsing(conn: Connection, key: VersionKey) -> bool:
    """Mark a version as being parsed; False when it has ended."""
    return await conn.fetchval(_BEGIN, key.collection_id, key.version_id) is not None


async def note_size(conn: Connection, key: VersionKey, head: ParsedHead) -> None:
    """Note how much there is to stage of a version."""
    await conn.fetchval(_NOTE_SIZE, key.collection_id, key.version_id, head.page_count, head.character_count)


async def read_blob_part(conn: Session, blob_id: int, ordinal: int) -> bytes | None:
    """Return one part of a blob, or None behind the last."""
    part: bytes | None = await conn.fetchval(_READ_PART, blob_id, ordinal)
    return part


async def stage_chunks(
    conn: Connection, key: VersionKey, chunks: Sequence[Chunk], *, languages: Sequence[str], path_words: str
) -> None:
    """Insert chunks, each with its language.

    The identity of a chunk covers all that `tsv` is made of, so that a kept row never has a stale one.
    """
    await conn.execute(
        _STAGE,
        key.collection_id,
        key.version_id,
        list(languages),
        path_words,
        [c.ordinal for c in chunks],
        [c.text for c in chunks],
        [c.prefix for c in chunks],
        [c.heading for c in chunks],
        [sha256(embedded_text(c.prefix, c.text)) for c in chunks],
        [
            sha256(c.prefix, c.text, c.heading, language, path_words)
            for c, language in zip(chunks, languages, strict=True)
        ],
        [c.token_count for c in chunks],
        [c.page for c in chunks],
        [c.char_start for c in chunks],
        [c.char_end for c in chunks],
        [c.page_label for c in chunks],
        [json.dumps(c.page_turns) if c.page_turns else None for c in chunks],
        [json.dumps(c.lines) for c in chunks],
    )


async def finish_staging(conn: Connection, key: VersionKey, head: ParsedHead) -> int | None:
    """Mark a version as staged and return its number of chunks, or None when it has ended."""
    count: int | None = await conn.fetchval(
        _FINISH,
        key.collection_id,
        key.version_id,
        head.media_type,
        head.title,
        json.dumps(head.metadata),
        head.replaced_character_count,
        head.page_unit,
        head.line_unit,
    )
    return count


async def list_inbox_documents(conn: Session) -> set[tuple[str, str]]:
    """Return (collection name, source_uri) of every document of the inbox."""
    return {(row["collection"], row["source_uri"]) for row in await conn.fetch(_LIST)}


async def replace_skipped_files(conn: Session, skipped: Sequence[tuple[str, str, str]]) -> None:
    """Store the list of (source_uri, collection name, reason) of files that are not taken."""
    await conn.execute(_SKIPPED, [s[0] for s in skipped], [s[1] for s in skipped], [s[2] for s in skipped])


async def pause_deletion(conn: Session, kind: PauseKind, reason: str, missing_count: int) -> bool:
    """Let deletion wait for a person; True when one has confirmed it already."""
    confirmed: bool = await conn.fetchval(_PAUSE, kind, reason, missing_count)
    return confirmed


async def is_paused(conn: Session, kind: PauseKind) -> bool:
    """Whether deletion waits for a person, or goes on after one confirmed it."""
    paused: bool = await conn.fetchval(_IS_PAUSED, kind)
    return paused


async def is_confirmed(conn: Session, kind: PauseKind, missing_count: int) -> bool:
    """Whether a person has confirmed the deletion that waits, of at least so many documents."""
    confirmed: bool = await conn.fetchval(_IS_CONFIRMED, kind, missing_count)
    return confirmed


async def end_pause(conn: Session, kind: PauseKind) -> None:
    """Let deletion go on as usual."""
    await conn.fetchval(_END_PAUSE, kind)


async def get_mark(conn: Session) -> uuid.UUID | None:
    """Return the mark of the folder that this database was filled from."""
    mark: uuid.UUID | None = await conn.fetchval(_GET_MARK)
    return mark


async def set_mark(conn: Session, mark: uuid.UUID) -> None:
    """Fill this database from the folder with this mark from now on."""
    await conn.fetchval(_SET_MARK, mark)


async def get_scan(conn: Session, number: int, collection_id: int) -> ScanRequest | None:
    """Return the request of a `scan` job, or None when it is gone."""
    row = await conn.fetchrow(_GET_SCAN, number, collection_id)
    return ScanRequest(**row) if row else None


async def list_requested_paths(conn: Session, request_id: uuid.UUID) -> set[str]:
    """Return the files of a request that have their versions."""
    return {row["file_path"] for row in await conn.fetch(_LIST_REQUESTED_PATHS, request_id)}


async def link_unchanged(
    conn: Connection, request: ScanRequest, source_uri: str, sha256: bytes, file_path: str
) -> bool:
    """Link a file's newest version to a request; false when it has other bytes or failed."""
    ids = (request.id, request.collection_id)
    return await conn.fetchval(_LINK_UNCHANGED, *ids, source_uri, sha256, file_path) is not None


async def continue_scan(conn: Connection, number: int, traceparent: str | None) -> None:
    """Make another job for a scan. Transaction: the caller's, which has completed the one before."""
    await conn.fetchval(_CONTINUE_SCAN, number, traceparent)


async def finish_scan(conn: Connection, request_id: uuid.UUID, error: str | None, skipped_count: int) -> None:
    """Mark a scan as ended, with the reason if it failed."""
    await conn.fetchval(_FINISH_SCAN, request_id, error, skipped_count)


async def fail_dead_scans(conn: Session) -> None:
    """Tell requests that their scans are dead letters, a bounded number at a time."""
    await conn.fetch(_FAIL_DEAD_SCANS, DEAD_SCANS_MAX)
