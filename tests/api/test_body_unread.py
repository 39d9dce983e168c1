"""Bodies that are not read, or not to their end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from services.console import keys
from services.query import guard
from services.query.app import BODY_BYTES_MAX
from services.query.guard import RequestGuard
from services.query.openai_errors import is_openai
from tests.api.test_http import is_problem
from tests.api.test_ingest import part
from tests.api.test_keys import bearer
from tests.factories import make_collection


@pytest.mark.parametrize("address", ["/ingest/files", "/ingest/files?collection=default"])
async def test_body_of_who_may_not_write_is_not_read(client, owner, pool, address):
    await make_collection(pool)
    secret = await keys.create_key(owner, "reader", "read", [])
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        for piece in (part("a.md", b"text"), b"--xx--\r\n"):
            read.append(piece)
            yield piece

    headers = {"content-type": "multipart/form-data; boundary=xx"} | bearer(secret)
    refused = await client.post(address, content=body(), headers=headers)
    assert refused.status_code == 403
    assert read == []


def endless(read: list[bytes], piece: bytes = b"x" * 65_536) -> AsyncIterator[bytes]:
    """A body that is never whole; what is read of it is kept."""

    async def body() -> AsyncIterator[bytes]:
        while True:
            read.append(piece)
            yield piece

    return body()


async def test_body_that_grows_over_its_limit_is_cut_off():
    """One that was not announced: only counting tells."""
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while len(heard) < 100:
            heard.append(await receive())

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def send(_: Any) -> None:
        raise AssertionError("nothing is answered")

    scope: Scope = {"type": "http", "method": "POST", "path": "/query", "headers": []}
    with pytest.raises(HTTPException) as refused:
        await RequestGuard(app, body_bytes_max=35, upload_bytes_max=35)(scope, receive, send)
    assert refused.value.status_code == 413
    assert sum(len(message["body"]) for message in heard) == 30


async def test_body_of_a_safe_request_is_nobodys_and_its_caller_is_given_up():
    """Whoever streams an answer listens for that, and has nobody to tell of an error any more."""
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while not heard or heard[-1]["type"] != "http.disconnect":
            heard.append(await receive())
            assert len(heard) < 100

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    scope: Scope = {"type": "http", "method": "GET", "path": "/ingest/events", "headers": []}
    await RequestGuard(app, body_bytes_max=35, upload_bytes_max=35)(scope, receive, no_answer)
    assert heard[-1] == {"type": "http.disconnect"}


async def no_answer(_: Message) -> None:
    raise AssertionError("nothing is answered")


async def test_body_over_its_limit_is_told_so(client):
    read: list[bytes] = []
    refused = await client.post("/query", content=endless(read), headers={"content-type": "application/json"})
    assert is_problem(refused, 413)
    assert len(b"".join(read)) <= BODY_BYTES_MAX + 2 * 65_536


async def test_body_that_does_not_come_is_told_so(client, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS_MAX", 0.05)

    async def silent() -> AsyncIterator[bytes]:
        yield b'{"question": '
        await asyncio.Event().wait()

    refused = await client.post("/query", content=silent(), headers={"content-type": "application/json"})
    assert is_problem(refused, 408)


async def test_no_body_of_a_stranger_is_read(client, owner, pool):
    """FastAPI reads a body before it asks who sends it; a hundred strangers would fill the memory."""
    await make_collection(pool)
    await keys.create_key(owner, "one", "admin", [])
    operations = (await client.get("/openapi.json")).json()["paths"]
    with_body = [
        (method, path)
        for path, methods in operations.items()
        for method, operation in methods.items()
        if "requestBody" in operation
    ]
    assert len(with_body) >= 5
    for method, path in with_body:
        read: list[bytes] = []
        headers = {"content-type": "application/json"}
        refused = await client.request(
            method, path.replace("{", "").replace("}", ""), content=endless(read), headers=headers
        )
        assert refused.status_code == 401, (method, path)
        assert is_openai(path) or is_problem(refused, 401), (method, path)
        assert read == [], (method, path)


async def test_answer_before_the_body_says_that_nothing_more_is_wanted(client, owner):
    await keys.create_key(owner, "one", "admin", [])
    read: list[bytes] = []
    refused = await client.post("/ingest/files", content=endless(read))
    assert (refused.status_code, refused.headers.get("connection")) == (401, "close")
    assert "connection" not in (await client.get("/documents")).headers
