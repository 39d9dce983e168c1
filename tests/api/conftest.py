import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
import httpx2
import pytest

from services.query.answer import Answerer
from services.query.app import create_app
from services.query.deps import Deps
from services.query.settings import QuerySettings
from services.query.slots import Slots
from shared.export import start_telemetry
from tests.api.asking import TEXTS, App, asking
from tests.factories import HashModel, publish_version
from tests.openai_chat import chats_of
from tests.openai_server import OpenAIServer
from tests.openai_server import serving as serving_models


def make_deps(reader_pool: asyncpg.Pool, *, is_loopback: bool = True) -> Deps:
    """The parts of the process, with a model whose vectors can be recomputed."""
    answerer = Answerer(reader_pool, HashModel(), refusal_threshold=0.3)
    return Deps(
        reader_pool, answerer, Slots(4, waiting_max=8), QuerySettings(_env_file=None), "test", is_loopback=is_loopback
    )


@pytest.fixture
async def client(reader_pool) -> AsyncIterator[httpx2.AsyncClient]:
    """The real application over its ASGI interface, as the reader role."""
    start_telemetry("query")
    transport = httpx2.ASGITransport(app=create_app(make_deps(reader_pool)), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


@contextlib.asynccontextmanager
async def serving(reader_pool: asyncpg.Pool, **settings: object) -> AsyncIterator[httpx2.AsyncClient]:
    """The application with other settings."""
    deps = make_deps(reader_pool)
    values = QuerySettings(_env_file=None, **settings)
    app = create_app(Deps(deps.pool, deps.answerer, deps.concurrency, values, "test"))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    """A server of models that says what it is told to."""
    with serving_models() as started:
        yield started


@pytest.fixture
def server(provider: OpenAIServer) -> OpenAIServer:
    """The scripted server, with nothing played and nothing called."""
    provider.reset()
    chats_of(provider).forget()
    return provider


@pytest.fixture
async def app(reader_pool: asyncpg.Pool, pool: asyncpg.Pool, server: OpenAIServer) -> AsyncIterator[App]:
    """The application with a chat model, and one document of three chunks."""
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server) as opened:
        yield opened


@pytest.fixture
async def plain(reader_pool: asyncpg.Pool, pool: asyncpg.Pool, server: OpenAIServer) -> AsyncIterator[App]:
    """The same without a chat model."""
    await publish_version(pool, TEXTS)
    async with asking(reader_pool, server, llm_model=None) as opened:
        yield opened
