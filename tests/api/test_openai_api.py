"""`/v1` as programs use it: the `openai` SDK as client, over a real socket."""

import asyncio
import contextlib
import json
import time

import openai
import pytest

from services.console import keys
from services.query.exchange import QUESTION_CHARACTERS_MAX
from services.query.markers import NOT_IN_SOURCES
from services.query.openai_schema import ChatIn
from services.query.problems import PARAM_CHARACTERS_MAX
from services.query.slots import Slots
from tests.api.asking import QUESTION, TEXTS, asking
from tests.factories import publish_version
from tests.openai_chat import Chat, chats_of
from tests.waiting import until

OFF = "zebra quantum xylophone"
NOT_FOUND = "The documents do not hold an answer to this question."
ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture
async def app(reader_pool, pool, server):
    """The application behind a socket, with a chat model; each text is a source of its own."""
    for number, text in enumerate(TEXTS):
        await publish_version(pool, [text], source_uri=f"inbox:{number}.md")
    async with asking(reader_pool, server, is_real=True) as opened:
        yield opened


@pytest.fixture
async def plain(reader_pool, pool, server):
    """The application behind a socket, without a chat model."""
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, is_real=True, llm_model=None) as opened:
        yield opened


@contextlib.asynccontextmanager
async def sdk(app, api_key: str = "none"):
    """The SDK as it comes, but that it asks once."""
    async with openai.AsyncOpenAI(
        base_url=f"{app.client.base_url}/v1".replace("//v1", "/v1"), api_key=api_key, max_retries=0
    ) as client:
        yield client


async def complete(app, messages=ASKED, *, api_key="none", model="default", **given):
    async with sdk(app, api_key) as client:
        return await client.chat.completions.create(model=model, messages=messages, **given)


async def stream(app, messages=ASKED, *, model="default", **given):
    async with sdk(app) as client:
        chunks = await client.chat.completions.create(model=model, messages=messages, stream=True, **given)
        return [chunk async for chunk in chunks]


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def annotations_in(chunks) -> list[dict]:
    """What a delta told of sources, as the SDK passes it on."""
    return [
        annotation
        for chunk in chunks
        if chunk.choices
        for annotation in (chunk.choices[0].delta.model_extra or {}).get("annotations", [])
    ]


async def test_answer_is_a_chat_completion_with_its_sources(plain):
    answer = await complete(plain)
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 3600
    assert answer.model == "default"
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert TEXTS[0].split(". ")[0] in choice.message.content
    said = await plain.answer()
    assert answer.citations == said["sources"]
    assert answer.answered
    assert answer.meta["question"] == QUESTION


async def test_each_marker_is_an_annotation_that_leads_to_the_document(plain):
    answer = await complete(plain)
    message = answer.choices[0].message
    by_index = {source["index"]: source for source in answer.citations}
    assert message.annotations
    for annotation in message.annotations:
        cited = annotation.url_citation
        marker = message.content[cited.start_index : cited.end_index]
        source = by_index[int(marker.strip("[]"))]
        assert message.content[: cited.start_index].endswith(source["quote"] + " ")
        assert cited.url == f"{str(plain.client.base_url).rstrip('/')}/documents/{source['document_id']}/content"
        assert cited.title == source["title"] or cited.title == source["file_path"]
    assert (await plain.client.get(message.annotations[0].url_citation.url)).status_code == 200


async def test_brackets_of_a_quote_are_no_annotations(reader_pool, pool, server):
    await publish_version(pool, ["The nightly backup of [1] runs at two [2] in the morning."])
    async with asking(reader_pool, server, is_real=True, llm_model=None) as app:
        message = (await complete(app)).choices[0].message
    assert message.content.count("[1]") == 2
    (annotation,) = message.annotations
    assert annotation.url_citation.start_index == len(message.content) - len("[1]")
    assert annotation.url_citation.end_index == len(message.content)


async def test_markers_in_code_and_behind_white_space_keep_their_places(app):
    app.chats.play(Chat(["\n  Call `a[1]` at ", "two [1", "][2]. And `b[2]` [1, 9].\n"]))
    message = (await complete(app)).choices[0].message
    assert message.content == "Call `a[1]` at two [1][2]. And `b[2]` [1]."
    found = [(a.url_citation.start_index, a.url_citation.end_index) for a in message.annotations]
    assert [message.content[start:end] for start, end in found] == ["[1]", "[2]", "[1]"]
    assert found[0][0] == message.content.index("two ") + 4
    assert found[2][1] == len(message.content) - 1


async def test_usage_is_that_of_the_chat_model(app):
    usage = (await complete(app)).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (321, 12, 333)
    assert usage.embedding_tokens > 0


