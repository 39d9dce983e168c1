"""What became of a request: state by state, page by page, until it is forgotten."""

import uuid

import pytest

from shared import intake
from tests.api.test_http import is_problem
from tests.api.test_ingest import send
from tests.factories import arrive, make_collection, publish_version, stage_version


@pytest.fixture
async def collection_id(pool) -> int:
    return (await make_collection(pool))[0]


async def test_job_tells_how_far_each_document_is(client, pool, collection_id):
    await publish_version(pool, ["known text"], source_uri="inbox:known.md")
    response = await send(client, ("a.md", b"one"), ("b.md", b"two"))
    job_id = response.json()["job_id"]
    key = await stage_version(pool, ["known text", "new text"], source_uri="upload:c.md", is_asked=False)
    await pool.execute(
        "INSERT INTO ingest_request_document (request_id, collection_id, document_id, version_id, file_path)"
        " SELECT $1, collection_id, document_id, id, 'c.md' FROM document_version WHERE id = $2",
        uuid.UUID(job_id),
        key.version_id,
    )
    job = (await client.get(f"/ingest/jobs/{job_id}", params={"limit": 2})).json()
    assert (job["status"], job["has_more"], job["states"]) == ("processing", True, {"queued": 2, "embedding": 1})
    rest = (await client.get(f"/ingest/jobs/{job_id}", params={"after": job["next_after"]})).json()
    (document,) = rest["documents"]
    assert (document["file_path"], document["state"], document["chunks"], document["embedded"]) == (
        "c.md",
        "embedding",
        2,
        1,
    )
    assert is_problem(await client.get(f"/ingest/jobs/{uuid.uuid4()}"), 404)
    assert is_problem(await client.get("/ingest/jobs/x"), 422)


async def test_job_is_ready_when_all_are_and_tells_of_deleted_ones(client, pool, collection_id):
    response = await send(client, ("a.md", b"text\nupload:a.md"), ("b.md", b"other"))
    job = f"/ingest/jobs/{response.json()['job_id']}"
    assert (await client.delete(f"/documents/{response.json()['documents'][1]['document_id']}")).status_code == 204
    await publish_version(pool, ["text of a newer version"], source_uri="upload:a.md")
    await arrive(pool, "bytes that came later", source_uri="upload:a.md")
    answer = (await client.get(job)).json()
    assert (answer["status"], answer["states"]) == ("ready", {"ready": 1, "deleted": 1})
    ready = answer["documents"][0]
    assert (ready["chunks"], ready["embedded"]) == (1, 1)


async def test_old_requests_are_forgotten_but_not_one_whose_scan_waits(client, pool, collection_id):
    await send(client, ("a.md", b"1"))
    await pool.execute("INSERT INTO ingest_request (collection_id, directory) VALUES ($1, '/data')", collection_id)
    await pool.execute(
        "INSERT INTO job (stage, subject_id, collection_id) SELECT 'scan', max(number), $1 FROM ingest_request",
        collection_id,
    )
    await pool.execute("UPDATE ingest_request SET created_at = now() - interval '31 days'")
    await intake.sweep_storage(pool)
    assert await pool.fetchval("SELECT array_agg(directory) FROM ingest_request") == ["/data"]
    assert await pool.fetchval("SELECT count(*) FROM document") == 1
