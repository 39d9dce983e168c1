"""Embedding through a model's server: the real SDK over the wire, the real handler, worker and queue."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from services.embedder.embed import EmbedHandler, shares
from services.embedder.register import register_model
from services.ingester.chunking import Chunk
from services.ingester.sandbox import ParseLimits, ParserPool
from shared import embedding as embedding_module
from shared import models as models_module
from shared import provider as provider_module
from shared import queue
from shared import worker as worker_module
from shared.embedding import OpenAIModel, open_model
from shared.errors import ConfigError, ProviderUnavailable
from shared.intake import ensure_collection, ensure_model
from shared.listener import Listener
from shared.models import ModelPause, VisibleWait, find_model
from shared.provider import NotNow, SharedPause
from shared.publication import PublicationSweep
from shared.settings import Settings, WorkerSettings
from shared.text import embedded_text
from shared.tokens import open_tokenizer, prepare_tokenizer
from shared.worker import Slot, Worker
from tests import factories
from tests.factories import claim, make_collection, stage_version
from tests.openai_server import DIMENSION, OpenAIServer, serving, vector_of
from tests.waiting import until

NAME = "openai:test-embedding"
KEY = "sk-test-0123456789abcdef"
SECONDS = 90
# A stall of the machine is no fault of the server.
PROVIDER_SECONDS = 60


@pytest.fixture(autouse=True)
def model_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections are made for the server's model; pauses that nobody asked for are short."""
    monkeypatch.setattr(factories, "MODEL", NAME)
    monkeypatch.setattr(factories, "DIMENSION", DIMENSION)
    monkeypatch.setattr(worker_module, "TOUCH_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "SWEEP_SECONDS", 1.0)
    # However slow the machine is, what the server was seen to take counts: the tests count its calls.
    monkeypatch.setattr(embedding_module, "WELL_SECONDS", 3600.0)
    monkeypatch.setattr(provider_module, "PAUSE_SECONDS_MIN", 0.1)


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with serving() as started:
        yield started


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.reset()
    return running


def open_remote(url: str, tmp_path: Path, pause: SharedPause | None = None, **values: object) -> OpenAIModel:
    given = {"home": tmp_path, "embedding_model": NAME, "embedding_base_url": url, "openai_api_key": KEY} | values
    settings = Settings(_env_file=None, **given)
    model = open_model(settings, pause=pause)
    assert isinstance(model, OpenAIModel)
    return model


@pytest.fixture
async def model(server: OpenAIServer, tmp_path: Path) -> AsyncIterator[OpenAIModel]:
    opened = open_remote(server.url, tmp_path, provider_seconds=PROVIDER_SECONDS)
    opened.dimension = DIMENSION
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def embedding(
    url: str, pool: asyncpg.Pool, model: OpenAIModel, *, batch_size: int = 8
) -> AsyncIterator[EmbedHandler]:
    """An embedder as `__main__` wires it."""
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, model, model_id)
    worker = Worker(
        kind="embedder",
        pool=pool,
        listener=Listener(url, "askbox_worker", "test listener", ["embed"]),
        settings=WorkerSettings(_env_file=None, poll_seconds=0.2, lease_seconds=30, stop_seconds=1),
        slots=[Slot("embed", "embed", handler, batch_size=batch_size, subject_id=model_id, isolates_suspects=True)],
        sweepers=[PublicationSweep(pool)],
        hindrance=lambda: model.note,
    )
    running = asyncio.create_task(worker.run())
    try:
        yield handler
    finally:
        worker.stop()
        await asyncio.wait_for(running, SECONDS)
        await handler.finish()


async def states(owner: asyncpg.Connection) -> dict[str, int]:
    return dict(await owner.fetch("SELECT state, count(*)::int FROM document_version GROUP BY state"))


async def all_ended(owner: asyncpg.Connection) -> None:
    await until(
        lambda: owner.fetchval(
            "SELECT NOT EXISTS (SELECT 1 FROM document_version WHERE state IN ('queued', 'parsing', 'embedding'))"
        ),
        SECONDS,
    )


async def wrong_vectors(owner: asyncpg.Connection) -> list[str]:
    """The texts whose stored or published vector is not the one that the server gives for just this text."""
    rows = await owner.fetch(
        "SELECT c.text, e.vector::text AS stored, v.vector::text AS published "
        "FROM chunk c JOIN embedding e ON e.text_hash = c.text_hash "
        "JOIN chunk_vector v ON v.collection_id = c.collection_id AND v.chunk_id = c.id"
    )
    assert rows
    return [
        row["text"]
        for row in rows
        for vector in (row["stored"], row["published"])
        if not np.allclose(np.fromstring(vector.strip("[]"), sep=","), vector_of(row["text"]), atol=2e-3)
    ]


