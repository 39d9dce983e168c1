"""A short storm; `make chaos` raises the long ones."""

import random

import pytest

from tests.crash.report import Report
from tests.crash.storm import Totals, raise_storm

# Promised times are judged where the machine is not busy with other tests.
PATIENCE_SECONDS = 180.0


@pytest.mark.timeout(600)
async def test_state_after_a_storm_is_that_of_a_fresh_ingest(tmp_path):
    report, totals = Report("storm", 1), Totals()
    await raise_storm(
        report, tmp_path, random.Random("1 sample"), totals,
        faults=12, restart_every=4, pause_seconds=(0.05, 0.4), quiet_seconds_max=PATIENCE_SECONDS, files=12,
    )  # fmt: skip
    assert [failure for failure in report.failures if not failure.startswith("figures were wrong for")] == []
    assert totals.failed == []
    assert totals.effective.total() >= 12
    assert totals.effective["restart of Postgres"] >= 2
    assert totals.documents >= 12
