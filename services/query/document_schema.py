"""What a document looks like over HTTP, and how far it is."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from services.query.progress import Progress, Unit, show
from services.query.store import DocumentRow

DocumentState = Literal["queued", "parsing", "embedding", "ready", "failed", "superseded"]


def file_path(source_uri: str) -> str:
    """Return what people know a document by."""
    return source_uri.partition(":")[2]


class ProgressOut(BaseModel):
    """How far a document is with the stage that its `state` names.

    While it is parsed, `unit` is pages, or characters where there are none, and for a short document chunks, without a
    `total`; while it is embedded, chunks. `per_second` is the pace, of the last minute where texts are embedded, and
    `seconds_left` what this stage still takes at it; both are null while that is not known.
    """

    unit: Unit
    done: int
    total: int | None
    per_second: float | None
    seconds_left: float | None

    @classmethod
    def of(cls, progress: Progress | None) -> "ProgressOut | None":
        """Show how far a version is, if it is on its way."""
        return None if progress is None else cls(**asdict(show(progress)))


class DocumentOut(BaseModel):
    """A document; `state` is its newest version's, `searchable` says whether a version of it answers, and `tokens` are that one's."""

    id: int
    collection: str
    file_path: str
    title: str | None
    state: DocumentState
    error: str | None
    error_code: str | None
    version: int
    searchable: bool
    chunks: int | None
    tokens: int | None
    file_bytes: int
    media_type: str | None
    detected_at: datetime
    ready_at: datetime | None
    metadata: dict[str, Any]
    progress: ProgressOut | None

    @classmethod
    def of(cls, row: DocumentRow, progress: Progress | None, tokens: int | None) -> "DocumentOut":
        """Show a document."""
        return cls(
            id=row.id,
            collection=row.collection,
            file_path=file_path(row.source_uri),
            title=row.title,
            state=row.state,
            error=row.error,
            error_code=row.error_code,
            version=row.version,
            searchable=row.is_searchable,
            chunks=row.chunks,
            tokens=tokens,
            file_bytes=row.file_bytes,
            media_type=row.media_type,
            detected_at=row.detected_at,
            ready_at=row.ready_at,
            metadata=row.metadata,
            progress=ProgressOut.of(progress),
        )


class DocumentsOut(BaseModel):
    """A page of documents; the next begins `after` the last id."""

    data: list[DocumentOut]
    has_more: bool
