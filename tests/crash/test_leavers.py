"""A sample of `leavers`."""

import pytest

from tests.crash.__main__ import Options
from tests.crash.leavers import run
from tests.crash.report import Report


@pytest.mark.timeout(240)
async def test_callers_who_leave_leave_no_call_behind(tmp_path):
    report = Report("leavers", 1)
    await run(report, Options(0.03, tmp_path, 1))
    assert report.failures == []
