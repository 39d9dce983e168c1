"""Deletions at work and under questions, and recall behind them; the whole of it is `python -m tests.crash deletes`."""

import random

import pytest

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.deletes import DEFAULTS, Deletions
from tests.crash.recall import RECALL_MIN, recall_after_deletion
from tests.crash.report import Report
from tests.crash.system import running_system
from tests.openai_server import serving

CHUNKS, QUESTIONS = 2000, 30


@pytest.mark.timeout(300)
async def test_what_is_deleted_goes_and_stays_away(tmp_path):
    report = Report("deletes", 1)
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(tmp_path, cluster, provider, **DEFAULTS) as system:
                for kind in ("ingester", "embedder", "query"):
                    await system.add(kind)
                await system.wait_ready()
                part = Deletions(report, Options(0.0, tmp_path, 1), system, provider, await system.connect())
                await part.unlink_some(30, 1)
                await part.delete_in_work(1)
                await part.recreate(6)
                await part.drop_collections(1)
                await part.look_for_resurrected()
                assert await system.check() == []
    assert report.failures == []


@pytest.mark.timeout(300)
async def test_recall_is_kept_when_most_of_an_indexed_collection_is_deleted(url):
    report = Report("deletes", 1)
    await recall_after_deletion(report, url, CHUNKS, QUESTIONS, random.Random(1))
    assert report.failures == []
    assert float(report.figures["recall@10 after 90 % were deleted"]) >= RECALL_MIN
