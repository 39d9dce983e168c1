"""Questions asked of some documents only, and questions that wait for files sent before them."""

import asyncio
import re
import uuid

import pytest
from pgvector import HalfVector

from services.query import wait
from services.query.filters import Filters, retrieve_filtered
from services.query.fusion import Candidate
from services.query.retrieve import snapshot
from services.query.store import CollectionRow
from services.query.wait import Awaited, wait_for
from shared.errors import NotFound
from tests.factories import make_collection, publish_version, vector_of
from tests.waiting import SECONDS_MAX

OLD = "The nightly backup runs at two in the morning."
NEW = "The nightly backup runs at three in the morning."
QUESTION = "when does the nightly backup run"


@pytest.fixture
async def shelf(pool) -> dict[str, int]:
    """Three documents about the same: their ids by path."""
    for path, text in {
        "old/plan.md": OLD,
        "new/plan.md": NEW,
        "new/100%_plan.md": "The nightly backup is off.",
    }.items():
        await publish_version(pool, [text, f"Nothing else is said in {path}."], source_uri=f"inbox:{path}")
    rows = await pool.fetch("SELECT substr(source_uri, 7) AS path, id FROM document")
    return {row["path"]: row["id"] for row in rows}


async def asked(client, route: str = "/query", **body) -> dict:
    response = await client.post(route, json={"question": QUESTION, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def paths(client, **given) -> set[str]:
    return {hit["file_path"] for hit in (await asked(client, "/search", filters=given))["data"]}


async def test_only_documents_that_the_filters_leave_are_asked(client, shelf):
    assert await paths(client) == set(shelf)
    assert await paths(client, path_prefix="new/") == {"new/plan.md", "new/100%_plan.md"}
    assert await paths(client, path_prefix="new/100%_") == {"new/100%_plan.md"}
    assert await paths(client, path_prefix="new/%") == set(), "no sign in it means anything"
    assert await paths(client, document_ids=[shelf["old/plan.md"], 10**15]) == {"old/plan.md"}
    assert await paths(client, document_ids=[shelf["old/plan.md"]], path_prefix="new/") == set()
    assert await paths(client, document_ids=[]) == set()
    assert await paths(client, path_prefix="new/\x00") == set()


async def test_answer_quotes_only_what_the_filters_leave(client, shelf):
    assert (await asked(client, filters={"path_prefix": "new/plan"}))["sources"][0]["quote"] == NEW
    assert (await asked(client, filters={"document_ids": [shelf["old/plan.md"]]}))["sources"][0]["quote"] == OLD
    none = await asked(client, filters={"path_prefix": "absent/"})
    assert not none["answered"]
    assert none["sources"] == []


async def test_filters_open_no_other_collection(client, pool, shelf):
    await publish_version(pool, ["A secret of the other house."], collection="other", source_uri="inbox:other/s.md")
    secret = await pool.fetchval("SELECT id FROM document WHERE source_uri = 'inbox:other/s.md'")
    found = await asked(client, "/search", collection="default", filters={"document_ids": [secret]})
    assert found["data"] == []


@pytest.mark.parametrize(
    "given",
    [
        {"path": "new/"},
        {"path_prefix": ""},
        {"document_ids": [0]},
        {"document_ids": [2**63]},
        {"document_ids": list(range(1, 1002))},
        [],
    ],
)
async def test_bad_filters_are_refused(client, given):
    response = await client.post("/query", json={"question": QUESTION, "filters": given})
    assert response.status_code == 422
    assert "filters" in response.json()["detail"]


async def test_few_documents_are_ranked_exactly_beside_many(reader_pool, pool):
    """The wanted chunks are neither among the nearest nor among the best by words of the whole collection."""
    for number in range(8):
        crowd = [f"backup backup of the nightly crowd {number} {n}" for n in range(10)]
        await publish_version(pool, crowd, source_uri=f"inbox:crowd/{number}.md")
    await publish_version(pool, ["one backup far off", "nothing of the kind"], source_uri="inbox:few.md")
    collection_id, model_id = await make_collection(pool)
    vector = HalfVector(vector_of("backup backup of the nightly crowd 3 3"))

    async def find(prefix: str) -> list[Candidate]:
        collection = CollectionRow(collection_id, "default", model_id)
        async with snapshot(reader_pool, [collection_id]) as conn:
            return await retrieve_filtered(
                conn,
                [collection_id],
                collection,
                "nightly backup",
                vector,
                Filters(path_prefix=prefix),
                arm_limit=2,
                scored_limit=5,
            )

    few = sorted(await find("few"), key=lambda candidate: -candidate.bm25)
    assert [(candidate.bm25 > 0, candidate.is_lexical_hit) for candidate in few] == [(True, True), (False, False)]
    crowd = await find("crowd/")
    assert 2 <= len(crowd) <= 4
    assert max(candidate.cosine for candidate in crowd) == pytest.approx(1, abs=0.01), "the nearest of more than 5"


async def send(client, content: bytes) -> str:
    response = await client.post("/ingest/files", files={"file": ("plan.md", content)})
    assert response.status_code == 202, response.text
    return response.json()["job_id"]


@pytest.fixture
def looks(monkeypatch) -> asyncio.Event:
    """Set when a question has looked for its files."""
    seen = asyncio.Event()
    look = wait._has_ended

    async def noted(pool, awaited):
        has_ended = await look(pool, awaited)
        seen.set()
        return has_ended

    monkeypatch.setattr(wait, "_has_ended", noted)
    return seen


async def end_uploads(pool) -> None:
    """Let every version end, as workers do."""
    await pool.execute("DELETE FROM job")
    await pool.execute("UPDATE document_version SET state = 'failed', error = 'x', error_code = 'x', ended_at = now()")


@pytest.mark.parametrize("route", ["/query", "/query/stream", "/search"])
async def test_question_waits_until_its_files_have_ended(client, pool, looks, route):
    await make_collection(pool)
    job_id = await send(client, b"# Plan\n\nThe nightly backup runs at noon.\n")
    asking = asyncio.create_task(client.post(route, json={"question": QUESTION, "wait_for": job_id}))
    await asyncio.wait_for(looks.wait(), SECONDS_MAX)
    assert not asking.done()
    await end_uploads(pool)
    response = await asyncio.wait_for(asking, SECONDS_MAX)
    assert response.status_code == 200
    assert re.search(r'"pending": ?0', response.text)


async def test_waiting_ends_though_the_files_have_not(client, pool, reader_pool):
    collection_id, _ = await make_collection(pool)
    awaited = Awaited(uuid.UUID(await send(client, b"never read")), [collection_id])
    assert not await wait_for(reader_pool, awaited, seconds_max=0.2)
    await end_uploads(pool)
    assert await wait_for(reader_pool, awaited, seconds_max=0.2)


async def test_job_of_nobody_or_of_others_cannot_be_waited_for(client, pool, reader_pool):
    collection_id, _ = await make_collection(pool)
    job_id = await send(client, b"note")
    for route in ("/query", "/query/stream", "/search"):
        response = await client.post(route, json={"question": QUESTION, "wait_for": str(uuid.uuid4())})
        assert response.status_code == 404, "before the first event, so an ordinary problem"
    with pytest.raises(NotFound):
        await wait_for(reader_pool, Awaited(uuid.UUID(job_id), [collection_id + 1]))
    response = await client.post("/query", json={"question": QUESTION, "wait_for": "job"})
    assert response.status_code == 422


async def test_waiting_holds_neither_a_slot_nor_a_connection(client, pool, looks):
    """Eight questions wait where four are worked on at once over four connections; one that does not wait is answered."""
    await publish_version(pool, [OLD])
    job_id = await send(client, b"not read yet")
    waiting = [
        asyncio.create_task(client.post("/query", json={"question": QUESTION, "wait_for": job_id})) for _ in range(8)
    ]
    await asyncio.wait_for(looks.wait(), SECONDS_MAX)
    assert (await asked(client))["sources"][0]["quote"] == OLD
    assert not any(task.done() for task in waiting)
    await pool.execute("DELETE FROM document_version WHERE state = 'queued'")
    await pool.execute("DELETE FROM ingest_request_document")
    assert {(await asyncio.wait_for(task, SECONDS_MAX)).status_code for task in waiting} == {200}
