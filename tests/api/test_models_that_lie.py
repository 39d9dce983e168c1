"""What a question gets when its models answer what they should not, or never end."""

import asyncio

import httpx2
import pytest

from services.query.answer import Answerer
from services.query.app import create_app
from services.query.deps import Deps
from services.query.slots import Slots
from shared import provider as provider_module
from shared.embedding import open_model
from shared.errors import ProviderUnavailable, RetryableError
from shared.intake import ensure_model
from shared.settings import Settings
from tests import factories
from tests.api.asking import QUESTION, TEXTS, asking, settings_for
from tests.factories import publish_version
from tests.openai_chat import Chat
from tests.openai_server import DIMENSION
from tests.waiting import until

NAME = "openai:test-embedding"


@pytest.fixture
async def embedded(reader_pool, pool, server, tmp_path, monkeypatch):
    """The application whose questions are embedded by the server."""
    monkeypatch.setattr(factories, "MODEL", NAME)
    monkeypatch.setattr(provider_module, "PAUSE_SECONDS_MIN", 0.001)
    await ensure_model(pool, NAME, DIMENSION)
    settings = Settings(_env_file=None, home=tmp_path, embedding_model=NAME, embedding_base_url=server.url)
    model = open_model(settings)
    answerer = Answerer(reader_pool, model, refusal_threshold=0.1)
    deps = Deps(reader_pool, answerer, Slots(4, waiting_max=8), settings_for(server, llm_model=None), "test")
    transport = httpx2.ASGITransport(app=create_app(deps), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
        yield client
    await model.close()


async def test_question_that_the_model_rejects_is_the_askers_to_change(embedded, server):
    server.poison = {"poison": 400}
    response = await embedded.post("/query", json={"question": "is there poison"})
    assert response.status_code == 422, response.text
    assert "word it differently" in response.json()["detail"]
    assert (await embedded.post("/search", json={"question": "what else"})).status_code == 200


async def test_question_that_breaks_the_model_each_time_is_no_failure_of_ours(embedded, server):
    server.poison = {"poison": 500}
    for _ in range(3):
        response = await embedded.post("/query", json={"question": "is there poison"})
        assert response.status_code == 503, response.text
        assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("fallback", [None, "extractive"])
async def test_whole_answer_counts_though_its_connection_never_ends(reader_pool, pool, server, monkeypatch, fallback):
    monkeypatch.setattr("services.query.generate.USAGE_SECONDS_MAX", 0.05)
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, llm_fallback=fallback) as app:
        app.chats.play(Chat(["It runs ", "at two [1]."], lingers=True))
        events = await app.events()
    name, done = events[-1]
    assert name == "done"
    assert done["answer"] == "It runs at two [1]."
    assert done["meta"]["fallback"] is None
    assert done["question"] == QUESTION
    await until(lambda: asyncio.sleep(0, app.chats.calls[0].left_at))


async def test_as_many_answers_are_written_at_once_as_are_let_in(reader_pool, pool, server):
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, slots=Slots(24, waiting_max=0)) as app:
        app.chats.default = Chat(hold_at=0)
        asked = [asyncio.create_task(app.ask()) for _ in range(24)]
        await until(lambda: asyncio.sleep(0, len(app.chats.calls) == 24))
        app.chats.is_released = True
        assert {response.status_code for response in await asyncio.gather(*asked)} == {200}


async def test_bad_texts_that_come_by_turns_are_each_found_guilty(server, tmp_path, monkeypatch):
    monkeypatch.setattr(provider_module, "PAUSE_SECONDS_MIN", 0.001)
    monkeypatch.setattr(provider_module, "ATTEMPT_PAUSE_SECONDS_MAX", 0.001)
    server.poison = {"breaking": 500}
    settings = Settings(_env_file=None, home=tmp_path, embedding_model=NAME, embedding_base_url=server.url)
    model = open_model(settings)
    texts = [f"breaking {n}" for n in range(4)]
    for text in texts:
        with pytest.raises(ProviderUnavailable) as raised:  # the first time it may be the server's fault
            await model.encode([text])
        await asyncio.sleep(raised.value.retry_after)  # the doubling of these would hold everybody up
        assert raised.value.retry_after < 0.002
    for text in texts:
        with pytest.raises(RetryableError) as charged:
            await model.encode([text])
        assert not isinstance(charged.value, ProviderUnavailable)
        await asyncio.sleep(0.002)
    assert (await model.encode(["a good one"])).shape == (1, DIMENSION)
    await model.close()
