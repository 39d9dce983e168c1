"""`index` jobs: which collections get indexes, when they go, and what a login does that may not build them."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from pgvector import HalfVector

from services.console.check import check
from services.embedder.index import REFUSAL, IndexHandler
from services.embedder.store import IndexRule
from services.query import store
from services.query.health import health
from services.query.store import CollectionRow
from shared import queue
from shared.database import open_pool
from tests.db.indexing import RULE, indexes, make_handler, tend, texts
from tests.factories import claim, publish_version, stage_version, vector_of


@pytest.fixture
def handler(url: str, pool: asyncpg.Pool) -> IndexHandler:
    return make_handler(url, pool)


async def test_indexes_come_above_the_threshold_and_go_below_a_quarter(url, pool, owner, handler):
    names = []
    for count in (20, 21, 6, 5, 4, 20, 21):
        await publish_version(pool, texts(count))
        await tend(pool, handler)
        names.append(len(await indexes(owner)))
    assert names == [0, 2, 2, 2, 0, 0, 2]
    assert await check(url) == []


async def test_deletions_are_noticed_without_a_publication(pool, owner, handler):
    await publish_version(pool, texts(21))
    await tend(pool, handler)
    assert len(await indexes(owner)) == 2
    await owner.execute("DELETE FROM document")
    await tend(pool, handler)
    assert await indexes(owner) == []
    assert await owner.fetchval("SELECT chunk_count FROM collection_stat") == 0


async def test_nothing_is_built_while_the_collection_is_filled(pool, owner, handler):
    await publish_version(pool, texts(21))
    await stage_version(pool, texts(3, word="more"), source_uri="inbox:more.md")
    await tend(pool, handler)
    assert await indexes(owner) == []
    assert await pool.fetchval("SELECT count(*) FROM job WHERE stage = 'index'") == 0
    await publish_version(pool, texts(3, word="more"), source_uri="inbox:other.md")  # the same texts: both are live
    await tend(pool, handler)
    assert len(await indexes(owner)) == 2


async def test_collection_that_never_rests_is_waited_for_only_so_long(url, pool, owner):
    hasty = make_handler(url, pool, IndexRule(20, wait=timedelta(minutes=5)))
    await publish_version(pool, texts(21))
    await stage_version(pool, texts(3, word="more"), source_uri="inbox:more.md")
    await tend(pool, hasty)
    await owner.execute("UPDATE collection_stat SET outgrown_at = now() - interval '4 minutes'")
    await tend(pool, hasty)
    assert await indexes(owner) == []
    await owner.execute("UPDATE collection_stat SET outgrown_at = outgrown_at - interval '1 minute'")
    await tend(pool, hasty)
    assert len(await indexes(owner)) == 2


async def test_waiting_begins_when_the_threshold_is_passed_and_ends_with_it(pool, owner, handler):
    since = "SELECT outgrown_at FROM collection_stat"
    seen = []
    for count in (20, 21, 22, 20):
        await publish_version(pool, texts(count))
        await tend(pool, handler)
        seen.append(await owner.fetchval(since))
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[2] == seen[1]
    assert seen[3] is None


async def test_deleted_collection_loses_its_indexes(url, pool, reader_pool, owner, handler):
    key = await publish_version(pool, texts(21))
    await tend(pool, handler)
    async with reader_pool.acquire() as conn, conn.transaction():  # it may not make jobs itself
        await store.set_scope(conn, [key.collection_id])
        await conn.execute("DELETE FROM collection WHERE id = $1", key.collection_id)
    assert await owner.fetchval("SELECT subject_id FROM job WHERE stage = 'index'") == key.collection_id
    assert await check(url) == []
    await tend(pool, handler)
    assert await indexes(owner) == []
    assert await owner.fetchval("SELECT count(*) FROM job") == 0


async def test_collection_deleted_under_its_running_job_leaves_another_job(url, pool, owner, handler, monkeypatch):
    await publish_version(pool, texts(21))
    await tend(pool, handler)
    await owner.execute("INSERT INTO job (stage, subject_id, collection_id) SELECT 'index', id, id FROM collection")

    async def nothing_due(*_args: object, **_kwargs: object) -> bool:
        await owner.execute("DELETE FROM collection")  # after the handler has looked
        return True

    with monkeypatch.context() as patched:
        patched.setattr(handler, "_tend_indexes", nothing_due)
        await handler.process(await claim(pool, "index"))
    assert await check(url) == []
    await tend(pool, handler)
    assert await indexes(owner) == []


async def test_index_of_another_model_goes(pool, owner, handler):
    await publish_version(pool, texts(21))
    await tend(pool, handler)
    await owner.execute("INSERT INTO embedding_model (name, dimension) VALUES ('next', 16)")
    await owner.execute("UPDATE collection SET embedding_model_id = 2")
    await owner.execute(
        "INSERT INTO chunk_vector SELECT collection_id, 2, chunk_id, document_id, vector FROM chunk_vector"
    )
    await tend(pool, handler)
    assert await indexes(owner) == ["chunk_tsv_gin_1", "chunk_vector_hnsw_1_2"]


async def test_without_a_builder_there_are_statistics_only(pool, owner):
    await publish_version(pool, texts(21))
    await tend(pool, IndexHandler(pool, rule=RULE))
    assert await indexes(owner) == []
    assert await owner.fetchval("SELECT chunk_count FROM collection_stat") == 21


@pytest.fixture
async def plain_url(url: str, owner: asyncpg.Connection) -> AsyncIterator[str]:
    """A login that may work and read, and not own."""
    await owner.execute("CREATE ROLE index_jobs_plain LOGIN NOSUPERUSER")
    await owner.execute("GRANT askbox_worker, askbox_reader TO index_jobs_plain WITH INHERIT FALSE, SET TRUE")
    yield url.replace("postgres:@", "index_jobs_plain:@")
    await owner.execute("DROP ROLE index_jobs_plain")


async def test_login_without_the_owners_role_says_so_and_everything_works(url, owner, pool, handler, plain_url):
    async with (
        open_pool(plain_url, "askbox_worker", "test worker", connections_max=4) as workers,
        open_pool(plain_url, "askbox_reader", "test reader", connections_max=1) as readers,
    ):
        plain = make_handler(plain_url, workers)
        key = await publish_version(workers, texts(21))
        await tend(workers, plain)
        assert plain.note() == REFUSAL
        assert await owner.fetchval("SELECT chunk_count FROM collection_stat") == 21
        assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 0
        assert await indexes(owner) == []
        assert await owner.fetchval("SELECT count(*) FROM job") == 0  # no job turns for ever

        worker_id = await queue.register_worker(workers, kind="embedder", host="here", pid=1)
        await queue.touch_worker(workers, worker_id, is_listening=True, note=plain.note())
        _, checks = await health(readers)
        assert checks["embedder"]["note"] == REFUSAL
        assert checks["embedder"]["ok"]
        assert checks["inbox"]["ok"]

        async with readers.acquire() as conn, conn.transaction():
            await store.set_scope(conn, [key.collection_id])
            collection = CollectionRow(key.collection_id, "default", 1)
            question = HalfVector(vector_of("text 7"))
            found = await store.retrieve(conn, [key.collection_id], collection, [], question, arm_limit=5)
        assert max(candidate.cosine for candidate in found) > 0.99

        await tend(pool, handler)  # one that may
        assert len(await indexes(owner)) == 2
        await plain.request_outdated()
        assert plain.note() is None
