"""The work, told live: what is shown to whom, how often somebody looks, and how it ends."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from services.console import keys
from services.embedder.embed import EmbedHandler
from services.query import stream, watch
from services.query.deps import Deps
from services.query.stream import StreamEvent
from services.query.watch import Viewer, Watch
from shared.publication import ask
from tests.api.asking import SOCKET_BYTES, served
from tests.api.conftest import make_deps
from tests.api.test_keys import bearer
from tests.factories import HashModel, arrive, claim, make_collection, publish_version, stage_version
from tests.waiting import SECONDS_MAX, until

TEXTS = [f"Text number {number} of the handbook." for number in range(10)]


class Looks:
    """How often the database was looked at, and for which collections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scopes: list[list[int]] = []
        look = watch.look

        async def counted(pool: Any, scope: Any) -> Any:
            self.scopes.append(list(scope))
            return await look(pool, scope)

        monkeypatch.setattr(watch, "look", counted)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


@pytest.fixture
async def deps(reader_pool) -> Deps:
    return make_deps(reader_pool)


@pytest.fixture
async def real(deps) -> AsyncIterator[httpx2.AsyncClient]:
    async with served(deps) as client:
        yield client


class Live:
    """One open stream."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.comment_count = 0

    async def next(self) -> tuple[str, Any] | None:
        """Return the next event's name and data, or None at the end."""
        name = ""
        async with asyncio.timeout(SECONDS_MAX):  # a stream that goes on and says nothing
            async for line in self._lines:
                self.comment_count += line.startswith(":")
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                if line.startswith("data: "):
                    return name, json.loads(line.removeprefix("data: "))
        return None

    async def until(self, is_so: Any) -> Any:
        """Return the first state of which something is so."""
        while event := await self.next():
            assert event[0] == "work", event
            if is_so(event[1]):
                return event[1]
        raise AssertionError("the stream ended before")


