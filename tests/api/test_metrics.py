"""`/metrics`, read as Prometheus reads it."""

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.console import keys
from services.query.metrics import GAUGES
from shared import metrics
from shared.export import start_telemetry
from shared.metrics import OF_WORKERS
from shared.queue import register_worker
from shared.totals import keep_totals
from tests.factories import claim, publish_version, stage_version


async def scrape(client: httpx2.AsyncClient, **headers: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families), "each family stands once"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def sample(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


async def test_empty_system_shows_every_series_with_nothing_in_it(client):
    shown = await scrape(client)
    for measure, series in GAUGES.items():
        for labels in series:
            assert shown[sample(measure.prometheus_name, **dict(labels))] == 0
    assert shown[sample("askbox_queue_jobs", stage="embed", state="ready")] == 0


async def test_queue_documents_and_processes_are_counted(client, pool, owner):
    await publish_version(pool, ["The gate opens at nine."], source_uri="inbox:a.md")
    await stage_version(pool, ["One text.", "Another text."], source_uri="inbox:b.md")
    (leased,) = await claim(pool, "embed", batch_size=1)
    await owner.execute("UPDATE job SET created_at = now() - interval '1 hour' WHERE id = $1", leased.id)
    await owner.execute(
        "INSERT INTO dead_letter (stage, subject_id, collection_id, attempt, error_code, error, created_at)"
        " SELECT 'ingest', 99, id, 5, 'corrupt_file', 'it is broken', now() FROM collection"
    )
    await register_worker(pool, kind="embedder", host="here", pid=1)
    shown = await scrape(client)
    assert shown[sample("askbox_queue_jobs", stage="embed", state="ready")] == 1
    assert shown[sample("askbox_queue_jobs", stage="embed", state="leased")] == 1
    assert shown[sample("askbox_pending_embeddings")] == 2
    assert 3600 <= shown[sample("askbox_queue_oldest_job_age_seconds", stage="embed")] < 7200
    assert shown[sample("askbox_documents", state="ready")] == 1
    assert shown[sample("askbox_documents", state="embedding")] == 1
    assert shown[sample("askbox_dead_letters", stage="ingest")] == 1
    assert shown[sample("askbox_workers", kind="embedder")] == 1
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '1 minute'")
    assert (await scrape(client))[sample("askbox_workers", kind="embedder")] == 0


async def test_what_workers_counted_is_shown_after_they_have_gone(client, pool, owner):
    start_telemetry("test")
    async with keep_totals(pool):
        for seconds in (0.2, 0.2, 7.0):
            metrics.count_jobs("embed", "completed", 8, seconds)
        metrics.count_jobs("ingest", "buried", 1, 0.1)
        metrics.count_embedded(24, 512)
        metrics.count_version_ready(0.4)
        metrics.count_versions_failed(1)
        metrics.count_events_dropped()
    shown = await scrape(client)
    assert shown[sample("askbox_jobs_total", stage="embed", outcome="completed")] == 24
    assert shown[sample("askbox_jobs_total", stage="ingest", outcome="buried")] == 1
    assert shown[sample("askbox_embedded_texts_total")] == 24
    assert shown[sample("askbox_inbox_events_dropped_total")] == 1
    assert shown[sample("askbox_versions_total", state="failed")] == 1
    duration = {"stage": "embed", "outcome": "completed"}
    assert shown[sample("askbox_job_duration_seconds_bucket", le="0.25", **duration)] == 2
    assert shown[sample("askbox_job_duration_seconds_bucket", le="10", **duration)] == 3
    assert shown[sample("askbox_job_duration_seconds_bucket", le="+Inf", **duration)] == 3
    assert shown[sample("askbox_job_duration_seconds_count", **duration)] == 3
    assert shown[sample("askbox_job_duration_seconds_sum", **duration)] == pytest.approx(7.4)
    families = {measure.prometheus_name for measure in OF_WORKERS.values()}
    told = {name for name, _ in shown}
    assert all(any(name.startswith(family) for name in told) for family in families)


async def test_questions_are_counted_by_outcome(client, pool):
    await publish_version(pool, ["The gate opens at nine."], source_uri="inbox:a.md")
    before = await scrape(client)
    assert (await client.post("/query", json={"question": "When does the gate open?"})).status_code == 200
    after = await scrape(client)

    def grown(name: str) -> float:
        return sum(value - before.get(key, 0) for key, value in after.items() if key[0] == name)

    assert grown("askbox_question_duration_seconds_count") == 1
    assert grown("askbox_retrieval_duration_seconds_count") == 1
    assert grown("askbox_question_tokens_total") > 0


async def test_figures_of_the_whole_system_need_a_key_that_reads_all_of_it(client, pool, owner):
    await publish_version(pool, ["The gate opens at nine."], collection="ours", source_uri="inbox:ours/a.md")
    everywhere = await keys.create_key(owner, "prometheus", "read", [])
    only_ours = await keys.create_key(owner, "ours", "read", ["ours"])
    assert (await client.get("/metrics")).status_code == 401
    assert (await client.get("/metrics", headers={"Authorization": f"Bearer {only_ours}"})).status_code == 403
    shown = await scrape(client, Authorization=f"Bearer {everywhere}")
    assert shown[sample("askbox_documents", state="ready")] == 1


async def test_series_name_nothing_that_a_person_chose(client, pool):
    await publish_version(pool, ["The gate opens."], collection="zanzibar", source_uri="inbox:zanzibar/quartz.md")
    await client.post("/query", json={"question": "quartz?", "collection": "zanzibar"})
    await client.get("/documents/zanzibar")
    text = (await client.get("/metrics")).text
    assert "zanzibar" not in text
    assert "quartz" not in text