async def test_question_that_is_refused_gets_a_text_that_says_so_and_no_sources(plain):
    answer = await complete(plain, [{"role": "user", "content": OFF}])
    message = answer.choices[0].message
    assert NOT_FOUND in message.content
    assert message.annotations == []
    assert answer.citations == []
    assert not answer.answered
    assert answer.choices[0].finish_reason == "stop"


async def test_stream_is_role_text_annotations_finish_usage(app):
    app.chats.play(Chat(["The backup ", "runs at two [", "1", ", 9]."]))
    chunks = await stream(app, stream_options={"include_usage": True})
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"default"}
    first, *texts, annotated, finished, used = chunks
    assert first.choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.content for chunk in texts)
    content = text_of(chunks)
    assert content == "The backup runs at two [1]."
    (annotation,) = annotated.choices[0].delta.model_extra["annotations"]
    cited = annotation["url_citation"]
    assert content[cited["start_index"] : cited["end_index"]] == "[1]"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert [source["index"] for source in finished.citations] == [1]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert used.choices == []
    assert (used.usage.prompt_tokens, used.usage.completion_tokens, used.usage.total_tokens) == (321, 12, 333)


async def test_stream_ends_with_done_and_tells_no_usage_that_nobody_asked_for(plain):
    body = {"model": "default", "messages": ASKED, "stream": True}
    response = await plain.client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    blocks = response.text.split("\n\n")
    assert all(block.startswith("data: ") for block in blocks[:-1])
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in json.loads(block.removeprefix("data: ")) for block in blocks[:-2])


async def test_streamed_answer_is_the_whole_one(plain):
    whole, chunks = await complete(plain), await stream(plain)
    assert text_of(chunks) == whole.choices[0].message.content
    assert annotations_in(chunks) == [a.model_dump() for a in whole.choices[0].message.annotations]
    assert chunks[-1].citations == whole.citations


async def test_what_the_sdk_puts_together_itself_is_the_answer(app):
    app.chats.play(Chat(["The backup ", "runs at two [1]."]))
    async with (
        sdk(app) as client,
        client.chat.completions.stream(
            model="default", messages=ASKED, stream_options={"include_usage": True}
        ) as events,
    ):
        final = await events.get_final_completion()
    assert final.choices[0].message.content == "The backup runs at two [1]."
    assert final.choices[0].message.annotations[0].url_citation.start_index == len("The backup runs at two ")
    assert final.usage.total_tokens == 333


async def test_synchronous_client_reads_both_forms(plain):
    def ask():
        url = str(plain.client.base_url).rstrip("/") + "/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(model="default", messages=ASKED)
            chunks = list(client.chat.completions.create(model="default", messages=ASKED, stream=True))
            return whole, chunks, [model.id for model in client.models.list()]

    whole, chunks, models = await asyncio.to_thread(ask)
    assert text_of(chunks) == whole.choices[0].message.content
    assert models[0] == "default"


async def test_refusal_of_the_model_is_said_once_in_a_stream(app):
    app.chats.play(Chat([*NOT_IN_SOURCES]))
    chunks = await stream(app)
    assert NOT_FOUND in text_of(chunks)
    assert text_of(chunks).count(NOT_FOUND) == 1
    assert annotations_in(chunks) == []
    assert chunks[-1].citations == []


async def test_answer_that_the_model_takes_back_is_said_to_be_none(app):
    app.chats.play(Chat(["It runs at two [1]. No: ", NOT_IN_SOURCES]))
    chunks = await stream(app)
    assert text_of(chunks).endswith(f"\n\n{NOT_FOUND}")
    assert annotations_in(chunks) == []
    assert chunks[-1].citations == []
    assert not chunks[-1].answered


async def test_models_are_the_collections_that_the_key_may_read(reader_pool, pool, server, owner):
    await publish_version(pool, TEXTS, source_uri="inbox:ours/a.md", collection="ours")
    await publish_version(pool, ["Their gate code is 4712."], source_uri="inbox:theirs/b.md", collection="theirs")
    secret = await keys.create_key(owner, "ours", "read", ["ours"])
    async with asking(reader_pool, server, is_real=True, llm_model=None) as app, sdk(app, secret) as client:
        listed = [model async for model in client.models.list()]
        assert [(model.id, model.object, model.owned_by) for model in listed] == [
            ("default", "model", "askbox"),
            ("ours", "model", "askbox"),
        ]
        assert all(abs(model.created - time.time()) < 3600 for model in listed)
        assert (await client.models.retrieve("ours")).id == "ours"
        for name in ("theirs", "absent", "a/b"):
            with pytest.raises(openai.NotFoundError) as refused:
                await client.models.retrieve(name)
            assert refused.value.code == "model_not_found"
        assert (await complete(app, api_key=secret, model="ours")).citations[0]["collection"] == "ours"
        everywhere = await complete(app, [{"role": "user", "content": "what is their gate code"}], api_key=secret)
        assert all(source["collection"] == "ours" for source in everywhere.citations)