@asynccontextmanager
async def watching(client: httpx2.AsyncClient, **headers: str) -> AsyncIterator[Live]:
    async with client.stream("GET", "/ingest/events", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Live(response)


async def embed(pool, count: int) -> None:
    """Embed so many of the texts that wait, as the embedder does."""
    handler = EmbedHandler(pool, HashModel(), (await make_collection(pool))[1])
    jobs = await claim(pool, "embed", batch_size=count)
    await handler.process(jobs)
    await handler.after(jobs)
    await handler.finish()


def shown(work: Any, path: str = "note.md") -> Any:
    """Return what is shown of the progress of a document in work."""
    return next((d["progress"] for d in work["documents"] if d["file_path"] == path), None)


async def test_each_stage_is_seen_from_arrival_to_the_end(real, pool):
    await arrive(pool, "other", source_uri="inbox:waits.md")
    async with watching(real) as live:
        assert live.response.headers["content-type"].startswith("text/event-stream")
        assert live.response.headers["x-accel-buffering"] == "no"
        assert live.response.headers["cache-control"] == "no-cache"
        work = await live.until(lambda work: work["documents"])
        assert [(d["file_path"], d["state"], d["progress"]) for d in work["documents"]] == [
            ("waits.md", "queued", None)
        ]
        key = await stage_version(pool, TEXTS, is_asked=False)
        work = await live.until(shown)
        waiting = {"unit": "chunks", "done": 0, "total": 10, "per_second": None, "seconds_left": None}
        assert shown(work) == waiting
        assert work["states"] == {"queued": 1, "embedding": 1}
        assert [d["state"] for d in work["documents"]] == ["embedding", "queued"], (
            "what is nearest to its end comes first"
        )
        await embed(pool, 4)
        progress = shown(await live.until(lambda work: shown(work)["done"] == 4))
        assert progress["per_second"] > 0
        assert progress["seconds_left"] > 0
        await embed(pool, 10)
        await ask(pool, key)
        work = await live.until(lambda work: work["ended"])
        assert [(d["file_path"], d["state"], d["error"]) for d in work["ended"]] == [("note.md", "ready", None)]
        assert shown(work) is None


async def test_parsed_pages_characters_or_chunks_are_told(client, pool, owner):
    key = await stage_version(pool, TEXTS, is_asked=False)
    parsing = "UPDATE document_version SET state = 'parsing', chunk_count = NULL, parsing_at = now() - interval '10 seconds', "

    async def told() -> dict[str, Any]:
        work = (await client.get("/ingest/work")).json()
        assert work["documents"][0]["state"] == "parsing"
        return work["documents"][0]["progress"]

    await owner.execute(f"{parsing} page_count = NULL")
    assert await told() == {"unit": "chunks", "done": 10, "total": None, "per_second": None, "seconds_left": None}
    last = await owner.fetchval("SELECT max(char_end) FROM staged_chunk WHERE version_id = $1", key.version_id)
    await owner.execute(f"{parsing} character_count = 3 * {last}")
    progress = await told()
    assert (progress["unit"], progress["done"], progress["total"]) == ("characters", last, 3 * last)
    await owner.execute(f"{parsing} page_count = 90")
    await owner.execute("UPDATE staged_chunk SET page = 20 + ordinal")
    progress = await told()
    assert (progress["unit"], progress["done"], progress["total"]) == ("pages", 29, 90)
    assert 0 < progress["per_second"] <= 3
    assert progress["seconds_left"] >= 20
    await owner.execute("DELETE FROM staged_chunk")
    document = (await client.get("/documents")).json()["data"][0]
    assert document["progress"] == {
        "unit": "chunks",
        "done": 0,
        "total": None,
        "per_second": None,
        "seconds_left": None,
    }


async def test_job_and_document_tell_the_same_progress(client, pool):
    await make_collection(pool)
    sent = await client.post("/ingest/files", files={"file": ("a.md", b"queued")})
    key = await stage_version(pool, TEXTS, source_uri="upload:b.md", is_asked=False)
    await embed(pool, 3)
    job_id = sent.json()["job_id"]
    await pool.execute(
        "INSERT INTO ingest_request_document (request_id, collection_id, document_id, version_id, file_path)"
        " SELECT $1, collection_id, document_id, id, 'b.md' FROM document_version WHERE id = $2",
        job_id,
        key.version_id,
    )
    queued, embedding = (await client.get(f"/ingest/jobs/{job_id}")).json()["documents"]
    assert (queued["state"], queued["progress"], queued["embedded"]) == ("queued", None, 0)
    assert (embedding["chunks"], embedding["embedded"]) == (10, 3)
    assert (embedding["progress"]["done"], embedding["progress"]["total"]) == (3, 10)
    document = (await client.get(f"/documents/{embedding['document_id']}")).json()
    assert {**document["progress"], "per_second": 0, "seconds_left": 0} == {
        **embedding["progress"],
        "per_second": 0,
        "seconds_left": 0,
    }


async def test_document_that_is_ready_or_failed_has_no_progress_and_failures_are_told(client, pool, owner):
    await publish_version(pool, TEXTS)
    await arrive(pool, "broken", source_uri="inbox:broken.pdf")
    await owner.execute(
        "UPDATE document_version SET state = 'failed', error = 'save it again', error_code = 'corrupt_file', ended_at = now()"
        " WHERE state = 'queued'"
    )
    assert [d["progress"] for d in (await client.get("/documents")).json()["data"]] == [None, None]
    work = (await client.get("/ingest/work")).json()
    assert (work["states"], work["documents"]) == ({}, [])
    assert {(d["file_path"], d["state"], d["error"]) for d in work["ended"]} == {
        ("note.md", "ready", None),
        ("broken.pdf", "failed", "save it again"),
    }
    await owner.execute(
        "UPDATE document_version SET ended_at = now() - interval '2 minutes', ready_at = now() - interval '2 minutes'"
    )
    assert (await client.get("/ingest/work")).json()["ended"] == []


async def test_viewers_see_the_collections_of_their_key_only(real, pool, owner, looks):
    for name in ("ours", "theirs"):
        await stage_version(
            pool, [f"A text of {name}."], source_uri=f"inbox:{name}/a.md", collection=name, is_asked=False
        )
    secrets = {name: await keys.create_key(owner, name, "read", [name]) for name in ("ours", "theirs")}
    for name, secret in secrets.items():
        async with watching(real, **bearer(secret)) as live:
            work = await live.until(lambda work: work["documents"])
            assert [d["collection"] for d in work["documents"]] == [name]
            assert work["states"] == {"embedding": 1}
        assert (await real.get("/ingest/work", headers=bearer(secret))).json()["documents"] == work["documents"]
    assert all(len(scope) == 1 for scope in looks.scopes), "each is looked at behind walls of its own"
    assert (await real.get("/ingest/events")).status_code == 401


async def test_revoked_key_shows_nothing_more(real, pool, owner, monkeypatch):
    monkeypatch.setattr(watch, "KEY_SECONDS_MAX", 0.0)
    await make_collection(pool)
    secret = await keys.create_key(owner, "reader", "read", ["default"])
    async with watching(real, **bearer(secret)) as live:
        assert (await live.next())[0] == "work"
        await keys.revoke_key(owner, "reader")
        await arrive(pool, "a secret")
        name, problem = await live.next()
        assert (name, problem["status"]) == ("error", 401)
        assert await live.next() is None


async def test_collection_that_is_made_later_is_seen(real, pool, monkeypatch):
    monkeypatch.setattr(watch, "KEY_SECONDS_MAX", 0.0)
    async with watching(real) as live:
        assert (await live.next())[1] == {"states": {}, "documents": [], "ended": []}
        await arrive(pool, "text", collection="new")
        work = await live.until(lambda work: work["documents"])
        assert work["documents"][0]["collection"] == "new"


async def test_one_look_serves_all_and_nobody_is_looked_for_when_all_have_left(real, pool, deps, looks):
    await make_collection(pool)
    began_at = time.monotonic()
    async with AsyncExitStack() as opened:
        viewers = [await opened.enter_async_context(watching(real)) for _ in range(20)]
        for live in viewers:
            await live.next()
        await arrive(pool, "text")
        states = await asyncio.gather(*(live.until(lambda work: work["documents"]) for live in viewers))
        assert all(state == states[0] for state in states)
        await until(lambda: asyncio.sleep(0, len(looks.scopes) > 3))
    looks_max = 1 + (time.monotonic() - began_at) / watch.LOOK_SECONDS
    assert len(looks.scopes) <= looks_max, "at most two a second, however many watch"
    await until(lambda: asyncio.sleep(0, deps.watch._looking is None))
    assert not deps.watch._viewers
    looked = len(looks.scopes)
    await arrive(pool, "more text", source_uri="inbox:more.md")
    assert len(looks.scopes) == looked
    async with watching(real) as live:
        assert (await live.next())[1]["states"] == {"queued": 2}
    assert len(looks.scopes) > looked


async def test_who_comes_and_goes_all_the_time_is_not_looked_for_more_often(real, pool, deps, monkeypatch):
    began: list[float] = []

    async def hang(*_: object) -> None:
        began.append(time.monotonic())
        await asyncio.Event().wait()

    monkeypatch.setattr(watch, "look", hang)
    await make_collection(pool)
    for count in range(1, 6):
        asking = asyncio.create_task(real.get("/ingest/events"))
        await until(lambda count=count: asyncio.sleep(0, len(began) == count))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: asyncio.sleep(0, deps.watch._looking is None))
    assert began[-1] - began[0] > 2 * watch.LOOK_SECONDS, "five looks take four times as long"


