"""A few updates under readers, one of each fate; the whole of it is `python -m tests.crash flips`."""

import pytest

from tests.crash.__main__ import Options
from tests.crash.flips import run
from tests.crash.report import Report


@pytest.mark.timeout(300)
async def test_every_answer_is_of_one_version(tmp_path):
    report = Report("flips", 1)
    await run(report, Options(0.0, tmp_path, 1))
    assert report.failures == []
    assert report.figures["answers looked at"] > 0
