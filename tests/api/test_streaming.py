"""Answers as events: their order, their one end, and a client that leaves."""

import asyncio
import socket
import time

import pytest

from services.query.markers import NOT_IN_SOURCES
from services.query.slots import Slots
from tests.api.asking import QUESTION, SOCKET_BYTES, TEXTS, asking, parse_events
from tests.factories import make_collection, publish_version
from tests.openai_chat import Chat
from tests.waiting import until

# From the caller's leaving to the end of the provider's work. The promise is a second; a loaded machine gets more.
LEAVING_SECONDS_MAX = 30
# For how long a silent provider is waited for: what ends sooner was ended by the caller's leaving.
PROVIDER_SECONDS = 600


@pytest.fixture
async def real(reader_pool, pool, server):
    """The application behind a real socket, with one slot."""
    await publish_version(pool, TEXTS)
    slots = Slots(1, waiting_max=4, wait_seconds_max=PROVIDER_SECONDS)
    async with asking(reader_pool, server, is_real=True, slots=slots, provider_seconds=PROVIDER_SECONDS) as opened:
        yield opened


def names_of(events) -> list[str]:
    return [name for name, _ in events]


def text_of(events) -> str:
    return "".join(data["text"] for name, data in events if name == "token")


async def test_events_come_in_order_and_make_up_the_answer(app):
    app.chats.play(Chat(["The backup ", "runs at two [", "1", ", 9]."]))
    events = await app.events()
    names = names_of(events)
    assert names[0] == "sources"
    assert set(names[1:-3]) == {"token"}
    assert names[-3:] == ["citations", "usage", "done"]
    data = dict(events)
    assert text_of(events) == data["done"]["answer"] == "The backup runs at two [1]."
    (offered,) = data["sources"]["sources"]  # three chunks that follow one another
    assert (offered["index"], offered["quote"] in TEXTS) == (1, True)
    assert data["citations"]["sources"] == data["done"]["sources"]
    assert [source["index"] for source in data["done"]["sources"]] == [1]
    assert data["usage"]["tokens"] == data["done"]["tokens"]
    assert data["usage"]["meta"] == data["done"]["meta"]
    assert data["done"]["answered"]


async def test_stream_says_that_nobody_may_hold_it_back(app):
    response = await app.client.post("/query", json={"question": QUESTION, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"
    assert names_of(parse_events(response.text))[-1] == "done"


async def test_extractive_answer_has_the_same_events(reader_pool, pool, server):
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, llm_model=None) as app:
        events = await app.events()
        whole = await app.answer()
    assert names_of(events) == ["sources", "token", "citations", "usage", "done"]
    done = dict(events)["done"]
    assert text_of(events) == done["answer"] == whole["answer"]
    assert done["sources"] == whole["sources"] == dict(events)["citations"]["sources"]


async def test_refusal_before_the_model_shows_no_sources(app):
    events = await app.events("zebra quantum xylophone")
    assert names_of(events) == ["sources", "token", "citations", "usage", "done"]
    data = dict(events)
    assert data["sources"]["sources"] == data["citations"]["sources"] == []
    assert not data["done"]["answered"]
    assert app.chats.calls == []


async def test_refusal_of_the_model_takes_the_sources_back(app):
    app.chats.play(Chat([*NOT_IN_SOURCES]))
    events = await app.events()
    assert names_of(events) == ["sources", "citations", "usage", "done"]
    assert dict(events)["citations"]["sources"] == []
    assert not dict(events)["done"]["answered"]


async def test_line_ends_and_other_scripts_pass_through(app):
    written = "Zeile 1\n\nZeile 2\r\n\u2028 – 日本語 😀 [1]"
    app.chats.play(Chat([*written]))
    events = await app.events()
    assert text_of(events) == dict(events)["done"]["answer"] == written


@pytest.mark.parametrize(
    ("body", "status"), [({"question": " "}, 400), ({"question": "x", "collection": "absent"}, 404), ({}, 422)]
)
async def test_what_fails_before_the_first_event_is_an_ordinary_problem(app, body, status):
    response = await app.client.post("/query/stream", json=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_database_that_is_gone_is_an_ordinary_problem(reader_pool, pool, server):
    await make_collection(pool)
    async with asking(reader_pool, server) as app:
        await reader_pool.close()
        response = await app.client.post("/query/stream", json={"question": QUESTION})
    assert response.status_code == 503


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        (Chat(status=401), ""),
        (Chat(["It runs ", "at two [1]."], cut_at=1), "It runs"),
        (Chat(["It runs ", "at two [1]."], error_at=1), "It runs"),
        (Chat(["It runs ", "at two [1]."], finish=None), "It runs at two"),
    ],
    ids=["refused", "cut", "error in the stream", "no end"],
)
async def test_failure_behind_the_first_event_is_the_one_last_event(app, script, texts):
    app.chats.play(script)
    events = await app.events()
    names = names_of(events)
    assert names[0] == "sources"
    assert names[-1] == "error"
    assert set(names[1:-1]) <= {"token"}
    assert text_of(events).startswith(texts)
    problem = events[-1][1]
    assert problem["status"] == 503
    assert problem["trace_id"]
    assert "nightly" not in problem["detail"]
    assert len(app.chats.calls) == 1


