"""Spans, where they go, and what a collector that is dead, slow or absent costs."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import SpanKind, StatusCode

from shared import spans
from shared.errors import ConfigError, CorruptFile
from shared.export import QUIET_PATHS, _Complaints, _QuietSampler, endpoint_of
from shared.spans import TraceContext
from shared.telemetry import Event
from tests.otlp import Collector
from tests.waiting import SUBPROCESS_SECONDS_MAX

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What spans tell, without the provider of the whole process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of telemetry."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def only(told: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in told.get_finished_spans() if span.name == name]
    return found


def run(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own: providers are installed once in a process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=SUBPROCESS_SECONDS_MAX,
        check=False,
    )


def test_row_carries_a_trace_to_another_process(told: InMemorySpanExporter) -> None:
    with spans.span("first") as first:
        row = TraceContext.of(first)
    with spans.span("second", parent=row):
        pass
    parent = only(told, "second").parent
    assert parent is not None
    assert parent.is_remote
    assert (parent.trace_id, parent.span_id) == (
        only(told, "first").context.trace_id,
        only(told, "first").context.span_id,
    )


@pytest.mark.parametrize(
    "traceparent", [None, "", "nonsense", "00-00000000000000000000000000000000-0000000000000000-01"]
)
def test_row_without_a_usable_context_starts_a_trace(told: InMemorySpanExporter, traceparent: str | None) -> None:
    with spans.span("around"), spans.process_span("ingest", [TraceContext(traceparent)], is_batch=False, attempt=1):
        pass
    assert only(told, "process ingest").parent is None


def test_error_is_told_by_its_class_and_not_by_its_message(told: InMemorySpanExporter) -> None:
    with pytest.raises(CorruptFile), spans.span("parse"):
        raise CorruptFile("line 3: 'the secret of the house'")
    span = only(told, "parse")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes == {"error.type": "CorruptFile"}
    assert "secret" not in span.to_json()


def test_single_job_continues_its_trace_and_a_batch_begins_one(told: InMemorySpanExporter) -> None:
    with spans.span("sent") as sent:
        context = TraceContext.of(sent)
    with spans.process_span("ingest", [context], is_batch=False, attempt=2) as single:
        assert single.get_span_context().trace_id == sent.get_span_context().trace_id
    with spans.process_span("embed", [context, context], is_batch=True, attempt=1) as batch:
        assert batch.get_span_context().trace_id != sent.get_span_context().trace_id
    assert only(told, "process ingest").attributes == {
        "messaging.system": "postgresql",
        "messaging.destination.name": "ingest",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "askbox.job.attempt": 2,
    }
    assert only(told, "process embed").attributes["messaging.batch.message_count"] == 2
    assert {only(told, name).kind for name in ("process ingest", "process embed")} == {SpanKind.CONSUMER}


def test_members_of_a_batch_are_told_in_their_own_traces_and_linked_both_ways(told: InMemorySpanExporter) -> None:
    contexts = []
    for name in ("a", "b"):
        with spans.span(name, parent=TraceContext(None)) as root:
            contexts.append((TraceContext.of(root), {"askbox.version.id": ord(name)}))
    with (
        pytest.raises(ValueError),
        spans.process_span("embed", [TraceContext(None)], is_batch=True, attempt=1),
        spans.member_spans("embed texts", contexts),
    ):
        raise ValueError
    members = [span for span in told.get_finished_spans() if span.name == "embed texts"]
    batch = only(told, "process embed")
    assert [m.context.trace_id for m in members] == [only(told, n).context.trace_id for n in ("a", "b")]
    assert [link.context.span_id for link in batch.links] == [m.context.span_id for m in members]
    for member in members:
        assert [link.context.span_id for link in member.links] == [batch.context.span_id]
        assert member.attributes["error.type"] == "ValueError"


def test_file_span_begins_with_the_detection_and_is_told_when_it_became_a_version(told: InMemorySpanExporter) -> None:
    unchanged = spans.start_file_span("inbox:a.md", timedelta(seconds=3), 10, is_requested=False)
    del unchanged
    assert told.get_finished_spans() == ()
    appeared = spans.start_file_span("inbox:a.md", timedelta(seconds=3), 10, is_requested=False)
    spans.end_file_span(appeared, 1, 2, 3)
    span = only(told, "file appeared")
    assert 3e9 <= span.end_time - span.start_time < 60e9
    assert span.attributes["askbox.version.id"] == 3


def test_sent_file_belongs_to_its_request_and_a_found_one_is_linked_to_what_found_it(
    told: InMemorySpanExporter,
) -> None:
    with spans.span("around") as around:
        for name, is_requested in (("upload:a.md", True), ("folder:b.md", False)):
            spans.end_file_span(spans.start_file_span(name, timedelta(0), 1, is_requested=is_requested), 1, 2, 3)
    sent, found = [span for span in told.get_finished_spans() if span.name == "file appeared"]
    assert sent.parent is not None
    assert sent.parent.span_id == around.get_span_context().span_id
    assert found.parent is None
    assert [link.context.span_id for link in found.links] == [around.get_span_context().span_id]


@pytest.mark.parametrize(
    ("model", "kind", "provider"),
    [
        ("all-MiniLM-L6-v2", SpanKind.INTERNAL, "sentence_transformers"),
        ("openai:text-embedding-3-small", SpanKind.CLIENT, "openai"),
    ],
)
def test_embedding_is_told_by_the_conventions(
    told: InMemorySpanExporter, model: str, kind: SpanKind, provider: str
) -> None:
    with spans.embeddings_span(model, 3) as opened:
        spans.set_usage(opened, input_tokens=17)
    name = model.removeprefix("openai:")
    span = only(told, f"embeddings {name}")
    assert span.kind is kind
    assert span.attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": name,
        "gen_ai.usage.input_tokens": 17,
        "askbox.texts": 3,
    }


async def test_stream_may_hold_a_model_span_open_and_be_closed_by_another_task(told: InMemorySpanExporter) -> None:
    import asyncio

    async def stream():
        with spans.genai_span("chat", "m", provider="openai", is_remote=True):
            yield 1
            yield 2

    pieces = stream()
    await asyncio.create_task(anext(pieces))
    await asyncio.create_task(pieces.aclose())
    assert only(told, "chat m").attributes["error.type"] == "GeneratorExit"
    assert spans.current_trace_id() is None


def test_what_probes_ask_is_left_out_and_has_an_id_all_the_same() -> None:
    sampler = _QuietSampler(ALWAYS_ON)
    for path, decision in [(path, Decision.DROP) for path in QUIET_PATHS] + [("/query", Decision.RECORD_AND_SAMPLE)]:
        result = sampler.should_sample(None, 1, "GET", SpanKind.SERVER, {"url.path": path})
        assert result.decision is decision, path


@pytest.mark.parametrize(
    ("environment", "traces", "measurements"),
    [
        ({}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces", "http://c:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t"}, "http://c/t", None),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c/m"}, None, "http://c/m"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, "http://c/v1/traces", None),
    ],
)
def test_standard_variables_say_where_to_send(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], traces: str | None, measurements: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (endpoint_of("TRACES"), endpoint_of("METRICS")) == (traces, measurements)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        endpoint_of("TRACES")


def test_dead_collector_is_complained_of_once_and_its_return_is_told(caplog: pytest.LogCaptureFixture) -> None:
    complaints = _Complaints("http://user:password@collector:4318/v1/traces")
    with caplog.at_level(logging.INFO, "askbox"):
        for is_well in (True, False, False, False, True, True, False, True):
            complaints.heard(is_well=is_well)
    assert [record.getMessage() for record in caplog.records] == [Event.TELEMETRY_NOT_SENT, Event.TELEMETRY_SENT_AGAIN]
    assert {record.facts["endpoint"] for record in caplog.records} == {"http://collector:4318/v1/traces"}


_NOTHING_SET = """
import sys, threading
from shared.export import start_telemetry, stop_telemetry
from shared.spans import TraceContext, current_trace_id, is_recording, span
start_telemetry("test")
with span("anything") as opened:
    assert len(current_trace_id()) == 32 and TraceContext.of(opened).traceparent.startswith("00-" + current_trace_id())
    assert not is_recording()
