"""Folders that an ingester is asked to read."""

import pytest

from tests.api.conftest import serving
from tests.api.test_http import is_problem
from tests.factories import make_collection


@pytest.fixture
async def collection_id(pool) -> int:
    return (await make_collection(pool))[0]


async def test_folder_is_asked_of_an_ingester(reader_pool, pool, collection_id):
    async with serving(reader_pool, ingest_roots="/data:/srv/papers") as client:
        response = await client.post("/ingest/directory", json={"path": "/data/team//notes/", "recursive": False})
        assert response.status_code == 202
        body = response.json()
        assert (body["status"], body["documents"]) == ("processing", [])
        request = await pool.fetchrow("SELECT id, number, directory, is_recursive FROM ingest_request")
        assert (str(request["id"]), request["directory"], request["is_recursive"]) == (
            body["job_id"], "/data/team/notes", False
        )  # fmt: skip
        job = await pool.fetchrow("SELECT stage, subject_id, collection_id, traceparent IS NOT NULL AS traced FROM job")
        assert tuple(job) == ("scan", request["number"], collection_id, True)
        told = (await client.get(f"/ingest/jobs/{body['job_id']}")).json()
        assert (told["status"], told["directory"]) == ("processing", "/data/team/notes")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"path": "/data"}, 202),
        ({"path": "/database"}, 403),
        ({"path": "/etc"}, 403),
        ({"path": "/data/../etc"}, 400),
        ({"path": "data"}, 400),
        ({"path": "/data/\x00"}, 400),
        ({"path": ""}, 422),
        ({"path": "/data", "other": 1}, 422),
        ({"path": "/data", "collection": ".x"}, 400),
        ({}, 422),
    ],
)
async def test_folder_outside_the_roots_is_refused(reader_pool, pool, collection_id, body, status):
    async with serving(reader_pool, ingest_roots="/data") as client:
        response = await client.post("/ingest/directory", json=body)
        assert response.status_code == status
        assert await pool.fetchval("SELECT count(*) FROM ingest_request") == (status == 202)


async def test_without_roots_the_variable_is_named(client, pool, collection_id):
    response = await client.post("/ingest/directory", json={"path": "/data"})
    assert is_problem(response, 403)
    assert "ASKBOX_INGEST_ROOTS" in response.json()["detail"]


async def test_waiting_scans_are_bounded(reader_pool, pool, collection_id, monkeypatch):
    monkeypatch.setattr("services.query.routes.ingest.SCANS_WAITING_MAX", 2)
    async with serving(reader_pool, ingest_roots="/data") as client:
        for status in (202, 202, 409):
            assert (await client.post("/ingest/directory", json={"path": "/data"})).status_code == status


async def test_dead_scan_has_failed_before_anybody_has_written_so(reader_pool, pool, collection_id):
    async with serving(reader_pool, ingest_roots="/data") as client:
        job_id = (await client.post("/ingest/directory", json={"path": "/data"})).json()["job_id"]
        await pool.execute(
            "WITH gone AS (DELETE FROM job RETURNING *) INSERT INTO dead_letter"
            " (stage, subject_id, collection_id, attempt, error_code, error, created_at)"
            " SELECT stage, subject_id, collection_id, 5, 'worker_died', 'it died', created_at FROM gone"
        )
        job = (await client.get(f"/ingest/jobs/{job_id}")).json()
        assert (job["status"], job["error"]) == ("failed", "it died")
        assert (await client.delete("/dead-letters")).json()["dropped"] == 0, "nothing else would end the request"
