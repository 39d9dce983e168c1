"""What `/metrics` shows: what this process measured, what is true in the database now, what all workers ever counted.

**Invariants:** one statement a scrape; the series are known beforehand, so that one which has nothing to tell is 0 and an
alarm on it works; nothing names a document, a collection or a person.
"""

import asyncio
import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.query import store
from services.query.health import SILENCE_MAX
from services.query.retrieve import snapshot
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Connection, Pool
from shared.export import add_metric_reader
from shared.metrics import OF_WORKERS, Measure
from shared.statements import load_statements

STATEMENTS = load_statements("services.query", "metrics.sql")
_LIST = STATEMENTS["list_figures"]

# How often a collector's gauges are looked up; a scrape looks by itself.
LOOK_SECONDS = 15.0
STAGES = ("ingest", "scan", "embed", "index")
COUNTER_PART, SUM_PART = "", "sum"
PENDING_EMBEDDINGS = "askbox.pending_embeddings"
Labels = tuple[tuple[str, str], ...]


def _series(**values: Sequence[str]) -> list[Labels]:
    rows: list[Labels] = [()]
    for name, choices in values.items():
        rows = [(*row, (name, choice)) for row in rows for choice in choices]
    return rows


# What is true now, and every series of it.
GAUGES: dict[Measure, list[Labels]] = {
    Measure("askbox.queue.jobs", "{job}", "Jobs that can run, wait for their time, or are worked on."): _series(
        stage=STAGES, state=("ready", "waiting", "leased")
    ),
    Measure("askbox.queue.oldest_job.age", "s", "How long ago the oldest job of a stage was made."): _series(
        stage=STAGES
    ),
    Measure(PENDING_EMBEDDINGS, "{text}", "Distinct texts that wait for their vector."): _series(),
    Measure("askbox.dead_letters", "{job}", "Jobs that will not be tried again."): _series(stage=STAGES),
    Measure("askbox.documents", "{document}", "Documents by the state of their newest version."): _series(
        state=("queued", "parsing", "embedding", "ready", "failed")
    ),
    Measure(
        "askbox.inbox.waiting_files", "{file}", "Files of the inbox that were seen and are not yet taken."
    ): _series(),
    Measure("askbox.truncated_inputs", "{text}", "Texts that were cut to fit a model: 0."): _series(),
    Measure("askbox.workers", "{process}", "Processes that were seen lately."): _series(
        kind=("ingester", "embedder", "query")
    ),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `part` is None for what is true now, else what it is of a total."""

    name: str
    labels: Labels
    part: str | None
    value: float


async def list_figures(conn: Connection, scope: Sequence[int]) -> list[Figure]:
    """Return what is true in the scope now, and the totals of all workers."""
    return [
        Figure(row["name"], tuple(json.loads(row["labels"]).items()), row["part"], row["value"])
        for row in await conn.fetch(_LIST, list(scope), SILENCE_MAX)
    ]


class SystemMetrics:
    """The latest look at the database as gauges, which every reader of this process's measurements sees."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._latest: dict[str, dict[frozenset[tuple[str, str]], float]] | None = None
        add_metric_reader(PrometheusMetricReader(scope_info_enabled=False, registry=self.registry))
        meter = metrics.get_meter("askbox")
        for measure in GAUGES:
            meter.create_observable_gauge(
                measure.name, [functools.partial(self._observe, measure)], measure.unit, measure.description
            )

    def show(self, figures: Iterable[Figure]) -> None:
        """Make these the latest figures."""
        latest: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
        for figure in figures:
            latest[figure.name][frozenset(figure.labels)] = figure.value
        waiting = latest["askbox.queue.jobs"]
        latest[PENDING_EMBEDDINGS][frozenset()] = sum(
            count for labels, count in waiting.items() if ("stage", "embed") in labels
        )
        self._latest = latest

    def _observe(self, measure: Measure, _: CallbackOptions) -> list[Observation]:
        if self._latest is None:
            return []
        found = self._latest.get(measure.name, {})
        return [Observation(found.get(frozenset(labels), 0.0), dict(labels)) for labels in GAUGES[measure]]


@functools.cache
def system_metrics() -> SystemMetrics:
    """Return the one of this process: instruments cannot be taken back."""
    return SystemMetrics()


async def scrape(pool: Pool, scope: Sequence[int]) -> bytes:
    """Look at the database and return everything in Prometheus' text format."""
    async with snapshot(pool, scope) as conn:
        figures = await list_figures(conn, scope)
    system = system_metrics()
    system.show(figure for figure in figures if figure.part is None)
    return generate_latest(_Both(system.registry, [figure for figure in figures if figure.part is not None]))


async def keep_looking(pool: Pool) -> None:
    """Look at the database every `LOOK_SECONDS`, for a collector that is sent measurements instead of asking for them."""
    while True:
        try:
            scope = [collection.id for collection in await store.list_collections(pool)]
            async with snapshot(pool, scope) as conn:
                figures = await list_figures(conn, scope)
            system_metrics().show(figure for figure in figures if figure.part is None)
        except (*CONNECTION_ERRORS, *CONFLICT_ERRORS):
            pass  # the gauges stay as they were; `health` tells of the database
        await asyncio.sleep(LOOK_SECONDS)


class _Both(Collector):
    """What this process measured, and what all workers ever counted; should it have done a worker's work, the latter."""

    def __init__(self, own: CollectorRegistry, figures: Sequence[Figure]) -> None:
        self._own = own
        self._totals: dict[str, dict[Labels, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for figure in figures:
            if figure.name in OF_WORKERS and figure.part is not None:
                self._totals[figure.name][figure.labels][figure.part] = figure.value

    def collect(self) -> Iterable[Metric]:
        """Make one family of each name."""
        of_workers = {measure.prometheus_name for measure in OF_WORKERS.values()}
        yield from (family for family in self._own.collect() if family.name not in of_workers)
        for name, series in sorted(self._totals.items()):
            measure = OF_WORKERS[name]
            labels = sorted({label for row in series for label, _ in row})
            is_counter = all(set(parts) == {COUNTER_PART} for parts in series.values())
            yield _counters(measure, labels, series) if is_counter else _histograms(measure, labels, series)


def _counters(measure: Measure, labels: list[str], series: dict[Labels, dict[str, float]]) -> Metric:
    family = CounterMetricFamily(measure.prometheus_name, measure.description, labels=labels)
    for row, parts in sorted(series.items()):
        family.add_metric([dict(row).get(label, "") for label in labels], parts[COUNTER_PART])
    return family


def _histograms(measure: Measure, labels: list[str], series: dict[Labels, dict[str, float]]) -> Metric:
    family = HistogramMetricFamily(measure.prometheus_name, measure.description, labels=labels)
    # A newer version may have other bounds: every series shows all of them.
    bounds = sorted({bound for parts in series.values() for bound in parts if bound != SUM_PART} | {"+Inf"}, key=float)
    for row, parts in sorted(series.items()):
        seen, buckets = 0.0, []
        for bound in bounds:
            seen += parts.get(bound, 0.0)
            buckets.append((bound, seen))
        family.add_metric([dict(row).get(label, "") for label in labels], buckets, parts.get(SUM_PART, 0.0))
    return family
