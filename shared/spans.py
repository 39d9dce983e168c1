"""Spans, and the W3C trace context that a document carries through the rows: one trace a file, one a question.

They go through OpenTelemetry's API alone; `shared.export` decides whether and where they are sent. A span names an error by
its class: messages may quote a document.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from shared import conventions as names

Attributes = dict[str, AttributeValue]
_tracer = trace.get_tracer("askbox")
_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A W3C trace context as rows hold it."""

    traceparent: str | None
    tracestate: str | None = None

    @classmethod
    def of(cls, span: Span) -> "TraceContext":
        """Return the context that makes others children of a span."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(span, Context()))
        return cls(carrier.get("traceparent"), carrier.get("tracestate"))

    def as_parent(self) -> Context:
        """Return the context to start a child in; without a trace it starts one of its own."""
        carrier = {"traceparent": self.traceparent or "", "tracestate": self.tracestate or ""}
        return _propagator.extract(carrier, Context())


def current_trace_id() -> str | None:
    """Return the id of the trace that this task runs in, as 32 hexadecimal digits."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def mark_failed(span: Span, error: BaseException) -> None:
    """Say on a span that it failed, and with which class of error."""
    span.set_attribute(names.ERROR_TYPE, type(error).__name__)
    span.set_status(StatusCode.ERROR)


def is_recording() -> bool:
    """Whether anybody will see the current span: what only a span needs can be left out otherwise."""
    return trace.get_current_span().is_recording()


def describe_current(attributes: Attributes) -> None:
    """Add to the span that this task runs in."""
    trace.get_current_span().set_attributes(attributes)