async def test_collection_that_is_not_theirs_is_absent(app):
    for name in ("absent", "Default"):
        with pytest.raises(openai.NotFoundError) as refused:
            await complete(app, model=name)
        assert refused.value.code == "model_not_found"
        assert refused.value.param == "model"
        assert refused.value.type == "invalid_request_error"
        assert name in refused.value.message
    assert app.chats.calls == []


async def test_wrong_key_is_refused_and_a_placeholder_only_where_keys_exist(plain, owner):
    with pytest.raises(openai.AuthenticationError):
        await complete(plain, api_key="askbox_wrong")
    assert (await complete(plain, api_key="sk-placeholder")).answered
    secret = await keys.create_key(owner, "reader", "read", [])
    for wrong in ("none", "sk-placeholder", "askbox_wrong"):
        with pytest.raises(openai.AuthenticationError) as refused:
            await complete(plain, api_key=wrong)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
    assert (await complete(plain, api_key=secret)).answered


REFUSED = [
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"logprobs": True}, "logprobs"),
    ({"stop": "\n"}, "stop"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"extra_body": {"top_k": 0}}, "top_k"),
    ({"extra_body": {"filters": {"path": "a"}}}, "filters.path"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
    ({"messages": [*ASKED, {"role": "assistant", "content": "It"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}, *ASKED]}, "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        "messages[0].content[0]",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, *ASKED]}, "messages[0].tool_calls"),
]


@pytest.mark.parametrize(("given", "param"), REFUSED, ids=[param for _, param in REFUSED])
async def test_what_would_change_the_meaning_is_refused_by_name(app, given, param):
    with pytest.raises(openai.BadRequestError) as refused:
        await complete(app, **({"messages": ASKED} | given))
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert refused.value.body["message"]
    assert app.chats.calls == []


async def test_what_asks_for_nothing_of_it_is_taken(app):
    given = {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "stop": [],
        "logprobs": False,
    }
    tuning = {"temperature": 0.7, "top_p": 0.9, "seed": 1, "user": "me", "presence_penalty": 0.1, "logit_bias": {}}
    assert (await complete(app, **given, **tuning, extra_body={"unheard_of": {"a": 1}})).answered
    body = app.chats.calls[0].body
    assert "temperature" not in body, "how the model writes is the operator's to say"
    assert body["max_tokens"] == 1024


async def test_caller_may_ask_for_less_of_the_model_and_not_for_more(app):
    app.chats.play(Chat(["It runs at two [1]"], finish="length"))
    short = await complete(app, max_tokens=7)
    await complete(app, max_completion_tokens=1_000_000)
    assert [call.body["max_tokens"] for call in app.chats.calls] == [7, 1024]
    assert short.choices[0].finish_reason == "length"


async def test_texts_in_parts_are_joined_and_instructions_left_out(app):
    parts = [{"type": "text", "text": "when does the nightly"}, {"type": "text", "text": "backup run"}]
    system = [{"role": "system", "content": "Answer as a pirate."}, {"role": "developer", "content": "Arr."}]
    assert (await complete(app, [*system, {"role": "user", "content": parts}])).answered
    sent = app.chats.calls[0].body["messages"]
    assert "when does the nightly\nbackup run" in sent[-1]["content"]
    assert "pirate" not in json.dumps(sent)


async def test_long_conversation_is_read_from_its_end(app):
    said = [{"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}"} for turn in range(400)]
    app.chats.play(Chat([QUESTION]))
    assert (await complete(app, [*said, *ASKED])).answered
    sent = json.dumps(app.chats.calls[-1].body["messages"])
    assert "turn 399" in sent
    assert "turn 349" not in sent


def test_earlier_messages_are_read_as_far_as_a_question_may_be_long():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "[ " * 500_000}]
    asked = ChatIn(model="default", messages=[*said, *ASKED]).asked([], None)
    assert [len(turn.content) for turn in asked.history] == [1, QUESTION_CHARACTERS_MAX]


async def test_filters_and_sizes_of_the_query_are_known_here_too(reader_pool, pool, server):
    await publish_version(pool, [TEXTS[0]], source_uri="inbox:old/a.md")
    await publish_version(pool, [TEXTS[1]], source_uri="inbox:new/b.md")
    async with asking(reader_pool, server, is_real=True, llm_model=None) as app:
        answer = await complete(app, extra_body={"filters": {"path_prefix": "new/"}, "top_k": 1})
    assert [source["file_path"] for source in answer.citations] == ["new/b.md"]


