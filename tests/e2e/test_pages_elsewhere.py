"""Real pages with nothing on this machine: another Postgres as an ordinary login, and an OpenAI-compatible server."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Askbox
from tests.e2e.pages import SETTINGS, Pages, needs_pages
from tests.e2e.remote import remote_postgres
from tests.openai_server import serving


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Askbox]:
    with contextlib.ExitStack() as parts:
        url = parts.enter_context(remote_postgres())
        provider = parts.enter_context(serving(dimension=256))
        settings = {
            "ASKBOX_EMBEDDING_MODEL": "openai:test-embedding",
            "ASKBOX_CHUNK_TOKENS": "128",
            "OPENAI_BASE_URL": provider.url,
        }
        askbox = Askbox(tmp_path_factory.mktemp("elsewhere"), url, embedders=2, **SETTINGS, **settings)
        askbox.is_bundled = False
        askbox.start()
        parts.callback(askbox.stop)
        yield askbox


@needs_pages
@pytest.mark.timeout(3000)
class TestPagesElsewhere(Pages):
    """All pages."""

    patterns = ("**/*.md",)
    edited = "fastapi/release-notes.md"  # 703 KB
