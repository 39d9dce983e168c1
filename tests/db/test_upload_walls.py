"""What the query process may write stays inside its scope, and bytes stay with who sent them."""

import contextlib
import hashlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.query import ingest_store, store
from shared import intake
from shared.intake import StoredBytes
from tests.factories import arrive, make_collection, pieces, stage_version

ADD_VERSION = "SELECT add_version($1::int, $2::bigint, $3::bigint, $4::bytea, $5::bigint, 0, 0, interval '0', false, NULL, NULL, NULL)"


@contextlib.asynccontextmanager
async def scoped(pool: asyncpg.Pool, *scope: int) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the query process; rolled back, since most of what is tried here is refused."""
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            await store.set_scope(conn, scope)
            yield conn
        finally:
            await transaction.rollback()


@pytest.fixture
async def ours(pool) -> int:
    return (await make_collection(pool, "ours"))[0]


@pytest.fixture
async def theirs(pool) -> int:
    return (await make_collection(pool, "theirs"))[0]


@pytest.fixture
async def secret(pool, theirs) -> StoredBytes:
    """A document of another collection."""
    await arrive(pool, "their secret", collection="theirs")
    blob_id = await pool.fetchval("SELECT id FROM blob")
    return StoredBytes(blob_id, hashlib.sha256(b"their secret").digest(), len(b"their secret"))


async def test_intake_works_for_the_query_process(reader_pool, pool, ours):
    stored = await intake.store_bytes(reader_pool, pieces(b"our text"))
    taken = await intake.add_version(reader_pool, ours, "upload:a.md", stored)
    assert await pool.fetchval("SELECT state FROM document_version WHERE id = $1", taken.version_id) == "queued"
    again = await intake.store_bytes(reader_pool, pieces(b"our text"))
    assert (await intake.add_version(reader_pool, ours, "upload:a.md", again)).arrival == "unchanged"
    dropped = await intake.store_bytes(reader_pool, pieces(b"unwanted"))
    await intake.discard_bytes(reader_pool, dropped)
    assert await pool.fetchval("SELECT count(*) FROM blob") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO document (collection_id, source_uri) VALUES ($1, 'upload:x')",
        "INSERT INTO ingest_request (collection_id) VALUES ($1)",
        "INSERT INTO job (stage, subject_id, collection_id) VALUES ('scan', 1, $1)",
        "INSERT INTO document_event (collection_id, document_id, version_id, stage, outcome) VALUES ($1, 1, 1, 'a', 'b')",
        "SELECT retry_document($1, 1, NULL, NULL, NULL)",
        "SELECT add_version($1, 1, 1, '\\x00', 1, 0, 0, interval '0', false, NULL, NULL, NULL)",
    ],
)
async def test_nothing_is_written_into_another_collection(reader_pool, ours, theirs, secret, statement):
    async with scoped(reader_pool, ours) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement, theirs)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO job (stage, subject_id, collection_id) VALUES ('ingest', 1, $1)",
        "INSERT INTO document_version (collection_id, document_id, blob_id) VALUES ($1, 1, 1)",
        "UPDATE document_version SET state = 'queued' WHERE collection_id = $1",
        "UPDATE document SET source_uri = 'upload:y' WHERE collection_id = $1",
        "UPDATE blob SET sha256 = '' WHERE id = $1",
        "UPDATE blob_part SET bytes = '' WHERE blob_id = $1",
        "DELETE FROM blob_part WHERE blob_id = $1",
        "SELECT settle_blob($1, '\\x00', 1)",
        "SELECT queue_version($1, 1, 1, 0, 0, interval '0', false, NULL, NULL, NULL)",
        "SELECT 1 FROM staged_chunk WHERE collection_id = $1",
        "SELECT 1 FROM embedding WHERE model_id = $1",
    ],
)
async def test_even_inside_its_scope_it_may_not(reader_pool, ours, statement):
    async with scoped(reader_pool, ours) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement, ours)


async def test_nobody_else_may_run_what_runs_as_the_owner(owner):
    found = await owner.fetch(
        "SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p"
        " WHERE p.pronamespace = 'askbox'::regnamespace AND (p.prosecdef OR p.proname IN ('settle_blob', 'queue_version'))"
        " AND (has_function_privilege('public', p.oid, 'EXECUTE') OR NOT 'search_path=askbox, pg_temp' = ANY (p.proconfig))"
    )
    assert found == []


async def test_blob_of_others_is_neither_seen_nor_changed_by_its_id(reader_pool, ours, secret):
    async with scoped(reader_pool, ours) as conn:
        assert await conn.fetchval("SELECT count(*) FROM blob") == 0
        assert await conn.fetchval("SELECT count(*) FROM blob_part") == 0
        assert await ingest_store.read_part(conn, [ours], secret.blob_id, 0) is None
        assert await conn.execute("DELETE FROM blob WHERE id = $1", secret.blob_id) == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("INSERT INTO blob_part (blob_id, ordinal, bytes) VALUES ($1, 1, 'more')", secret.blob_id)


async def test_naming_a_blob_or_its_sum_does_not_make_its_content_ones_own(reader_pool, ours, secret):
    async with reader_pool.acquire() as conn:
        empty = await intake.store_bytes(conn, pieces(b""))
        other = await intake.store_bytes(conn, pieces(b"x" * secret.file_bytes))
    for blob_id in (secret.blob_id, empty.blob_id, other.blob_id):
        async with scoped(reader_pool, ours) as conn:
            document_id = await conn.fetchval(
                "INSERT INTO document (collection_id, source_uri) VALUES ($1, 'upload:x') RETURNING id", ours
            )
            with pytest.raises(
                (asyncpg.ForeignKeyViolationError, asyncpg.DataError), match=r"unfinished blob|the stored parts|differ"
            ):
                await conn.fetchval(ADD_VERSION, ours, document_id, blob_id, secret.sha256, secret.file_bytes)


async def test_bytes_that_are_still_arriving_can_be_read_by_nobody(reader_pool, ours):
    stored = await intake.store_bytes(reader_pool, pieces(b"half"))
    async with scoped(reader_pool, ours) as conn:
        assert await conn.fetchval("SELECT count(*) FROM blob_part WHERE blob_id = $1", stored.blob_id) == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("INSERT INTO blob (sha256, file_bytes) VALUES (sha256('x'), 1)")


async def test_upload_of_what_another_collection_holds_is_that_content(reader_pool, pool, ours, secret):
    stored = await intake.store_bytes(reader_pool, pieces(b"their secret"))
    taken = await intake.add_version(reader_pool, ours, "upload:mine.md", stored)
    assert await pool.fetchval("SELECT blob_id FROM document_version WHERE id = $1", taken.version_id) == secret.blob_id
    assert await pool.fetchval("SELECT count(*) FROM blob") == 1
    async with scoped(reader_pool, ours) as conn:
        assert await ingest_store.read_part(conn, [ours], secret.blob_id, 0) == b"their secret"


async def test_bytes_under_a_false_sum_are_not_taken_for_anybody(pool, ours):
    """Else who stores rubbish under the sum of a file would put it into everybody's next upload of that file."""
    await arrive(pool, "true bytes", collection="ours")
    await pool.execute("UPDATE blob_part SET bytes = 'rubbish!!!'")
    stored = await intake.store_bytes(pool, pieces(b"true bytes"))
    with pytest.raises(asyncpg.DataError):
        await intake.add_version(pool, ours, "inbox:other.md", stored)


