"""A sample of `poison`: two attempts instead of five, since each costs a process its life."""

import pytest

from tests.crash import poison
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.report import Report
from tests.crash.system import running_system
from tests.openai_server import serving


@pytest.mark.timeout(240)
async def test_texts_that_kill_break_or_swell_end_alone_and_with_a_reason(tmp_path):
    report, options = Report("poison", 1), Options(0.05, tmp_path, 1)
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(tmp_path, cluster, provider, ASKBOX_LEASE_SECONDS="2") as system:
                await poison.embed_all(report, options, system, attempts_max=2)
    assert report.figures["kills by one text"] == 2
    assert report.failures == []
