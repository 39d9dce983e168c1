"""How far a version is, as the database knows it: what a long one costs, and what a short one tells exactly."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from typing import IO, Any

import asyncpg
import pytest

from services.ingester.chunking import Chunk
from services.ingester.sandbox import ParsedHead
from services.query import progress
from services.query.progress import find_progress, show
from services.query.retrieve import snapshot
from shared import intake
from shared.database import open_pool
from tests.db.clones import clone
from tests.db.test_handlers import ingest
from tests.factories import arrive, make_chunks, stage_version

CHUNKS = 20_000
EMBEDDED = 12_345
LATELY = 6_000
# One sum of a text for each version and place.
HASH = "sha256((version * 1000000 + place)::text::bytea)"


@pytest.fixture(scope="module")
async def long_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A version of many chunks, beside as many staged chunks and vectors of others."""
    async with clone(server_url, "test_progress", template=template) as url:
        connection = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
        model_id = await intake.ensure_model(connection, "model", 4)
        collection_id = await intake.ensure_collection(connection, "default", model_id)
        await connection.execute("SET session_replication_role = replica")  # rows without their documents
        for state in ("embedding", "parsing"):
            await connection.execute(
                "INSERT INTO document_version (collection_id, document_id, blob_id, state, chunk_count, token_count, parsing_at,"
                " embedding_at)"
                " SELECT $1, 1, 1, $2, CASE $2 WHEN 'embedding' THEN $3::int END, CASE $2 WHEN 'embedding' THEN 1 END,"
                " now() - interval '2 minutes', now() - interval '30 seconds'",
                collection_id,
                state,
                CHUNKS,
            )
        await connection.execute(
            "INSERT INTO staged_chunk (collection_id, version_id, ordinal, text, prefix, heading, path_words, language, text_hash,"
            " chunk_hash, token_count, page, char_start, char_end)"
            f" SELECT $1, version, place, 'text', '', '', '', 'english', {HASH}, {HASH}, 9, 1 + place / 10, 5 * place, 5 * place + 4"
            " FROM generate_series(1, 2) AS version, generate_series(0, $2 - 1) AS place",
            collection_id,
            CHUNKS,
        )
        await connection.execute(
            "INSERT INTO embedding (model_id, text_hash, vector, created_at)"
            f" SELECT $1, {HASH}, '[1,0,0,0]', now() - interval '1 second' * CASE WHEN place >= $3 THEN -300 ELSE 300 END"
            " FROM (SELECT 1 AS version, place FROM generate_series(0, $2 - 1) AS place"
            " UNION ALL SELECT 9, place FROM generate_series(0, 30000) AS place) AS planted",
            model_id,
            EMBEDDED,
            EMBEDDED - LATELY,
        )
        await connection.execute("ANALYZE")
        yield url
        await connection.close()


