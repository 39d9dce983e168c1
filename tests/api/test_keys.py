"""Keys: what each role may do in which collection, and what an absent one gives away."""

import os
import subprocess
import sys

import asyncpg
import httpx2
import pytest

from services.console import keys
from services.query.app import create_app
from shared.errors import RequestError
from tests.api.conftest import make_deps
from tests.factories import make_collection, publish_version
from tests.waiting import SUBPROCESS_SECONDS_MAX


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
async def two_collections(pool) -> None:
    await publish_version(pool, ["Our gate code is 4711."], source_uri="inbox:ours/a.md", collection="ours")
    await publish_version(pool, ["Their gate code is 4712."], source_uri="inbox:theirs/b.md", collection="theirs")


async def test_without_a_key_loopback_is_open_and_with_one_it_is_not(client, owner):
    assert (await client.get("/documents")).status_code == 200
    secret = await keys.create_key(owner, "reader", "read", [])
    refused = await client.get("/documents")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await client.get("/documents", headers=bearer("askbox_wrong"))).status_code == 401
    assert (await client.get("/documents", headers={"Authorization": "Basic abc"})).status_code == 401
    assert (await client.get("/documents", headers=bearer(secret))).status_code == 200


async def test_a_key_that_nobody_made_is_refused_even_where_askbox_is_open(client):
    """Somebody who sends a key expects it to be checked."""
    assert (await client.get("/documents", headers=bearer("askbox_wrong"))).status_code == 401


async def test_probes_need_no_key(client, owner):
    await keys.create_key(owner, "reader", "read", [])
    for path in ("/live", "/ready"):
        assert (await client.get(path)).status_code == 200
    assert (await client.get("/health")).status_code in {200, 503}


async def test_other_bind_is_closed_without_keys(reader_pool):
    app = create_app(make_deps(reader_pool, is_loopback=False))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://askbox.example") as client:
        assert (await client.get("/documents")).status_code == 401
        assert (await client.get("/live")).status_code == 200


async def test_other_collections_are_absent_for_a_key(client, owner, two_collections):
    secret = await keys.create_key(owner, "ours", "read", ["ours"])
    headers = bearer(secret)
    assert [c["name"] for c in (await client.get("/collections", headers=headers)).json()["data"]] == ["ours"]
    listed = (await client.get("/documents", headers=headers)).json()["data"]
    assert [d["file_path"] for d in listed] == ["ours/a.md"]
    hits = (await client.post("/search", json={"question": "gate code"}, headers=headers)).json()["data"]
    assert {hit["collection"] for hit in hits} == {"ours"}
    theirs = await owner.fetchval("SELECT id FROM askbox.document WHERE source_uri = 'inbox:theirs/b.md'")
    for foreign in (theirs, 999_999):
        answer = await client.get(f"/documents/{foreign}", headers=headers)
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"there is no document {foreign}"
    refused = await client.post("/query", json={"question": "gate code", "collection": "theirs"}, headers=headers)
    absent = await client.post("/query", json={"question": "gate code", "collection": "absent"}, headers=headers)
    assert (refused.status_code, absent.status_code) == (404, 404)
    assert refused.json()["detail"].replace("theirs", "absent") == absent.json()["detail"]
    assert (await client.get("/ingest/stats", headers=headers)).json()["documents"] == {"ready": 1}


async def test_a_reading_key_changes_nothing_and_a_writing_one_only_its_own(client, owner, two_collections):
    reading = bearer(await keys.create_key(owner, "reading", "read", ["ours"]))
    writing = bearer(await keys.create_key(owner, "writing", "write", ["ours"]))
    ours = await owner.fetchval("SELECT id FROM askbox.document WHERE source_uri = 'inbox:ours/a.md'")
    theirs = await owner.fetchval("SELECT id FROM askbox.document WHERE source_uri = 'inbox:theirs/b.md'")
    assert (await client.delete(f"/documents/{ours}", headers=reading)).status_code == 403
    assert (await client.delete(f"/documents/{theirs}", headers=writing)).status_code == 404
    assert (await client.post("/inbox/confirm-deletes", headers=writing)).status_code == 403
    assert (await client.post("/collections", json={"name": "new"}, headers=writing)).status_code == 403
    assert (await client.delete(f"/documents/{ours}", headers=writing)).status_code == 204
    assert await owner.fetchval("SELECT count(*) FROM askbox.document") == 1


async def test_of_two_grants_the_higher_counts(client, owner, two_collections):
    secret = await keys.create_key(owner, "mixed", "read", [])
    await owner.execute(
        "INSERT INTO askbox.key_grant SELECT k.id, c.id, 'write' FROM askbox.api_key k, askbox.collection c WHERE c.name = 'ours'"
    )
    listed = (await client.get("/collections", headers=bearer(secret))).json()["data"]
    assert {c["name"]: c["role"] for c in listed} == {"ours": "write", "theirs": "read"}


