"""A sample of `duplicates`: everything once, smaller."""

import pytest

from tests.crash import duplicates
from tests.crash.__main__ import Options
from tests.crash.report import Report


@pytest.mark.timeout(240)
async def test_what_arrives_twice_is_stored_and_embedded_once(tmp_path):
    report = Report("duplicates", 1)
    await duplicates.run(report, Options(0.04, tmp_path, 1))
    assert report.figures["documents"] > 10
    assert report.failures == []
