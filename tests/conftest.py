"""Real Postgres for every test: one embedded server a run, migrated once into a template, one clone per test."""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from shared.database import open_pool
from shared.embedded import start_embedded_server
from shared.migrations import migrate

settings.register_profile(
    "askbox",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("askbox")

# A test database may forget everything at a power cut.
MEMORY_BYTES_MIN = 4 * 1024**3
_CONFIGURATION = (
    "max_wal_size = 256MB\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\nlog_min_messages = fatal\n"
)
_TEMPLATE = "askbox_template"
_numbers = itertools.count(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def database_url(server_url: str, name: str) -> str:
    return server_url.replace("/postgres?", f"/{name}?")


def _fastest_folder() -> str | None:
    """Memory, where there is enough: a clone takes 20 ms there and 400 ms on a disk."""
    memory = Path("/dev/shm")
    is_roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN
    return str(memory) if is_roomy else None


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the embedded server's user may enter. Each session of pytest that starts closes pytest's own to others."""
    folder = Path(tempfile.mkdtemp(prefix="askbox-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """An embedded server of its own, with an empty home."""
    home = Path(tempfile.mkdtemp(prefix="askbox-test-", dir=_fastest_folder()))
    home.chmod(0o755)
    server, url = start_embedded_server(home, extra_configuration=_CONFIGURATION)
    yield url
    server.cleanup()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """A migrated database that tests clone."""

    async def create() -> None:
        connection = await asyncpg.connect(server_url)
        await connection.execute(f"CREATE DATABASE {_TEMPLATE}")
        await connection.close()

    asyncio.run(create())
    migrate(database_url(server_url, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture
async def url(server_url: str, template: str) -> AsyncIterator[str]:
    """The connection string of a database of the test's own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield database_url(server_url, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def pool(url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool as workers have it."""
    async with open_pool(url, "askbox_worker", "test worker", connections_max=8) as opened:
        yield opened


@pytest.fixture
async def reader_pool(url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool as the query process has it."""
    async with open_pool(url, "askbox_reader", "test reader", connections_max=4) as opened:
        yield opened


@pytest.fixture
async def owner(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection with the schema in its path, for planting and looking."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    yield connection
    await connection.close()
