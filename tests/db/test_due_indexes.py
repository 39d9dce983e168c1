"""Which indexes are due, looked at once: what is dropped and what is built in the same turn."""

import pytest

from services.embedder.store import IndexRule, list_due_indexes
from tests.factories import make_collection

# Above three chunks there are indexes, and never too few for them.
RULE = IndexRule(exact_chunks_max=3)


@pytest.mark.parametrize("is_valid", [True, False])
async def test_index_that_a_broken_build_left_behind_is_dropped_and_wanted_in_one_turn(pool, owner, is_valid):
    collection_id, model_id = await make_collection(pool)
    await owner.execute(
        "INSERT INTO collection_stat (collection_id, chunk_count, lexeme_count, refreshed_at, duration_ms)"
        " VALUES ($1, 4, 4, now(), 1)",
        collection_id,
    )
    name = f"chunk_tsv_gin_{collection_id}"
    await owner.execute(f"CREATE INDEX {name} ON chunk USING gin (tsv) WHERE collection_id = {collection_id}")
    await owner.execute("UPDATE pg_index SET indisvalid = $1 WHERE indexrelid = $2::text::regclass", is_valid, name)
    due = [(index.model_id, index.is_wanted) for index in await list_due_indexes(pool, RULE, collection_id)]
    assert due == ([] if is_valid else [(None, False), (None, True)]) + [(model_id, True)]
