"""A sample of `clocks`: a claim or two of each embedder, and files of odd dates under one shifted clock."""

import pytest

from tests.crash import clocks
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.report import Report
from tests.crash.system import running_system
from tests.openai_server import serving


@pytest.mark.timeout(240)
async def test_leases_and_versions_do_not_depend_on_the_clocks_of_workers(tmp_path, monkeypatch):
    # How late is for the full part to say; that nobody is early holds on any machine.
    monkeypatch.setattr(clocks, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(clocks, "YEARS", (1970, 2100))
    monkeypatch.setattr(clocks, "CLOCKS", {"ahead": f"{clocks.HOUR}", "behind": f"-{clocks.HOUR}"})
    monkeypatch.setattr(clocks, "LATE_SECONDS_MAX", 60.0)
    monkeypatch.setattr(clocks, "TAKEN_SECONDS_MAX", 60.0)
    monkeypatch.setattr(clocks, "FILE_SHIFTS", (f"{clocks.HOUR} jumping",))
    report, options = Report("clocks", 1), Options(0.05, tmp_path, 1)
    skew = clocks.write_skew(tmp_path)
    async with running_cluster() as cluster:
        with serving() as provider:
            settings = {"ASKBOX_LEASE_SECONDS": "3", "ASKBOX_PROVIDER_SECONDS": "60"}
            async with running_system(tmp_path, cluster, provider, **settings) as system:
                await clocks.leases(report, options, system, skew)
                await clocks.files(report, options, system, skew)
    assert report.figures["claims"] >= 10
    assert report.failures == []
