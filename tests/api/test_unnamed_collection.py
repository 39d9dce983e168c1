"""Files that name no collection: they go where there is no doubt, or are refused before they are read."""

import pytest

from services.console import keys
from tests.api.test_http import is_problem
from tests.api.test_ingest import left_over, part, send
from tests.api.test_keys import bearer
from tests.factories import make_collection


@pytest.fixture
async def two(pool) -> None:
    await make_collection(pool, "ours")
    await make_collection(pool, "theirs")


async def test_files_go_to_the_only_collection_of_the_key(client, owner, two):
    headers = bearer(await keys.create_key(owner, "ours", "write", ["ours"]))
    await owner.execute(
        "INSERT INTO askbox.key_grant SELECT k.id, c.id, 'read' FROM askbox.api_key k, askbox.collection c WHERE c.name = 'theirs'"
    )
    answer = await send(client, ("a.md", b"text"), headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["documents"][0]["collection"] == "ours"
    assert is_problem(await send(client, ("a.md", b"text"), collection="default", headers=headers), 404)


async def test_of_several_one_is_named_before_the_first_file(client, pool, owner, two):
    headers = bearer(await keys.create_key(owner, "both", "write", ["ours", "theirs"]))
    refused = await send(client, ("a.md", b"text"), headers=headers)
    assert is_problem(refused, 400)
    assert "collection=NAME" in refused.json()["detail"]
    late = part("a.md", b"text") + part(None, b"ours", "collection") + b"--xx--\r\n"
    headers["content-type"] = "multipart/form-data; boundary=xx"
    assert is_problem(await client.post("/ingest/files", content=late, headers=headers), 400)
    assert await left_over(pool) == {}
    early = part(None, b"ours", "collection") + part("a.md", b"text") + b"--xx--\r\n"
    answer = await client.post("/ingest/files", content=early, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["documents"][0]["collection"] == "ours"


async def test_nothing_of_a_file_is_read_when_a_collection_is_missing(client, owner, two):
    headers = bearer(await keys.create_key(owner, "both", "write", ["ours", "theirs"]))
    sent = 0

    async def body():
        nonlocal sent
        yield part("a.md", b"x" * 1000)[:-2]
        for _ in range(1000):
            sent += 1
            yield b"x" * 100_000

    headers["content-type"] = "multipart/form-data; boundary=xx"
    assert is_problem(await client.post("/ingest/files", content=body(), headers=headers), 400)
    assert sent < 10


async def test_default_is_meant_where_it_may_be_written_to(client, pool, owner, two):
    await make_collection(pool, "default")
    headers = bearer(await keys.create_key(owner, "both", "write", ["ours", "default"]))
    answer = await send(client, ("a.md", b"text"), headers=headers)
    assert answer.json()["documents"][0]["collection"] == "default"


async def test_key_that_reads_everywhere_writes_to_its_own(client, owner, two):
    headers = bearer(await keys.create_key(owner, "reads", "read", []))
    await owner.execute(
        "INSERT INTO askbox.key_grant SELECT k.id, c.id, 'write' FROM askbox.api_key k, askbox.collection c WHERE c.name = 'ours'"
    )
    answer = await send(client, ("a.md", b"text"), headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["documents"][0]["collection"] == "ours"