async def stage_documents(pool: asyncpg.Pool, count: int, texts: int) -> int:
    for n in range(count):
        await stage_version(pool, [f"document {n} says {m}" for m in range(texts)], source_uri=f"inbox:{n}.md")
    return count * texts


async def test_every_fault_of_a_server_is_survived_without_a_wrong_vector(url, pool, owner, server, model):
    faults = [
        {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
        {"kind": "status", "status": 500},
        {"kind": "cut"},
        {"kind": "garbage"},
        {"kind": "count"},
        {"kind": "dimension"},
        {"kind": "nan"},
        {"kind": "zeros"},
        {"kind": "duplicate"},
        {"kind": "text"},
        {"kind": "status", "status": 429, "headers": {"retry-after-ms": "700"}},
        {"kind": "status", "status": 503, "headers": {"retry-after-ms": "300"}},
    ]
    harmless = [{"kind": "shuffle"}, {"kind": "no_usage"}]
    for fault in [*harmless, *faults]:
        server.faults += [fault, None]
    text_count = await stage_documents(pool, 20, 8)
    async with embedding(url, pool, model):
        await all_ended(owner)
    assert not server.faults
    assert await states(owner) == {"ready": 20}
    assert await wrong_vectors(owner) == []
    assert await owner.fetchval("SELECT count(*) FROM embedding") == text_count
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 0
    assert server.calls_too_early() == []
    needed = math.ceil(text_count / 8) + len(faults)
    assert len(server.calls) <= 1.3 * needed


async def test_outage_is_charged_to_nobody_and_probed_with_a_few_words(url, pool, owner, server, model, caplog):
    server.faults += [{"kind": "status", "status": 500}] * 7
    await stage_documents(pool, 1, 8)
    async with embedding(url, pool, model):
        await all_ended(owner)
    assert await states(owner) == {"ready": 1}
    assert [len(call.body["input"]) for call in server.calls] == [8, 8, 8, 1, 1, 1, 1, 1, 8]
    assert "job_retried" not in {record.getMessage() for record in caplog.records}


async def test_server_that_is_slow_is_given_up_and_asked_again(url, pool, owner, server, tmp_path, monkeypatch):
    hasty = open_remote(server.url, tmp_path, provider_seconds=0.5)
    hasty.dimension = DIMENSION
    server.faults += [{"kind": "slow", "seconds": 600}]
    await stage_documents(pool, 1, 4)
    provider, fail = hasty._provider, hasty._provider.fail

    def then_be_patient(*arguments: object) -> Exception:
        """What is asked after the slow call has the usual time: the machine may be slow itself."""
        provider._timeout_seconds = provider.client.timeout = PROVIDER_SECONDS
        server.faults.clear()
        return fail(*arguments)

    monkeypatch.setattr(provider, "fail", then_be_patient)
    async with embedding(url, pool, hasty):
        await all_ended(owner)
    await hasty.close()
    assert await states(owner) == {"ready": 1}
    assert await wrong_vectors(owner) == []
    answered = server.calls if not server.calls[0].fault else server.calls[1:]  # the slow one may not have got so far
    assert [len(call.body["input"]) for call in answered] == [1, 4]  # the control text, the batch


async def test_text_that_the_server_rejects_is_buried_alone_with_few_calls(url, pool, owner, server, model):
    server.poison = {"poison": 400}
    await stage_documents(pool, 4, 16)
    await stage_version(pool, ["beside it", "poison"], source_uri="inbox:bad.md")
    async with embedding(url, pool, model, batch_size=64):
        await all_ended(owner)
    assert await states(owner) == {"ready": 4, "failed": 1}
    assert await wrong_vectors(owner) == []
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 1
    reason = await owner.fetchval("SELECT error FROM document_version WHERE state = 'failed'")
    assert "ASKBOX_EMBEDDING_TOKENS_MAX" in reason
    assert "bad input" not in reason, "the server's words may repeat the text"
    assert len(server.calls) <= 2 + 2 * math.log2(64) + 2


async def test_server_that_rejects_everything_is_at_fault_itself(url, pool, owner, server, model):
    server.poison = {"": 400}
    await stage_documents(pool, 1, 4)
    async with embedding(url, pool, model):
        note = await until(lambda: owner.fetchval("SELECT note FROM worker WHERE note IS NOT NULL"), SECONDS)
        assert "answered 400" in note
        assert await owner.fetchval("SELECT is_hindered FROM worker WHERE note IS NOT NULL")
        assert "ASKBOX_EMBEDDING_BASE_URL" in note
        assert await owner.fetchval("SELECT max(attempt) FROM job WHERE lease_id IS NULL") in {0, None}
        server.poison = {}
        await all_ended(owner)
        await until(lambda: owner.fetchval("SELECT bool_and(note IS NULL) FROM worker"), SECONDS)
    assert await states(owner) == {"ready": 1}
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_text_that_breaks_the_server_each_time_is_charged_and_the_others_are_not_held_up(
    url, pool, owner, server, model
):
    server.poison = {"poison": 500}
    await stage_documents(pool, 2, 4)
    await stage_version(pool, ["poison"], source_uri="inbox:bad.md")
    await owner.execute("UPDATE job SET max_attempts = 2")
    async with embedding(url, pool, model, batch_size=16):
        await all_ended(owner)
    assert await states(owner) == {"ready": 2, "failed": 1}
    assert await wrong_vectors(owner) == []
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 1


@pytest.mark.parametrize(
    ("change", "variable"),
    [({"key": "another"}, "OPENAI_API_KEY"), ({"models": ("another",)}, "ASKBOX_EMBEDDING_MODEL")],
)
async def test_wrong_setting_is_shown_charged_to_nobody_and_forgotten_when_it_is_right(
    url, pool, owner, server, model, change, variable
):
    before = {name: getattr(server, name) for name in change}
    for name, value in change.items():
        setattr(server, name, value)
    await stage_documents(pool, 1, 4)
    async with embedding(url, pool, model):
        note = await until(lambda: owner.fetchval("SELECT note FROM worker WHERE note IS NOT NULL"), SECONDS)
        assert variable in note
        assert KEY not in note
        for name, value in before.items():
            setattr(server, name, value)
        await all_ended(owner)
        await until(lambda: owner.fetchval("SELECT bool_and(note IS NULL) FROM worker"), SECONDS)
    assert await states(owner) == {"ready": 1}


async def test_what_was_computed_before_a_pause_is_stored_and_not_asked_again(pool, owner, server, model):
    server.poison = {"poison": 400}
    await stage_version(pool, ["poison", "a", "b", "c"])
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, model, model_id)
    # Whole batch and left half are rejected; the first text alone goes through or is the poison; then comes the pause.
    server.faults += [None, {"kind": "status", "status": 429, "headers": {"Retry-After": "600"}}]
    jobs = await claim(pool, "embed")
    with pytest.raises(ProviderUnavailable) as caught:
        await handler.process(jobs)
    await handler.finish()
    assert 500 < caught.value.retry_after <= 600
    stored = await owner.fetchval("SELECT count(*) FROM embedding")
    assert 1 <= stored < 3
    assert await owner.fetchval("SELECT count(*) FROM job") + stored + await owner.fetchval(
        "SELECT count(*) FROM dead_letter"
    ) == len(jobs)
    calls = len(server.calls)
    with pytest.raises(ProviderUnavailable):
        await model.encode(["a question of another task"])
    assert len(server.calls) == calls