async def test_a_revoked_key_opens_nothing_and_never_opens_the_house(client, owner):
    secret = await keys.create_key(owner, "one", "admin", [])
    await keys.revoke_key(owner, "one")
    assert (await client.get("/documents", headers=bearer(secret))).status_code == 401
    assert (await client.get("/documents")).status_code == 401
    with pytest.raises(RequestError, match="no valid key"):
        await keys.revoke_key(owner, "one")


async def test_rotation_closes_the_old_secret_and_keeps_the_grants(client, owner, two_collections):
    old = await keys.create_key(owner, "one", "write", ["ours"])
    new = await keys.rotate_key(owner, "one")
    assert (await client.get("/documents", headers=bearer(old))).status_code == 401
    listed = (await client.get("/collections", headers=bearer(new))).json()["data"]
    assert listed == [{"name": "ours", "role": "write"}]


async def test_secrets_are_stored_as_sums_only(owner):
    secret = await keys.create_key(owner, "one", "admin", [])
    row = await owner.fetchrow("SELECT * FROM askbox.api_key")
    assert secret not in str(dict(row))
    assert secret.startswith("askbox_")


async def test_a_name_is_given_once_and_is_readable(owner):
    await keys.create_key(owner, "one", "read", [])
    for name in ("one", "", "  ", "a\nb", "x" * 101):
        with pytest.raises(RequestError):
            await keys.create_key(owner, name, "read", [])
    with pytest.raises(RequestError, match="no collection named absent"):
        await keys.create_key(owner, "two", "read", ["absent"])
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute("INSERT INTO askbox.api_key (name, sha256) VALUES (' ', sha256('a'))")


async def test_the_first_key_is_made_once_and_for_everything(client, owner):
    first = await keys.create_first_key(owner)
    assert first is not None
    assert await keys.create_first_key(owner) is None
    await keys.revoke_key(owner, keys.FIRST_KEY_NAME)
    assert await keys.create_first_key(owner) is None  # who revoked it did not ask for another
    (key,) = await keys.list_keys(owner)
    assert (key.name, key.collections, key.roles) == ("first", [None], ["admin"])


def test_open_bind_without_a_key_stops_the_start_and_says_what_to_do(url):
    environment = os.environ | {"ASKBOX_DATABASE_URL": url, "ASKBOX_HTTP_HOST": "0.0.0.0", "ASKBOX_HTTP_PORT": "0"}
    environment["ASKBOX_HTTP_PORT"] = "18999"
    started = subprocess.run(
        [sys.executable, "-m", "services.query"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS_MAX,
        check=False,
    )
    assert started.returncode == 78, started.stderr
    assert "askbox keys create" in started.stderr


# -- collections --------------------------------------------------------------------------------------------------------


async def test_collections_are_made_renamed_and_deleted(client, pool, owner):
    await publish_version(pool, ["A note."], source_uri="upload:a.md", collection="notes")
    made = await client.post("/collections", json={"name": "empty"})
    assert made.status_code == 201
    assert (await client.post("/collections", json={"name": "empty"})).status_code == 409
    assert (await client.post("/collections", json={"name": "a/b"})).status_code == 400
    assert (await client.patch("/collections/notes", json={"name": "empty"})).status_code == 409
    assert (await client.patch("/collections/notes", json={"name": ".x"})).status_code == 400
    assert (await client.patch("/collections/notes", json={"name": "papers"})).status_code == 200
    assert [d["collection"] for d in (await client.get("/documents")).json()["data"]] == ["papers"]
    assert (await client.delete("/collections/papers")).status_code == 204
    assert (await client.delete("/collections/papers")).status_code == 404
    for table in ("document", "chunk", "chunk_vector", "document_version"):
        assert await owner.fetchval(f"SELECT count(*) FROM askbox.{table}") == 0


async def test_what_the_inbox_fills_follows_its_folder(client, pool):
    await publish_version(pool, ["A note."], source_uri="inbox:notes/a.md", collection="notes")
    renamed = await client.patch("/collections/notes", json={"name": "papers"})
    deleted = await client.delete("/collections/notes")
    assert (renamed.status_code, deleted.status_code) == (409, 409)
    assert "rename its folder" in renamed.json()["detail"]


async def test_the_reader_cannot_touch_collections_outside_its_scope(reader_pool, pool):
    ours, _ = await make_collection(pool, "ours")
    theirs, _ = await make_collection(pool, "theirs")
    async with reader_pool.acquire() as conn, conn.transaction():
        await conn.fetchval("SELECT set_config('askbox.scope', $1, true)", f"{{{ours}}}")
        assert await conn.fetch("UPDATE collection SET name = 'x' WHERE id = $1 RETURNING id", theirs) == []
        assert await conn.fetch("DELETE FROM collection WHERE id = $1 RETURNING id", theirs) == []
        assert len(await conn.fetch("DELETE FROM collection WHERE id = $1 RETURNING id", ours)) == 1
