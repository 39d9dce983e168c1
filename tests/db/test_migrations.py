"""Migrations: up and down and up, together, after a kill, by an ordinary login, and never edited."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
import yoyo

from shared import intake, migrations
from shared.database import connect, open_pool
from shared.embedded import start_embedded_server
from shared.errors import ConfigError
from shared.migrations import migrate, migrations_folder
from tests.conftest import database_url
from tests.db.clones import clone

# The bookkeeping of yoyo and ours stays when everything is rolled back.
CATALOGUE = """
SELECT 'column' AS kind, table_name || '.' || column_name AS name,
  concat_ws(' ', data_type, udt_name, is_nullable, column_default, is_identity, identity_generation) AS definition
FROM information_schema.columns WHERE table_schema = 'askbox'
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'askbox'::regnamespace
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'askbox'
UNION ALL
SELECT 'policy', tablename || '.' || policyname, concat_ws(' ', cmd, permissive, roles::text, qual, with_check)
FROM pg_policies WHERE schemaname = 'askbox'
UNION ALL
SELECT 'relation', relname, concat_ws(' ', relkind, relrowsecurity, relforcerowsecurity, relowner::regrole, reloptions::text,
  (SELECT string_agg(item::text, ',' ORDER BY item::text) FROM unnest(relacl) AS item))
FROM pg_class WHERE relnamespace = 'askbox'::regnamespace AND relkind IN ('r', 'S', 'v')
UNION ALL
SELECT 'column access', attrelid::regclass || '.' || attname, concat_ws(' ', attacl, attstorage)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'askbox'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'function', oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(oid), proowner::regrole,
  (SELECT string_agg(item::text, ',' ORDER BY item::text) FROM unnest(proacl) AS item))
FROM pg_proc WHERE pronamespace = 'askbox'::regnamespace AND prokind = 'f'
  AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e')
UNION ALL
SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(pg_trigger.oid)
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE relnamespace = 'askbox'::regnamespace AND NOT tgisinternal
UNION ALL
SELECT 'extension', extname, extnamespace::regnamespace::text FROM pg_extension
UNION ALL
SELECT 'schema', nspname, (SELECT string_agg(item::text, ',' ORDER BY item::text) FROM unnest(nspacl) AS item)
FROM pg_namespace WHERE nspname = 'askbox'
"""
IDS = [path.stem for path in sorted(migrations_folder().glob("*.sql")) if not path.stem.endswith(".rollback")]


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """An empty database."""
    async with clone(server_url, "test_migrations") as url:
        yield url


@pytest.fixture(scope="module")
def fresh_server_url() -> Iterator[str]:
    """A server on which nobody ever migrated anything: roles are cluster-wide."""
    home = Path(tempfile.mkdtemp(prefix="askbox-test-"))
    home.chmod(0o755)
    server, url = start_embedded_server(home, extra_configuration="fsync = off\nshared_buffers = '16MB'\n")
    yield url
    server.cleanup()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may edit."""
    return shutil.copytree(migrations_folder(), tmp_path / "sql", ignore=shutil.ignore_patterns("__pycache__"))