async def test_pause_that_one_embedder_is_asked_for_holds_for_every_other(pool, owner, server, tmp_path):
    await make_collection(pool)
    pause = ModelPause(pool, NAME)
    asked, other = (open_remote(server.url, tmp_path, pause, provider_seconds=PROVIDER_SECONDS) for _ in range(2))
    server.faults += [{"kind": "status", "status": 429, "headers": {"Retry-After": "600"}}]
    with pytest.raises(NotNow):
        await asked.encode(["a text"])
    with pytest.raises(NotNow, match="429") as caught:
        await other.encode(["another text"])
    assert 500 < caught.value.retry_after <= 600
    assert len(server.calls) == 1
    assert "429" in other.note
    await owner.execute("UPDATE embedding_model SET paused_until = now()")
    other._provider._gate._open_at = 0.0  # the ten minutes are over
    assert len(await other.encode(["another text"])) == 1
    await asked.close()
    await other.close()


async def test_longest_pause_counts_and_a_model_that_nobody_registered_has_none(pool, owner):
    await make_collection(pool)
    pause = ModelPause(pool, NAME)
    assert await pause.find("a") is None
    await pause.extend("a", 600, "many requests")
    await pause.extend("a", 1, "few")
    seconds, reason = await pause.find("a")
    assert 500 < seconds <= 600
    assert reason == "many requests"
    unknown = ModelPause(pool, "openai:unknown")
    await unknown.extend("a", 600, "nobody")
    assert await unknown.find("a") is None


