"""What processes measure, once, through OpenTelemetry's API: `shared.export` and `shared.totals` decide who reads it.

**Invariants:** names and units are stable; labels come from short fixed lists, never from a file, a name or a person, so
the number of series is bounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opentelemetry import metrics

QuestionOutcome = Literal["answered", "refused", "failed"]
TokenKind = Literal["prompt", "completion", "embedding"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that is measured, as both OpenTelemetry and Prometheus describe it."""

    name: str
    unit: str
    description: str

    @property
    def prometheus_name(self) -> str:
        """The name that Prometheus knows it by, without the endings of its kind."""
        return self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


JOBS = Measure("askbox.jobs", "{job}", "Claimed jobs by stage and what became of them.")
JOB_DURATION = Measure("askbox.job.duration", "s", "How long the jobs of one lease took, by stage and outcome.")
BATCH_SIZE = Measure("askbox.job.batch.size", "{job}", "Jobs of one lease, by stage.")
EMBEDDED_TEXTS = Measure("askbox.embedded.texts", "{text}", "Distinct texts of documents that got a vector.")
EMBEDDED_TOKENS = Measure("askbox.embedded.tokens", "{token}", "Tokens of these texts.")
VERSIONS = Measure("askbox.versions", "{version}", "Versions of documents that became ready or failed.")
EVENTS_DROPPED = Measure(
    "askbox.inbox.events.dropped",
    "{overflow}",
    "How often more files changed at once than events are kept; a scan finds them.",
)
TIME_TO_READY = Measure("askbox.version.time_to_ready", "s", "From the appearance of a file until questions find it.")
# What ingesters and embedders measure, and totals keep.
OF_WORKERS = {
    measure.name: measure
    for measure in (
        JOBS,
        JOB_DURATION,
        BATCH_SIZE,
        EMBEDDED_TEXTS,
        EMBEDDED_TOKENS,
        VERSIONS,
        TIME_TO_READY,
        EVENTS_DROPPED,
    )
}

QUESTION_DURATION = Measure("askbox.question.duration", "s", "From a question to the end of its answer, by outcome.")
QUESTION_TOKENS = Measure("askbox.question.tokens", "{token}", "Tokens that questions and answers took, by kind.")
RETRIEVAL_DURATION = Measure("askbox.retrieval.duration", "s", "How long ranking took.")
FIRST_TOKEN = Measure(
    "askbox.answer.time_to_first_token", "s", "From a question to the first word of a model's answer."
)

_meter = metrics.get_meter("askbox")


def _counter(measure: Measure) -> metrics.Counter:
    return _meter.create_counter(measure.name, measure.unit, measure.description)


def _histogram(measure: Measure, bounds: Sequence[float] = SECONDS) -> metrics.Histogram:
    return _meter.create_histogram(
        measure.name, measure.unit, measure.description, explicit_bucket_boundaries_advisory=bounds
    )


_jobs = _counter(JOBS)
_job_duration = _histogram(JOB_DURATION)
_batch_size = _histogram(BATCH_SIZE, BATCH)
_embedded_texts = _counter(EMBEDDED_TEXTS)
_embedded_tokens = _counter(EMBEDDED_TOKENS)
_versions = _counter(VERSIONS)
_time_to_ready = _histogram(TIME_TO_READY)
_events_dropped = _counter(EVENTS_DROPPED)
_question_duration = _histogram(QUESTION_DURATION)
_question_tokens = _counter(QUESTION_TOKENS)
_retrieval_duration = _histogram(RETRIEVAL_DURATION)
_first_token = _histogram(FIRST_TOKEN)


def count_jobs(stage: str, outcome: str, jobs: int, seconds: float) -> None:
    """Count the jobs of one lease, which were disposed of together."""
    _jobs.add(jobs, {"stage": stage, "outcome": outcome})
    _job_duration.record(seconds, {"stage": stage, "outcome": outcome})
    _batch_size.record(jobs, {"stage": stage})


def count_embedded(texts: int, tokens: int) -> None:
    """Count texts of documents whose vectors were computed."""
    _embedded_texts.add(texts)
    _embedded_tokens.add(tokens)


def count_version_ready(seconds: float) -> None:
    """Count a publication, `seconds` after its file appeared."""
    _versions.add(1, {"state": "ready"})
    _time_to_ready.record(seconds)


def count_versions_failed(count: int) -> None:
    """Count versions that ended with a reason."""
    _versions.add(count, {"state": "failed"})


def count_events_dropped() -> None:
    """Count that file-system events were dropped, however many."""
    _events_dropped.add(1)


def count_question(outcome: QuestionOutcome, seconds: float) -> None:
    """Count a question."""
    _question_duration.record(seconds, {"outcome": outcome})


def count_question_tokens(kind: TokenKind, tokens: int) -> None:
    """Count what a question or its answer took of a model."""
    _question_tokens.add(tokens, {"kind": kind})


def count_retrieval(seconds: float) -> None:
    """Count one ranking."""
    _retrieval_duration.record(seconds)


def count_first_token(seconds: float) -> None:
    """Count how long somebody waited for the first word."""
    _first_token.record(seconds)
