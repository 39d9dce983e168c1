"""Calls to a model's server: whose fault an answer is, the gate, what never leaves, what an answer must hold."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import openai
import pytest
from pydantic import SecretStr

from shared import provider as provider_module
from shared.errors import ProviderUnavailable, RejectedText
from shared.provider import (
    ATTEMPTS_MAX,
    PAUSE_SECONDS_MAX,
    RETRY_AFTER_SECONDS_MAX,
    Endpoint,
    Gate,
    NotNow,
    Provider,
    retry_after_seconds,
)
from tests.openai_server import OpenAIServer, serving
from tests.waiting import SECONDS_MAX, until

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with serving() as started:
        yield started


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.reset()
    return running


def endpoint(url: str, key: str | None = KEY) -> Endpoint:
    secret = SecretStr(key) if key else None
    return Endpoint(url, secret, "test-embedding", "ASKBOX_EMBEDDING_BASE_URL", "ASKBOX_EMBEDDING_MODEL")


def test_fingerprint_tells_servers_and_keys_apart_and_nobody_a_key():
    prints = {
        endpoint(url, key).fingerprint for url in ("http://a/v1", "http://b/v1") for key in (KEY, "sk-other", None)
    }
    assert len(prints) == 6
    assert all(len(bytes.fromhex(one)) == 4 for one in prints)
    assert endpoint("http://a/v1").fingerprint == endpoint("http://a/v1").fingerprint


@pytest.fixture
async def provider(server: OpenAIServer) -> AsyncIterator[Provider]:
    opened = Provider(endpoint(server.url), timeout_seconds=60)
    yield opened
    await opened.close()


async def embed(client: openai.AsyncOpenAI) -> int:
    answer = await client.embeddings.create(model="test-embedding", input=["a secret text"], encoding_format="float")
    return len(answer.data)


def status(code: int, **headers: str) -> dict:
    message = f"you sent 'a secret text' with {KEY}"
    return {"kind": "status", "status": code, "headers": headers, "message": message, "code": "some_code"}


async def test_answer_comes_through(server, provider):
    assert await provider.call(embed) == 1
    assert provider.reason is None
    assert server.calls[0].key == KEY


@pytest.mark.parametrize("fault", [status(500), status(502), {"kind": "cut"}])
async def test_what_is_over_in_a_moment_is_asked_again_within_the_call(server, provider, fault):
    server.faults += [fault] * (ATTEMPTS_MAX - 1)
    assert await provider.call(embed) == 1
    assert len(server.calls) == ATTEMPTS_MAX


async def test_attempts_are_bounded_and_then_the_gate_is_closed(server, provider, monkeypatch):
    monkeypatch.setattr(provider_module, "PAUSE_SECONDS_MIN", 30.0)
    server.faults += [status(500)] * 20
    with pytest.raises(ProviderUnavailable) as caught:
        await provider.call(embed)
    assert len(server.calls) == ATTEMPTS_MAX
    assert 0 < caught.value.retry_after <= 30
    with pytest.raises(NotNow):
        await provider.call(embed)
    assert len(server.calls) == ATTEMPTS_MAX


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_rejected_content_is_the_texts_fault_and_closes_nothing(server, provider, code):
    server.faults += [status(code)]
    with pytest.raises(RejectedText):
        await provider.call(embed)
    assert await provider.call(embed) == 1
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("code", "variable"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "ASKBOX_EMBEDDING_MODEL"),
        (301, "ASKBOX_EMBEDDING_BASE_URL"),
        (429, ""),
        (402, ""),
        (409, ""),
    ],
)
async def test_what_no_second_attempt_mends_is_asked_once_and_names_the_setting(server, provider, code, variable):
    server.faults += [status(code, Location="http://127.0.0.1:1/elsewhere")]
    with pytest.raises(ProviderUnavailable) as caught:
        await provider.call(embed)
    assert variable in str(caught.value)
    assert f"answered {code} some_code" in str(caught.value)
    assert provider.reason == str(caught.value)
    assert len(server.calls) == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 429, 500, 503])
async def test_errors_repeat_neither_the_key_nor_the_servers_words(server, provider, code, caplog):
    caplog.set_level("DEBUG")
    server.faults += [status(code)] * ATTEMPTS_MAX
    with pytest.raises((ProviderUnavailable, RejectedText)) as caught:
        await provider.call(embed)
    logged = caplog.text
    for secret in (KEY, "secret text"):
        assert secret not in str(caught.value)
        assert secret not in logged
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("headers", [{"Retry-After": "300"}, {"retry-after-ms": "300000"}])
async def test_nothing_is_sent_before_the_server_wants_it(server, provider, code, headers):
    server.faults += [status(code, **headers)]
    for _ in range(3):
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.call(embed)
        assert 200 < caught.value.retry_after <= 300
    assert len(server.calls) == 1


async def test_date_of_a_pause_is_read_from_the_wire(server, provider):
    server.faults += [{"kind": "status", "status": 429, "retry_after_date": 300}]
    with pytest.raises(ProviderUnavailable) as caught:
        await provider.call(embed)
    assert 290 < caught.value.retry_after <= 400  # by the clock of the server, which may have been held up


async def test_slow_server_is_given_up(server):
    hasty = Provider(endpoint(server.url), timeout_seconds=0.3)
    server.faults += [{"kind": "slow", "seconds": 600}]
    with pytest.raises(ProviderUnavailable, match="ASKBOX_PROVIDER_SECONDS"):
        await hasty.call(embed)
    assert len(server.calls) <= 1, "it was asked again"
    await hasty.close()


async def test_server_that_answers_a_byte_at_a_time_is_given_up(server):
    hasty = Provider(endpoint(server.url), timeout_seconds=0.5)
    server.faults += [{"kind": "trickle"}]
    with pytest.raises(ProviderUnavailable, match="ASKBOX_PROVIDER_SECONDS"):
        await asyncio.wait_for(hasty.call(embed), SECONDS_MAX)
    await hasty.close()


async def test_server_on_this_machine_is_asked_past_a_proxy(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    direct = Provider(endpoint(server.url), timeout_seconds=60)
    assert await direct.call(embed) == 1
    await direct.close()


async def test_unreachable_server_is_told_with_its_address_and_the_setting():
    nobody = Provider(endpoint("http://127.0.0.1:1/v1"), timeout_seconds=60)
    with pytest.raises(
        ProviderUnavailable, match=r"http://127\.0\.0\.1:1 cannot be reached .* ASKBOX_EMBEDDING_BASE_URL"
    ):
        await nobody.call(embed)
    await nobody.close()


async def test_answer_without_end_is_cut_off(server, provider, monkeypatch):
    monkeypatch.setattr(provider_module, "RESPONSE_BYTES_MAX", 100)
    with pytest.raises(ProviderUnavailable):
        await provider.call(embed)


async def test_cancelled_call_ends_at_once_and_blames_nobody(server, provider):
    server.faults += [{"kind": "slow", "seconds": 600}]
    running = asyncio.create_task(provider.call(embed))
    await until(lambda: asyncio.sleep(0, server.calls))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 30)  # half the time-out
    assert provider.reason is None


def test_pauses_double_up_to_a_bound():
    gate = Gate()
    pauses = [gate.fail("down", None) for _ in range(12)]
    assert pauses[:4] == pytest.approx([1, 2, 4, 8], abs=0.1)
    assert max(pauses) <= PAUSE_SECONDS_MAX + 0.1


def test_success_of_a_call_sent_before_a_failure_opens_nothing():
    gate = Gate()
    started = time.monotonic()
    gate.fail("wait", 300)
    gate.succeed(started - 1)
    with pytest.raises(NotNow, match="wait"):
        gate.check()
    assert gate.reason == "wait"


def test_shorter_pause_does_not_shorten_a_longer_one():
    gate = Gate()
    gate.fail("long", 300)
    assert gate.fail("short", 1) > 200


NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DATE = {"date": format_datetime(NOW, usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e12"}, RETRY_AFTER_SECONDS_MAX),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=20), usegmt=True)} | DATE, 20),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=20), usegmt=True)} | DATE, None),
        ({"retry-after": format_datetime(NOW + timedelta(days=20), usegmt=True)} | DATE, RETRY_AFTER_SECONDS_MAX),
    ],
)
def test_retry_after_is_read_in_every_form(headers, seconds):
    assert retry_after_seconds(headers) == seconds


def test_date_without_the_servers_clock_is_read_by_ours():
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    assert 200 < retry_after_seconds({"retry-after": until}) <= 300
