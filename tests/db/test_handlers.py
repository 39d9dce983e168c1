"""What the handlers of `ingest` and `embed` jobs do around a parser and a model, step by step."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import IO

import asyncpg
import pytest

from services.embedder import embed
from services.embedder import store as index_store
from services.embedder.embed import EmbedHandler
from services.ingester.chunking import Chunk
from services.ingester.ingest import IngestHandler
from services.ingester.sandbox import ParsedHead
from shared import intake, queue
from shared.database import connect, open_pool, retry_conflicts
from shared.errors import ConfigError, CorruptFile, LeaseLost
from shared.publication import PublicationSweep, VersionKey
from tests.factories import HashModel, arrive, claim, make_chunks, make_collection, publish_version, stage_version
from tests.waiting import until

Hook = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Nothing happens meanwhile."""


class LineParsers:
    """Makes a chunk of each line, as a child would, and lets something happen before the first and behind the last."""

    def __init__(self, before: Hook = nothing, behind: Hook = nothing) -> None:
        self._before, self._behind = before, behind

    async def parse(self, _name: str, file: IO[bytes], _bytes: int) -> AsyncGenerator[ParsedHead | Chunk, None]:
        await self._before()
        yield ParsedHead("text/plain", None, {}, 0)
        for chunk in make_chunks(file.read().decode().splitlines()):
            yield chunk
        await self._behind()


def handler_of(pool: asyncpg.Pool, parsers: LineParsers) -> IngestHandler:
    return IngestHandler(pool, parsers, Path(tempfile.gettempdir()), PublicationSweep(pool))


async def ingest(pool: asyncpg.Pool, parsers: LineParsers | None = None) -> None:
    """Do the next `ingest` job."""
    handler = handler_of(pool, parsers or LineParsers())
    jobs = await claim(pool, "ingest", batch_size=1)
    await handler.process(jobs)
    await handler.after(jobs)


async def lose_lease(owner: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await owner.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)


async def newest_state(owner: asyncpg.Connection) -> str:
    return await owner.fetchval("SELECT state FROM document_version ORDER BY id DESC LIMIT 1")


async def open_transactions(owner: asyncpg.Connection) -> int:
    return await owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )


async def test_file_is_staged_and_its_job_completed_together(pool, owner):
    await arrive(pool, "one\ntwo")
    await ingest(pool)
    assert await newest_state(owner) == "embedding"
    assert [row["stage"] for row in await owner.fetch("SELECT stage FROM job ORDER BY id")] == ["embed", "embed"]
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0


async def test_file_whose_texts_all_have_vectors_is_ready_without_an_embedder(pool, owner):
    await publish_version(pool, ["known"], source_uri="inbox:first.md")
    await arrive(pool, "known", source_uri="inbox:second.md")
    await ingest(pool)
    assert await newest_state(owner) == "ready"
    assert await owner.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'") == 0


async def test_attempt_after_one_that_died_within_its_staging_begins_anew(pool, owner, monkeypatch):
    monkeypatch.setattr("services.ingester.ingest.CHUNKS_PER_TRANSACTION", 2)
    await arrive(pool, "one\ntwo\nthree")

    async def die() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await ingest(pool, LineParsers(behind=die))
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 2
    await lose_lease(owner, pool)
    await ingest(pool)
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 3


async def test_jobs_of_a_long_version_are_made_in_parts_each_text_once(pool, owner, monkeypatch):
    monkeypatch.setattr("services.ingester.ingest.JOB_CHUNKS_PER_TRANSACTION", 3)
    texts = [f"text {number % 8}" for number in range(10)]
    await arrive(pool, "\n".join(texts))
    await ingest(pool)
    assert await owner.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'") == 8
    made = await owner.fetchval("SELECT detail ->> 'embed_jobs' FROM document_event WHERE outcome = 'staged'")
    assert int(made) == 8
    transactions = await owner.fetchval("SELECT count(DISTINCT xmin::text) FROM job WHERE stage = 'embed'")
    assert transactions == 3  # of four parts the last repeats what has its jobs


