"""Questions that are asked of some documents only, by their ids, their paths or their metadata, or of the chunks that hold a phrase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """What a question is asked of: documents that fit everything that is given, and their chunks with each phrase.

    None of these chunks holds what is excluded. Of each key of the metadata one of the values must be there.
    """

    document_ids: Sequence[int] | None = None
    path_prefix: str | None = None
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    phrases: Sequence[str] = ()
    excluded: Sequence[str] = ()


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
    """Return the candidates of both arms among what the filters leave, each with both scores."""
    pairs = [(key, value) for key, values in filters.metadata.items() for value in values]
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
        [key for key, _ in pairs],
        [value for _, value in pairs],
        list(filters.phrases),
        list(filters.excluded),
    )
    return [Candidate(collection_id=collection.id, **row) for row in rows]
