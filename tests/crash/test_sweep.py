"""The sharpest steps of T01: between a commit and what has to follow it, and where two writers meet."""

import pytest

from tests.crash.__main__ import Options
from tests.crash.report import Report
from tests.crash.sweep import sweeping
from tests.crash.sweep_points import POINTS

SAMPLE = {
    "ingester intake.version_committed:kill",
    "ingester ingest.parsing_committed:hang",
    "ingester ingest.staging_committed:kill",
    "embedder queue.jobs_claimed:kill",
    "embedder embed.vectors_committed:kill",
    "embedder publish.version_live:kill",
    "query upload.taken:kill",
    "query delete.tombstone_written:kill",
}


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_stored_twice_whichever_step_a_process_ends_at(tmp_path):
    report = Report("sweep", 1)
    async with sweeping(report, Options(1.0, tmp_path, 1)) as sweep:
        await sweep.sweep_failpoints([point for point in POINTS if point.name in SAMPLE])
    assert report.failures == []
    figures = report.figures
    assert (figures["survived"], figures["lost"], figures["stored_twice"], figures["stuck"]) == (len(SAMPLE), 0, 0, 0)