assert threading.active_count() == 1, threading.enumerate()
stop_telemetry()
"""


def test_without_an_endpoint_there_are_ids_and_no_threads(tmp_path: Path) -> None:
    result = run(tmp_path, _NOTHING_SET)
    assert (result.returncode, result.stderr) == (0, "")


_SEND = """
import time
from shared import export
from shared.export import start_telemetry, stop_telemetry
from shared.metrics import count_retrieval
from shared.spans import span
from shared.telemetry import start_logging
start_logging("test", "INFO")
export.FLUSH_SECONDS_MAX = {flush} or export.FLUSH_SECONDS_MAX
start_telemetry("test")
for number in range({count}):
    with span("one of many", attributes={{"long": "x" * 5000}}):
        pass
count_retrieval(0.1)
began = time.monotonic()
stop_telemetry()
print(time.monotonic() - began)
"""


# What is told at the end is waited for, however slow the machine is.
PATIENCE = 60


def test_env_file_names_the_collector_and_the_operator_the_service(tmp_path: Path) -> None:
    with Collector() as collector:
        (tmp_path / ".env").write_text(
            f"OTEL_EXPORTER_OTLP_ENDPOINT={collector.endpoint}\nOTEL_RESOURCE_ATTRIBUTES=service.name=from-file\n"
        )
        result = run(
            tmp_path, _SEND.format(count=3, flush=PATIENCE), OTEL_RESOURCE_ATTRIBUTES="service.name=mine,team=blue"
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert len(collector.find("one of many")) == 3
        assert {span.service for span in collector.spans} == {"mine"}
        assert "askbox.retrieval.duration" in collector.metrics["mine"]
        assert all(len(span.attributes["long"]) <= 512 for span in collector.spans)


def test_collector_that_never_answers_costs_a_bounded_stop_and_no_noise(tmp_path: Path) -> None:
    with socket.socket() as hole:  # takes connections, reads nothing, says nothing
        hole.bind(("127.0.0.1", 0))
        hole.listen(1)
        endpoint = f"http://127.0.0.1:{hole.getsockname()[1]}"
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "120"}
        result = run(tmp_path, _SEND.format(count=20_000, flush=None), **settings)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 60, "its own limit is 120 s for each batch"
    assert [line for line in result.stderr.splitlines() if "telemetry_not_sent" not in line] == []


def test_collector_that_is_not_there_is_told_of_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        result = run(tmp_path, _SEND.format(count=2000, flush=PATIENCE), **settings)
    assert result.returncode == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert "telemetry_not_sent" in line
    assert endpoint in line


def test_parser_server_has_no_exporter(tmp_path: Path) -> None:
    """It is forked for every file, and an exporter's threads do not survive that."""
    script = """if True:
        import sys, threading, services.ingester.parse_server
        print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
        print(threading.active_count())
    """
    result = run(tmp_path, script, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert (result.returncode, result.stdout) == (0, "[]\n1\n"), result.stderr
