"""What the queue and the embedder tell of work that several files share, that fails, or that is given back."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from services.embedder.embed import EmbedHandler
from shared import queue, spans, worker
from shared.errors import CorruptFile, ProviderUnavailable, RetryableError
from shared.spans import TraceContext, process_span
from shared.worker import Slot
from tests.db.test_worker import Recorder, enqueue, working
from tests.factories import HashModel, arrive, claim, make_collection, stage_version
from tests.waiting import until


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def of_trace(told: InMemorySpanExporter, trace_id: int) -> Counter[str]:
    return Counter(span.name for span in told.get_finished_spans() if span.context.trace_id == trace_id)


def named(told: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in told.get_finished_spans() if span.name == name]


class Failing(HashModel):
    async def encode(self, texts):
        raise ProviderUnavailable("it is overloaded")


async def test_text_that_two_files_share_is_told_of_in_both_traces(pool, told):
    await stage_version(pool, ["Shared.", "Only in a."], source_uri="inbox:a.md")
    await stage_version(pool, ["Shared."], source_uri="inbox:b.md")
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    jobs = await claim(pool, "embed")
    assert len(jobs) == 2, "the shared text has one job"
    with process_span("embed", [TraceContext(j.traceparent) for j in jobs], is_batch=True, attempt=1):
        await handler.process(jobs)
        await handler.after(jobs)
    await handler.finish()
    (batch,) = named(told, "process embed")
    appeared = named(told, "file appeared")
    assert len({span.context.trace_id for span in [batch, *appeared]}) == 3
    for file, texts in zip(appeared, (2, 1), strict=True):
        assert of_trace(told, file.context.trace_id) == {
            "file appeared": 1,
            "send ingest": 1,
            "embed texts": 1,
            "publish": 1,
        }
        (member,) = [s for s in named(told, "embed texts") if s.context.trace_id == file.context.trace_id]
        assert member.parent.span_id == file.context.span_id
        assert member.attributes["askbox.texts"] == texts
        assert member.attributes["askbox.version.id"] == file.attributes["askbox.version.id"]
    assert {link.context.trace_id for link in batch.links} == {file.context.trace_id for file in appeared}


async def test_batch_that_fails_is_told_of_as_failed_in_every_trace(pool, told):
    await stage_version(pool, ["One."], source_uri="inbox:a.md")
    _, model_id = await make_collection(pool)
    jobs = await claim(pool, "embed")
    with pytest.raises(ProviderUnavailable), process_span("embed", [], is_batch=True, attempt=1):
        await EmbedHandler(pool, Failing(), model_id).process(jobs)
    for name in ("process embed", "embed texts", f"embeddings {HashModel.name}"):
        (span,) = named(told, name)
        assert span.attributes["error.type"] == "ProviderUnavailable"
        assert "overloaded" not in span.to_json()


async def test_what_nobody_records_costs_no_statement(pool):
    await stage_version(pool, ["One."], source_uri="inbox:a.md")
    _, model_id = await make_collection(pool)
    (job,) = await claim(pool, "embed")
    handler = EmbedHandler(pool, HashModel(), model_id)
    assert await handler._versions([job.text_hash]) == []


async def test_file_that_arrives_unchanged_is_not_told_of_again(pool, told):
    await arrive(pool, "The same.")
    await arrive(pool, "The same.")
    assert len(named(told, "file appeared")) == 1


async def test_job_continues_the_trace_of_its_version(pool, owner, told):
    await arrive(pool, "A file.")
    (job,) = await claim(pool, "ingest")
    (appeared,), (sending,) = named(told, "file appeared"), named(told, "send ingest")
    assert sending.parent.span_id == appeared.context.span_id
    version = await owner.fetchval("SELECT traceparent FROM document_version")
    for row, span in ((job.traceparent, sending), (version, appeared)):
        assert row.startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")


async def test_every_end_of_a_job_is_counted_and_told_of(url, pool, told, monkeypatch):
    counted: Counter[str] = Counter()
    monkeypatch.setattr(worker, "count_jobs", lambda _, outcome, jobs, __: counted.update({outcome: jobs}))
    begun = asyncio.Event()

    async def work(jobs: list[queue.Job]) -> None:
        match jobs[0].subject_id:
            case 1:
                raise CorruptFile
            case 2:
                raise RetryableError
            case 3:
                begun.set()
                await asyncio.Event().wait()

    async with working(url, pool, Slot("one", "ingest", Recorder(pool, work))):
        for number in (1, 4):
            await enqueue(pool, first=number)
        # Tried so often that its next attempt is minutes away.
        await pool.execute(
            "INSERT INTO job (stage, subject_id, collection_id, attempt, max_attempts) SELECT 'ingest', 2, id, 8, 20 FROM collection"
        )
        await until(lambda: asyncio.sleep(0, counted.total() == 3))
        await enqueue(pool, first=3)
        await begun.wait()
    assert counted == {"buried": 1, "retried": 1, "completed": 1, "interrupted": 1}
    errors = Counter(span.attributes.get("error.type") for span in named(told, "process ingest"))
    assert errors == {"CorruptFile": 1, "RetryableError": 1, None: 1, "CancelledError": 1}
