"""Processes that start while what they need is not there, and stop while it does not answer."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from services.embedder.register import register_model
from shared import metrics, totals
from shared import provider as provider_module
from shared import worker as worker_module
from shared.database import open_pool
from shared.embedding import OpenAIModel, open_model
from shared.exit_codes import EXIT_CONFIG
from shared.export import start_telemetry
from shared.listener import Listener
from shared.models import VisibleWait, find_model
from shared.queue import Job
from shared.settings import Settings, WorkerSettings
from shared.totals import Totals
from shared.worker import Slot, Worker
from tests import factories
from tests.e2e.harness import free_port
from tests.factories import make_collection
from tests.openai_server import OpenAIServer, serving
from tests.proxy import proxied
from tests.waiting import SECONDS_MAX, SUBPROCESS_SECONDS_MAX, until

NAME = "openai:test-embedding"
# Far below the ten minutes that a silent server is waited for.
STOP_SECONDS_MAX = 60
PROVIDER_SECONDS = 600


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with serving() as started:
        yield started


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.reset()
    return running


@pytest.fixture
async def model(server, tmp_path, monkeypatch):
    monkeypatch.setattr(provider_module, "PAUSE_SECONDS_MIN", 0.1)
    settings = Settings(
        _env_file=None,
        home=tmp_path,
        embedding_model=NAME,
        embedding_base_url=server.url,
        provider_seconds=PROVIDER_SECONDS,
    )
    opened = open_model(settings)
    assert isinstance(opened, OpenAIModel)
    yield opened
    await opened.close()


async def test_server_that_rejects_the_first_text_is_waited_for_visibly(pool, owner, server, model):
    server.poison = {"": 400}
    registering = VisibleWait(pool, "embedder", lambda: register_model(pool, model), "asking")
    running = asyncio.create_task(registering.run())
    await until(lambda: owner.fetchval("SELECT note LIKE '%400%ASKBOX_EMBEDDING_DIMENSION%' FROM worker"), 60)
    server.poison = {}
    assert await asyncio.wait_for(running, SECONDS_MAX) is not None


async def test_stalled_server_is_told_of_and_holds_up_no_stop(pool, owner, server, model):
    server.faults += [{"kind": "slow", "seconds": PROVIDER_SECONDS}]
    registering = VisibleWait(pool, "embedder", lambda: register_model(pool, model), "asking a slow server")
    running = asyncio.create_task(registering.run())
    await until(lambda: owner.fetchval("SELECT note = 'asking a slow server' FROM worker WHERE kind = 'embedder'"), 60)
    registering.stop()
    assert await asyncio.wait_for(running, STOP_SECONDS_MAX) is None
    assert await owner.fetchval("SELECT count(*) FROM worker") == 0


async def test_database_that_goes_away_ends_no_wait(pool, monkeypatch):
    looks = iter([ConnectionRefusedError(), asyncpg.AdminShutdownError("as the test says"), "found"])
    monkeypatch.setattr("shared.models.LOOK_SECONDS", 0.01)

    async def look() -> str | None:
        answer = next(looks)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await asyncio.wait_for(VisibleWait(pool, "ingester", look, "waiting").run(), SECONDS_MAX) == "found"


async def test_fault_of_our_own_ends_the_wait_at_once(pool):
    async def look() -> str | None:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        await asyncio.wait_for(VisibleWait(pool, "ingester", look, "waiting").run(), SECONDS_MAX)


async def test_totals_that_cannot_be_written_hold_up_no_stop(pool, owner, monkeypatch):
    start_telemetry("test")
    monkeypatch.setattr(totals, "CLOSE_SECONDS_MAX", 0.1)
    counted = Totals(pool)
    metrics.count_embedded(1, 1)
    async with owner.transaction():
        await owner.execute("LOCK TABLE metric_total")
        await asyncio.wait_for(counted.close(), STOP_SECONDS_MAX)


async def test_questions_refuse_a_model_that_the_database_was_not_filled_with(pool, url, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(factories, "MODEL", "the one before")
    await make_collection(pool)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "OPENAI_"))}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.query"],
        cwd=tmp_path,
        env=environment
        | {"ASKBOX_DATABASE_URL": url, "ASKBOX_HTTP_PORT": str(free_port())}
        | {"ASKBOX_EMBEDDING_MODEL": NAME, "OPENAI_API_KEY": "sk-none"},
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == EXIT_CONFIG, done.stderr
    assert "filled with the one before: set it back" in done.stderr
    assert await find_model(pool, "the one before") is not None


class _Idle:
    async def process(self, jobs: list[Job]) -> None:
        raise AssertionError("there are no jobs")

    async def after(self, jobs: Sequence[Job]) -> None: ...

    async def buried(self, jobs: Sequence[Job]) -> None: ...


async def test_database_that_has_fallen_silent_holds_up_no_stop(url, monkeypatch):
    monkeypatch.setattr(worker_module, "TOUCH_SECONDS", 0.02)
    monkeypatch.setattr(worker_module, "END_SECONDS_MAX", 0.2)
    monkeypatch.setattr(worker_module, "FORGET_SECONDS_MAX", 0.2)
    settings = WorkerSettings(_env_file=None, poll_seconds=0.02, stop_seconds=0)
    async with proxied(url) as (through, proxy), open_pool(through, "askbox_worker", "t", connections_max=4) as pool:
        listener = Listener(url, "askbox_worker", "test listener", ["index"])
        slots = [Slot("index", "index", _Idle())]
        worker = Worker(kind="embedder", pool=pool, listener=listener, settings=settings, slots=slots)
        running = asyncio.create_task(worker.run())
        await until(lambda: asyncio.sleep(0, worker.id and listener.is_listening))
        proxy.silence()
        await until(lambda: asyncio.sleep(0, len(held_by(pool)) >= 2))
        worker.stop()
        await asyncio.wait_for(asyncio.shield(running), STOP_SECONDS_MAX)
        counted = Totals(pool)
        counted._pending["askbox.jobs", "{}", ""] = 1.0
        monkeypatch.setattr(totals, "CLOSE_SECONDS_MAX", 0.1)
        await asyncio.wait_for(counted.close(), STOP_SECONDS_MAX)
        pool.terminate()


def held_by(pool: asyncpg.Pool) -> list[object]:
    """Connections that are in use and wait for an answer."""
    return [holder for holder in pool._holders if holder._in_use is not None]