async def test_zombie_makes_no_jobs_of_a_long_version(pool, owner, monkeypatch):
    """All is staged when it loses its lease; the jobs of most texts are made before the transaction that ends its own."""
    monkeypatch.setattr("services.ingester.ingest.CHUNKS_PER_TRANSACTION", 2)
    monkeypatch.setattr("services.ingester.ingest.JOB_CHUNKS_PER_TRANSACTION", 3)
    await arrive(pool, "\n".join(f"text {number}" for number in range(8)))
    with pytest.raises(LeaseLost):
        await ingest(pool, LineParsers(behind=lambda: lose_lease(owner, pool)))
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 8
    assert await owner.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'") == 0


async def test_long_publication_holds_up_no_other(pool, owner):
    await stage_version(pool, ["of the long one"], source_uri="inbox:long.md")
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    (long,) = await claim(pool, "embed")
    await handler.process([long])
    async with owner.transaction():  # as long as its document is held, it is not published
        await owner.execute("SELECT 1 FROM document WHERE source_uri = 'inbox:long.md' FOR UPDATE")
        await handler.after([long])
        await stage_version(pool, ["of the note"], source_uri="inbox:note.md")
        (note,) = await claim(pool, "embed")
        await handler.process([note])
        asking = asyncio.create_task(handler.after([note]))
        await until(
            lambda: pool.fetchval("SELECT live_version_id IS NOT NULL FROM document WHERE source_uri = 'inbox:note.md'")
        )
        await asking
    await handler.finish()
    assert await owner.fetchval("SELECT count(*) FROM document WHERE live_version_id IS NOT NULL") == 2


async def test_publications_beside_batches_are_bounded(monkeypatch):
    begun = 0
    may_end = asyncio.Event()

    async def none_known(*_: object) -> list[VersionKey]:
        return []

    async def take_long(*_: object) -> None:
        nonlocal begun
        begun += 1
        await may_end.wait()

    monkeypatch.setattr(embed, "versions_waiting_for_texts", none_known)
    monkeypatch.setattr(embed, "ask_all", take_long)
    handler = EmbedHandler(None, HashModel(), 1)
    for _ in range(embed.ASKING_MAX):
        await handler.after([])
    one_more = asyncio.create_task(handler.after([]))
    await until(lambda: asyncio.sleep(0, begun >= embed.ASKING_MAX))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (one_more.done(), begun) == (False, embed.ASKING_MAX)
    may_end.set()
    await one_more
    await handler.finish()
    assert begun == embed.ASKING_MAX + 1


async def test_zombie_ingester_stages_nothing(pool, owner):
    await arrive(pool, "one\ntwo")
    with pytest.raises(LeaseLost):
        await ingest(pool, LineParsers(before=lambda: lose_lease(owner, pool)))
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 0


async def test_original_that_is_not_whole_is_refused(pool, owner):
    await arrive(pool, "one\ntwo")
    await owner.execute("DELETE FROM blob_part")
    with pytest.raises(CorruptFile, match="0 of 7 bytes"):
        await ingest(pool)


async def test_version_whose_ingester_died_at_every_attempt_ends_with_its_reason(pool, owner):
    await arrive(pool, "deadly")
    await owner.execute("UPDATE job SET attempt = max_attempts - 1")
    assert await claim(pool, "ingest")
    await lose_lease(owner, pool)
    await PublicationSweep(pool)()
    row = await owner.fetchrow("SELECT state, error_code, error FROM document_version")
    assert (row["state"], row["error_code"]) == ("failed", "worker_died")
    assert "at every attempt" in row["error"]


async def test_no_transaction_is_open_while_a_file_is_parsed(pool, owner):
    await arrive(pool, "one\ntwo")
    seen = []

    async def look() -> None:
        seen.append(await open_transactions(owner))

    await ingest(pool, LineParsers(before=look, behind=look))
    assert seen == [0, 0]


