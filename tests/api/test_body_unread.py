"""Bodies that are not read, or not to their end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from services.console import keys
from services.query.guard import RequestGuard
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


async def test_body_that_grows_over_its_limit_is_cut_off():
    """One that was not announced: only counting tells."""
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while not heard or heard[-1]["type"] != "http.disconnect":
            heard.append(await receive())
            assert len(heard) < 100

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def send(_: Any) -> None:
        raise AssertionError("nothing is answered")

    scope: Scope = {"type": "http", "method": "POST", "path": "/query", "headers": []}
    await RequestGuard(app, body_bytes_max=35, upload_bytes_max=35)(scope, receive, send)
    assert sum(len(message.get("body", b"")) for message in heard) == 30
