"""Questions over real processes, embeddings and answers from the scripted server: whole, streamed, left, refused, stopped."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import asyncpg
import httpx2
import pytest

from tests.conftest import database_url
from tests.e2e.harness import SECONDS_MAX, Askbox
from tests.openai_chat import Chat, Chats, chats_of
from tests.openai_server import OpenAIServer, serving

pytestmark = pytest.mark.timeout(900)
NOTE = "# Gates\n\nThe northern gate opens at six in the morning. The southern gate is always locked.\n"
QUESTION = "When does the northern gate open in the morning?"
ANSWER = "It opens at six [1]."
# The promises are one second and five; a loaded machine gets more, and far less than the provider's silence lasts.
LEAVING_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 90.0
PROVIDER_SECONDS = 600


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    with serving() as started:
        yield started


@pytest.fixture(scope="module")
def box(
    provider: OpenAIServer, server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Askbox]:
    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(server_url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute(f"CREATE DATABASE e2e_answers TEMPLATE {template}"))
    with contextlib.ExitStack() as parts:
        box = Askbox(
            tmp_path_factory.mktemp("answers"),
            database_url(server_url, "e2e_answers"),
            ASKBOX_EMBEDDING_MODEL="openai:test-embedding",
            ASKBOX_LLM_MODEL="test-chat",
            OPENAI_BASE_URL=provider.url,
            ASKBOX_STOP_SECONDS="3",
            ASKBOX_PROVIDER_SECONDS=str(PROVIDER_SECONDS),
        )
        box.inbox.mkdir()
        (box.inbox / "gates.md").write_text(NOTE, encoding="utf-8")
        box.start()
        parts.callback(box.stop)
        box.wait_until(lambda: box.documents().get("gates.md", {}).get("state") == "ready", SECONDS_MAX, "not ready")
        yield box
    asyncio.run(execute("DROP DATABASE e2e_answers WITH (FORCE)"))


@pytest.fixture
def chats(provider: OpenAIServer) -> Chats:
    chats_of(provider).forget()
    return chats_of(provider)


@contextlib.contextmanager
def streaming(box: Askbox) -> Iterator[Iterator[tuple[str, dict]]]:
    """The events of a streamed answer as they come; leaving the context leaves the answer."""
    with (
        httpx2.Client(timeout=SECONDS_MAX, trust_env=False) as client,
        client.stream("POST", box.address + "/query", json={"question": QUESTION, "stream": True}) as response,
    ):
        assert response.status_code == 200
        yield _events(response)


def _events(response: httpx2.Response) -> Iterator[tuple[str, dict]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def wait_for(is_so: Callable[[], bool], seconds: float) -> float:
    """Wait for what another thread does and return the seconds."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds
        time.sleep(0.01)
    return time.monotonic() - started


async def fetch(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def test_note_is_answered_by_the_chat_model_with_its_source(box: Askbox, chats: Chats) -> None:
    chats.play(Chat([*ANSWER]))
    answer = box.ask(QUESTION)
    assert (answer["answer"], answer["answered"], answer["meta"]["model"]) == (ANSWER, True, "test-chat")
    assert [source["file_path"] for source in answer["sources"]] == ["gates.md"]
    assert "opens at six" in answer["sources"][0]["quote"]
    assert answer["tokens"]["prompt"] == 321
    (call,) = chats.calls
    assert "northern gate opens at six" in json.dumps(call.body)


def test_streamed_answer_is_read_to_its_one_end(box: Askbox, chats: Chats) -> None:
    chats.play(Chat([*ANSWER]))
    with streaming(box) as events:
        seen = list(events)
    names = [name for name, _ in seen]
    assert names[0] == "sources"
    assert names[-3:] == ["citations", "usage", "done"]
    assert names.count("done") == 1
    assert "".join(data["text"] for name, data in seen if name == "token") == ANSWER == seen[-1][1]["answer"]


def test_client_that_leaves_in_the_middle_closes_the_call(box: Askbox, chats: Chats) -> None:
    chats.play(Chat(["It opens ", "at six [1]."], stall_at=1))
    with streaming(box) as events:
        assert next(name for name, _ in events if name == "token")
        assert chats.calls[0].left_at is None
    wait_for(lambda: chats.calls[0].left_at is not None, LEAVING_SECONDS_MAX)
    assert box.ask(QUESTION)["answered"]


def test_provider_that_is_down_is_told_with_when_to_ask_again(
    box: Askbox, provider: OpenAIServer, chats: Chats
) -> None:
    chats.play(Chat(status=429, headers={"Retry-After": "15"}))
    for _ in range(2):  # the second is not even sent
        response = box.post("/query", {"question": QUESTION})
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert int(response.headers["retry-after"]) >= 1
    assert len(chats.calls) == 1
    provider.faults.append({"kind": "status", "status": 401})
    response = box.post("/query", {"question": QUESTION})
    assert response.status_code == 503
    assert "OPENAI_API_KEY" in response.json()["detail"]
    assert int(response.headers["retry-after"]) >= 1
    box.wait_until(
        lambda: box.post("/query", {"question": QUESTION}).status_code == 200, SECONDS_MAX, "not answered again"
    )


def test_stop_with_an_open_answer_and_a_stalled_embedding_is_bounded(
    box: Askbox, provider: OpenAIServer, chats: Chats
) -> None:
    """Last: it stops everything. The text that is being embedded is given back, uncharged."""
    chats.play(Chat(["It opens ", "at six [1]."], stall_at=1))
    with streaming(box) as events:
        assert next(name for name, _ in events if name == "token")
        provider.faults.append({"kind": "slow", "seconds": PROVIDER_SECONDS})
        (box.inbox / "doors.md").write_text("# Doors\n\nThe western door is new.\n", encoding="utf-8")
        wait_for(lambda: any("western" in str(call.body) for call in provider.called()), SECONDS_MAX)
        assert box.process is not None
        started = time.monotonic()
        os.kill(box.process.pid, signal.SIGTERM)
        assert box.process.wait(STOP_SECONDS_MAX + 20) == 0
        assert time.monotonic() - started < STOP_SECONDS_MAX
        with contextlib.suppress(httpx2.HTTPError):
            assert [name for name, _ in events if name == "done"] == []
    wait_for(lambda: chats.calls[0].left_at is not None, LEAVING_SECONDS_MAX)
    jobs = asyncio.run(
        fetch(box.environment["ASKBOX_DATABASE_URL"], "SELECT attempt, lease_id FROM job WHERE stage = 'embed'")
    )
    assert [tuple(job) for job in jobs] == [(0, None)]
    assert box.events("process_failed") == []
    assert len(box.events("process_stopped")) == 3
