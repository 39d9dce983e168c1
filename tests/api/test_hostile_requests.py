"""Requests made to do harm: without a key or with a small one, with odd text, from other sites' pages, and slow ones."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from services.console import keys
from services.query import guard
from services.query.app import create_app
from services.query.deps import UPLOADS_MAX
from services.query.guard import RequestGuard
from services.query.ingest_store import get_original
from services.query.original import PIECE_BYTES, read_original
from services.query.retrieve import snapshot
from services.query.slots import Shares
from tests.api.conftest import make_deps
from tests.api.test_ingest import left_over, part, send, send_raw
from tests.api.test_keys import bearer
from tests.factories import make_collection, publish_version
from tests.waiting import SECONDS_MAX

# Whoever reaches the port may see these: they tell nothing of what is stored.
OPEN = {"/", "/live", "/ready", "/health", "/docs", "/docs/assets", "/openapi.json"}
NOBODYS_JOB = "00000000-0000-0000-0000-000000000001"
HOSTILE = ["", "\x00", "a\x00b", "\ud800", "../../etc/passwd", "%", "[/b]", "x" * 5000, "-1", "9" * 40]
WANTED = {
    "QuestionIn": {"question": "gate code"},
    "SearchIn": {"question": "gate code"},
    "DirectoryIn": {"path": "/data"},
}


def filled(path: str, value: str) -> str:
    """An address with something in the place of each part in braces."""
    return "/".join(value if name.startswith("{") else name for name in path.split("/"))


async def test_every_address_but_the_probes_wants_a_key(reader_pool, client, owner):
    await keys.create_key(owner, "any", "admin", [])
    operations = (await client.get("/openapi.json")).json()["paths"]
    served = [(method, path) for path, methods in operations.items() for method in methods]
    served += [  # what is not in the specification
        (method, route.path)
        for route in create_app(make_deps(reader_pool)).routes
        if getattr(route, "path", None) is not None
        for method in getattr(route, "methods", None) or ["GET", "POST"]
    ]
    assert len(served) > 20
    for method, path in served:
        if path not in OPEN:
            answer = await client.request(method, filled(path, NOBODYS_JOB if "job" in path else "1"))
            assert answer.status_code == 401, (method, path, answer.text)


def places_of_text(schema: dict[str, Any], named: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Where text stands in a body; `[]` is an element of a list."""
    schema = named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for choice in schema.get("anyOf", []):
        yield from places_of_text(choice, named)
    if schema.get("type") == "string":
        yield ()
    elif schema.get("type") == "array":
        yield from (("[]", *place) for place in places_of_text(schema["items"], named))
    for name, inner in schema.get("properties", {}).items():
        yield from ((name, *place) for place in places_of_text(inner, named))


def body_with(place: tuple[str, ...], text: str) -> Any:
    if not place:
        return text
    inner = body_with(place[1:], text)
    return [inner] if place[0] == "[]" else {place[0]: inner}