async def test_size_of_stored_bytes_has_to_be_theirs(pool, ours):
    stored = await intake.store_bytes(pool, pieces(b"four"))
    with pytest.raises(asyncpg.DataError):
        await intake.add_version(pool, ours, "inbox:a.md", StoredBytes(stored.blob_id, stored.sha256, 5))


async def test_progress_is_told_inside_the_scope_only(reader_pool, pool, ours, theirs):
    key = await stage_version(pool, ["one"], collection="theirs")
    await pool.execute(
        "INSERT INTO embedding (model_id, text_hash, vector)"
        " SELECT 1, text_hash, array_fill(0.25::real, ARRAY[16])::real[]::halfvec FROM staged_chunk"
    )
    for scope, told in ((theirs, [1]), (ours, [])):
        async with scoped(reader_pool, scope) as conn:
            rows = await conn.fetch("SELECT embedded FROM version_progress($1, 100)", [key.version_id])
            assert [row["embedded"] for row in rows] == told


async def test_a_swept_upload_has_to_be_sent_again(reader_pool, pool, ours):
    stored = await intake.store_bytes(reader_pool, pieces(b"slow"))
    await pool.execute("DELETE FROM blob")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await intake.add_version(reader_pool, ours, "upload:a.md", stored)
    assert await pool.fetchval("SELECT count(*) FROM document") == 0


async def test_large_files_are_given_the_time_that_their_bytes_take(pool, ours, monkeypatch):
    """A gibibyte that is known already is compared for longer than any other statement may take."""
    monkeypatch.setattr(intake, "COMMAND_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(intake, "STORED_BYTES_PER_SECOND_MIN", 0.5)
    patience: list[float] = []
    patience_seconds = intake._patience_seconds

    def noted(file_bytes: int) -> float:
        patience.append(patience_seconds(file_bytes))
        return patience[-1]

    monkeypatch.setattr(intake, "_patience_seconds", noted)
    stored = await intake.store_bytes(pool, pieces(b"x" * 600))
    await intake.add_version(pool, ours, "upload:a.md", stored)
    for name, arrival in (("upload:a.md", "unchanged"), ("upload:b.md", "new_version")):
        again = await intake.store_bytes(pool, pieces(b"x" * 600))
        assert (await intake.add_version(pool, ours, name, again)).arrival == arrival
    await intake.discard_bytes(pool, await intake.store_bytes(pool, pieces(b"y" * 600)))
    assert patience == [1200.0] * 4
