"""Real pages with everything on this machine: the bundled model, a database on the server of all tests."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from tests.conftest import database_url
from tests.e2e.harness import Askbox
from tests.e2e.pages import SETTINGS, Pages, needs_pages


@pytest.fixture(scope="module")
def box(server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Askbox]:
    asyncio.run(execute(server_url, f"CREATE DATABASE e2e_pages TEMPLATE {template}"))
    askbox = Askbox(tmp_path_factory.mktemp("pages"), database_url(server_url, "e2e_pages"), embedders=2, **SETTINGS)
    askbox.start()
    yield askbox
    askbox.stop()
    asyncio.run(execute(server_url, "DROP DATABASE e2e_pages WITH (FORCE)"))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


@needs_pages
@pytest.mark.timeout(3000)
class TestPagesHere(Pages):
    """The pages that the questions are about: the release notes alone are half of all text."""

    patterns = ("tutorial/**/*.md", "advanced/**/*.md", "deployment/**/*.md")
    edited = "fastapi/deployment/docker.md"