async def test_pause_of_one_server_keeps_no_call_from_another_or_with_another_key(pool, owner, server, tmp_path):
    await make_collection(pool)
    pause = ModelPause(pool, NAME)
    asked, keyed = (
        open_remote(server.url, tmp_path, pause, provider_seconds=PROVIDER_SECONDS, openai_api_key=key)
        for key in (KEY, "sk-another")
    )
    server.faults += [{"kind": "status", "status": 429, "headers": {"Retry-After": "600"}}]
    with pytest.raises(NotNow):
        await asked.encode(["a text"])
    assert len(await keyed.encode(["a text"])) == 1
    assert await pause.find("another server") is None
    await pause.extend("another server", 60, "few requests")
    assert await pause.find("another server") is not None
    await owner.execute("UPDATE embedding_model SET pause_server = NULL")  # an embedder of before told it
    assert await pause.find("any server") is not None
    await asked.close()
    await keyed.close()


async def test_database_that_tells_nobody_of_pauses_keeps_no_call_back(pool, owner):
    await owner.execute("REVOKE SELECT, UPDATE ON embedding_model FROM askbox_worker")
    await ModelPause(pool, NAME).extend("a", 600, "many requests")
    assert await ModelPause(pool, NAME).find("a") is None


async def test_database_that_does_not_answer_keeps_no_call_back(pool, monkeypatch):
    monkeypatch.setattr(models_module, "PAUSE_LOOK_SECONDS_MAX", 0.05)
    pause = ModelPause(pool, NAME)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(pool.get_max_size()):
            await stack.enter_async_context(pool.acquire())
        assert await pause.find("a") is None
        await pause.extend("a", 600, "nobody hears it")
    assert await pause.find("a") is None


async def test_tokens_are_recorded_with_the_vectors_as_the_server_counts_them(url, pool, owner, server, model):
    for name in ("default", "other"):
        await stage_version(pool, [f"the words of {name} {n}" for n in range(6)], source_uri="inbox:a", collection=name)
    async with embedding(url, pool, model):
        await all_ended(owner)
    rows = await owner.fetch(
        "SELECT model, collection_id, sum(embedding_tokens)::int AS n FROM token_usage GROUP BY 1, 2"
    )
    assert {row["model"] for row in rows} == {NAME}
    assert {row["n"] for row in rows} == {6 * 5}
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("total", "weights", "divided"),
    [
        (10, {1: 1, 2: 1}, {1: 5, 2: 5}),
        (10, {1: 1, 2: 2}, {1: 3, 2: 7}),
        (1, {1: 5, 2: 5}, {2: 1}),
        (7, {}, {}),
        (0, {1: 4}, {}),
        (5, {1: 0}, {}),
    ],
)
def test_shares_leave_nothing_over(total, weights, divided):
    assert shares(total, weights) == divided


async def test_model_is_registered_with_what_the_server_gave(pool, server, model):
    model_id = await register_model(pool, model)
    known = await find_model(pool, NAME)
    assert known is not None
    assert (known.id, known.dimension, model.dimension) == (model_id, DIMENSION, DIMENSION)
    assert len(server.calls) == 2


async def test_vectors_of_another_length_than_the_databases_stop_the_start(pool, server, model):
    await ensure_collection(pool, "default", await ensure_model(pool, NAME, 32))
    with pytest.raises(ConfigError, match="of 32 dimensions before and gives 64 now"):
        await register_model(pool, model)


async def test_vectors_longer_than_can_be_stored_stop_the_start(pool, server, model):
    server.dimension = 4001
    with pytest.raises(ConfigError, match="ASKBOX_EMBEDDING_DIMENSION"):
        await register_model(pool, model)


async def test_shorter_vectors_are_asked_for_where_the_setting_says_so(server, tmp_path):
    short = open_remote(server.url, tmp_path, embedding_dimension=16)
    assert await short.probe() == 16
    await short.close()


async def test_database_filled_by_another_model_stops_the_start(pool, server, model, monkeypatch):
    monkeypatch.setattr(factories, "MODEL", "the one before")
    await make_collection(pool)
    with pytest.raises(ConfigError, match="filled with the one before: set it back"):
        await register_model(pool, model)
    assert server.calls == []


async def test_silent_server_holds_up_no_embedder_whose_database_knows_the_model(pool, server, model):
    server.faults += [{"kind": "status", "status": 401}] * 2
    with pytest.raises(ProviderUnavailable):
        await register_model(pool, model)
    await ensure_model(pool, NAME, DIMENSION)
    assert (await register_model(pool, model), model.dimension) == ((await find_model(pool, NAME)).id, DIMENSION)