async def catalogue(url: str) -> set[tuple[str, str, str | None]]:
    connection = await asyncpg.connect(url)
    try:
        return {tuple(row) for row in await connection.fetch(CATALOGUE)}
    finally:
        await connection.close()


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetchval(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def roll_everything_back(url: str) -> None:
    backend = yoyo.get_backend(migrations._yoyo_url(url))
    try:
        with backend.lock():
            backend.rollback_migrations(backend.to_rollback(yoyo.read_migrations(str(migrations_folder()))))
    finally:
        backend.connection.close()


async def test_up_down_and_up_again_make_the_same_schema(empty_url: str):
    assert await asyncio.to_thread(migrate, empty_url) == IDS
    first = await catalogue(empty_url)
    assert {kind for kind, _, _ in first} >= {"column", "constraint", "index", "policy", "function", "trigger"}

    await asyncio.to_thread(roll_everything_back, empty_url)
    left = {name for kind, name, _ in await catalogue(empty_url) if kind in ("relation", "function", "policy")}
    assert {name for name in left if "yoyo" not in name} == {"applied_migration"}
    assert await fetchval(empty_url, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 0

    assert await asyncio.to_thread(migrate, empty_url) == IDS
    assert await catalogue(empty_url) == first


async def test_last_migration_rolled_back_leaves_the_schema_of_before(empty_url: str, folder: Path):
    *_, last = IDS
    (folder / f"{last}.sql").unlink()
    await asyncio.to_thread(migrate, empty_url, folder)
    before = await catalogue(empty_url)
    assert await asyncio.to_thread(migrate, empty_url) == [last]
    assert await catalogue(empty_url) != before
    await execute(empty_url, "SET search_path = askbox, public", (folder / f"{last}.rollback.sql").read_text())
    assert await catalogue(empty_url) == before


async def test_migrating_again_applies_nothing(url: str):
    before = await catalogue(url)
    assert await asyncio.to_thread(migrate, url) == []
    assert await catalogue(url) == before


async def test_what_was_published_before_places_were_known_stays_valid(empty_url: str, folder: Path):
    for path in folder.glob("*.sql"):
        if path.stem[:4] > "0013":
            path.unlink()
    await asyncio.to_thread(migrate, empty_url, folder)
    await execute(
        empty_url,
        "SET search_path = askbox, public;"
        "INSERT INTO embedding_model (name, dimension) VALUES ('m', 2);"
        "INSERT INTO collection (name, embedding_model_id) VALUES ('default', 1);"
        "INSERT INTO blob (sha256, file_bytes) VALUES (sha256('x'), 1);"
        "INSERT INTO document (collection_id, source_uri) VALUES (1, 'inbox:a.pdf');"
        "INSERT INTO document_version (collection_id, document_id, blob_id, state, chunk_count, token_count, ready_at, ended_at)"
        " VALUES (1, 1, 1, 'ready', 1, 1, now(), now());"
        "INSERT INTO chunk (collection_id, document_id, chunk_hash, text_hash, text, prefix, heading, language, token_count,"
        " tsv, lexeme_count) VALUES (1, 1, 'h', sha256('x'), 'x', '', '', 'simple', 1, '', 0);"
        "INSERT INTO chunk_position VALUES (1, 1, 0, 1, 12, 0, 1);",
    )
    await asyncio.to_thread(migrate, empty_url)
    placed = (
        "SELECT (p.page, p.page_label, p.page_turns, p.lines, v.page_unit, v.line_unit)::text FROM askbox.chunk_position AS p"
        " JOIN askbox.document_version AS v ON v.id = p.version_id"
    )
    assert await fetchval(empty_url, placed) == "(12,,,{},page,line)"


async def test_processes_that_start_together_migrate_once(empty_url: str):
    with ThreadPoolExecutor(max_workers=4) as threads:
        applied = list(threads.map(migrate, [empty_url] * 4))
    assert sorted(len(ids) for ids in applied) == [0, 0, 0, len(IDS)]
    assert await fetchval(empty_url, "SELECT count(*) FROM askbox.applied_migration") == len(IDS)


async def test_databases_of_one_cluster_are_migrated_together(server_url: str):
    async with clone(server_url, "test_together_1") as first, clone(server_url, "test_together_2") as second:
        with ThreadPoolExecutor(max_workers=2) as threads:
            assert list(threads.map(migrate, [first, second])) == [IDS, IDS]


async def test_edited_migration_is_refused_by_name(url: str, folder: Path):
    edited = folder / "0004_queue.sql"
    edited.write_text(edited.read_text() + "-- and one more thing\n")
    before = await catalogue(url)
    with pytest.raises(ConfigError, match="migration 0004_queue was edited after it was applied: restore it"):
        await asyncio.to_thread(migrate, url, folder)
    assert await catalogue(url) == before


async def test_database_of_a_newer_version_is_refused_by_name(url: str, folder: Path):
    (folder / "0006_lexical.sql").unlink()
    with pytest.raises(ConfigError, match="migrated by a newer askbox: 0006_lexical is not known here"):
        await asyncio.to_thread(migrate, url, folder)


async def test_new_migration_is_applied_alone(url: str, folder: Path):
    (folder / "0099_more.sql").write_text("-- depends: 0006_lexical\nCREATE TABLE askbox.more (id integer);\n")
    assert await asyncio.to_thread(migrate, url, folder) == ["0099_more"]
    assert await fetchval(url, "SELECT to_regclass('askbox.more') IS NOT NULL") is True


async def test_failed_migration_leaves_nothing_and_is_tried_again(url: str, folder: Path):
    new = folder / "0099_more.sql"
    new.write_text("-- depends: 0006_lexical\nCREATE TABLE askbox.more (id integer);\nSELECT 1 / 0;\n")
    before = await catalogue(url)
    with pytest.raises(ConfigError, match="a migration failed and was rolled back: division by zero"):
        await asyncio.to_thread(migrate, url, folder)
    assert await catalogue(url) == before
    new.write_text("-- depends: 0006_lexical\nCREATE TABLE askbox.more (id integer);\n")
    assert await asyncio.to_thread(migrate, url, folder) == ["0099_more"]


async def test_lock_row_of_a_killed_process_does_not_block(url: str, folder: Path):
    await execute(url, "INSERT INTO askbox.yoyo_lock (locked, ctime, pid) VALUES (1, now() AT TIME ZONE 'UTC', 999999)")
    (folder / "0099_more.sql").write_text("-- depends: 0006_lexical\nCREATE TABLE askbox.more (id integer);\n")
    assert await asyncio.to_thread(migrate, url, folder) == ["0099_more"]
    assert await fetchval(url, "SELECT count(*) FROM askbox.yoyo_lock") == 0


async def test_unreachable_database_is_a_config_error_without_the_password():
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9/askbox cannot be reached") as caught:
        await asyncio.to_thread(migrate, "postgresql://me:secret@127.0.0.1:9/askbox")
    assert "secret" not in str(caught.value)


async def use_as_an_ordinary_login(url: str) -> None:
    """Open both pools with a login and let each do a little of its work."""
    assert await fetchval(url, "SELECT rolsuper FROM pg_roles WHERE rolname = session_user") is False
    async with (
        open_pool(url, "askbox_worker", "test worker", connections_max=2) as workers,
        open_pool(url, "askbox_reader", "test reader", connections_max=2) as readers,
    ):
        model_id = await intake.ensure_model(workers, "test-model", 3)
        await intake.ensure_collection(workers, "default", model_id)
        assert await readers.fetchval("SELECT name FROM collection") == "default"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await readers.execute("DELETE FROM chunk")


async def test_ordinary_database_owner_migrates_and_works(fresh_server_url: str):
    await execute(
        fresh_server_url,
        "CREATE ROLE ordinary LOGIN CREATEROLE NOSUPERUSER",
        "CREATE DATABASE ordinary OWNER ordinary",
    )
    url = database_url(fresh_server_url, "ordinary").replace("postgres:@", "ordinary:@")
    with pytest.raises(
        ConfigError, match="An administrator has to run once, in this database: CREATE EXTENSION vector"
    ):
        await asyncio.to_thread(migrate, url)
    await execute(database_url(fresh_server_url, "ordinary"), "CREATE EXTENSION vector")
    assert await asyncio.to_thread(migrate, url) == IDS
    assert await asyncio.to_thread(migrate, url) == []
    await use_as_an_ordinary_login(url)


async def test_login_without_createrole_uses_the_roles_that_an_administrator_made(server_url: str, template: str):
    async with clone(server_url, "test_plain_login") as url:
        await execute(
            url,
            "CREATE EXTENSION vector",
            "CREATE ROLE plain LOGIN NOSUPERUSER NOCREATEROLE",
            "GRANT askbox_owner, askbox_worker, askbox_reader TO plain WITH INHERIT FALSE, SET TRUE",
            "ALTER DATABASE test_plain_login OWNER TO plain",
        )
        try:
            plain_url = url.replace("postgres:@", "plain:@")
            assert await asyncio.to_thread(migrate, plain_url) == IDS
            await use_as_an_ordinary_login(plain_url)
            await asyncio.to_thread(roll_everything_back, plain_url)
            # What the administrator installed stays.
            assert await fetchval(url, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 1
        finally:
            await execute(url, "DROP OWNED BY plain CASCADE", "ALTER DATABASE test_plain_login OWNER TO postgres")
            await execute(url, "DROP ROLE plain")


async def test_login_without_the_role_is_told_to_migrate(url: str):
    await execute(url, "CREATE ROLE stranger LOGIN NOSUPERUSER")
    try:
        with pytest.raises(ConfigError, match="has no role askbox_worker for this login: run `askbox migrate` first"):
            await connect(url.replace("postgres:@", "stranger:@"), "askbox_worker", "test")
    finally:
        await execute(url, "DROP ROLE stranger")


async def test_migration_waits_for_another_one(empty_url):
    """Two that begin together are a race that is lost now and then only; that the second waits is seen each time."""
    holder = await asyncpg.connect(empty_url)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", migrations._ADVISORY_LOCK)
        migrating = asyncio.create_task(asyncio.to_thread(migrate, empty_url))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        is_waiting = False
        while not migrating.done() and not is_waiting:
            is_waiting = await holder.fetchval(waiting) > 0
        assert is_waiting
        await holder.execute("SELECT pg_advisory_unlock($1)", migrations._ADVISORY_LOCK)
        assert await migrating == IDS
    finally:
        await holder.close()
