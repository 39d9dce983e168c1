"""The HTTP interface: what it answers, and what it says of bad requests."""

import re

import pytest

from shared import queue
from tests.factories import arrive, make_collection, publish_version, stage_version

TEXTS = [
    "The nightly backup runs at two in the morning.",
    "Apple trees are cut in February before they bud.",
    "The office opens at nine and closes at five.",
]


def is_problem(response, status: int) -> bool:
    body = response.json()
    return (
        response.status_code == status
        and response.headers["content-type"] == "application/problem+json"
        and body["status"] == status
        and bool(body["detail"])
        and "trace_id" in body
    )


async def test_question_is_answered_with_a_verbatim_citation(client, pool):
    await publish_version(pool, TEXTS)
    answer = (await client.post("/query", json={"question": "when does the nightly backup run"})).json()
    assert answer["answered"], answer["meta"]
    source = answer["sources"][0]
    assert source["quote"] == TEXTS[0]
    assert (source["char_start"], source["char_end"]) == (0, len(TEXTS[0]))
    assert source["index"] == 1
    assert "[1]" in answer["answer"]
    assert answer["meta"]["trace_id"]
    assert answer["meta"]["pending"] == 0


async def test_empty_database_answers_honestly(client):
    answer = (await client.post("/query", json={"question": "anything at all?"})).json()
    assert not answer["answered"]
    assert answer["sources"] == []


async def test_question_without_any_known_word_is_refused(client, pool):
    await publish_version(pool, TEXTS)
    answer = (await client.post("/query", json={"question": "zebra quantum xylophone"})).json()
    assert not answer["answered"]
    assert answer["sources"] == []


async def test_versions_in_work_are_counted_as_pending(client, pool):
    await publish_version(pool, TEXTS)
    await arrive(pool, "not read yet", source_uri="inbox:new.md")
    answer = (await client.post("/query", json={"question": "when does the nightly backup run"})).json()
    assert answer["meta"]["pending"] == 1


async def test_update_in_work_leaves_the_old_answer(client, pool):
    await publish_version(pool, TEXTS)
    await stage_version(pool, ["The nightly backup runs at noon."])
    answer = (await client.post("/query", json={"question": "when does the nightly backup run"})).json()
    assert answer["sources"][0]["quote"] == TEXTS[0]


async def test_collections_are_kept_apart(client, pool):
    await publish_version(pool, ["The red secret is kept here in the red house."], collection="red")
    await publish_version(
        pool, ["The blue secret is kept here in the blue house."], collection="blue", source_uri="inbox:b.md"
    )
    answer = (await client.post("/query", json={"question": "where is the secret kept", "collection": "red"})).json()
    assert {source["collection"] for source in answer["sources"]} == {"red"}
    both = (await client.post("/search", json={"question": "secret", "collections": ["red", "blue"]})).json()
    assert {hit["collection"] for hit in both["data"]} == {"red", "blue"}
    everything = (await client.post("/search", json={"question": "secret"})).json()
    assert len(everything["data"]) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"question": ""}, 422),
        ({"question": "   "}, 400),
        ({"question": "x" * 8001}, 422),
        ({"question": "word " * 100}, 400),  # more tokens than the model reads
        ({"question": 7}, 422),
        ({"question": "x", "top_k": 0}, 422),
        ({"question": "x", "top_k": 51}, 422),
        ({"question": "x", "nonsense": 1}, 422),
        ({"question": "x", "collection": "absent"}, 404),
        ({"question": "x", "collection": "a", "collections": ["b"]}, 400),
    ],
)
async def test_bad_question_gets_a_problem(client, pool, body, status):
    await make_collection(pool)
    assert is_problem(await client.post("/query", json=body), status)


@pytest.mark.parametrize("content", [b"", b"not json", b'{"question": "\\ud800"}', b"\xff\xfe", b"[" * 100_000])
async def test_bad_body_gets_a_problem_and_no_server_error(client, content):
    response = await client.post("/query", content=content, headers={"content-type": "application/json"})
    assert response.status_code < 500


@pytest.mark.parametrize(
    "question", ["a\x00b", "\ud7ff\ue000", "' OR 1=1 --", "a & | ! <-> b:*", "\\", "%s {x} $1", "\u202ereversed"]
)
async def test_strange_question_is_answered_or_refused_never_an_error(client, pool, question):
    await publish_version(pool, TEXTS)
    response = await client.post("/query", json={"question": question})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/documents/999", 404),
        ("DELETE", "/documents/999", 404),
        ("GET", "/documents/0", 404),
        ("GET", f"/documents/{2**70}", 404),
        ("GET", "/documents/x", 422),
        ("GET", "/documents?limit=0", 422),
        ("GET", "/documents?state=wrong", 422),
        ("GET", "/documents?collection=absent", 404),
        ("GET", "/no/such/path", 404),
        ("PUT", "/query", 405),
        ("POST", "/inbox/confirm-deletes", 400),
    ],
)
async def test_bad_request_gets_a_problem(client, method, path, status):
    assert is_problem(await client.request(method, path), status)


async def test_documents_are_listed_by_pages(client, pool):
    for number in range(5):
        await publish_version(pool, [f"text {number}"], source_uri=f"inbox:{number}.md")
    first = (await client.get("/documents", params={"limit": 3})).json()
    assert [document["file_path"] for document in first["data"]] == ["0.md", "1.md", "2.md"]
    assert first["has_more"]
    second = (await client.get("/documents", params={"limit": 3, "after": first["data"][-1]["id"]})).json()
    assert [document["file_path"] for document in second["data"]] == ["3.md", "4.md"]
    assert not second["has_more"]


