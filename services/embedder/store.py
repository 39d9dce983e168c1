"""Typed functions, one per statement of the index jobs."""

from dataclasses import dataclass
from datetime import timedelta

from services.embedder.index_ddl import SearchIndex
from shared.database import Connection, Session
from shared.statements import load_statements

STATEMENTS = load_statements("services.embedder", "statements.sql")

_LEX_ANEW = STATEMENTS["lex_anew"]
_REPLACE_TERMS = STATEMENTS["replace_term_stats"]
_REPLACE_COLLECTION = STATEMENTS["replace_collection_stat"]
_REQUEST_OUTDATED = STATEMENTS["request_outdated_statistics"]
_MAY_INDEX = STATEMENTS["may_index"]
_LIST_DUE = STATEMENTS["list_due_indexes"]
_REQUEST_JOBS = STATEMENTS["request_index_jobs"]
_REQUEST_REMOVAL = STATEMENTS["request_index_removal"]
_FORGET_LETTER = STATEMENTS["forget_index_letter"]
_BOUND_BUILD = STATEMENTS["bound_build"]
_BEGIN_BUILDING = STATEMENTS["begin_building"]
STATEMENT_TIMEOUT_SECONDS = 1800.0
DUE_INDEXES_MAX = 100


@dataclass(frozen=True, slots=True)
class IndexRule:
    """When a collection gets indexes: above so many chunks, once nothing of it is in work, or after a wait.

    One whose job was buried is left alone for `retry_after`; below a quarter of the chunks the indexes go again.
    """

    exact_chunks_max: int = 20_000
    wait: timedelta = timedelta(hours=1)
    retry_after: timedelta = timedelta(hours=1)


async def lex_anew(conn: Connection, collection_id: int, limit: int) -> bool:
    """Lex some chunks that were published before a migration changed how; false when none is left."""
    return await conn.fetchval(_LEX_ANEW, collection_id, limit, timeout=STATEMENT_TIMEOUT_SECONDS) is not None


async def replace_term_stats(conn: Connection, collection_id: int) -> None:
    """Count a collection's lexemes anew."""
    await conn.execute(_REPLACE_TERMS, collection_id, timeout=STATEMENT_TIMEOUT_SECONDS)


async def replace_collection_stat(
    conn: Connection, collection_id: int, duration_ms: float, exact_chunks_max: int
) -> int | None:
    """Count a collection's chunks anew and return how many there are, or None when it is gone."""
    count: int | None = await conn.fetchval(
        _REPLACE_COLLECTION, collection_id, duration_ms, exact_chunks_max, timeout=STATEMENT_TIMEOUT_SECONDS
    )
    return count


async def request_outdated_statistics(conn: Session, rule: IndexRule) -> None:
    """Make jobs for collections whose statistics are older than what was published, or whose text waits to be lexed anew."""
    await conn.fetch(_REQUEST_OUTDATED, rule.retry_after)


async def may_index(conn: Session) -> bool:
    """Tell whether this login may take the role that owns the tables."""
    return bool(await conn.fetchval(_MAY_INDEX))


async def list_due_indexes(conn: Session, rule: IndexRule, collection_id: int | None = None) -> list[SearchIndex]:
    """Return what is to be dropped and what is to be built, for one collection or all.

    Order: what is to be dropped first.
    """
    rows = await conn.fetch(
        _LIST_DUE, collection_id, rule.exact_chunks_max, rule.wait, rule.retry_after, DUE_INDEXES_MAX
    )
    return [SearchIndex(**row) for row in rows]


async def request_index_jobs(conn: Session, collection_ids: list[int]) -> None:
    """Make jobs for collections."""
    await conn.fetch(_REQUEST_JOBS, collection_ids)


async def request_index_removal(conn: Session, collection_id: int) -> None:
    """Make a job for a collection that is gone and has indexes."""
    await conn.fetchval(_REQUEST_REMOVAL, collection_id)


async def forget_index_letter(conn: Session, collection_id: int) -> None:
    """Forget that an earlier job of this collection was buried."""
    await conn.fetchval(_FORGET_LETTER, collection_id)


async def bound_build(conn: Connection, *, seconds: float, lock_seconds: float, memory_bytes: int) -> None:
    """Bound the DDL that follows on this connection."""
    await conn.fetchrow(
        _BOUND_BUILD, f"{seconds * 1000:.0f}ms", f"{lock_seconds * 1000:.0f}ms", f"{memory_bytes // 1024}kB"
    )


async def begin_building(conn: Connection) -> bool:
    """Become the only one that builds, until the connection ends; False when somebody else is."""
    return bool(await conn.fetchval(_BEGIN_BUILDING))
