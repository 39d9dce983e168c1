"""How far documents in work are, and for how long they will be.

**Invariants:** what is shown is computed from what lies in the database now, so it cannot drift; every statement is bounded
by what is shown, not by how large a document is; an estimate is a number that is not negative, or is not there.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from shared.database import Connection
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "progress.sql")
# Chunks that one look may look up, for all versions together, and for each of many: counted exactly up to here.
SAMPLES_MAX = 4096
SAMPLES_EACH_MIN = 32

Unit = Literal["pages", "characters", "chunks"]

_COUNT_IN_WORK = STATEMENTS["count_in_work"]
_LIST_IN_WORK = STATEMENTS["list_in_work"]
_LIST_PROGRESS = STATEMENTS["list_progress"]
_LIST_ENDED = STATEMENTS["list_ended"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a version is. The page and the character are those up to which it is staged while it is parsed.

    `per_second` chunks got their vector in the last minute; None while nothing is embedded.
    """

    version_id: int
    state: str
    staged: int
    page: int | None
    char_end: int | None
    embedded: int
    per_second: float | None
    page_count: int | None
    character_count: int | None
    parsing_seconds: float


@dataclass(frozen=True, slots=True)
class Shown:
    """A stage in numbers: so many of so many, at what pace, and for how long still. None is what is not known."""

    unit: Unit
    done: int
    total: int | None
    per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class InWork:
    """A version in work."""

    document_id: int
    version_id: int
    collection: str
    source_uri: str
    state: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A version that became ready, or failed, a moment ago."""

    document_id: int
    version_id: int
    collection: str
    source_uri: str
    state: str
    error: str | None


def show(progress: Progress) -> Shown:
    """Return what is to be shown of a version that is parsed or embedded."""
    if progress.state == "embedding":
        return _shown("chunks", progress.embedded, progress.staged, progress.per_second)
    if progress.page is not None and progress.page_count is not None:
        return _shown("pages", progress.page, progress.page_count, progress.page / progress.parsing_seconds)
    if progress.char_end is not None and progress.character_count is not None:
        pace = progress.char_end / progress.parsing_seconds
        return _shown("characters", progress.char_end, progress.character_count, pace)
    return Shown("chunks", progress.staged, None, None, None)  # how many there will be is known with the last


def _shown(unit: Unit, done: int, total: int, per_second: float | None) -> Shown:
    left = max(total - done, 0)
    pace = per_second if per_second is not None and math.isfinite(per_second) and per_second > 0 else None
    seconds_left = 0.0 if not left else left / pace if pace else None
    return Shown(
        unit,
        min(done, total),
        total,
        round(pace, 1) if pace else None,
        round(seconds_left, 1) if seconds_left is not None and math.isfinite(seconds_left) else None,
    )


async def find_progress(
    conn: Connection, scope: Sequence[int], versions: Iterable[tuple[int, str]]
) -> dict[int, Progress]:
    """Return how far those of some versions, given with their states, are that are parsed or embedded, by id.

    Transaction: the caller's snapshot.
    """
    moving = [(version_id, state) for version_id, state in versions if state in {"parsing", "embedding"}]
    if not moving:
        return {}
    embedding_count = sum(state == "embedding" for _, state in moving)
    samples_max = max(SAMPLES_MAX // max(embedding_count, 1), SAMPLES_EACH_MIN)
    rows = await conn.fetch(_LIST_PROGRESS, list(scope), [version_id for version_id, _ in moving], samples_max)
    return {row["version_id"]: Progress(**row) for row in rows}


async def count_in_work(conn: Connection, scope: Sequence[int]) -> dict[str, int]:
    """Return how many versions are in which state of work."""
    return {row["state"]: row["versions"] for row in await conn.fetch(_COUNT_IN_WORK, list(scope))}


async def list_in_work(conn: Connection, scope: Sequence[int], limit: int) -> list[InWork]:
    """Return versions in work, those nearest to their end first."""
    return [InWork(**row) for row in await conn.fetch(_LIST_IN_WORK, list(scope), limit)]


async def list_ended(conn: Connection, scope: Sequence[int], age: timedelta, limit: int) -> list[Ended]:
    """Return versions that ended a moment ago, the latest first."""
    return [Ended(**row) for row in await conn.fetch(_LIST_ENDED, list(scope), age, limit)]