async def test_one_answer_of_another_length_is_neither_registered_nor_ends_an_embedder(pool, server, model):
    server.faults += [{"kind": "dimension"}]
    with pytest.raises(ProviderUnavailable, match="different lengths"):
        await register_model(pool, model)
    assert await find_model(pool, NAME) is None
    model_id = await register_model(pool, model)
    await make_collection(pool)
    server.faults += [{"kind": "dimension"}]
    assert await register_model(pool, model) == model_id
    assert model.dimension == DIMENSION
    server.faults += [{"kind": "dimension"}] * 2
    with pytest.raises(ConfigError, match=f"of {DIMENSION} dimensions before"):
        await register_model(pool, model)


async def test_ingester_waits_visibly_until_an_embedder_has_asked(pool, owner, server, model):
    waiting = VisibleWait(pool, "ingester", lambda: find_model(pool, NAME), "waiting for an embedder")
    running = asyncio.create_task(waiting.run())
    await until(lambda: owner.fetchval("SELECT note = 'waiting for an embedder' FROM worker WHERE kind = 'ingester'"))
    model_id = await register_model(pool, model)
    found = await asyncio.wait_for(running, SECONDS)
    assert found is not None
    assert found.id == model_id
    assert await owner.fetchval("SELECT count(*) FROM worker") == 0


async def test_embedder_waits_visibly_for_a_silent_server_and_sends_nothing_in_its_pause(
    pool, owner, server, model, monkeypatch
):
    monkeypatch.setattr(models_module, "LOOK_SECONDS", 0.05)
    server.faults += [{"kind": "status", "status": 429, "headers": {"Retry-After": "3600"}}]
    looks = 0

    async def look() -> int | None:
        nonlocal looks
        looks += 1
        return await register_model(pool, model)

    registering = VisibleWait(pool, "embedder", look, "asking")
    running = asyncio.create_task(registering.run())
    await until(lambda: owner.fetchval("SELECT note LIKE '%429%' AND is_hindered FROM worker WHERE kind = 'embedder'"))
    await until(lambda: asyncio.sleep(0, looks >= 4))
    assert len(server.calls) == 1
    model._provider._gate._open_at = 0.0  # the hour is over
    assert await asyncio.wait_for(running, SECONDS) is not None
    assert len(server.calls) == 3  # what is news is asked twice


async def test_parser_child_counts_as_the_servers_model_is_counted(tmp_path):
    name = prepare_tokenizer(Settings(_env_file=None, home=tmp_path, embedding_model=NAME, embedding_tokens_max=64))
    parsers = ParserPool(name, ParseLimits(SECONDS, 1024**3, 400))
    path = tmp_path / "note.txt"
    path.write_text("A sentence with an umlaut: ä. " * 40)
    with path.open("rb") as file:
        items = [item async for item in parsers.parse("note.txt", file, path.stat().st_size)]
    await parsers.stop()
    chunks = [item for item in items if isinstance(item, Chunk)]
    assert len(chunks) > 4
    counted = open_tokenizer(name).count([embedded_text(chunk.prefix, chunk.text) for chunk in chunks])
    assert counted == [chunk.token_count for chunk in chunks]
    assert max(counted) <= 64


async def test_wait_that_is_stopped_while_it_registers_leaves_no_row(pool, owner, monkeypatch):
    register, is_registered = queue.register_worker, asyncio.Event()

    async def answered_late(*arguments: object, **named: object) -> int:
        worker_id = await register(*arguments, **named)
        is_registered.set()
        await waiting._stopping.wait()
        await asyncio.sleep(0.1)  # until the stop has gone through
        return worker_id

    monkeypatch.setattr(queue, "register_worker", answered_late)
    waiting = VisibleWait(pool, "ingester", lambda: find_model(pool, NAME), "waiting")
    running = asyncio.create_task(waiting.run())
    await is_registered.wait()
    assert await owner.fetchval("SELECT count(*) FROM worker") == 1
    waiting.stop()
    assert await asyncio.wait_for(running, SECONDS) is None
    assert await owner.fetchval("SELECT count(*) FROM worker") == 0


async def test_wait_ends_when_the_process_is_told_to_stop(pool, owner):
    waiting = VisibleWait(pool, "ingester", lambda: find_model(pool, NAME), "waiting")
    running = asyncio.create_task(waiting.run())
    await until(lambda: owner.fetchval("SELECT count(*) FROM worker"))
    waiting.stop()
    assert await asyncio.wait_for(running, SECONDS) is None
    assert await owner.fetchval("SELECT count(*) FROM worker") == 0