async def test_body_that_is_too_large_or_no_json_is_told_in_their_form(plain):
    with pytest.raises(openai.APIStatusError) as refused:
        await complete(plain, [{"role": "user", "content": "x" * 1_100_000}])
    assert refused.value.status_code == 413
    broken = await plain.client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 400
    assert broken.json()["error"]["type"] == "invalid_request_error"
    long = [{"role": "user", "content": "x " * 5000}]
    with pytest.raises(openai.BadRequestError, match="shorten it"):
        await complete(plain, long)


async def test_name_of_what_is_wrong_is_told_shortly(plain):
    body = {"model": "default", "messages": ASKED, "filters": {"metadata": {"k" * 500_000: "x"}}}
    response = await plain.client.post("/v1/chat/completions", json=body)
    assert 400 <= response.status_code < 500
    assert len(response.json()["error"]["param"]) <= PARAM_CHARACTERS_MAX
    assert len(response.content) < 5000


async def test_every_error_under_v1_has_their_form(plain):
    calls = [
        plain.client.get("/v1/nowhere"),
        plain.client.get("/v1/chat/completions"),
        plain.client.post("/v1/models"),
        plain.client.post("/v1/chat/completions", json={}, headers={"Sec-Fetch-Site": "cross-site"}),
    ]
    for response, status in zip(await asyncio.gather(*calls), (404, 405, 405, 403), strict=True):
        assert response.status_code == status
        assert {*response.json()["error"]} == {"message", "type", "param", "code"}
    assert (await plain.client.get("/nowhere")).headers["content-type"] == "application/problem+json"


async def test_too_many_questions_are_their_rate_limit(reader_pool, pool, server):
    await publish_version(pool, TEXTS)
    chats_of(server).default = Chat(hold_at=0)
    async with asking(reader_pool, server, is_real=True, slots=Slots(1, waiting_max=0)) as app:
        first = asyncio.create_task(app.ask())
        await until(lambda: asyncio.sleep(0, app.chats.calls))
        with pytest.raises(openai.RateLimitError) as refused:
            await complete(app)
        app.chats.is_released = True
        assert (await first).status_code == 200
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_model_that_fails_is_a_server_error_whether_streamed_or_not(app):
    for ask in (complete, stream):
        app.chats.play(Chat(status=401))
        app.deps.answerer._chat._provider._gate._open_at = 0
        with pytest.raises(openai.InternalServerError) as refused:
            await ask(app)
        assert refused.value.status_code == 503
        assert refused.value.type == "server_error"
        assert "OPENAI_API_KEY" in refused.value.message


async def test_answer_that_breaks_off_ends_its_stream_with_an_error(app):
    app.chats.play(Chat(["It runs ", "at two [1]."], cut_at=1))
    seen = []

    async def read(chunks) -> None:
        async for chunk in chunks:
            seen.append(chunk)  # noqa: PERF401 (what came before the error is looked at)

    async with sdk(app) as client:
        chunks = await client.chat.completions.create(model="default", messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            await read(chunks)
    assert text_of(seen).strip() == "It runs"
    assert len(app.chats.calls) == 1


async def test_slow_model_has_its_stream_begun_before_its_first_word(app, monkeypatch):
    monkeypatch.setattr("services.query.stream.SECOND_SECONDS_MAX", 0.01)
    app.chats.play(Chat(hold_at=0))
    async with sdk(app) as client:
        chunks = await client.chat.completions.create(model="default", messages=ASKED, stream=True)
        first = await anext(aiter(chunks))
        assert first.choices[0].delta.role == "assistant"
        assert app.chats.calls[0].ended_at is None
        app.chats.is_released = True
        assert text_of([chunk async for chunk in chunks])


async def test_documents_stand_in_for_a_model_that_fails_where_that_is_wanted(reader_pool, pool, server):
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, is_real=True, llm_fallback="extractive") as app:
        app.chats.play(Chat(status=401))
        chunks = await stream(app)
    assert chunks[-1].meta["fallback"] == "extractive"
    assert annotations_in(chunks)


async def test_client_that_leaves_ends_the_call(app):
    for is_stream in (True, False):
        app.chats.play(Chat(["It runs ", "at two."], stall_at=1))
        async with sdk(app) as client:
            asked = asyncio.create_task(
                client.chat.completions.create(model="default", messages=ASKED, stream=is_stream, timeout=60)
            )
            await until(lambda: asyncio.sleep(0, app.chats.calls and app.chats.calls[-1].sent))
            if is_stream:
                await (await asked).close()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: asyncio.sleep(0, app.chats.calls[-1].left_at))
        await until(lambda: asyncio.sleep(0, not app.deps.concurrency._free.locked()))


async def test_pages_of_the_interface_show_it(plain):
    paths = (await plain.client.get("/openapi.json")).json()["paths"]
    assert {"/v1/chat/completions", "/v1/models", "/v1/models/{model}"} <= {*paths}
