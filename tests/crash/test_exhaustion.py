"""The sharpest faults of a database that is exhausted; `make chaos` has all of them, and longer."""

import pytest

from tests.crash.__main__ import Options
from tests.crash.exhaustion import running
from tests.crash.report import Report


@pytest.mark.timeout(300)
async def test_processes_go_on_by_themselves_when_the_database_does(tmp_path):
    report = Report("exhaustion", 1)
    async with running(Options(0.05, tmp_path, 1), report) as part:
        await part.without_connections()
        await part.in_deadlocks()
        await part.with_many_streams()
        await part.end()
    assert report.failures == []