def hostile_requests(specification: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every text in every parameter and in every field of every body."""
    named = specification["components"]["schemas"]
    operations = [(path, *item) for path, methods in specification["paths"].items() for item in methods.items()]
    for path, method, operation in operations:
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        for text in HOSTILE:
            sent = quote(text.encode(errors="surrogatepass"), safe="")
            for parameter in operation.get("parameters", []):
                query = "" if parameter["in"] == "path" else f"?{parameter['name']}={sent}"
                yield method, filled(path, "1" if query else sent) + query, {}
            for place in places_of_text(body or {}, named):
                content = WANTED.get(body["$ref"].rpartition("/")[2], {}) | body_with(place, text)
                options = {"content": json.dumps(content), "headers": {"content-type": "application/json"}}
                yield method, filled(path, "ours"), options


async def test_no_text_in_any_field_makes_askbox_fail(client, pool):
    await publish_version(pool, ["Our gate code is 4711."], source_uri="upload:a.md", collection="ours")
    specification = (await client.get("/openapi.json")).json()
    failed = [
        (method, address, options, answer.text)
        for method, address, options in hostile_requests(specification)
        if (answer := await client.request(method, address, **options)).status_code >= 500
    ]
    assert failed == []


async def test_health_tells_strangers_no_counts_no_names_and_no_reasons(client, owner, pool):
    await make_collection(pool, "ours")
    await pool.execute("INSERT INTO inbox_pause (kind, reason, missing_count) VALUES ('vanished', '25 of 40', 25)")
    knowing = bearer(await keys.create_key(owner, "all", "read", []))
    small = bearer(await keys.create_key(owner, "one", "read", ["ours"]))
    for headers in ({}, bearer("askbox_wrong"), small):
        checks = (await client.get("/health", headers=headers)).json()["checks"]
        assert {name for check in checks.values() for name in check} == {"ok"}
        assert not checks["inbox"]["ok"]
    checks = (await client.get("/health", headers=knowing)).json()["checks"]
    assert checks["inbox"]["reason"] == "25 of 40"
    assert checks["dead_letters"]["count"] == 0


async def test_inbox_of_a_small_key_is_that_of_its_collections(client, owner, pool, monkeypatch):
    monkeypatch.setattr("services.query.routes.status.SKIPPED_SHOWN_MAX", 2)
    await make_collection(pool, "ours")
    await pool.execute("INSERT INTO inbox_pause (kind, reason, missing_count) VALUES ('vanished', '25 of 40', 25)")
    await pool.execute(
        "INSERT INTO skipped_file (source_uri, collection_name, reason) VALUES ('inbox:ours/z', 'ours', 'hidden'), "
        "('inbox:a/1', 'a', 'hidden'), ('inbox:a/2', 'a', 'hidden')"
    )
    small = bearer(await keys.create_key(owner, "one", "admin", ["ours"]))
    inbox = (await client.get("/inbox", headers=small)).json()
    assert [skipped["file_path"] for skipped in inbox["skipped"]] == ["ours/z"]
    assert inbox["deletion_paused"] == []


async def test_small_key_cannot_take_a_name_that_others_will_mean(client, owner, pool):
    """Files of a folder that comes later would land where it reads."""
    await make_collection(pool, "ours")
    small = bearer(await keys.create_key(owner, "one", "admin", ["ours"]))
    refused = await client.patch("/collections/ours", json={"name": "salaries"}, headers=small)
    assert refused.status_code == 403
    assert await owner.fetchval("SELECT name FROM collection") == "ours"


async def test_key_that_is_revoked_while_its_body_comes_stores_nothing(client, owner, pool):
    await make_collection(pool)
    secret = await keys.create_key(owner, "one", "write", [])

    async def body() -> AsyncIterator[bytes]:
        yield part("a.md", b"text")
        await keys.revoke_key(owner, "one")
        yield b"--xx--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=xx"} | bearer(secret)
    refused = await client.post("/ingest/files", content=body(), headers=headers)
    assert refused.status_code == 401
    assert await left_over(pool) == {}


async def test_name_that_is_refused_is_shown_without_what_a_terminal_obeys(client, pool, caplog):
    await make_collection(pool)
    name = "\x1b]0;owned\x07\u202e" + "a" * 2100
    body = part("kept.md", b"text") + part(name, b"text") + b"--xx--\r\n"
    with caplog.at_level("INFO", logger="askbox"):
        documents = (await send_raw(client, body)).json()["documents"]
    (refused,) = [document["file_path"] for document in documents if document["error"]]
    logged = [str(getattr(record, "facts", "")) for record in caplog.records]
    assert refused.startswith("]0;owned" + "a")
    assert "\x1b" not in "".join(logged)
    assert "\\x1b" not in "".join(logged)


async def test_one_key_cannot_take_every_place_of_uploads(reader_pool, owner, pool):
    await make_collection(pool)
    one, other = [bearer(await keys.create_key(owner, name, "write", [])) for name in ("one", "other")]
    deps = dataclasses.replace(make_deps(reader_pool), uploads_of_keys=Shares(1))
    assert make_deps(reader_pool).uploads_of_keys.each_max < UPLOADS_MAX
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield part("slow.md", b"text")
        has_begun.set()
        await may_end.wait()
        yield b"--xx--\r\n"

    transport = httpx2.ASGITransport(app=create_app(deps), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        kind = {"content-type": "multipart/form-data; boundary=xx"}
        sending = asyncio.create_task(client.post("/ingest/files", content=slow(), headers=one | kind))
        await has_begun.wait()
        second = await send(client, ("b.md", b"text"), headers=one)
        others = await send(client, ("c.md", b"text"), headers=other)
        may_end.set()
        assert ((await sending).status_code, second.status_code, others.status_code) == (202, 503, 202)
        assert (await send(client, ("b.md", b"text"), headers=one)).status_code == 202


async def test_no_other_site_shows_an_answer_as_its_own(client):
    for path in ("/docs", "/live", "/documents/9"):
        headers = (await client.get(path)).headers
        assert headers["x-frame-options"] == "DENY", path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


# -- slow ones, below HTTP ----------------------------------------------------------------------------------------------

SCOPE: Scope = {"type": "http", "method": "POST", "path": "/query", "headers": []}


async def for_ever(*_: object) -> Any:
    await asyncio.Event().wait()


async def test_body_that_never_comes_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS_MAX", 0.05)
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        heard.append(await receive())

    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(HTTPException) as refused:
            await RequestGuard(app, body_bytes_max=9, upload_bytes_max=9)(SCOPE, for_ever, for_ever)
    assert refused.value.status_code == 408
    assert heard == []


async def test_caller_may_listen_for_long_once_the_body_is_whole(monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS_MAX", 0.05)
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}]
    is_listening = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        is_listening.set()
        return await for_ever()

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        listening = asyncio.create_task(receive())
        await is_listening.wait()
        done, _ = await asyncio.wait({listening}, timeout=0.2)
        assert not done
        listening.cancel()

    await RequestGuard(app, body_bytes_max=9, upload_bytes_max=9)(SCOPE, receive, for_ever)


@pytest.mark.parametrize("length", ["²", "-1", "9" * 5000, "1e3", "10"])
async def test_length_that_is_none_or_too_much_is_refused(length):
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = SCOPE | {"headers": [(b"content-length", length.encode("latin-1"))]}
    await RequestGuard(for_ever, body_bytes_max=9, upload_bytes_max=9)(scope, for_ever, send)
    assert sent[0]["status"] == 413


async def test_original_is_sent_in_pieces_that_a_slow_caller_can_take(reader_pool, pool):
    key = await publish_version(pool, ["x" * (3 * PIECE_BYTES)], source_uri="upload:a.md")
    document_id = await pool.fetchval("SELECT id FROM document")
    async with snapshot(reader_pool, [key.collection_id]) as conn:
        original = await get_original(conn, [key.collection_id], document_id)
    assert original is not None
    pieces = [len(piece) async for piece in read_original(reader_pool, [key.collection_id], original)]
    assert sum(pieces) == original.file_bytes
    assert max(pieces) == PIECE_BYTES
