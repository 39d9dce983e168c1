"""Questions that lean on what was said before: what is looked for, with a chat model and without one."""

import asyncio

import pytest

from tests.api.asking import QUESTION, TEXTS, asking
from tests.factories import publish_version
from tests.openai_chat import Chat, chats_of
from tests.waiting import until

FOLLOW_UP = "And the weekly one?"
REWRITTEN = "When does the weekly backup of the archive run?"
SAID = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "It runs at two in the morning [3]."},
]
BY_RULE = f"{FOLLOW_UP} nightly backup run"
WRITTEN = Chat(["The weekly one runs on Sunday [1]."])


async def test_model_writes_the_question_that_is_looked_for(app):
    app.chats.play(Chat([f'"{REWRITTEN}"\n']), WRITTEN)
    answer = await app.answer(FOLLOW_UP, messages=SAID)
    rewriting, writing = (call.body for call in app.chats.calls)
    assert answer["question"] == FOLLOW_UP
    assert answer["meta"]["question"] == REWRITTEN
    assert rewriting["max_tokens"] == 200
    asked = rewriting["messages"][-1]["content"]
    assert asked.splitlines()[-1] == f"Last question: {FOLLOW_UP}"
    assert QUESTION in asked
    assert "[3]" not in asked, "markers of other sources"
    assert "BEGIN SOURCE" not in asked
    assert f"Question: {FOLLOW_UP}\nLooked for: {REWRITTEN}" in writing["messages"][-1]["content"]


async def test_what_the_rewriting_took_is_counted(app, owner):
    app.chats.play(Chat([REWRITTEN]), WRITTEN)
    answer = await app.answer(FOLLOW_UP, messages=SAID)
    assert (answer["tokens"]["prompt"], answer["tokens"]["completion"]) == (642, 24)
    written = "SELECT coalesce(sum(prompt_tokens), 0) FROM token_usage WHERE model = 'test-chat'"
    await until(lambda: owner.fetchval(f"SELECT ({written}) = 642"))


async def test_without_a_model_a_rule_finds_what_is_meant(plain):
    answer = await plain.answer(FOLLOW_UP, messages=SAID)
    assert answer["meta"]["question"] == BY_RULE
    assert answer["answered"]
    assert "weekly" in answer["sources"][0]["quote"]
    assert plain.chats.calls == []


async def test_question_by_itself_is_looked_for_as_it_was_asked(plain):
    assert (await plain.answer(messages=SAID))["meta"]["question"] == QUESTION


async def test_first_question_needs_no_rewriting(app):
    assert (await app.answer())["meta"]["question"] == QUESTION
    assert len(app.chats.calls) == 1


@pytest.mark.parametrize(
    "script",
    [
        Chat(["When does the weekly"], finish="length"),
        Chat([""]),
        Chat(['""']),
        Chat(["Let me think.\nWhen does the weekly backup run?"]),
        Chat(["word " * 1000]),
        Chat(["wort"] * 300),
        Chat(["-weekly -backup"]),
    ],
    ids=[
        "too long",
        "nothing",
        "quotes",
        "two lines",
        "an essay",
        "more than the model reads",
        "only what must not be there",
    ],
)
async def test_rewriting_that_is_no_question_leaves_the_rule(app, script):
    app.chats.play(script, WRITTEN)
    answer = await app.answer(FOLLOW_UP, messages=SAID)
    assert answer["meta"]["question"] == BY_RULE
    assert len(app.chats.calls) == 2


@pytest.mark.parametrize("script", [Chat(status=401), Chat(["When does "], cut_at=1)], ids=["refused", "cut"])
async def test_documents_stand_in_for_a_model_that_already_fails_to_rewrite(reader_pool, pool, server, script):
    await publish_version(pool, TEXTS)
    chats_of(server).default = script
    async with asking(reader_pool, server, llm_fallback="extractive") as app:
        answer = await app.answer(FOLLOW_UP, messages=SAID)
    assert answer["answered"]
    assert answer["meta"]["question"] == BY_RULE
    assert answer["meta"]["fallback"] == "extractive"


async def test_model_that_already_fails_to_rewrite_is_told(app):
    app.chats.default = Chat(status=401)
    response = await app.ask(FOLLOW_UP, messages=SAID)
    assert response.status_code == 503
    assert "OPENAI_API_KEY" in response.json()["detail"]


async def test_rewriting_that_takes_too_long_is_not_waited_for(app, monkeypatch):
    monkeypatch.setattr("services.query.rewrite.REWRITE_SECONDS_MAX", 3.0)
    app.chats.play(Chat(stall_at=0), WRITTEN)
    answer = await app.answer(FOLLOW_UP, messages=SAID)
    assert answer["meta"]["question"] == BY_RULE
    await until(lambda: asyncio.sleep(0, app.chats.calls[0].left_at))


async def test_question_that_grew_too_long_is_looked_for_as_it_was_asked(plain, monkeypatch):
    tokenizer = plain.deps.answerer._model.tokenizer
    (tokens,) = tokenizer.count([FOLLOW_UP])
    monkeypatch.setattr(tokenizer, "tokens_max", tokens)
    assert (await plain.answer(FOLLOW_UP, messages=SAID))["meta"]["question"] == FOLLOW_UP


async def test_caller_who_leaves_while_the_question_is_read_ends_the_call(reader_pool, pool, server):
    await publish_version(pool, TEXTS)
    chats_of(server).play(Chat(["When ", "does"], stall_at=1))
    async with asking(reader_pool, server, is_real=True) as app:
        asked = asyncio.create_task(app.ask(FOLLOW_UP, messages=SAID))
        await until(lambda: asyncio.sleep(0, app.chats.calls and app.chats.calls[0].sent))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: asyncio.sleep(0, app.chats.calls[0].left_at))
        await until(lambda: asyncio.sleep(0, not app.deps.concurrency._free.locked()))
    assert len(app.chats.calls) == 1
