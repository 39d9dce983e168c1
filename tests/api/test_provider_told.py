"""What callers and health are told of a model's server: what to do, never where it is."""

import logging

import pytest

from shared import provider as provider_module
from shared import queue
from shared.text import without_addresses
from tests.openai_chat import Chat


async def test_caller_is_told_what_to_do_and_the_log_where_the_server_is(app, provider, caplog):
    app.chats.default = Chat(status=401)
    with caplog.at_level(logging.WARNING, "askbox"):
        response = await app.ask()
    address = provider.url.removesuffix("/v1")
    assert response.status_code == 503
    assert "OPENAI_API_KEY" in response.json()["detail"]
    assert address.partition("://")[2] not in response.text
    reasons = [record.facts["reason"] for record in caplog.records if record.getMessage() == "provider_unavailable"]
    assert any(address in reason for reason in reasons)


async def test_answer_that_breaks_off_closes_the_gate_for_a_while(app, monkeypatch):
    monkeypatch.setattr(provider_module, "PAUSE_SECONDS_MIN", 60.0)
    app.chats.play(Chat(["It runs ", "at two [1]."], cut_at=1))
    assert (await app.ask()).status_code == 503
    assert "broke off" in app.deps.answerer._chat.reason
    assert (await app.ask()).status_code == 503
    assert len(app.chats.calls) == 1, "the server is left alone"


async def hinder(pool, note: str | None, *, is_hindered: bool) -> None:
    for kind in ("ingester", "embedder", "query"):
        worker_id = await queue.register_worker(pool, kind=kind, host="here", pid=1)
        is_embedder = kind == "embedder"
        await queue.touch_worker(
            pool,
            worker_id,
            is_listening=True,
            note=note if is_embedder else None,
            is_hindered=is_hindered and is_embedder,
        )


async def test_health_is_not_well_while_the_model_of_an_embedder_is_away(client, pool):
    await hinder(pool, "m is not available: http://10.0.0.7:11434 answered 500", is_hindered=True)
    response = await client.get("/health")
    assert response.status_code == 503
    embedder = response.json()["checks"]["embedder"]
    assert not embedder["ok"]
    assert embedder["reason"] == "m is not available: its server answered 500"
    assert "10.0.0.7" not in response.text


async def test_health_keeps_a_note_that_hinders_nothing(client, pool):
    await hinder(pool, "large collections are searched without an index", is_hindered=False)
    response = await client.get("/health")
    assert response.status_code == 200
    checks = response.json()["checks"]
    assert checks["embedder"]["note"] == "large collections are searched without an index"
    assert checks["query"] == {"ok": True, "count": 1, "processes": ["1@here"]}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("http://10.0.0.7:8080 answered 500: ask again", "its server answered 500: ask again"),
        ("https://models.example.org: too slow", "its server: too slow"),
        ("look at (HTTP://[::1]:9/v1), then", "look at (its server), then"),
        ("postgresql://u:p@h/d and http://a.b/c?d=e.", "its server and its server."),
        ("no address: nothing // to hide", "no address: nothing // to hide"),
    ],
)
def test_addresses_are_left_out(reason, told):
    assert without_addresses(reason) == told