async def test_no_transaction_is_open_while_the_model_works(pool, owner):
    seen = []

    class Watched(HashModel):
        async def encode(self, texts):
            seen.append(await open_transactions(owner))
            return await super().encode(texts)

    await stage_version(pool, ["one", "two"])
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, Watched(), model_id)
    jobs = await claim(pool, "embed")
    await handler.process(jobs)
    await handler.after(jobs)
    await handler.finish()
    assert seen == [0]
    assert await newest_state(owner) == "ready"


@pytest.mark.parametrize("role", ["askbox_owner", "askbox_worker", "askbox_reader"])
async def test_every_session_bounds_what_it_may_hold_up(url, role):
    connection = await connect(url, role, "test bounds")
    try:
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") != "0"
        assert await connection.fetchval("SHOW lock_timeout") != "0"
    finally:
        await connection.close()


async def test_publication_asks_for_fresh_statistics(pool, owner):
    await publish_version(pool, ["one", "two"])
    assert await owner.fetchval("SELECT count(*) FROM job WHERE stage = 'index'") == 1


async def test_statistics_older_than_a_publication_are_counted_again(pool, owner):
    await publish_version(pool, ["one", "two"])
    collection_id, _ = await make_collection(pool)
    for age, jobs_made in (("-1 hour", 0), ("1 hour", 1)):
        await owner.execute("DELETE FROM job; DELETE FROM collection_stat")
        await owner.execute(
            "INSERT INTO collection_stat (collection_id, chunk_count, lexeme_count, refreshed_at, duration_ms)"
            f" VALUES ($1, 2, 2, now() - interval '{age}', 1)",
            collection_id,
        )
        await index_store.request_outdated_statistics(pool, index_store.IndexRule())
        assert await owner.fetchval("SELECT count(*) FROM job WHERE stage = 'index'") == jobs_made


async def test_two_workers_that_finish_one_version_together_publish_it_once(pool, owner):
    key = await stage_version(pool, ["left", "right"])
    _, model_id = await make_collection(pool)
    handlers = [EmbedHandler(pool, HashModel(), model_id) for _ in range(2)]
    batches = [await claim(pool, "embed", batch_size=1) for _ in handlers]
    await asyncio.gather(*(handler.process(jobs) for handler, jobs in zip(handlers, batches, strict=True)))
    await asyncio.gather(*(handler.after(jobs) for handler, jobs in zip(handlers, batches, strict=True)))
    await asyncio.gather(*(handler.finish() for handler in handlers))
    assert await newest_state(owner) == "ready"
    assert (
        await owner.fetchval(
            "SELECT count(*) FROM document_event WHERE version_id = $1 AND stage = 'publish'", key.version_id
        )
        == 1
    )


async def test_database_refuses_a_vector_that_has_not_length_one(pool, owner):
    _, model_id = await make_collection(pool)
    for number in ("0", "0.9", "1.1"):
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.execute(
                "INSERT INTO embedding (model_id, text_hash, vector) VALUES ($1, sha256('x'), $2::text::halfvec)",
                model_id,
                f"[{number},0]",
            )


async def test_role_that_sees_through_the_walls_is_refused(url):
    with pytest.raises(ConfigError, match="bypasses row-level security"):
        async with open_pool(url, None, "test walls", connections_max=1):
            pass


@pytest.mark.parametrize("role", ["askbox_owner", "askbox_worker", "askbox_reader"])
async def test_every_connection_takes_its_role(url, role):
    connection = await connect(url, role, "test role")
    try:
        assert await connection.fetchval("SELECT current_user") == role
    finally:
        await connection.close()


async def test_victim_of_a_deadlock_tries_again():
    victims = [asyncpg.DeadlockDetectedError("deadlock detected"), asyncpg.SerializationError("concurrent update")]

    async def work() -> str:
        if victims:
            raise victims.pop()
        return "done"

    assert await retry_conflicts(work) == "done"


async def test_database_filled_with_another_model_is_refused_by_whoever_fills_it(pool):
    await make_collection(pool)
    with pytest.raises(ConfigError, match="was filled with"):
        await intake.ensure_model(pool, "another-model", 16)
