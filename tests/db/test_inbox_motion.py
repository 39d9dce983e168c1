"""Files in motion, a sample: `python -m tests.crash motion` runs a thousand traces."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.crash.motion import run_traces
from tests.db.clones import clone

TRACES = 25


@pytest.fixture
async def motion_url(server_url: str, template: str) -> AsyncIterator[str]:
    async with clone(server_url, "test_inbox_motion", template=template) as url:
        yield url


def test_database_is_as_the_folder_is_whatever_programs_do_with_files(motion_url: str, tmp_path: Path) -> None:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    found = run_traces(motion_url, tmp_path, traces=TRACES, number=1)
    assert found.mismatches == []
    assert found.traces >= TRACES
    assert found.versions > TRACES