async def test_look_that_takes_long_is_followed_by_a_rest_of_several_times_as_long(real, pool, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    took: list[float] = []
    began: list[float] = []
    look = watch.look

    async def slow(*asked: Any) -> Any:
        began.append(time.monotonic())
        seen = await look(*asked)
        await asyncio.sleep(0.05)
        took.append(time.monotonic() - began[-1])
        return seen

    monkeypatch.setattr(watch, "look", slow)
    await make_collection(pool)
    async with watching(real) as live:
        await live.next()
        await until(lambda: asyncio.sleep(0, len(began) == 4))
    for number in range(3):
        assert began[number + 1] - began[number] >= (1 + watch.REST_RATIO) * took[number] - 0.01


async def test_viewer_who_takes_nothing_holds_up_nobody_and_is_left(real, pool, deps, monkeypatch):
    monkeypatch.setattr(stream, "SEND_SECONDS_MAX", 0.2)
    name = "x" * 2500  # so that few states fill the buffers of one who does not read
    for number in range(watch.DOCUMENTS_SHOWN_MAX):
        await arrive(pool, "text", source_uri=f"inbox:{name}{number}.md")
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)  # before it is told of in the handshake
    host, port = real.base_url.host, real.base_url.port
    silent.connect((host, port))
    reader, writer = await asyncio.open_connection(sock=silent, limit=1024)
    writer.write(f"GET /ingest/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    async with watching(real) as live:
        await until(lambda: asyncio.sleep(0, len(deps.watch._viewers) == 2))
        count = watch.DOCUMENTS_SHOWN_MAX
        while len(deps.watch._viewers) == 2:
            await arrive(pool, "text", source_uri=f"inbox:{count}.md")
            count += 1
            await live.until(lambda work: work["states"]["queued"] == count)  # noqa: B023 (awaited at once)
            assert count < 1000, "nobody noticed that it takes nothing"
        assert len(deps.watch._viewers) == 1
    writer.close()
    del reader


async def no_scope() -> frozenset[int]:
    return frozenset({1})


async def test_of_several_states_that_wait_only_the_newest_is_sent():
    viewer = Viewer(Watch(), frozenset({1}), no_scope, None)
    for state in ("first", "second", "third"):
        viewer.show(state)
    assert await viewer.next() == StreamEvent("work", "third")
    viewer.show("third")
    waiting = asyncio.create_task(viewer.next())
    await asyncio.sleep(0)
    assert not waiting.done(), "what has not changed is not sent again"
    viewer.show("fourth")
    assert await waiting == StreamEvent("work", "fourth")


async def test_state_of_what_may_no_longer_be_read_is_not_sent(monkeypatch):
    monkeypatch.setattr(watch, "KEY_SECONDS_MAX", 0.0)

    async def find_scope() -> frozenset[int]:
        return frozenset({2})

    viewer = Viewer(Watch(), frozenset({1, 2}), find_scope, None)
    viewer.show("of both")
    waiting = asyncio.create_task(viewer.next())
    await until(lambda: asyncio.sleep(0, viewer.scope == frozenset({2})))
    assert not waiting.done()
    viewer.show("of the second")
    assert await waiting == StreamEvent("work", "of the second")


async def test_silence_is_filled_with_comments(real, pool, monkeypatch):
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.02)
    await make_collection(pool)
    async with watching(real) as live:
        await live.next()
        waiting = asyncio.create_task(live.next())
        await until(lambda: asyncio.sleep(0, live.comment_count >= 2))
        await arrive(pool, "text")
        assert (await waiting)[1]["states"] == {"queued": 1}


