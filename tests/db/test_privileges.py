"""What the database lets the query process do, whatever its statements say."""

import pytest

# Their rows belong to a key or to nobody; what the reader may see of them is chosen by its statements.
WITHOUT_WALLS = {"key_grant", "token_usage", "token_sum"}


async def test_every_function_that_runs_as_its_owner_has_its_own_path_and_is_nobodys_by_default(owner):
    rows = await owner.fetch(
        "SELECT p.proname, p.proconfig, has_function_privilege('public', p.oid, 'EXECUTE') AS is_public "
        "FROM pg_proc AS p WHERE p.pronamespace = 'askbox'::regnamespace AND p.prosecdef"
    )
    assert {row["proname"] for row in rows} >= {"term_hits", "add_version", "retry_document", "version_progress"}
    for row in rows:
        assert "search_path=askbox, pg_temp" in (row["proconfig"] or []), row["proname"]
        assert not row["is_public"], row["proname"]


async def test_every_function_that_the_reader_runs_as_the_owner_looks_at_the_scope(owner):
    rows = await owner.fetch(
        "SELECT p.proname, p.prosrc FROM pg_proc AS p WHERE p.pronamespace = 'askbox'::regnamespace AND p.prosecdef "
        "AND has_function_privilege('askbox_reader', p.oid, 'EXECUTE')"
    )
    assert rows
    assert [row["proname"] for row in rows if "ANY (scope())" not in row["prosrc"]] == []


async def test_every_table_of_collections_has_walls_that_hold_for_its_owner_too(owner):
    rows = await owner.fetch(
        "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = 'askbox'::regnamespace AND c.relkind = 'r' AND a.attname = 'collection_id' "
        "AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
    )
    assert {row["relname"] for row in rows} <= WITHOUT_WALLS


@pytest.mark.parametrize("table", ["api_key", "key_grant", "embedding_model", "lease", "metric_total"])
async def test_the_reader_changes_neither_keys_nor_leases(owner, table):
    for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        assert not await owner.fetchval("SELECT has_table_privilege('askbox_reader', $1, $2)", f"askbox.{table}", right)


async def test_nobody_makes_anything_in_the_schema_but_its_owner(owner):
    for role in ("askbox_reader", "askbox_worker", "public"):
        assert not await owner.fetchval("SELECT has_schema_privilege($1, 'askbox', 'CREATE')", role)
