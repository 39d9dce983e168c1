"""Files sent over HTTP: what is taken, what is refused, and that nothing else stays."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest

from services.console import keys
from services.query import receive, upload
from services.query.app import create_app
from services.query.slots import Slots
from shared.intake import PART_BYTES
from tests.api.conftest import make_deps, serving
from tests.api.test_http import is_problem
from tests.api.test_keys import bearer
from tests.factories import arrive, make_collection
from tests.waiting import until

CONTENT_TYPE = "multipart/form-data; boundary=xx"


async def send(client, *files: tuple[str, bytes], collection: str | None = None, **kwargs) -> httpx2.Response:
    parts = [("file", (name, content, "application/octet-stream")) for name, content in files]
    return await client.post(
        "/ingest/files", files=parts, params={"collection": collection} if collection else {}, **kwargs
    )


async def left_over(pool: asyncpg.Pool) -> dict[str, int]:
    """How many rows of each kind an upload may leave."""
    tables = ("blob", "blob_part", "document", "document_version", "job", "ingest_request", "ingest_request_skipped")
    return {table: count for table in tables if (count := await pool.fetchval(f"SELECT count(*) FROM {table}"))}


async def until_nothing_is_left(pool: asyncpg.Pool) -> None:
    """Wait for the end of an upload whose sender is not there to be answered."""

    async def is_nothing_left() -> bool:
        return not await left_over(pool)

    await until(is_nothing_left)


def part(name: str | None, content: bytes, field: str = "file") -> bytes:
    file_name = "" if name is None else f'; filename="{name}"'
    return f'--xx\r\nContent-Disposition: form-data; name="{field}"{file_name}\r\n\r\n'.encode() + content + b"\r\n"


async def send_raw(client, body: bytes | AsyncIterator[bytes], content_type: str = CONTENT_TYPE, **kwargs):
    return await client.post("/ingest/files", content=body, headers={"content-type": content_type}, **kwargs)


@pytest.fixture
async def collection_id(pool) -> int:
    return (await make_collection(pool))[0]


async def test_sent_file_becomes_a_queued_document_with_a_job(client, pool, collection_id):
    response = await send(client, ("notes/a.md", b"# A\n\ntext"))
    body = response.json()
    assert response.status_code == 202, body
    assert body["status"] == "processing"
    (document,) = body["documents"]
    assert (document["file_path"], document["state"], document["collection"]) == ("notes/a.md", "queued", "default")
    assert response.headers["location"] == f"/ingest/jobs/{body['job_id']}"
    job = await pool.fetchrow("SELECT stage, subject_id, cost, collection_id FROM job")
    assert tuple(job) == ("ingest", document["version"], 9, collection_id)
    assert await pool.fetchval("SELECT source_uri FROM document") == "upload:notes/a.md"
    story = (await client.get(f"/documents/{document['document_id']}/events")).json()
    assert [(line["stage"], line["outcome"]) for line in story["data"]] == [("intake", "queued")]
    assert len(story["data"][0]["trace_id"]) == 32


async def test_same_bytes_again_are_the_same_document_and_no_new_version(client, pool, collection_id):
    first = (await send(client, ("a.md", b"text"))).json()["documents"][0]
    again = await send(client, ("a.md", b"text"))
    assert again.status_code == 200
    assert again.json()["documents"] == [first | {"unchanged": True}]
    assert await left_over(pool) == {
        "blob": 1, "blob_part": 1, "document": 1, "document_version": 1, "job": 1, "ingest_request": 2
    }  # fmt: skip
    job = (await client.get(f"/ingest/jobs/{again.json()['job_id']}")).json()
    assert [document["document_id"] for document in job["documents"]] == [first["document_id"]]


async def test_other_bytes_are_a_new_version_of_the_same_document_and_the_old_job_follows_it(
    client, pool, collection_id
):
    first = (await send(client, ("a.md", b"one"))).json()
    second = (await send(client, ("a.md", b"two"))).json()
    assert second["documents"][0]["document_id"] == first["documents"][0]["document_id"]
    assert second["documents"][0]["version"] > first["documents"][0]["version"]
    assert (await client.get(f"/ingest/jobs/{first['job_id']}")).json()["states"] == {"queued": 1}
    await pool.execute(
        "UPDATE document_version SET state = 'failed', error_code = 'x', error = 'bad bytes', ended_at = now() WHERE id = $1",
        second["documents"][0]["version"],
    )
    job = (await client.get(f"/ingest/jobs/{first['job_id']}")).json()
    assert (job["status"], job["documents"][0]["error"]) == ("failed", "bad bytes")


async def test_large_file_is_stored_in_parts_and_comes_back_as_it_was(client, pool, collection_id):
    content = os.urandom(2 * PART_BYTES + 77)
    document = (await send(client, ("big.bin", content))).json()["documents"][0]
    sizes = await pool.fetch("SELECT octet_length(bytes) AS bytes FROM blob_part ORDER BY ordinal")
    assert [row["bytes"] for row in sizes] == [PART_BYTES, PART_BYTES, 77]
    response = await client.get(f"/documents/{document['document_id']}/content")
    assert response.content == content
    assert int(response.headers["content-length"]) == len(content)


async def test_empty_and_unreadable_files_are_taken(client, pool, collection_id):
    response = await send(client, ("empty.md", b""), ("strange.xyz", b"\x00\x01"))
    assert [document["state"] for document in response.json()["documents"]] == ["queued", "queued"]
    assert (await client.get(f"/documents/{response.json()['documents'][0]['document_id']}/content")).content == b""


async def test_file_that_is_too_large_is_told_beside_those_that_are_taken(reader_pool, pool, collection_id):
    async with serving(reader_pool, max_file_bytes=1000) as client:
        response = await send(client, ("a.md", b"fine"), ("b.md", b"x" * 1001), ("c.md", b"x" * 1000))
        assert response.status_code == 202
        by_path = {document["file_path"]: document for document in response.json()["documents"]}
        assert (by_path["a.md"]["state"], by_path["c.md"]["state"]) == ("queued", "queued")
        assert (by_path["b.md"]["state"], by_path["b.md"]["document_id"]) == ("failed", None)
        assert "ASKBOX_MAX_FILE_BYTES" in by_path["b.md"]["error"]
        job = (await client.get(f"/ingest/jobs/{response.json()['job_id']}")).json()
        assert job["states"] == {"queued": 2, "failed": 1}
        assert {document["file_path"] for document in job["documents"]} == {"a.md", "b.md", "c.md"}
        assert (await left_over(pool))["blob"] == 2


async def test_upload_of_which_nothing_can_be_taken_is_refused_and_leaves_nothing(reader_pool, pool, collection_id):
    async with serving(reader_pool, max_file_bytes=10) as client:
        response = await send(client, ("a.md", b"x" * 11))
        assert is_problem(response, 413)
        assert "a.md" in response.json()["detail"]
    assert await left_over(pool) == {}


async def test_body_over_the_limit_of_uploads_is_refused_and_leaves_nothing(reader_pool, pool, collection_id):
    body = part("a.md", b"one") + part("b.md", b"x" * 20_000) + b"--xx--\r\n"

    async def in_pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    async with serving(reader_pool, max_upload_bytes=10_000) as client:
        assert is_problem(await send_raw(client, in_pieces()), 413)
    assert await left_over(pool) == {}


async def test_body_that_is_announced_as_too_large_is_not_read(reader_pool, collection_id):
    is_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal is_read
        is_read = True
        yield b"x" * 10_001

    async with serving(reader_pool, max_upload_bytes=10_000) as client:
        headers = {"content-type": CONTENT_TYPE, "content-length": "10001"}
        assert is_problem(await client.post("/ingest/files", content=body(), headers=headers), 413)
    assert not is_read


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"{}", "application/json", 415, "multipart/form-data"),
        (b"", CONTENT_TYPE, 400, "ends before its last boundary"),
        (b"rubbish", CONTENT_TYPE, 400, "not what its Content-Type says"),
        (b"", "multipart/form-data", 400, "no boundary"),
        (b"--xx--\r\n", CONTENT_TYPE, 400, "no file"),
        (part(None, b"default", "collection") + b"--xx--\r\n", CONTENT_TYPE, 400, "no file"),
        (part("", b"") + b"--xx--\r\n", CONTENT_TYPE, 400, "no file"),
        (part("..", b"x") + b"--xx--\r\n", CONTENT_TYPE, 413, "name"),
        (part(None, b"x" * 2000, "other") + b"--xx--\r\n", CONTENT_TYPE, 413, "text field"),
        (part("a.md", b"one") + part("x" * 10_000, b"two"), CONTENT_TYPE, 413, "headers of a part are too long"),
        (part("a.md", b"one") + part("line\r\nbreak.md", b"two"), CONTENT_TYPE, 400, "not what its Content-Type says"),
        (part("a.md", b"one") + part("b.md", b"two"), CONTENT_TYPE, 400, "ends before its last boundary"),
        (part("a.md", b"one") + part("b.md", b"tw")[:-2], CONTENT_TYPE, 400, "ends before its last boundary"),
    ],
)
async def test_bad_upload_says_why_and_leaves_nothing(client, pool, collection_id, body, content_type, status, reason):
    response = await send_raw(client, body, content_type)
    assert is_problem(response, status)
    assert reason in response.json()["detail"]
    assert await left_over(pool) == {}


async def test_more_files_than_allowed_are_refused_and_nothing_stays_of_any(client, pool, collection_id, monkeypatch):
    monkeypatch.setattr(upload, "FILES_MAX", 3)
    body = b"".join(part(f"{number}.md", b"text") for number in range(4)) + b"--xx--\r\n"
    assert is_problem(await send_raw(client, body), 413)
    assert await left_over(pool) == {}


async def test_sender_that_goes_away_leaves_nothing(reader_pool, pool, collection_id):
    app = create_app(make_deps(reader_pool))
    messages = [
        {"type": "http.request", "body": part("a.md", b"whole") + part("b.md", b"x" * PART_BYTES), "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http", "method": "POST", "path": "/ingest/files", "raw_path": b"/ingest/files", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", CONTENT_TYPE.encode())],
        "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip

    async def receive_next() -> dict:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    sent: list[dict] = []

    async def keep(message: dict) -> None:
        sent.append(message)

    await app(scope, receive_next, keep)
    await until_nothing_is_left(pool)


async def test_stopped_server_leaves_nothing_of_an_upload_in_hand(client, pool, collection_id):
    async def stuck() -> AsyncIterator[bytes]:
        yield part("a.md", b"whole") + part("b.md", b"x" * (PART_BYTES + 1))
        await asyncio.Event().wait()

    sending = asyncio.create_task(send_raw(client, stuck()))
    await until(lambda: pool.fetchval("SELECT count(*) = 2 FROM blob_part"))
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await until_nothing_is_left(pool)


async def test_silent_sender_is_given_up(client, pool, collection_id, monkeypatch):
    monkeypatch.setattr(upload, "PACE_SECONDS_MAX", 0.05)

    async def silent() -> AsyncIterator[bytes]:
        yield part("a.md", b"x" * 100)
        await asyncio.Event().wait()

    assert is_problem(await send_raw(client, silent()), 408)
    await until_nothing_is_left(pool)


async def test_more_uploads_at_a_time_than_allowed_are_asked_to_come_again(reader_pool, collection_id):
    deps = dataclasses.replace(make_deps(reader_pool), uploads=Slots(1, waiting_max=0))
    transport = httpx2.ASGITransport(app=create_app(deps), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        async with deps.uploads:
            response = await send(client, ("a.md", b"x"))
            assert is_problem(response, 503)
            assert int(response.headers["retry-after"]) >= 1
        assert (await send(client, ("a.md", b"x"))).status_code == 202


async def test_no_connection_is_held_while_a_slow_sender_sends(client, pool, reader_pool, collection_id):
    sent = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield part("a.md", b"x" * (PART_BYTES + 1))
        await sent.wait()
        yield b"--xx--\r\n"

    sending = asyncio.create_task(send_raw(client, slow()))
    await until(lambda: pool.fetchval("SELECT count(*) = 1 FROM blob_part"))
    await until(lambda: asyncio.sleep(0, reader_pool.get_idle_size() == reader_pool.get_size()))
    assert not sending.done()
    sent.set()
    assert (await sending).status_code == 202


async def test_collection_is_named_in_the_address_or_before_or_behind_the_files(client, pool, collection_id):
    field = part(None, b"team", "collection")
    for body in (field + part("a.md", b"1"), part("b.md", b"2") + field):
        response = await send_raw(client, body + b"--xx--\r\n")
        assert response.json()["documents"][0]["collection"] == "team"
    response = await send(client, ("c.md", b"3"), collection="team")
    assert response.json()["documents"][0]["collection"] == "team"
    disagreeing = await send_raw(
        client, part("d.md", b"4") + part(None, b"other", "collection") + b"--xx--\r\n", params={"collection": "team"}
    )
    assert is_problem(disagreeing, 400)
    assert await pool.fetchval("SELECT count(*) FROM blob") == 3


@pytest.mark.parametrize("name", [".hidden", "a/b", "x" * 201, " x", "\x00"])
async def test_collection_that_cannot_be_made_is_told_and_nothing_stays(client, pool, collection_id, name):
    body = part("a.md", b"1") + part(None, name.encode(), "collection") + b"--xx--\r\n"
    assert is_problem(await send_raw(client, body), 400)
    assert await left_over(pool) == {}


async def test_before_any_worker_has_started_an_upload_is_told_to_wait(client, pool):
    assert is_problem(await send(client, ("a.md", b"1")), 409)
    assert await left_over(pool) == {}


async def test_only_who_may_write_may_send(client, owner, pool):
    for name in ("ours", "theirs"):
        await make_collection(pool, name)
    reads = bearer(await keys.create_key(owner, "reads", "read", ["ours"]))
    writes = bearer(await keys.create_key(owner, "writes", "write", ["ours"]))
    never_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal never_read
        never_read = True
        yield b"x"

    headers = {"content-type": CONTENT_TYPE}
    for params, key, status in [
        ({"collection": "ours"}, reads, 403),
        ({}, reads, 403),
        ({"collection": "theirs"}, writes, 404),
        ({"collection": "new"}, writes, 404),
    ]:
        response = await client.post("/ingest/files", content=body(), params=params, headers=headers | key)
        assert is_problem(response, status), params
    assert not never_read, "a body was read before its sender was known to be allowed"
    went_on = False

    async def named_first() -> AsyncIterator[bytes]:
        nonlocal went_on
        yield part(None, b"theirs", "collection") + part("a.md", b"1")
        went_on = True
        yield b"--xx--\r\n"

    assert is_problem(await client.post("/ingest/files", content=named_first(), headers=headers | writes), 404)
    assert not went_on, "a body was read on after it had named a collection that is not its sender's"
    named_last = part("a.md", b"1") + part(None, b"theirs", "collection") + b"--xx--\r\n"
    assert is_problem(await client.post("/ingest/files", content=named_last, headers=headers | writes), 404)
    assert await left_over(pool) == {}
    sent = await send(client, ("a.md", b"1"), collection="ours", headers=writes)
    assert sent.status_code == 202
    job = f"/ingest/jobs/{sent.json()['job_id']}"
    other = bearer(await keys.create_key(owner, "other", "admin", ["theirs"]))
    assert (await client.get(job, headers=reads)).status_code == 200
    assert is_problem(await client.get(job, headers=other), 404)


async def test_same_content_in_two_collections_is_kept_once_and_nobody_can_tell(client, owner, pool):
    for name in ("red", "blue"):
        await make_collection(pool, name)
    red, blue = [bearer(await keys.create_key(owner, name, "write", [name])) for name in ("red", "blue")]
    first = (await send(client, ("a.md", b"secret"), collection="red", headers=red)).json()
    second = await send(client, ("a.md", b"secret"), collection="blue", headers=blue)
    assert second.status_code == 202
    assert await pool.fetchval("SELECT count(*) FROM blob") == 1
    hidden = {"document_id", "version", "collection"}
    assert [{k: v for k, v in body["documents"][0].items() if k not in hidden} for body in (first, second.json())] == [
        {"file_path": "a.md", "state": "queued", "error": None, "unchanged": False}
    ] * 2
    red_id = first["documents"][0]["document_id"]
    assert is_problem(await client.get(f"/documents/{red_id}/content", headers=blue), 404)
    blue_id = second.json()["documents"][0]["document_id"]
    assert (await client.get(f"/documents/{blue_id}/content", headers=blue)).content == b"secret"


async def test_two_uploads_of_the_same_content_at_once_are_both_taken(client, pool, collection_id):
    responses = await asyncio.gather(*[send(client, (f"{number}.md", b"same")) for number in range(6)])
    assert [response.status_code for response in responses] == [202] * 6
    assert await left_over(pool) == {
        "blob": 1, "blob_part": 1, "document": 6, "document_version": 6, "job": 6, "ingest_request": 6
    }  # fmt: skip


async def fail(owner: asyncpg.Connection, version_id: int) -> None:
    await owner.execute("DELETE FROM job WHERE stage = 'ingest' AND subject_id = $1", version_id)
    await owner.execute(
        "UPDATE document_version SET state = 'failed', error_code = 'corrupt_file', error = 'broken', ended_at = now() WHERE id = $1",
        version_id,
    )


async def test_failed_file_that_is_sent_again_is_tried_again(client, pool, owner, collection_id):
    first = (await send(client, ("a.md", b"text"))).json()["documents"][0]
    await fail(owner, first["version"])
    again = await send(client, ("a.md", b"text"))
    assert again.status_code == 202
    document = again.json()["documents"][0]
    assert (document["document_id"], document["state"]) == (first["document_id"], "queued")
    assert document["version"] > first["version"]
    assert await pool.fetchval("SELECT count(*) FROM blob") == 1


async def test_deleted_file_that_is_sent_again_is_taken(client, pool, collection_id):
    document = (await send(client, ("a.md", b"text"))).json()["documents"][0]
    assert (await client.delete(f"/documents/{document['document_id']}")).status_code == 204
    await pool.execute(
        "INSERT INTO tombstone (collection_id, source_uri, sha256) VALUES ($1, 'upload:a.md', sha256('text'))",
        collection_id,
    )
    again = await send(client, ("a.md", b"text"))
    assert again.status_code == 202
    new_id = again.json()["documents"][0]["document_id"]
    assert new_id != document["document_id"]
    assert (await client.get(f"/documents/{new_id}")).json()["state"] == "queued"


async def test_refused_file_is_logged_and_shown_with_a_storable_name(client, pool, collection_id):
    response = await send_raw(client, part("a.md", b"1") + part("\x00..", b"2") + b"--xx--\r\n")
    assert response.status_code == 202
    assert response.json()["documents"][1]["error"]
    assert (await client.get(f"/ingest/jobs/{response.json()['job_id']}")).json()["states"]["failed"] == 1


async def test_what_was_taken_stays_taken_when_the_answer_fails(client, pool, collection_id, monkeypatch):
    async def broken(self, *_: object) -> None:
        raise asyncpg.ConnectionDoesNotExistError("cut")

    monkeypatch.setattr(receive.Upload, "_list_refused", broken)
    body = part("a.md", b"1") + part("..", b"2") + b"--xx--\r\n"
    assert is_problem(await send_raw(client, body), 503)
    assert await pool.fetchval("SELECT count(*) FROM document_version") == 1, "what was taken stays taken"
    monkeypatch.undo()
    assert (await send_raw(client, body)).status_code == 202
    assert await pool.fetchval("SELECT count(*) FROM document_version") == 1


async def test_inbox_document_is_not_touched_by_an_upload_of_its_name(client, pool, collection_id):
    await arrive(pool, "from the inbox", source_uri="inbox:a.md")
    await send(client, ("a.md", b"from the network"))
    uris = await pool.fetch("SELECT source_uri FROM document ORDER BY id")
    assert [row["source_uri"] for row in uris] == ["inbox:a.md", "upload:a.md"]
