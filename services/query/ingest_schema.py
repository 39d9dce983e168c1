"""What goes in and out over HTTP around ingest."""

import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.query.document_schema import DocumentState, ProgressOut, file_path
from services.query.ingest_store import DeadLetterRow, EventRow, RequestedDocument
from services.query.progress import Ended, InWork, Progress
from services.query.receive import TakenFile

PATH_CHARACTERS_MAX = 4096
RequestState = Literal["processing", "ready", "failed"]


class DirectoryIn(BaseModel):
    """A folder that an ingester can see, below one of ASKBOX_INGEST_ROOTS, and where its files belong."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"path": "/data/handbook"}]})

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS_MAX)
    collection: str = Field(default="default", min_length=1, max_length=200)
    recursive: bool = True


class TakenOut(BaseModel):
    """What became of a file that was sent. One that was refused has no document, and its reason in `error`."""

    document_id: int | None
    file_path: str
    collection: str
    state: DocumentState
    version: int | None
    error: str | None = None
    unchanged: bool = False

    @classmethod
    def of(cls, file: TakenFile, collection: str) -> "TakenOut":
        """Show a file that was taken."""
        return cls(
            document_id=file.intake.document_id,
            file_path=file.file_path,
            collection=collection,
            state=file.intake.state,
            version=file.intake.version_id,
            unchanged=file.is_unchanged,
        )

    @classmethod
    def refused(cls, path: str, reason: str, collection: str) -> "TakenOut":
        """Show a file that was not taken."""
        return cls(document_id=None, file_path=path, collection=collection, state="failed", version=None, error=reason)


class AcceptedOut(BaseModel):
    """What was begun; `GET /ingest/jobs/{job_id}` tells how it goes on."""

    job_id: uuid.UUID
    status: RequestState
    documents: list[TakenOut]


class JobDocumentOut(BaseModel):
    """A document of an ingest job. `embedded` of its `chunks` have their vectors; of many thousands that is close to the truth."""

    document_id: int | None
    file_path: str
    state: DocumentState | Literal["deleted"]
    error: str | None
    chunks: int | None
    embedded: int
    progress: ProgressOut | None = None

    @classmethod
    def of(cls, row: RequestedDocument, progress: Progress | None) -> "JobDocumentOut":
        """Show a document."""
        embedded = (row.chunks or 0) if row.state == "ready" else progress.embedded if progress else 0
        return cls(
            document_id=row.document_id,
            file_path=row.file_path,
            state=row.state,
            error=row.error,
            chunks=row.chunks,
            embedded=embedded,
            progress=ProgressOut.of(progress),
        )


class SkippedOut(BaseModel):
    """A file that was not taken, and why."""

    file_path: str
    reason: str


class JobOut(BaseModel):
    """An ingest job: a page of its documents, and how many there are in each state. The next page begins `after` `next_after`.

    `skipped` lists files of a folder that were not taken; there may be more of them, `skipped_count` in all.
    """

    job_id: uuid.UUID
    status: RequestState
    error: str | None
    collection: str
    directory: str | None
    created_at: datetime
    documents: list[JobDocumentOut]
    has_more: bool
    next_after: int | None
    states: dict[str, int]
    skipped: list[SkippedOut]
    skipped_count: int


class InWorkOut(BaseModel):
    """A document in work. `progress` is there as soon as there is any."""

    document_id: int
    version: int
    collection: str
    file_path: str
    state: DocumentState
    progress: ProgressOut | None

    @classmethod
    def of(cls, row: InWork, progress: Progress | None) -> "InWorkOut":
        """Show a document."""
        return cls(
            document_id=row.document_id,
            version=row.version_id,
            collection=row.collection,
            file_path=file_path(row.source_uri),
            state=row.state,
            progress=ProgressOut.of(progress),
        )


class EndedOut(BaseModel):
    """A document that became ready, or failed, a moment ago."""

    document_id: int
    version: int
    collection: str
    file_path: str
    state: DocumentState
    error: str | None

    @classmethod
    def of(cls, row: Ended) -> "EndedOut":
        """Show a document."""
        return cls(
            document_id=row.document_id,
            version=row.version_id,
            collection=row.collection,
            file_path=file_path(row.source_uri),
            state=row.state,
            error=row.error,
        )


class WorkOut(BaseModel):
    """The work at one moment: versions by state, the documents nearest to their end, and those that ended last."""

    states: dict[str, int]
    documents: list[InWorkOut]
    ended: list[EndedOut]


class StageOut(BaseModel):
    """Jobs of a stage: runnable, being worked on, waiting for their time."""

    ready: int
    leased: int
    delayed: int


class TokenSumsOut(BaseModel):
    """Tokens: of the published chunks, and used by models so far."""

    chunks: int
    prompt: int
    completion: int
    embedding: int


class KeyTokensOut(BaseModel):
    """Tokens used with the key of that `name`; null is what no key used, the texts of documents among it."""

    name: str | None
    prompt: int
    completion: int
    embedding: int


class StatsOut(BaseModel):
    """What waits, and how much there is, in the collections that the caller may read.

    `token_keys` are the caller's own key, or every key for who may read everything.
    """

    pending_documents: int
    pending_embeddings: int
    stages: dict[str, StageOut]
    oldest_pending_seconds: float | None
    dead_letters: int
    documents: dict[str, int]
    chunks: int
    truncated_inputs: int
    tokens: TokenSumsOut
    token_keys: list[KeyTokensOut]


class EventOut(BaseModel):
    """One line of the story of a document."""

    id: int
    version: int
    stage: str
    outcome: str
    attempt: int | None
    worker: str | None
    duration_ms: float | None
    detail: dict[str, Any]
    at: datetime
    trace_id: str | None

    @classmethod
    def of(cls, row: EventRow) -> "EventOut":
        """Show a line."""
        return cls(**asdict(row))


class EventsOut(BaseModel):
    """A page of a story, oldest line first; the next begins `after` the last id."""

    data: list[EventOut]
    has_more: bool


class RetryOut(BaseModel):
    """A document that is read again."""

    document_id: int
    version: int
    state: DocumentState


class RetriesOut(BaseModel):
    """How many documents are read again; when there are more than one request takes, `next_after` is where to go on."""

    retried: int
    has_more: bool
    next_after: int | None


class DeadLetterOut(BaseModel):
    """A job that will not be tried again."""

    id: int
    stage: str
    collection: str
    document_id: int | None
    file_path: str | None
    attempt: int
    error_code: str
    error: str
    created_at: datetime
    died_at: datetime

    @classmethod
    def of(cls, row: DeadLetterRow) -> "DeadLetterOut":
        """Show a dead letter."""
        return cls(
            id=row.id,
            stage=row.stage,
            collection=row.collection,
            document_id=row.document_id,
            file_path=None if row.source_uri is None else file_path(row.source_uri),
            attempt=row.attempt,
            error_code=row.error_code,
            error=row.error,
            created_at=row.created_at,
            died_at=row.died_at,
        )


class DeadLettersOut(BaseModel):
    """A page of dead letters; the next begins `after` the last id."""

    data: list[DeadLetterOut]
    has_more: bool


class DroppedOut(BaseModel):
    """How many dead letters were forgotten."""

    dropped: int
    has_more: bool
