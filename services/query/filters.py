"""Questions that are asked of some documents only: by their ids, or by where their paths begin."""

from collections.abc import Sequence
from dataclasses import dataclass

from pgvector import HalfVector

from services.query.fusion import Candidate
from services.query.store import CollectionRow
from shared.database import Connection
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "filters.sql")

_RETRIEVE_FILTERED = STATEMENTS["retrieve_filtered"]
# So many of the nearest chunks get both scores: of 50,000 chunks of 100 words a folder of 220 costs 37 ms so, one of 2,200 58 ms
# (90 with 2,000), and all of them 170 ms; without filters it is 39.
SCORED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Filters:
    """Which documents a question is asked of: those that fit everything that is not None."""

    document_ids: Sequence[int] | None = None
    path_prefix: str | None = None


async def retrieve_filtered(
    conn: Connection,
    scope: Sequence[int],
    collection: CollectionRow,
    question: str,
    vector: HalfVector,
    filters: Filters,
    *,
    arm_limit: int,
    scored_limit: int = SCORED_MAX,
) -> list[Candidate]:
    """Return the candidates of both arms among the documents that the filters leave, each with both scores."""
    rows = await conn.fetch(
        _RETRIEVE_FILTERED,
        list(scope),
        collection.id,
        collection.model_id,
        question,
        vector,
        arm_limit,
        scored_limit,
        None if filters.document_ids is None else list(filters.document_ids),
        filters.path_prefix,
    )
    return [Candidate(collection_id=collection.id, **row) for row in rows]
