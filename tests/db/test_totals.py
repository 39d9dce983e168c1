"""What workers count outlives them, adds up, and never falls."""

import asyncio
import json

import asyncpg
import pytest

from shared import metrics
from shared.export import start_telemetry
from shared.totals import Totals, keep_totals


@pytest.fixture(autouse=True)
def measuring() -> None:
    start_telemetry("test")


async def totals(owner: asyncpg.Connection) -> dict[tuple[str, str, str], float]:
    rows = await owner.fetch("SELECT name, labels, part, value FROM metric_total")
    return {key(row["name"], row["part"], **json.loads(row["labels"])): row["value"] for row in rows}


def key(name: str, part: str = "", **labels: str) -> tuple[str, str, str]:
    return name, json.dumps(labels, sort_keys=True), part


async def test_totals_outlive_their_worker_and_grow_with_the_next(pool, owner):
    for embedded in (3, 4):
        async with keep_totals(pool) as add:
            metrics.count_embedded(embedded, 100)
            await add()
            await add()  # nothing is new
            metrics.count_embedded(10, 0)
    assert (await totals(owner))[key("askbox.embedded.texts")] == 27
    assert (await totals(owner))[key("askbox.embedded.tokens")] == 200


async def test_what_was_measured_before_is_not_counted_again(pool, owner):
    metrics.count_embedded(1000, 0)
    async with keep_totals(pool):
        metrics.count_embedded(1, 0)
    assert (await totals(owner))[key("askbox.embedded.texts")] == 1


async def test_histogram_keeps_its_buckets_and_its_sum(pool, owner):
    async with keep_totals(pool):
        for seconds in (0.001, 0.2, 0.2, 5000.0):
            metrics.count_jobs("embed", "completed", 64, seconds)
    shown = {part: value for (name, _, part), value in (await totals(owner)).items() if name == "askbox.job.duration"}
    assert shown == {"sum": pytest.approx(5000.401), "0.005": 1, "0.25": 2, "+Inf": 1}
    assert (await totals(owner))[key("askbox.job.batch.size", "64", stage="embed")] == 4


async def test_what_cannot_be_written_is_written_with_the_next(pool, owner):
    add = Totals(pool)
    metrics.count_embedded(5, 0)
    await owner.execute("ALTER TABLE metric_total RENAME TO elsewhere")
    with pytest.raises(asyncpg.UndefinedTableError):
        await add()
    await owner.execute("ALTER TABLE elsewhere RENAME TO metric_total")
    metrics.count_embedded(2, 0)
    await add.close()
    assert (await totals(owner))[key("askbox.embedded.texts")] == 7


async def test_workers_that_add_at_once_lose_nothing(pool, owner):
    workers = [Totals(pool) for _ in range(4)]
    for _ in range(10):
        for stage in ("ingest", "embed", "index", "scan"):
            metrics.count_jobs(stage, "completed", 1, 0.1)
        await asyncio.gather(*(worker() for worker in workers))
    for worker in workers:
        await worker.close()
    shown = await totals(owner)
    # In this process every reader sees every measurement; in workers each sees its own.
    assert shown[key("askbox.jobs", outcome="completed", stage="embed")] == 4 * 10


async def test_only_known_names_get_in(pool, owner):
    async with keep_totals(pool):
        metrics.count_retrieval(0.1)
        metrics.count_jobs("embed", "retried", 1, 0.1)
    names = {name for name, _, _ in await totals(owner)}
    assert names == {"askbox.jobs", "askbox.job.duration", "askbox.job.batch.size"}