async def test_documents_stand_in_before_the_first_word(reader_pool, pool, server):
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, llm_fallback="extractive") as app:
        app.chats.play(Chat(status=401))
        events = await app.events()
    assert names_of(events) == ["sources", "token", "citations", "usage", "done"]
    assert dict(events)["done"]["meta"]["fallback"] == "extractive"
    assert text_of(events) == dict(events)["done"]["answer"]


async def read_until(lines, wanted: str) -> None:
    async for line in lines:
        if wanted in line:
            return
    raise AssertionError(f"the stream ended before {wanted!r}")


async def test_words_arrive_while_the_model_still_writes(real):
    real.chats.play(Chat(["It runs ", "at two [1]."], hold_at=1))
    async with real.client.stream("POST", "/query/stream", json={"question": QUESTION}) as response:
        lines = response.aiter_lines()
        await read_until(lines, "It runs")
        assert real.chats.calls[0].ended_at is None
        real.chats.is_released = True
        await read_until(lines, "event: done")


async def test_silence_is_filled_with_comments(real, monkeypatch):
    monkeypatch.setattr("services.query.stream.KEEP_ALIVE_SECONDS", 0.02)
    real.chats.play(Chat(hold_at=0))
    async with real.client.stream("POST", "/query/stream", json={"question": QUESTION}) as response:
        lines = response.aiter_lines()
        await read_until(lines, ": ping")
        await read_until(lines, ": ping")
        real.chats.is_released = True
        await read_until(lines, "event: done")


async def is_left(chats) -> bool:
    return bool(chats.calls) and chats.calls[0].left_at is not None


async def is_free(app) -> bool:
    return not app.deps.concurrency._free.locked()


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        (Chat(["It runs ", "at two."], stall_at=1), "It runs"),
        (Chat(stall_at=0), "event: sources"),
        (Chat(silent_headers=True), "event: sources"),
        (Chat(["It runs on and on. "] * 1_000_000), "on and on"),
    ],
    ids=["between words", "before the first word", "before the headers", "while it writes"],
)
async def test_client_that_leaves_ends_the_call_and_frees_its_slot(real, owner, script, seen):
    real.chats.play(script)
    async with real.client.stream("POST", "/query/stream", json={"question": QUESTION}) as response:
        lines = response.aiter_lines()  # held: an iterator that is let go closes the response
        await read_until(lines, seen)
        await until(lambda: asyncio.sleep(0, real.chats.calls))
    left_at = time.monotonic()
    await until(lambda: is_left(real.chats))
    assert real.chats.calls[0].left_at - left_at < LEAVING_SECONDS_MAX
    await until(lambda: is_free(real))
    if seen in script.pieces[0]:  # what was written was paid for
        await until(lambda: owner.fetchval("SELECT completion_tokens > 0 FROM token_usage WHERE model = 'test-chat'"))
    assert (await real.answer())["answered"], "the next one is served"


async def test_client_that_leaves_without_streaming_ends_the_call_too(real):
    real.chats.play(Chat(stall_at=0))
    asked = asyncio.create_task(real.ask())
    await until(lambda: asyncio.sleep(0, real.chats.calls))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: is_left(real.chats))
    await until(lambda: is_free(real))


@pytest.mark.parametrize("route", ["/query", "/query/stream", "/search"])
async def test_client_that_leaves_the_queue_takes_no_slot(real, route):
    real.chats.play(Chat(hold_at=0))
    first = asyncio.create_task(real.ask())
    await until(lambda: asyncio.sleep(0, real.chats.calls))
    second = asyncio.create_task(real.client.post(route, json={"question": QUESTION}))
    await until(lambda: asyncio.sleep(0, real.deps.concurrency._waiting == 1))
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await until(lambda: asyncio.sleep(0, real.deps.concurrency._waiting == 0))
    real.chats.is_released = True
    assert (await first).status_code == 200
    assert len(real.chats.calls) == 1


async def test_client_that_takes_nothing_is_left(real, monkeypatch):
    monkeypatch.setattr("services.query.stream.SEND_SECONDS_MAX", 0.2)
    real.chats.play(Chat(["It runs on and on. " * 10_000] * 1_000_000))
    monkeypatch.setattr("services.query.generate.ANSWER_CHARACTERS_MAX", 10**12)
    host, port = real.client.base_url.host, real.client.base_url.port
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)  # before it is told of in the handshake
    silent.connect((host, port))
    reader, writer = await asyncio.open_connection(sock=silent, limit=1024)
    body = b'{"question": "' + QUESTION.encode() + b'"}'
    head = f"POST /query/stream HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await until(lambda: is_left(real.chats))
    await until(lambda: is_free(real))
    writer.close()
    del reader
