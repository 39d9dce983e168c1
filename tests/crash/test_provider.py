"""A sample of `provider`: two real embedders, a few of the faults. tests/db/test_provider_embedding.py plays them all."""

import pytest

from tests.crash import provider
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.report import Report
from tests.crash.system import running_system
from tests.openai_server import serving

FAULTS = [
    {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
    None,
    {"kind": "null"},
    {"kind": "status", "status": 429, "retry_after_date": 0},
    {"kind": "dimension"},
    {"kind": "shuffle"},
    {"kind": "cut"},
    {"kind": "count"},
    None,
    {"kind": "nan"},
]


@pytest.mark.timeout(240)
async def test_faults_of_a_provider_leave_no_wrong_vector_and_no_call_in_a_pause(tmp_path):
    report, options = Report("provider", 1), Options(0.02, tmp_path, 1)
    async with running_cluster() as cluster:
        with serving() as server:
            async with running_system(tmp_path, cluster, server) as system:
                await provider.under_faults(report, options, system, list(FAULTS))
    assert report.figures["answers spoiled"] == 7
    # How soon another process was told is judged where the machine is not busy with other tests.
    assert [failure for failure in report.failures if "another process was told" not in failure] == []
