"""The row of an embedding model: what may be corrected, and what is kept."""

import pytest

from shared.errors import ConfigError
from shared.intake import ensure_collection, ensure_model
from tests.factories import publish_version

NAME = "some-model"


async def test_dimension_that_nobody_used_is_corrected(pool):
    model_id = await ensure_model(pool, NAME, 384)
    assert await ensure_model(pool, NAME, 768) == model_id
    assert await pool.fetchval("SELECT dimension FROM embedding_model WHERE id = $1", model_id) == 768


async def test_dimension_of_a_model_that_a_collection_uses_is_kept(pool):
    model_id = await ensure_model(pool, NAME, 384)
    await ensure_collection(pool, "default", model_id)
    with pytest.raises(ConfigError, match="384 dimensions before and gives 768 now"):
        await ensure_model(pool, NAME, 768)
    assert await pool.fetchval("SELECT dimension FROM embedding_model WHERE id = $1", model_id) == 384


async def test_dimension_of_stored_vectors_is_kept_though_their_collection_is_gone(pool, owner):
    await publish_version(pool, ["text"])
    await owner.execute("DELETE FROM collection")
    (name,) = [row["name"] for row in await pool.fetch("SELECT name FROM embedding_model")]
    with pytest.raises(ConfigError, match="start with an empty database"):
        await ensure_model(pool, name, 768)