async def test_document_shows_its_newest_state_and_whether_it_answers(client, pool, owner):
    await publish_version(pool, ["good text"])
    await arrive(pool, "newer bytes")
    (document,) = (await client.get("/documents")).json()["data"]
    assert document["state"] == "queued"
    assert document["searchable"]
    assert document["chunks"] == 1
    one = (await client.get(f"/documents/{document['id']}")).json()
    assert one == document


async def test_deleted_document_is_gone_and_remembered(client, pool, owner):
    await publish_version(pool, TEXTS)
    (document,) = (await client.get("/documents")).json()["data"]
    assert (await client.delete(f"/documents/{document['id']}")).status_code == 204
    assert (await client.get("/documents")).json()["data"] == []
    assert await owner.fetchval("SELECT count(*) FROM chunk_vector") == 0
    assert await owner.fetchval("SELECT count(*) FROM tombstone") == 1
    answer = (await client.post("/query", json={"question": "when does the nightly backup run"})).json()
    assert not answer["answered"]


async def test_stats_count_what_waits(client, pool):
    await publish_version(pool, TEXTS)
    await stage_version(pool, ["one", "two"], source_uri="inbox:two.md")
    stats = (await client.get("/ingest/stats")).json()
    assert stats["documents"] == {"ready": 1, "embedding": 1}
    assert stats["pending_documents"] == 1
    assert stats["pending_embeddings"] == 2
    assert stats["chunks"] == 3
    assert stats["dead_letters"] == 0
    assert stats["oldest_pending_seconds"] >= 0


async def test_health_names_what_is_missing_and_recovers(client, pool):
    response = await client.get("/health")
    assert response.status_code == 503
    checks = response.json()["checks"]
    assert checks["database"]["ok"]
    assert not checks["ingester"]["ok"]
    assert "start one" in checks["embedder"]["reason"]
    for kind in ("ingester", "embedder"):
        worker_id = await queue.register_worker(pool, kind=kind, host="here", pid=1)
        await queue.touch_worker(pool, worker_id, is_listening=True, note=None)
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


async def test_health_tells_how_many_files_wait_to_be_taken_and_is_well(client, pool):
    for number, kind in enumerate(("ingester", "ingester", "embedder")):
        worker_id = await queue.register_worker(pool, kind=kind, host="here", pid=number)
        count = 700 + number if kind == "ingester" else 0
        await queue.touch_worker(pool, worker_id, is_listening=True, note=None, waiting_file_count=count)
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["checks"]["inbox"] == {"ok": True, "waiting_files": 701}  # both see the same folder
    assert "\naskbox_inbox_waiting_files 701.0" in (await client.get("/metrics")).text


async def test_health_shows_a_deaf_listener(client, pool):
    for kind in ("ingester", "embedder"):
        worker_id = await queue.register_worker(pool, kind=kind, host="here", pid=1)
        await queue.touch_worker(pool, worker_id, is_listening=kind == "ingester", note=None)
    response = await client.get("/health")
    assert response.status_code == 503
    assert "embedder" in response.json()["checks"]["listener"]["reason"]


async def test_ready_and_live(client):
    assert (await client.get("/ready")).json() == {"status": "ready"}
    assert (await client.get("/live")).json() == {"status": "live"}


async def test_request_under_another_host_name_is_refused(client):
    response = await client.get("/documents", headers={"host": "evil.example"})
    assert response.status_code == 400


async def test_database_that_is_gone_is_told_as_worth_asking_again(client, reader_pool):
    await reader_pool.close()
    response = await client.post("/query", json={"question": "anything"})
    assert is_problem(response, 503)
    assert int(response.headers["retry-after"]) >= 1


async def test_openapi_names_every_route(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/query", "/search", "/documents", "/documents/{document_id}", "/ingest/stats", "/health"} <= set(paths)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://["},
    ],
)
async def test_page_of_another_site_may_change_nothing(client, pool, headers):
    await pool.execute("INSERT INTO inbox_pause (kind, reason, missing_count) VALUES ('vanished', 'many', 25)")
    assert is_problem(await client.post("/inbox/confirm-deletes", headers=headers), 403)
    assert await pool.fetchval("SELECT confirmed_at FROM inbox_pause") is None
    own = await client.post("/inbox/confirm-deletes", headers={"origin": "http://127.0.0.1"})
    assert own.json() == {"confirmed": 25}


async def test_body_over_the_limit_is_refused(client):
    announced = await client.post("/query", content=b" " * 2_000_000, headers={"content-type": "application/json"})
    assert is_problem(announced, 413)

    async def endless():
        for _ in range(40):
            yield b" " * 100_000

    response = await client.post("/query", content=endless(), headers={"content-type": "application/json"})
    assert response.status_code in (400, 413, 422)


async def test_body_that_is_announced_as_too_large_is_not_read(client):
    read = []

    async def body():
        read.append(True)
        yield b" "

    headers = {"content-type": "application/json", "content-length": "2000000"}
    assert is_problem(await client.post("/query", content=body(), headers=headers), 413)
    assert read == []


async def test_api_pages_load_everything_from_here(client):
    page = (await client.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any(link.endswith(".js") for link in links)
    for link in links:
        assert link.startswith("/docs/assets/"), link
        assert (await client.get(link)).status_code == 200
