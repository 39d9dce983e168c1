"""What is swept by its age, and what is never swept while something needs it."""

from datetime import timedelta

import asyncpg

from services.embedder.housekeeping import STATEMENTS
from shared import intake
from tests.factories import arrive, make_collection, pieces, publish_version, stage_version, vector_of

AGE_MIN = timedelta(days=30)


async def store_vector(owner: asyncpg.Connection, model_id: int, text: str) -> None:
    await owner.execute(
        "INSERT INTO embedding (model_id, text_hash, vector) VALUES ($1, sha256($2::text::bytea), $3::text::halfvec)",
        model_id,
        text,
        str(vector_of(text).tolist()),
    )


async def prune(pool: asyncpg.Pool, owner: asyncpg.Connection, *texts: str) -> set[str]:
    """Prune old vectors and return those of these texts that are left."""
    await pool.execute(STATEMENTS["prune_embeddings"], AGE_MIN, 100)
    rows = await owner.fetch(
        "SELECT t.text FROM unnest($1::text[]) AS t (text) JOIN embedding AS e ON e.text_hash = sha256(t.text::bytea)",
        list(texts),
    )
    return {row["text"] for row in rows}


async def test_vector_in_use_is_never_pruned(pool, owner):
    await publish_version(pool, ["published"], source_uri="inbox:first.md")
    await stage_version(pool, ["staged", "still missing"], source_uri="inbox:second.md")
    _, model_id = await make_collection(pool)
    for text in ("staged", "nobody's"):
        await store_vector(owner, model_id, text)
    await owner.execute("UPDATE embedding SET created_at = now() - interval '1 year'")
    assert await prune(pool, owner, "published", "staged", "nobody's") == {"published", "staged"}


async def test_vector_is_kept_until_it_is_old(pool, owner):
    _, model_id = await make_collection(pool)
    for text in ("old", "young"):
        await store_vector(owner, model_id, text)
    await owner.execute(
        "UPDATE embedding SET created_at = now() - interval '31 days' WHERE text_hash = sha256('old'::bytea)"
    )
    assert await prune(pool, owner, "old", "young") == {"young"}


async def test_original_is_swept_when_it_is_old_and_no_version_names_it(pool, owner):
    named = await arrive(pool, "named")
    await intake.store_bytes(pool, pieces(b"old and nobody's"))
    await owner.execute("UPDATE blob SET created_at = now() - interval '1 day'")
    young = await intake.store_bytes(pool, pieces(b"still arriving"))
    await intake.sweep_storage(pool)
    kept = {row["id"] for row in await owner.fetch("SELECT id FROM blob")}
    of_version = await owner.fetchval("SELECT blob_id FROM document_version WHERE id = $1", named.version_id)
    assert kept == {young.blob_id, of_version}


async def test_large_originals_are_swept_a_few_at_a_time(pool, owner, monkeypatch):
    """All of them in one statement would be more than its time allows, again and again."""
    monkeypatch.setattr(intake, "PART_BYTES", 10)
    monkeypatch.setattr(intake, "SWEEP_PARTS_MAX", 4)
    for content in (b"x" * 20, b"y" * 20, b"z" * 70, b""):
        await intake.store_bytes(pool, pieces(content))
        await owner.execute("UPDATE blob SET created_at = created_at - interval '1 day'")
    left = []
    for _ in range(4):
        left.append(await owner.fetchval("SELECT count(*) FROM blob"))
        await intake.sweep_storage(pool)
    assert left == [4, 2, 1, 0]


async def test_ended_version_is_swept_when_it_was_followed_long_ago(pool, owner):
    for content in ("first", "second", "third"):
        await arrive(pool, content)
    await owner.execute("UPDATE document_version SET ended_at = now() - interval '1 week' WHERE state = 'superseded'")
    await owner.execute(
        "UPDATE document_version SET state = 'failed', error = 'why', error_code = 'x', ended_at = now() - interval '1 week'"
        " WHERE state = 'queued'"
    )
    await intake.sweep_storage(pool)
    # The newest one failed long ago as well, and is what the document has to show.
    assert [row["state"] for row in await owner.fetch("SELECT state FROM document_version")] == ["failed"]