@pytest.fixture
async def readers(long_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(long_url, "askbox_reader", "test reader", connections_max=2) as opened:
        yield opened


async def test_long_version_is_told_from_a_sample_and_close_to_the_truth(readers: asyncpg.Pool):
    async with snapshot(readers, [1]) as conn:
        found = await find_progress(conn, [1], [(1, "embedding"), (2, "parsing")])
    assert found[1].staged == CHUNKS
    assert found[1].embedded == pytest.approx(EMBEDDED, rel=0.01)
    shown = show(found[1])
    assert (shown.unit, shown.total) == ("chunks", CHUNKS)
    assert shown.per_second is not None
    assert shown.seconds_left is not None
    # The stage began half a minute before the planting; what came in before that does not count.
    assert 0 < shown.per_second <= LATELY / 30 * 1.01
    assert shown.seconds_left == pytest.approx((CHUNKS - found[1].embedded) / shown.per_second, rel=0.01)
    assert (found[2].staged, found[2].page, found[2].char_end) == (CHUNKS, CHUNKS // 10, 5 * CHUNKS - 1)


async def test_sample_is_bounded_however_long_the_version_and_no_table_is_read_whole(long_url: str):
    connection = await asyncpg.connect(long_url, server_settings={"search_path": "askbox, public", "jit": "off"})
    await connection.execute("SELECT set_config('askbox.scope', '{1}', false)")
    body = await connection.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'version_progress'")
    body = body.replace("of_version_ids", "'{1,2}'::bigint[]").replace("samples_max", "500")
    (document,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {body}"))
    await connection.close()
    plan = list(nodes(document["Plan"]))
    large = [node for node in plan if node.get("Relation Name") in ("staged_chunk", "embedding")]
    assert {node["Node Type"] for node in large} <= {"Index Scan", "Index Only Scan"}
    assert 500 <= sum(node["Actual Loops"] for node in large) <= 2 * 500 + 10


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


@pytest.mark.parametrize(("embedding", "each"), [(1, 4096), (16, 256), (1000, 32)])
async def test_many_versions_share_the_lookups_of_one_look(embedding: int, each: int):
    asked = []

    class Connection:
        async def fetch(self, *arguments: Any) -> list[Any]:
            asked.append(arguments)
            return []

    versions = [(number, "embedding") for number in range(embedding)] + [
        (5000, "parsing"),
        (5001, "queued"),
        (5002, "ready"),
    ]
    await find_progress(Connection(), [1], versions)
    ((_, scope, ids, samples_max),) = asked
    assert (scope, len(ids), samples_max) == ([1], embedding + 1, each)


async def test_nothing_is_looked_up_for_versions_that_rest():
    assert await find_progress(None, [1], [(1, "queued"), (2, "ready"), (3, "failed")]) == {}


async def test_short_version_is_counted_exactly_while_equal_texts_share_a_vector(pool, reader_pool, owner):
    key = await stage_version(pool, ["one", "two", "one", "three"], is_asked=False)
    await owner.execute(
        "INSERT INTO embedding (model_id, text_hash, vector) SELECT 1, text_hash, array_fill(0.25::real, ARRAY[16])::real[]::halfvec"
        " FROM staged_chunk WHERE ordinal = 0"
    )
    async with snapshot(reader_pool, [key.collection_id]) as conn:
        (found,) = (await find_progress(conn, [key.collection_id], [(key.version_id, "embedding")])).values()
    assert (found.embedded, found.staged) == (2, 4)


async def test_statements_stay_inside_the_scope_by_themselves(pool, owner):
    """For a superuser the walls of row-level security do not stand."""
    key = await stage_version(pool, ["text"], is_asked=False)
    await owner.execute("SELECT set_config('askbox.scope', $1, false)", f"{{{key.collection_id}}}")
    for scope, count in (([key.collection_id], 1), ([key.collection_id + 1], 0)):
        assert len(await find_progress(owner, scope, [(key.version_id, "embedding")])) == count
        assert len(await progress.list_in_work(owner, scope, 9)) == count
        assert len(await progress.count_in_work(owner, scope)) == count
    await owner.execute("UPDATE document_version SET state = 'ready', ready_at = now(), ended_at = now()")
    for scope, count in (([key.collection_id], 1), ([key.collection_id + 1], 0)):
        assert len(await progress.list_ended(owner, scope, timedelta(minutes=1), 9)) == count


async def test_version_that_takes_long_tells_how_much_there_is_as_soon_as_something_is_staged(
    pool, reader_pool, owner, monkeypatch
):
    monkeypatch.setattr("services.ingester.ingest.CHUNKS_PER_TRANSACTION", 2)
    lines = [f"line {number}" for number in range(7)]
    seen: list[progress.Shown] = []

    class Parsers:
        async def parse(self, _name: str, file: IO[bytes], _bytes: int) -> AsyncGenerator[ParsedHead | Chunk, None]:
            text = file.read().decode()
            yield ParsedHead("text/plain", None, {}, 0, character_count=len(text))
            for chunk in make_chunks(text.splitlines()):
                yield chunk
                await look()

    async def look() -> None:
        async with snapshot(reader_pool, [arrival.collection_id]) as conn:
            found = await find_progress(conn, [arrival.collection_id], [(arrival.version_id, "parsing")])
        seen.append(show(found[arrival.version_id]))

    arrival = await arrive(pool, "\n".join(lines))
    await ingest(pool, Parsers())
    assert [(shown.unit, shown.done, shown.total) for shown in seen[:2]] == [
        ("chunks", 0, None),
        ("characters", 13, 48),
    ]
    assert [shown.done for shown in seen[1:]] == [13, 13, 27, 27, 41, 41]
    assert all(shown.seconds_left is not None and shown.seconds_left > 0 for shown in seen[1:])
    assert await owner.fetchval("SELECT state FROM document_version") == "embedding"


async def test_version_that_is_staged_at_once_is_not_written_to_for_its_progress(pool, owner):
    await arrive(pool, "one\ntwo")
    await ingest(pool)
    assert await owner.fetchval("SELECT character_count FROM document_version") is None


async def test_list_begins_with_what_is_nearest_to_its_end(pool, reader_pool):
    await arrive(pool, "waits", source_uri="inbox:queued.md")
    first = await stage_version(pool, ["one"], source_uri="inbox:first.md", is_asked=False)
    await stage_version(pool, ["two"], source_uri="inbox:second.md", is_asked=False)
    async with snapshot(reader_pool, [first.collection_id]) as conn:
        listed = await progress.list_in_work(conn, [first.collection_id], 9)
        limited = await progress.list_in_work(conn, [first.collection_id], 1)
    assert [row.source_uri.partition(":")[2] for row in listed] == ["first.md", "second.md", "queued.md"]
    assert limited == listed[:1]
