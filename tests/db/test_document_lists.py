"""One document is a list of one, and a list reads only its page of a large collection."""

import json

import pytest

from services.query import store
from services.query.store import STATEMENTS
from tests.factories import make_collection, publish_version

DOCUMENTS = 20_000


@pytest.fixture
async def scope(pool, owner) -> list[int]:
    ids = [(await make_collection(pool, name))[0] for name in ("ours", "theirs")]
    await owner.execute("INSERT INTO blob (sha256, file_bytes) VALUES (sha256('x'), 1)")
    await owner.execute(
        "WITH d AS (INSERT INTO document (collection_id, source_uri)"
        " SELECT ($1::integer[])[1 + n % 2], 'upload:' || n FROM generate_series(1, $2::integer) AS n RETURNING collection_id, id)"
        " INSERT INTO document_version (collection_id, document_id, blob_id) SELECT collection_id, id, (SELECT id FROM blob) FROM d",
        ids,
        DOCUMENTS,
    )
    await owner.execute("ANALYZE")
    return ids


@pytest.mark.parametrize(("after_id", "last_id", "limit"), [(9_999, 10_000, 1), (9_999, store.DOCUMENT_ID_MAX, 50)])
async def test_page_reads_no_more_than_its_documents(reader_pool, scope, after_id, last_id, limit):
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, scope)
        arguments = (scope, None, None, after_id, last_id, limit)
        text = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {STATEMENTS['list_documents']}", *arguments)
    plans, documents = [json.loads(text)[0]["Plan"]], []
    while plans:
        plan = plans.pop()
        plans += plan.get("Plans", [])
        if plan.get("Relation Name") == "document":
            documents.append(plan)
    (scan,) = documents
    read = (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
    assert read <= 2 * limit, scan


async def test_document_of_another_collection_is_not_found_and_the_next_one_is_not_taken_for_it(pool, reader_pool):
    theirs = await publish_version(pool, ["A."], source_uri="inbox:a.md", collection="theirs")
    ours = await publish_version(pool, ["B."], source_uri="inbox:b.md", collection="ours")
    first = await pool.fetchval("SELECT document_id FROM document_version WHERE id = $1", theirs.version_id)
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [ours.collection_id])
        assert await store.get_document(conn, [ours.collection_id], first) is None
        found = await store.get_document(conn, [ours.collection_id], first + 1)
        assert found is not None
        assert found.source_uri == "inbox:b.md"
