"""A model on a server: what its answers must hold, how requests are divided, how the settings open it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.embedding import (
    REQUEST_TEXTS_MAX,
    REQUEST_TOKENS_MAX,
    LocalModel,
    OpenAIModel,
    open_model,
    read_answer,
    requests_of,
)
from shared.errors import ConfigError, ProviderUnavailable, RejectedText
from shared.provider import ATTEMPTS_MAX, BadAnswer
from shared.settings import OPENAI_BASE_URL, Settings
from tests.openai_server import OpenAIServer, serving, vector_of


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with serving() as started:
        yield started


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.reset()
    return running


def answer(*vectors, indices=None, **extra) -> bytes:
    indices = range(len(vectors)) if indices is None else indices
    data = [{"index": index, "embedding": vector} for index, vector in zip(indices, vectors, strict=True)]
    return json.dumps({"data": data} | extra).encode()


def test_vectors_are_put_in_the_order_of_the_texts_and_normalised():
    vectors, tokens = read_answer(answer([0, 2], [3, 0], indices=[1, 0], usage={"prompt_tokens": 9}), 2, 2)
    assert vectors.tolist() == [[1, 0], [0, 1]]
    assert tokens == 9


@pytest.mark.parametrize(
    "usage", [None, [], {}, {"prompt_tokens": "9"}, {"prompt_tokens": -1}, {"prompt_tokens": True}]
)
def test_nonsense_about_tokens_is_not_counted(usage):
    assert read_answer(answer([1, 0], usage=usage), 1, 2)[1] is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"data": null}',
        b'{"data": [null, null]}',
        b'{"data": [{"index": 0}, {"index": 1}]}',
        answer([1, 0]),
        answer([1, 0], [0, 1], [1, 1]),
        answer([1, 0], [0, 1], indices=[0, 0]),
        answer([1, 0], [0, 1], indices=[1, 2]),
        answer([1, 0], [0, 1], indices=[0, True]),
        answer([1, 0], [0, 1], indices=["0", "1"]),
        answer([1, 0], [0, 1], [0, 1], indices=[0, 1, 1]),
        answer([1, 0], [0]),
        answer([1], [0]),
        answer([1, 0, 0], [0, 1, 0]),
        answer([1, 0], [0, 0]),
        answer([1, 0], [0, math.nan]),
        answer([1, 0], [0, math.inf]),
        answer([1, 0], [0, 1e300]),
        answer([1, 0], [0, 10**400]),
        answer([1, 0], ["0", "1"]),
        answer([True, False], [False, True]),
        answer([[1], [0]], [[0], [1]]),
        answer("AACAPwAAAAA=", "AAAAAAAAgD8="),
    ],
)
def test_whatever_is_not_one_usable_vector_for_each_text_is_refused(content):
    with pytest.raises(BadAnswer):
        read_answer(content, 2, 2)


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage"]), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_any_json_gives_good_vectors_or_is_refused(value):
    try:
        vectors, _ = read_answer(json.dumps(value).encode(), 1, 2)
    except BadAnswer:
        return
    assert vectors.shape == (1, 2)
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-3)


@given(st.lists(st.integers(min_value=0, max_value=REQUEST_TOKENS_MAX), max_size=50))
def test_requests_hold_every_text_once_and_stay_in_their_limits(counts):
    spans = list(requests_of(counts))
    assert [place for start, end in spans for place in range(start, end)] == list(range(len(counts)))
    for start, end in spans:
        assert end - start == 1 or sum(counts[start:end]) <= REQUEST_TOKENS_MAX


def test_requests_hold_so_many_texts_and_no_more():
    assert list(requests_of([1] * (REQUEST_TEXTS_MAX + 1))) == [
        (0, REQUEST_TEXTS_MAX),
        (REQUEST_TEXTS_MAX, REQUEST_TEXTS_MAX + 1),
    ]


def remote_settings(tmp_path: Path, **values: object) -> Settings:
    values = {"embedding_model": "openai:test-embedding", "home": tmp_path} | values
    return Settings(_env_file=None, **values)


@pytest.fixture
def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("without_keys")
def test_key_is_wanted_for_openai_itself(tmp_path):
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        open_model(remote_settings(tmp_path))
    assert OPENAI_BASE_URL.startswith("https://")


@pytest.mark.usefixtures("without_keys")
def test_key_with_a_line_break_inside_is_refused_without_being_shown(tmp_path):
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        open_model(remote_settings(tmp_path, openai_api_key="sk-1\nsk-2"))
    assert "sk-1" not in str(caught.value)


@pytest.mark.usefixtures("without_keys")
async def test_local_server_needs_no_key_and_its_own_address_goes_before_the_common_one(server, tmp_path):
    model = open_model(
        remote_settings(tmp_path, openai_base_url="http://127.0.0.1:1/v1", embedding_base_url=server.url + "/")
    )
    assert isinstance(model, OpenAIModel)
    vectors = await model.encode(["one", "two"])
    assert np.allclose(vectors, [vector_of("one"), vector_of("two")], atol=1e-6)
    assert model.tokens_used == 2
    await model.close()


@pytest.mark.usefixtures("without_keys")
async def test_large_batch_is_sent_in_several_requests(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shared.embedding.REQUEST_TEXTS_MAX", 3)
    model = open_model(remote_settings(tmp_path, embedding_base_url=server.url))
    texts = [f"text {n}" for n in range(8)]
    vectors = await model.encode(texts)
    assert [len(call.body["input"]) for call in server.calls] == [3, 3, 2]
    assert np.allclose(vectors, [vector_of(text) for text in texts], atol=1e-6)
    await model.close()


@pytest.mark.usefixtures("without_keys")
async def test_text_longer_than_the_model_reads_is_refused_and_not_sent(server, tmp_path):
    model = open_model(remote_settings(tmp_path, embedding_base_url=server.url, embedding_tokens_max=40))
    with pytest.raises(RejectedText, match="longer than the 40"):
        await model.encode(["fits", "word " * 60])
    assert server.calls == []
    await model.close()


@pytest.mark.usefixtures("without_keys")
async def test_questions_learn_the_dimension_from_the_database_and_refuse_another(server, tmp_path):
    known: list[int | None] = [None, 64, 64]

    async def find_dimension() -> int | None:
        return known.pop(0)

    model = open_model(remote_settings(tmp_path, embedding_base_url=server.url), find_dimension=find_dimension)
    assert (await model.encode(["before anything is registered"])).shape == (1, 64)
    assert (await model.encode(["after"])).shape == (1, 64)
    server.faults += [{"kind": "dimension"}] * ATTEMPTS_MAX
    with pytest.raises(ProviderUnavailable, match=r"not \(1, 64\)"):
        await model.encode(["a server that gives other vectors"])
    assert known == [64]
    await model.close()


def test_other_models_are_opened_on_this_machine(tmp_path, monkeypatch):
    opened: list[tuple[str, int | None]] = []
    monkeypatch.setattr(LocalModel, "__init__", lambda _, name, *, threads: opened.append((name, threads)))
    open_model(remote_settings(tmp_path, embedding_model="all-MiniLM-L6-v2"), threads=2)
    assert opened == [("all-MiniLM-L6-v2", 2)]
