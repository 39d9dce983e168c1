"""Databases that were filled before identifiers were read: their text is lexed anew, behind questions that are answered meanwhile."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.embedder import index
from services.embedder.index import IndexHandler
from services.query import store
from shared.database import open_pool
from shared.errors import LeaseLost
from shared.migrations import migrate, migrations_folder
from tests.db.clones import clone
from tests.factories import claim, publish_version
from tests.waiting import until

TEXTS = [
    "The helper foo_bar reads main.py first.",
    "Since v4.17.2 it ends with ERR-1234.",
    "A plain sentence of words.",
]
OLD = """
SET search_path = askbox, public;
INSERT INTO embedding_model (name, dimension) VALUES ('test-model', 16);
INSERT INTO collection (name, embedding_model_id) VALUES ('old', 1);
INSERT INTO collection_language VALUES (1, 'english');
INSERT INTO blob (sha256, file_bytes) VALUES (sha256('x'), 1);
INSERT INTO document (collection_id, source_uri) VALUES (1, 'inbox:note');
INSERT INTO document_version (collection_id, document_id, blob_id, state, chunk_count, token_count, ready_at, ended_at)
VALUES (1, 1, 1, 'ready', 3, 3, now(), now());
"""
CHUNK = """
INSERT INTO askbox.chunk (collection_id, document_id, chunk_hash, text_hash, text, prefix, heading, language, token_count, tsv, lexeme_count)
SELECT 1, 1, sha256(t::bytea), sha256(t::bytea), t, '', '', 'english', 9, tsv, askbox.tsv_length(tsv)
FROM unnest($1::text[]) AS t, askbox.chunk_tsv('english', '', t, 'note') AS tsv
"""
WORDS = "SELECT c.text, c.tsv::text, c.lexeme_count FROM chunk AS c WHERE c.collection_id = $1 ORDER BY c.text"
COUNTS = "SELECT lexeme, chunk_count FROM term_stat WHERE collection_id = $1 ORDER BY lexeme"
LEFT = "SELECT unlexed_below FROM collection_stat WHERE collection_id = 1"


@pytest.fixture
async def former_url(server_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """A database with a published document, as it was before."""
    folder = shutil.copytree(migrations_folder(), tmp_path / "sql", ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.glob("*.sql"):
        if path.stem[:4] > "0018":
            path.unlink()
    async with clone(server_url, "test_lexing_anew") as url:
        await asyncio.to_thread(migrate, url, folder)
        connection = await asyncpg.connect(url)
        await connection.execute(OLD)
        await connection.execute(CHUNK, TEXTS)
        await connection.close()
        yield url


@pytest.fixture
async def old_url(former_url: str) -> str:
    """The same, migrated to now."""
    await asyncio.to_thread(migrate, former_url)
    return former_url


@pytest.fixture
async def old_pool(old_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(old_url, "askbox_worker", "test worker", connections_max=4) as opened:
        yield opened


async def tend(pool: asyncpg.Pool) -> None:
    await pool.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
    while jobs := await claim(pool, "index", batch_size=1):
        await IndexHandler(pool).process(jobs)


async def hits(url: str, question: str) -> list[str]:
    async with (
        open_pool(url, "askbox_reader", "test reader", connections_max=1) as readers,
        readers.acquire() as conn,
        conn.transaction(),
    ):
        await store.set_scope(conn, [1])
        statement = (
            "SELECT c.text FROM lexical_hits(1, $1, '{}', 9) AS h JOIN chunk AS c ON c.id = h.chunk_id WHERE h.is_hit"
        )
        return [row["text"] for row in await conn.fetch(statement, question)]


async def test_migrated_database_is_lexed_as_a_fresh_one(old_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index, "LEXED_PER_TRANSACTION", 2)
    await tend(old_pool)
    fresh = await publish_version(old_pool, TEXTS, source_uri="inbox:note", collection="fresh")
    await tend(old_pool)
    assert await old_pool.fetch(WORDS, 1) == await old_pool.fetch(WORDS, fresh.collection_id)
    assert await old_pool.fetch(COUNTS, 1) == await old_pool.fetch(COUNTS, fresh.collection_id)
    assert await old_pool.fetchval(LEFT) is None


async def test_question_is_answered_before_and_after(old_url: str, old_pool: asyncpg.Pool):
    assert await hits(old_url, "the helper foo_bar") == [TEXTS[0]]
    assert await hits(old_url, "4.17.2") == []
    await tend(old_pool)
    assert await hits(old_url, "the helper foo_bar") == [TEXTS[0]]
    assert await hits(old_url, "4.17.2") == [TEXTS[1]]


async def test_who_lost_the_lease_lexes_nothing_and_the_next_goes_on(old_pool: asyncpg.Pool):
    before = await old_pool.fetchval(LEFT)
    assert before is not None
    jobs = await claim(old_pool, "index", batch_size=1)
    await old_pool.execute("UPDATE job SET lease_id = NULL; DELETE FROM lease")
    with pytest.raises(LeaseLost):
        await IndexHandler(old_pool).process(jobs)
    assert await old_pool.fetchval(LEFT) == before
    await tend(old_pool)
    assert await old_pool.fetchval(LEFT) is None


async def test_text_is_lexed_though_an_embedder_of_before_did_the_migrations_job(old_pool: asyncpg.Pool):
    await old_pool.execute(
        "DELETE FROM job WHERE stage = 'index'"
    )  # what it does with a job that it does not understand
    await IndexHandler(old_pool).request_outdated()
    await tend(old_pool)
    assert await old_pool.fetchval(LEFT) is None


async def test_job_that_was_buried_is_made_again_after_a_while(old_pool: asyncpg.Pool):
    await old_pool.execute("DELETE FROM job WHERE stage = 'index'")
    await old_pool.execute(
        "INSERT INTO dead_letter (stage, subject_id, collection_id, attempt, error_code, error, created_at)"
        " VALUES ('index', 1, 1, 5, 'retryable', 'it took too long', now())"
    )
    await IndexHandler(old_pool).request_outdated()
    assert await old_pool.fetchval("SELECT count(*) FROM job WHERE stage = 'index'") == 0
    await old_pool.execute("UPDATE dead_letter SET died_at = now() - interval '2 hours'")
    await IndexHandler(old_pool).request_outdated()
    assert await old_pool.fetchval("SELECT count(*) FROM job WHERE stage = 'index'") == 1


async def test_what_a_job_leaves_the_next_one_lexes(old_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index, "LEXING_SHARE", 0.0)
    await tend(old_pool)
    assert await old_pool.fetchval(LEFT) is not None
    assert await old_pool.fetchval("SELECT count(*) FROM job WHERE stage = 'index'") == 0
    monkeypatch.undo()
    await IndexHandler(old_pool).request_outdated()
    await tend(old_pool)
    assert await old_pool.fetchval(LEFT) is None


async def test_migration_that_is_rolled_back_leaves_the_words_of_before(old_url: str, old_pool: asyncpg.Pool):
    before = await old_pool.fetch(WORDS, 1)
    await tend(old_pool)
    assert await old_pool.fetch(WORDS, 1) != before
    owner = await asyncpg.connect(old_url, server_settings={"search_path": "askbox, public"})
    for name in ("0022_scores", "0021_apart", "0020_phrases", "0019_identifiers"):
        await owner.execute((migrations_folder() / f"{name}.rollback.sql").read_text(encoding="utf-8"))
    await owner.close()
    assert await old_pool.fetch(WORDS, 1) == before


async def test_what_is_being_published_while_the_database_is_migrated_is_lexed_anew_too(former_url: str):
    publishing, looking = await asyncpg.connect(former_url), await asyncpg.connect(former_url)
    transaction = publishing.transaction()
    await transaction.start()
    await publishing.execute(CHUNK, ["It reads foo_baz last."])
    migrating = asyncio.create_task(asyncio.to_thread(migrate, former_url))
    is_waiting = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'askbox.chunk'::regclass AND NOT granted)"
    await until(lambda: looking.fetchval(is_waiting))
    await transaction.commit()
    await migrating
    assert await looking.fetchval(
        f"SELECT ({LEFT.replace('FROM ', 'FROM askbox.')}) > (SELECT max(id) FROM askbox.chunk)"
    )
    await publishing.close()
    await looking.close()
