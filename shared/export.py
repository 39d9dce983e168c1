"""Where spans and measurements go: to an OTLP collector when the environment names one, else nowhere.

**Invariants:** without an endpoint no thread is started and nothing is kept, but ids exist; a dead or slow collector costs
its own thread some waiting, the rest of the process nothing; what cannot be sent is dropped, and said once.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as RecordedSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from shared.errors import ConfigError
from shared.telemetry import Event, log

FLUSH_SECONDS_MAX = 2.0
SPANS_QUEUED_MAX = 4096
SPANS_SENT_MAX = 512
# A killed process loses the spans of so long, and with the first span of a file the parent of all that follow: the
# specification's 5 s would leave many without.
SEND_EVERY_MS = 100
ATTRIBUTE_CHARACTERS_MAX = 512
COMPLAINT_SECONDS = 60.0
# Asked every few seconds by probes and pages.
QUIET_PATHS = frozenset({"/health", "/live", "/ready", "/metrics", "/ingest/stats", "/ingest/events"})
_PROTOCOL = "http/protobuf"
_TALKATIVE = (
    "opentelemetry.attributes",
    "opentelemetry.exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics",
)


def start_telemetry(service: str) -> None:
    """Install the providers of a process named `askbox-{service}`; the standard `OTEL_…` variables, also of `.env`, apply.

    Raises: ConfigError when a variable names something that cannot be sent to.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    _read_env_file()
    resource = _resource(service)
    traces, measurements = endpoint_of("TRACES"), endpoint_of("METRICS")
    if traces or measurements:
        # Theirs come by the span and by the batch; ours come when something changes.
        level = logging.CRITICAL if logging.getLogger("askbox").level > logging.DEBUG else logging.WARNING
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(level)
    _install_tracer(resource, traces)
    _install_meter(resource, measurements)


def add_metric_reader(reader: MetricReader) -> None:
    """Let a reader see what this process measures from now on."""
    provider = metrics.get_meter_provider()
    if isinstance(provider, MeterProvider):
        provider.add_metric_reader(reader)


def remove_metric_reader(reader: MetricReader) -> None:
    """End what `add_metric_reader` began."""
    provider = metrics.get_meter_provider()
    if isinstance(provider, MeterProvider):
        provider.remove_metric_reader(reader)


def stop_telemetry() -> None:
    """Send what is left, for `FLUSH_SECONDS_MAX` at most."""
    providers = [trace.get_tracer_provider(), metrics.get_meter_provider()]
    deadline = time.monotonic() + FLUSH_SECONDS_MAX
    # Their own time limits hold in some of their parts only, so they get threads that may be left behind.
    stops = [
        threading.Thread(target=provider.shutdown, daemon=True)
        for provider in providers
        if isinstance(provider, TracerProvider | MeterProvider)
    ]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join(max(0.0, deadline - time.monotonic()))


def endpoint_of(signal: str) -> str | None:
    """Return where `TRACES` or `METRICS` are sent, or None for nowhere.

    Raises: ConfigError when that is no HTTP address, or another protocol is asked for.
    """
    if _is_true("OTEL_SDK_DISABLED") or os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return None
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        endpoint = os.environ.get(name, "").strip()
        if not endpoint:
            continue
        parts = urlsplit(endpoint)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"{name}: an address such as http://127.0.0.1:4318 is wanted")
        _refuse_other_protocols(signal)
        return endpoint if signal in name else f"{endpoint.removesuffix('/')}/v1/{signal.lower()}"
    return None


def _refuse_other_protocols(signal: str) -> None:
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(name, "").strip()
        if protocol and protocol != _PROTOCOL:
            raise ConfigError(
                f"{name} is {protocol}; askbox speaks {_PROTOCOL} only: set it so, and the collector's HTTP port"
            )
        if protocol:
            return


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() == "true"


def _read_env_file() -> None:
    """Settings may stand in `.env`; the SDK reads the environment only."""
    for name, value in dotenv_values(".env").items():
        if name.startswith("OTEL_") and value:
            os.environ.setdefault(name, value)


def _resource(service: str) -> Resource:
    """Describe this process. What the operator says of it in the environment goes first."""
    ours = {
        "service.name": f"askbox-{service}",
        "service.version": version("askbox"),
        "service.instance.id": f"{os.getpid()}@{socket.gethostname()}",
    }
    said = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in said})


def _install_tracer(resource: Resource, endpoint: str | None) -> None:
    limits = SpanLimits(max_span_attribute_length=ATTRIBUTE_CHARACTERS_MAX)
    if endpoint is None:
        trace.set_tracer_provider(TracerProvider(ALWAYS_OFF, resource, span_limits=limits, shutdown_on_exit=False))
        return
    provider = TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
    provider.sampler = _QuietSampler(provider.sampler)  # around the one that the environment asks for
    provider.add_span_processor(_HideQueryStrings())
    provider.add_span_processor(
        BatchSpanProcessor(
            _Spans(_Complaints(endpoint)),
            max_queue_size=_number("OTEL_BSP_MAX_QUEUE_SIZE", SPANS_QUEUED_MAX),
            max_export_batch_size=_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", SPANS_SENT_MAX),
            schedule_delay_millis=_number("OTEL_BSP_SCHEDULE_DELAY", SEND_EVERY_MS),
        )
    )
    trace.set_tracer_provider(provider)


def _install_meter(resource: Resource, endpoint: str | None) -> None:
    readers: list[MetricReader] = []
    if endpoint is not None:
        readers.append(PeriodicExportingMetricReader(_Measurements(_Complaints(endpoint))))
    metrics.set_meter_provider(MeterProvider(readers, resource, shutdown_on_exit=False))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{name}: a whole number above 0 is wanted")
    return int(text)


class _Complaints:
    """Says once that a collector does not take what it is sent, and once that it does again; at most one a minute."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        self._is_well = True
        self._said_at = -COMPLAINT_SECONDS

    def heard(self, *, is_well: bool) -> None:
        """Take note of how a sending ended."""
        now = time.monotonic()
        if is_well == self._is_well or (not is_well and now - self._said_at < COMPLAINT_SECONDS):
            return
        self._is_well = is_well
        if is_well:
            log(Event.TELEMETRY_SENT_AGAIN, endpoint=self._place)
            return
        self._said_at = now
        log(Event.TELEMETRY_NOT_SENT, logging.WARNING, endpoint=self._place, reason="the collector does not take it")


class _Spans(OTLPSpanExporter):
    """The OTLP exporter, with its failures told by change."""

    def __init__(self, complaints: _Complaints) -> None:
        super().__init__()
        self._complaints = complaints

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._complaints.heard(is_well=result is SpanExportResult.SUCCESS)
        return result


class _Measurements(OTLPMetricExporter):
    """The OTLP exporter, with its failures told by change."""

    def __init__(self, complaints: _Complaints) -> None:
        super().__init__()
        self._complaints = complaints

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = None, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self._complaints.heard(is_well=result is MetricExportResult.SUCCESS)
        return result


class _QuietSampler(Sampler):
    """Leaves out what probes ask; its ids exist all the same."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if kind is SpanKind.SERVER and attributes is not None and attributes.get("url.path") in QUIET_PATHS:
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"quiet, {self._inner.get_description()}"


class _HideQueryStrings(SpanProcessor):
    """A query string may hold anything that a caller typed, a key among it."""

    def on_start(self, span: RecordedSpan, parent_context: Context | None = None) -> None:  # noqa: ARG002
        if span.attributes is not None and "url.query" in span.attributes:
            span.set_attribute("url.query", "REDACTED")
