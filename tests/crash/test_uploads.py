"""A sample of `uploads`, without what is slow: that takes as long as a slow sender is given."""

import pytest

from tests.crash.__main__ import Options
from tests.crash.report import Report
from tests.crash.uploads import running


@pytest.mark.timeout(240)
async def test_hostile_uploads_are_refused_unread_and_leave_nothing(tmp_path):
    report = Report("uploads", 1)
    async with running(Options(0.01, tmp_path, 1), report) as part:
        await part.refusals()
        await part.names()
        await part.bodies()
        await part.breaks()
        await part.large()
        await part.end()
    assert report.failures == []
