"""A sample of `flood`: hundreds of files where the full part has thousands."""

import pytest

from tests.crash import flood
from tests.crash.__main__ import Options
from tests.crash.report import Report


@pytest.mark.timeout(300)
async def test_every_file_of_a_flood_is_found_and_taken_once(tmp_path, monkeypatch):
    # How soon is for the full part to say; that all are found holds on any machine.
    monkeypatch.setattr(flood, "RESCAN_SECONDS", 2.0)
    monkeypatch.setattr(flood, "FOUND_SECONDS_MAX", 120.0)
    monkeypatch.setattr(flood, "OTHER_SECONDS_MAX", 120.0)
    report = Report("flood", 1)
    await flood.run(report, Options(0.01, tmp_path, 1))
    assert report.failures == []
    assert report.figures["files that arrived as they are"] == report.figures["files"] > 250
