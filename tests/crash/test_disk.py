"""Postgres without room; `make chaos` fills the other disks too, and for longer."""

import pytest

from tests.crash.__main__ import Options
from tests.crash.disk import NoDisk, fill_data
from tests.crash.report import Report


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_half_ready_when_postgres_has_no_room(tmp_path):
    report = Report("disk", 1)
    try:
        await fill_data(report, Options(0.05, tmp_path, 1), times=1)
    except NoDisk as reason:
        pytest.skip(str(reason))
    assert report.failures == []
