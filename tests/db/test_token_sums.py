"""What models used, rolled up by day: the sums stay what they are, whatever runs beside it."""

import asyncio
import time
from datetime import timedelta

import asyncpg
import pytest

from services.embedder.housekeeping import Housekeeping, sum_token_usage
from services.query.accounts import KeyTokens, sum_tokens_by_key
from services.query.ingest_store import TokenSums, sum_tokens
from services.query.ledger import Usage, insert_token_usage
from shared.migrations import migrations_folder

DAY = timedelta(days=1)
MINE, THEIRS = 1, 2
ENTRIES = 400
WRITERS = 3
OLD = "SELECT count(*) FROM token_usage WHERE at < now() - interval '1 day'"


async def add_old(pool: asyncpg.Pool, key_id: int, entries: int) -> None:
    """Entries of the last days, some on the border of two days, with and without a collection."""
    await pool.execute(
        "INSERT INTO token_usage (at, key_id, model, prompt_tokens, completion_tokens, embedding_tokens)"
        " SELECT now() - interval '25 hours' - n % 5 * interval '7 hours', $1, 'm' || n % 2, n, 2 * n, 3 * n"
        " FROM generate_series(1, $2::integer) AS n",
        key_id,
        entries,
    )


async def sums(pool: asyncpg.Pool, key_id: int | None, *, is_everybody: bool = False) -> TokenSums:
    async with pool.acquire() as conn:
        return await sum_tokens(conn, [], key_id, is_everybody=is_everybody)


async def sweep_all(pool: asyncpg.Pool) -> None:
    while await pool.fetchval(OLD):
        await sum_token_usage(pool, DAY, 7)


async def test_sums_never_change_while_entries_are_summed_beside_writers(pool, reader_pool):
    await add_old(pool, MINE, ENTRIES)
    before = await sums(reader_pool, MINE)
    ended = asyncio.Event()

    async def write() -> None:
        for _ in range(20):
            await insert_token_usage(reader_pool, [Usage(THEIRS, None, "m1", prompt_tokens=1)] * 3)
            await add_old(pool, THEIRS, 4)

    async def look() -> None:
        looks = 0
        while looks < 2 or not ended.is_set():
            assert await sums(reader_pool, MINE) == before
            looks += 1

    looking = asyncio.create_task(look())
    async with asyncio.timeout(60):
        await asyncio.gather(*(write() for _ in range(WRITERS)), sweep_all(pool), sweep_all(pool))
        await sweep_all(pool)
        ended.set()
        await looking
    assert await sums(reader_pool, MINE) == before
    written = TokenSums(WRITERS * 20 * (3 + 10), WRITERS * 20 * 20, WRITERS * 20 * 30)
    assert await sums(reader_pool, THEIRS) == written
    # Days times models, for either key: what is summed does not grow with the questions.
    assert await pool.fetchval("SELECT count(*) FROM token_sum") <= 2 * 4 * 2
    assert await pool.fetchval("SELECT count(*) FROM token_usage") == WRITERS * 20 * 3


async def test_entries_of_today_stay_and_a_sweep_is_bounded(pool, reader_pool):
    await insert_token_usage(reader_pool, [Usage(MINE, 7, "m", embedding_tokens=5)])
    await add_old(pool, MINE, 10)
    everybody = await sums(reader_pool, None, is_everybody=True)
    await sum_token_usage(pool, DAY, 4)
    assert await pool.fetchval("SELECT count(*) FROM token_usage") == 7
    await sweep_all(pool)
    assert await pool.fetchval("SELECT sum(embedding_tokens) FROM token_usage") == 5
    assert await sums(reader_pool, None, is_everybody=True) == everybody


async def test_embedders_sum_what_is_old(pool, monkeypatch: pytest.MonkeyPatch):
    await add_old(pool, MINE, 10)
    keeping = Housekeeping(pool)
    monkeypatch.setattr(keeping, "_at", time.monotonic() - 120)
    await keeping()
    assert await pool.fetchval("SELECT count(*) FROM token_usage") == 0
    assert await pool.fetchval("SELECT sum(prompt_tokens) FROM token_sum") == 55


async def test_embedder_that_ends_every_minute_sums_too(pool):
    await add_old(pool, MINE, 10)
    await Housekeeping(pool)()
    assert await pool.fetchval("SELECT count(*) FROM token_usage") == 0


async def test_rolling_the_migration_back_keeps_what_was_summed(pool, owner):
    await add_old(pool, MINE, 10)
    await sweep_all(pool)
    await owner.execute("SET TIME ZONE 'Asia/Tokyo'")
    days = await owner.fetch(
        "SELECT day, sum(prompt_tokens)::bigint AS tokens FROM token_sum GROUP BY day ORDER BY day"
    )
    await owner.execute((migrations_folder() / "0011_token_sums.rollback.sql").read_text(encoding="utf-8"))
    kept = await owner.fetch(
        "SELECT (at AT TIME ZONE 'UTC')::date AS day, sum(prompt_tokens)::bigint AS tokens FROM token_usage GROUP BY 1 ORDER BY 1"
    )
    assert kept == days
    assert sum(row["tokens"] for row in kept) == 55


async def test_tokens_are_told_by_key_and_to_their_key_alone(pool, reader_pool, owner):
    ids = [
        await owner.fetchval("INSERT INTO api_key (name, sha256) VALUES ($1, $2) RETURNING id", name, bytes([n]) * 32)
        for n, name in enumerate(("mine", "theirs"))
    ]
    await insert_token_usage(
        reader_pool,
        [
            Usage(ids[0], 1, "m", prompt_tokens=5, completion_tokens=2),
            Usage(ids[1], 1, "m", prompt_tokens=7, embedding_tokens=1),
            Usage(None, 1, "m", embedding_tokens=3),
        ],
    )
    await add_old(pool, ids[0], 3)
    await sweep_all(pool)
    async with reader_pool.acquire() as conn:
        everybody = await sum_tokens_by_key(conn, None, is_everybody=True)
        mine = await sum_tokens_by_key(conn, ids[0], is_everybody=False)
        nobody = await sum_tokens_by_key(conn, None, is_everybody=False)
        most = await sum_tokens_by_key(conn, None, is_everybody=True, limit=1)
    assert everybody == [KeyTokens("mine", 11, 14, 18), KeyTokens("theirs", 7, 0, 1), KeyTokens(None, 0, 0, 3)]
    assert mine == most == everybody[:1]
    assert nobody == []
