"""What failed and another try; the story of a document; its original; how much there is."""

import asyncio

import asyncpg
import httpx2
import pytest

from services.console import keys
from services.embedder.embed import EmbedHandler
from services.ingester.sandbox import ParsedHead
from services.ingester.store import begin_parsing, finish_staging, stage_chunks
from services.query import ingest_store, store
from services.query.original import OriginalGone, read_original
from shared import intake, queue
from shared.errors import RejectedText
from shared.publication import PublicationSweep, VersionKey, ask, insert_embed_jobs
from tests.api.test_http import is_problem
from tests.api.test_keys import bearer
from tests.factories import HashModel, arrive, claim, make_chunks, make_collection, publish_version, stage_version
from tests.waiting import until

POISON = "a text that the model does not take"


class ChoosyModel(HashModel):
    """Rejects one text until it is told to take it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_choosy = True

    async def encode(self, texts):
        if self.is_choosy and POISON in texts:
            raise RejectedText
        return await super().encode(texts)


async def embed(pool: asyncpg.Pool, model: HashModel) -> None:
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, model, model_id)
    while jobs := await claim(pool, "embed"):
        await handler.process(jobs)
        await handler.after(jobs)
    await handler.finish()
    await PublicationSweep(pool)()


async def stage_waiting(pool: asyncpg.Pool, texts: list[str]) -> None:
    """Stage chunks for the version that waits, as the ingester does."""
    collection_id, model_id = await make_collection(pool)
    (job,) = await claim(pool, "ingest")
    key = VersionKey(collection_id, job.subject_id)
    async with pool.acquire() as conn, conn.transaction():
        await queue.hold_lease(conn, job.lease_id)
        assert await begin_parsing(conn, key)
        await stage_chunks(conn, key, make_chunks(texts), languages=["english"] * len(texts), path_words="note")
        await queue.complete_jobs(conn, job.lease_id, [job.id])
        await finish_staging(conn, key, ParsedHead("text/plain", None, {}, 0))
        await insert_embed_jobs(conn, key, model_id)
    await ask(pool, key)


async def state_of(client: httpx2.AsyncClient, document_id: int) -> str:
    return (await client.get(f"/documents/{document_id}")).json()["state"]


async def only_document(client: httpx2.AsyncClient) -> int:
    (document,) = (await client.get("/documents")).json()["data"]
    return document["id"]


async def fail_ingest(pool: asyncpg.Pool) -> None:
    """Let the waiting ingest jobs die, as a file that cannot be read does."""
    await pool.execute(
        "WITH gone AS (DELETE FROM job WHERE stage = 'ingest' RETURNING *) INSERT INTO dead_letter"
        " (stage, subject_id, collection_id, attempt, error_code, error, created_at)"
        " SELECT stage, subject_id, collection_id, 1, 'corrupt_file', 'it is broken', created_at FROM gone"
    )


async def test_failed_document_is_read_again_from_the_same_bytes(client, pool):
    await arrive(pool, "text")
    await fail_ingest(pool)
    await PublicationSweep(pool)()
    document_id = await only_document(client)
    assert await state_of(client, document_id) == "failed"
    response = await client.post(f"/documents/{document_id}/retry")
    assert response.status_code == 202
    assert response.json() == {"document_id": document_id, "version": response.json()["version"], "state": "queued"}
    assert await state_of(client, document_id) == "queued"
    job = await pool.fetchrow("SELECT stage, subject_id, cost, traceparent IS NOT NULL AS traced FROM job")
    assert tuple(job) == ("ingest", response.json()["version"], 4, True)
    assert await pool.fetchval("SELECT count(DISTINCT blob_id) FROM document_version") == 1
    assert await pool.fetchval("SELECT count(*) FROM dead_letter") == 0
    story = (await client.get(f"/documents/{document_id}/events")).json()["data"]
    assert [(line["stage"], line["outcome"]) for line in story] == [
        ("intake", "queued"), ("ingest", "failed"), ("retry", "queued")
    ]  # fmt: skip
    assert story[1]["detail"]["error"] == "it is broken"


async def test_document_that_has_not_failed_is_not_tried_again(client, pool):
    await publish_version(pool, ["text"])
    document_id = await only_document(client)
    response = await client.post(f"/documents/{document_id}/retry")
    assert is_problem(response, 409)
    assert "ready" in response.json()["detail"]
    assert is_problem(await client.post("/documents/999/retry"), 404)


async def test_retry_gives_a_dead_text_another_chance(client, pool):
    model = ChoosyModel()
    await stage_version(pool, ["good text", POISON])
    await embed(pool, model)
    document_id = await only_document(client)
    assert await state_of(client, document_id) == "failed"
    model.is_choosy = False
    assert (await client.post(f"/documents/{document_id}/retry")).status_code == 202
    await stage_waiting(pool, ["good text", POISON])
    await embed(pool, model)
    assert await state_of(client, document_id) == "ready"
    assert await pool.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_dead_text_fails_other_documents_without_asking_the_model_again(client, pool):
    model = ChoosyModel()
    await stage_version(pool, [POISON], source_uri="inbox:a.md")
    await embed(pool, model)
    model.is_choosy = False
    await stage_version(pool, [POISON], source_uri="inbox:b.md")
    await embed(pool, model)
    assert model.encoded == []
    states = {d["file_path"]: d["state"] for d in (await client.get("/documents")).json()["data"]}
    assert states == {"a.md": "failed", "b.md": "failed"}


async def test_text_that_dies_during_a_retry_fails_it_again(client, pool):
    model = ChoosyModel()
    await stage_version(pool, [POISON])
    await embed(pool, model)
    document_id = await only_document(client)
    await client.post(f"/documents/{document_id}/retry")
    await stage_waiting(pool, [POISON])
    await embed(pool, model)
    assert await state_of(client, document_id) == "failed"


async def test_text_that_died_since_the_retry_was_asked_for_stays_dead(client, pool):
    model = ChoosyModel()
    await stage_version(pool, [POISON])
    await embed(pool, model)
    document_id = await only_document(client)
    await client.post(f"/documents/{document_id}/retry")
    await pool.execute("UPDATE dead_letter SET died_at = now()")
    await stage_waiting(pool, [POISON])
    assert await state_of(client, document_id) == "failed"


async def test_everything_that_failed_is_read_again_and_nothing_else(client, pool, owner):
    for name in ("a", "b"):
        await arrive(pool, name, source_uri=f"inbox:{name}.md")
    await arrive(pool, "c", source_uri="inbox:c.md", collection="other")
    await fail_ingest(pool)
    await PublicationSweep(pool)()
    await arrive(pool, "d", source_uri="inbox:d.md")
    writes = bearer(await keys.create_key(owner, "writes", "write", ["default"]))
    reads = bearer(await keys.create_key(owner, "reads", "read", ["default"]))
    everywhere = bearer(await keys.create_key(owner, "all", "admin", []))
    assert is_problem(await client.post("/documents/retry", headers=reads), 403)
    assert is_problem(await client.post("/documents/1/retry", headers=reads), 403)
    assert (await client.post("/documents/retry", headers=writes)).json() == {
        "retried": 2,
        "has_more": False,
        "next_after": None,
    }
    assert (await client.post("/documents/retry", headers=writes)).json() == {
        "retried": 0,
        "has_more": False,
        "next_after": None,
    }
    other = await client.post("/documents/retry", params={"collection": "other"}, headers=writes)
    assert is_problem(other, 404)
    answer = await client.post("/documents/retry", params={"collection": "other"}, headers=everywhere)
    assert answer.json() == {"retried": 1, "has_more": False, "next_after": None}


async def test_retries_of_one_request_are_bounded(client, pool, monkeypatch):
    monkeypatch.setattr("services.query.retry.RETRIES_MAX", 2)
    monkeypatch.setattr("services.query.retry.PAGE_SIZE", 1)
    for number in range(3):
        await arrive(pool, f"{number}", source_uri=f"inbox:{number}.md")
    await fail_ingest(pool)
    await PublicationSweep(pool)()
    first = (await client.post("/documents/retry")).json()
    assert (first["retried"], first["has_more"]) == (2, True)
    await fail_ingest(pool)  # what fails again at once is not tried again by who goes on
    await PublicationSweep(pool)()
    rest = (await client.post("/documents/retry", params={"after": first["next_after"]})).json()
    assert rest == {"retried": 1, "has_more": False, "next_after": None}


async def test_two_retries_at_once_make_one_version(client, pool, owner):
    await arrive(pool, "text")
    await fail_ingest(pool)
    await PublicationSweep(pool)()
    document_id = await only_document(client)
    async with owner.transaction():
        await owner.execute("SELECT 1 FROM document FOR NO KEY UPDATE")
        retries = [asyncio.create_task(client.post(f"/documents/{document_id}/retry")) for _ in range(2)]
        await until(lambda: pool.fetchval("SELECT count(*) = 2 FROM pg_locks WHERE NOT granted"))
    answers = await asyncio.gather(*retries)
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert await pool.fetchval("SELECT count(*) FROM document_version") == 2


async def test_dead_letters_are_listed_and_dropped_inside_the_scope(client, pool, owner):
    await arrive(pool, "a", source_uri="inbox:a.md")
    await arrive(pool, "b", source_uri="inbox:b.md", collection="other")
    await fail_ingest(pool)
    await PublicationSweep(pool)()
    writes = bearer(await keys.create_key(owner, "writes", "write", ["default"]))
    reads = bearer(await keys.create_key(owner, "reads", "read", ["default", "other"]))
    (letter,) = (await client.get("/dead-letters", headers=writes)).json()["data"]
    assert (letter["collection"], letter["stage"], letter["file_path"], letter["error"]) == (
        "default", "ingest", "a.md", "it is broken"
    )  # fmt: skip
    page = (await client.get("/dead-letters", params={"limit": 1}, headers=reads)).json()
    assert page["has_more"]
    rest = await client.get("/dead-letters", params={"after": page["data"][0]["id"]}, headers=reads)
    assert [letter["collection"] for letter in rest.json()["data"]] == ["other"]
    assert is_problem(await client.delete("/dead-letters", headers=reads), 403)
    assert (await client.delete("/dead-letters", headers=writes)).json() == {"dropped": 1, "has_more": False}
    assert await pool.fetchval("SELECT count(*) FROM dead_letter") == 1
    document = (await client.get("/documents", headers=writes)).json()["data"][0]
    assert (document["state"], document["error"]) == ("failed", "it is broken")


async def test_dead_letter_stays_until_its_document_tells_of_it(client, pool):
    await arrive(pool, "a")
    await fail_ingest(pool)
    assert (await client.delete("/dead-letters")).json()["dropped"] == 0
    await PublicationSweep(pool)()
    assert (await client.delete("/dead-letters")).json()["dropped"] == 1


async def test_original_is_a_download_and_never_a_page(client, pool):
    await arrive(pool, "<script>alert(1)</script>", source_uri="inbox:team/na\u00efve.html")
    await pool.execute("UPDATE document_version SET media_type = 'text/html'")
    response = await client.get(f"/documents/{await only_document(client)}/content")
    assert response.status_code == 200
    assert response.text == "<script>alert(1)</script>"
    assert response.headers["content-type"] == "text/html"
    assert response.headers["content-disposition"] == (
        "attachment; filename=\"naive.html\"; filename*=UTF-8''na%C3%AFve.html"
    )
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


@pytest.mark.parametrize("media_type", [None, "text/html\r\nSet-Cookie: a=b", "text/\u00e9"])
async def test_strange_media_type_is_sent_as_bytes(client, pool, media_type):
    await arrive(pool, "x")
    await pool.execute("UPDATE document_version SET media_type = $1", media_type)
    response = await client.get(f"/documents/{await only_document(client)}/content")
    assert response.headers["content-type"] == "application/octet-stream"
    assert "set-cookie" not in response.headers


async def test_original_is_that_of_the_version_that_answers(client, pool):
    await publish_version(pool, ["live text"])
    await arrive(pool, "newer bytes")
    response = await client.get(f"/documents/{await only_document(client)}/content")
    assert response.text == "live text\ninbox:note.md"


async def test_original_that_is_deleted_while_it_is_sent_breaks_off(reader_pool, pool, owner, monkeypatch):
    monkeypatch.setattr(intake, "PART_BYTES", 10)
    taken = await arrive(pool, "x" * 25)
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [taken.collection_id])
        original = await ingest_store.get_original(conn, [taken.collection_id], taken.document_id)
    sending = read_original(reader_pool, [taken.collection_id], original)
    assert await anext(sending) == b"x" * 10
    await owner.execute("DELETE FROM document")
    with pytest.raises(OriginalGone):
        await anext(sending)


async def test_story_comes_by_pages_and_only_to_who_may_read(client, pool, owner):
    key = await publish_version(pool, ["text"])
    document_id = await only_document(client)
    await pool.execute("UPDATE document_event SET worker = 'embedder 7@here', attempt = 2, duration_ms = 3.5")
    first = (await client.get(f"/documents/{document_id}/events", params={"limit": 1})).json()
    assert first["has_more"]
    line = first["data"][0]
    assert (line["worker"], line["attempt"], line["duration_ms"], line["version"]) == (
        "embedder 7@here", 2, 3.5, key.version_id
    )  # fmt: skip
    rest = (await client.get(f"/documents/{document_id}/events", params={"after": line["id"]})).json()
    assert not rest["has_more"]
    assert [line["outcome"] for line in rest["data"]][-1] == "ready"
    await make_collection(pool, "other")
    other = bearer(await keys.create_key(owner, "other", "admin", ["other"]))
    for path in ("events", "content"):
        assert is_problem(await client.get(f"/documents/{document_id}/{path}", headers=other), 404)
    assert is_problem(await client.post(f"/documents/{document_id}/retry", headers=other), 404)


async def test_stats_tell_stages_and_tokens_of_the_scope(client, pool, owner):
    await publish_version(pool, ["one two three"])
    await arrive(pool, "a", source_uri="inbox:a.md")
    await arrive(pool, "b", source_uri="inbox:b.md")
    await arrive(pool, "c", source_uri="inbox:c.md", collection="other")
    await pool.execute(
        "UPDATE job SET run_at = now() + interval '1 hour'"
        " WHERE subject_id = (SELECT max(subject_id) FROM job WHERE stage = 'ingest' AND collection_id = 1)"
    )
    await pool.execute("DELETE FROM token_usage")
    await pool.execute(
        "INSERT INTO token_usage (collection_id, key_id, model, prompt_tokens, completion_tokens, embedding_tokens)"
        " VALUES (1, NULL, 'm', 0, 0, 100), (2, NULL, 'm', 0, 0, 1000), (NULL, 1, 'm', 5, 7, 3), (NULL, 2, 'm', 50, 70, 30)"
    )
    secret = await keys.create_key(owner, "reads", "read", ["default"])
    assert await owner.fetchval("SELECT id FROM api_key") == 1
    stats = (await client.get("/ingest/stats", headers=bearer(secret))).json()
    assert stats["stages"]["ingest"] == {"ready": 1, "leased": 0, "delayed": 1}
    assert stats["tokens"] == {"chunks": 5, "prompt": 5, "completion": 7, "embedding": 103}
    everything = bearer(await keys.create_key(owner, "all", "read", []))
    stats = (await client.get("/ingest/stats", headers=everything)).json()
    assert stats["stages"]["ingest"]["ready"] == 2
    assert stats["tokens"]["embedding"] == 1133


async def test_openapi_names_the_routes_and_their_answers(client):
    api = (await client.get("/openapi.json")).json()
    paths = api["paths"]
    for method, path in [
        ("post", "/ingest/files"), ("post", "/ingest/directory"), ("get", "/ingest/jobs/{job_id}"), ("get", "/ingest/stats"),
        ("get", "/documents/{document_id}/content"), ("get", "/documents/{document_id}/events"),
        ("post", "/documents/{document_id}/retry"), ("post", "/documents/retry"),
        ("get", "/dead-letters"), ("delete", "/dead-letters"),
    ]:  # fmt: skip
        assert method in paths[path], path
    assert "multipart/form-data" in paths["/ingest/files"]["post"]["requestBody"]["content"]
    answer = paths["/ingest/jobs/{job_id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(api["components"]["schemas"][answer["$ref"].rpartition("/")[2]]["required"]) >= {
        "job_id",
        "status",
        "documents",
    }