def mark_current_failed(error: BaseException) -> None:
    """Say on the span that this task runs in that it failed."""
    mark_failed(trace.get_current_span(), error)


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: TraceContext | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """Run a block as a span, below `parent` or the current one. For plain coroutines: it must end in the task it began in."""
    with _tracer.start_as_current_span(
        name,
        context=None if parent is None else parent.as_parent(),
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            mark_failed(opened, error)
            raise


@contextmanager
def genai_span(
    operation: str,
    model: str,
    *,
    provider: str,
    is_remote: bool,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """Run a block as the call of a model: `chat`, `embeddings`. It does not become current, so a stream may hold it open."""
    opened = _tracer.start_span(
        f"{operation} {model}",
        kind=SpanKind.CLIENT if is_remote else SpanKind.INTERNAL,
        attributes={
            names.GEN_AI_OPERATION: operation,
            names.GEN_AI_PROVIDER: provider,
            names.GEN_AI_MODEL: model,
            **(attributes or {}),
        },
    )
    try:
        yield opened
    except BaseException as error:
        mark_failed(opened, error)
        raise
    finally:
        opened.end()


@contextmanager
def embeddings_span(model: str, text_count: int) -> Iterator[Span]:
    """Run a block as the embedding of texts by the model of that name."""
    is_remote = model.startswith(names.OPENAI_PREFIX)
    with genai_span(
        "embeddings",
        model.removeprefix(names.OPENAI_PREFIX),
        provider=names.OPENAI if is_remote else names.IN_PROCESS,
        is_remote=is_remote,
        attributes={names.TEXTS: text_count},
    ) as opened:
        yield opened


def set_usage(span: Span, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
    """Say how many tokens a model read and wrote."""
    if input_tokens is not None:
        span.set_attribute(names.GEN_AI_INPUT_TOKENS, input_tokens)
    if output_tokens is not None:
        span.set_attribute(names.GEN_AI_OUTPUT_TOKENS, output_tokens)


@contextmanager
def retrieval_span(collections: Sequence[str], top_k: int) -> Iterator[Span]:
    """Run a block as one retrieval."""
    source = collections[0] if len(collections) == 1 else None
    attributes: Attributes = {
        names.GEN_AI_OPERATION: "retrieval",
        names.GEN_AI_TOP_K: top_k,
        names.COLLECTIONS: len(collections),
    }
    if source is not None:
        attributes[names.GEN_AI_DATA_SOURCE] = source
    with span("retrieval" if source is None else f"retrieval {source}", attributes=attributes) as opened:
        yield opened


def start_file_span(source_uri: str, detected_ago: timedelta, file_bytes: int, *, is_requested: bool) -> Span:
    """Begin the first span of a file's trace, at its detection; one that is never ended is never told.

    A file that was sent with a request belongs to the request's trace. Any other starts its own, linked to what found it.
    """
    current = trace.get_current_span().get_span_context()
    return _tracer.start_span(
        names.FILE_APPEARED,
        context=None if is_requested else Context(),
        links=[Link(current)] if current.is_valid and not is_requested else [],
        start_time=time.time_ns() - round(detected_ago.total_seconds() * 1e9),
        attributes={names.SOURCE_URI: source_uri, names.FILE_BYTES: file_bytes},
    )


def end_file_span(appeared: Span, collection_id: int, document_id: int, version_id: int | None) -> None:
    """Tell of a file that became a version. At once, since this is the parent of all that follows."""
    appeared.set_attributes(version_attributes(collection_id, document_id, version_id))
    appeared.end()


def version_attributes(collection_id: int, document_id: int, version_id: int | None) -> Attributes:
    """Name a version."""
    attributes: Attributes = {names.COLLECTION_ID: collection_id, names.DOCUMENT_ID: document_id}
    return attributes if version_id is None else attributes | {names.VERSION_ID: version_id}


def start_send_span(stage: str, *, parent: Span | None = None) -> Span:
    """Begin the span of making jobs for a stage, below `parent` or the current one; the caller ends it after its commit."""
    return _tracer.start_span(
        f"send {stage}",
        context=None if parent is None else trace.set_span_in_context(parent),
        kind=SpanKind.PRODUCER,
        attributes=_message_attributes("send", stage),
    )


def end_send_span(sending: Span, job_count: int) -> None:
    """Tell of jobs that were made together."""
    sending.set_attribute(names.MESSAGING_BATCH_COUNT, job_count)
    sending.end()


@contextmanager
def process_span(stage: str, contexts: Sequence[TraceContext], *, is_batch: bool, attempt: int) -> Iterator[Span]:
    """Run a block as the processing of claimed jobs: below the span that sent a single job; a batch has its own trace."""
    attributes = _message_attributes("process", stage) | {names.ATTEMPT: attempt}
    if is_batch:
        attributes[names.MESSAGING_BATCH_COUNT] = len(contexts)
    with span(
        f"process {stage}",
        kind=SpanKind.CONSUMER,
        parent=TraceContext(None) if is_batch else contexts[0],
        attributes=attributes,
    ) as opened:
        yield opened


@contextmanager
def member_spans(name: str, members: Sequence[tuple[TraceContext, Attributes]]) -> Iterator[None]:
    """Run a block as one span in each member's trace, and link each with the current span both ways."""
    current = trace.get_current_span()
    link = Link(current.get_span_context())
    opened = [
        _tracer.start_span(name, context=context.as_parent(), links=[link], attributes=attributes)
        for context, attributes in members
    ]
    for member in opened:
        current.add_link(member.get_span_context())
    try:
        yield
    except BaseException as error:
        for member in opened:
            mark_failed(member, error)
        raise
    finally:
        for member in opened:
            member.end()


def add_span(
    name: str, parent: TraceContext, seconds: float, attributes: Attributes, *, error_type: str | None = None
) -> None:
    """Tell of something that took `seconds` and has just ended; afterwards, since only a commit makes it true."""
    now = time.time_ns()
    added = _tracer.start_span(
        name, context=parent.as_parent(), start_time=now - round(seconds * 1e9), attributes=attributes
    )
    if error_type is not None:
        added.set_attribute(names.ERROR_TYPE, error_type)
        added.set_status(StatusCode.ERROR)
    added.end(now)


def _message_attributes(operation: str, stage: str) -> Attributes:
    return {
        names.MESSAGING_SYSTEM: names.POSTGRESQL,
        names.MESSAGING_DESTINATION: stage,
        names.MESSAGING_OPERATION: operation,
        names.MESSAGING_OPERATION_TYPE: operation,
    }