async def test_streams_end_when_the_process_stops(real, pool, deps):
    await make_collection(pool)
    async with watching(real) as live:
        await live.next()
        deps.watch.close()
        assert await live.next() is None, "and without an error"
    async with watching(real) as live:
        assert await live.next() is None


async def test_database_that_is_gone_ends_the_stream_with_a_problem(real, pool, deps):
    await make_collection(pool)
    async with watching(real) as live:
        await live.next()
        await deps.pool.close()
        name, problem = await live.next()
        assert (name, problem["status"]) == ("error", 503)


async def test_number_of_viewers_is_bounded_and_one_key_does_not_take_all(real, pool, owner, monkeypatch):
    monkeypatch.setattr(watch, "VIEWERS_MAX", 3)
    monkeypatch.setattr(watch, "VIEWERS_OF_A_KEY_MAX", 2)
    await make_collection(pool)
    first, second = [bearer(await keys.create_key(owner, name, "read", [])) for name in ("first", "second")]
    async with watching(real, **first), watching(real, **first):
        assert "with this key" in await refusal(real, first)
        async with watching(real, **second):
            assert "3 watch already" in await refusal(real, second)
    await until(lambda: is_served(real, first))


async def refusal(client: httpx2.AsyncClient, headers: dict[str, str]) -> str:
    async with client.stream("GET", "/ingest/events", headers=headers) as response:
        assert response.status_code == 503  # else there is no end to be read
        return json.loads(await response.aread())["detail"]


async def is_served(client: httpx2.AsyncClient, headers: dict[str, str]) -> bool:
    """Whether there is room again: that a viewer has left is noticed a moment later."""
    async with client.stream("GET", "/ingest/events", headers=headers) as response:
        return response.status_code == 200
