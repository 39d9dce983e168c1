"""What a worker counts, added to totals that outlive it: every few seconds, the difference to the last time.

**Invariants:** a total never falls, whichever worker ends and however; a killed worker takes what it counted in the last
few seconds with it; what could not be written is kept and written with the next.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    Metric,
    MetricReader,
    MetricsData,
    Sum,
)

from shared.database import Pool, at_the_end
from shared.export import add_metric_reader, remove_metric_reader
from shared.metrics import OF_WORKERS
from shared.statements import load_statements

STATEMENTS = load_statements("shared", "totals.sql")
_ADD = STATEMENTS["add_to_totals"]
# A total: its name, its labels as JSON, and which part of a histogram it is.
Key = tuple[str, str, str]
COUNTER_PART, SUM_PART = "", "sum"
CLOSE_SECONDS_MAX = 1.0


class Totals:
    """Reads what this process measures, and adds it to the database whenever it is called: one of a worker's sweepers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reader = _Differences()
        self._pending: dict[Key, float] = defaultdict(float)
        add_metric_reader(self._reader)

    async def __call__(self) -> None:
        """Add what is new.

        Raises: the errors of the connection; nothing is lost then.
        """
        for key, value in self._reader.read().items():
            self._pending[key] += value
        keys = sorted(key for key, value in self._pending.items() if value)
        if not keys:
            return
        names, labels, parts = (list(column) for column in zip(*keys, strict=True))
        await self._pool.execute(_ADD, names, labels, parts, [self._pending[key] for key in keys])
        self._pending.clear()

    async def close(self) -> None:
        """Add what is left, when the database can be reached, and read no more."""
        await at_the_end(self(), seconds=CLOSE_SECONDS_MAX)
        remove_metric_reader(self._reader)


@contextlib.asynccontextmanager
async def keep_totals(pool: Pool) -> AsyncIterator[Totals]:
    """Keep the totals of this process while the context lasts, and add the last of them at its end."""
    totals = Totals(pool)
    try:
        yield totals
    finally:
        await totals.close()


class _Differences(MetricReader):
    """Collects on demand, each time only what is new."""

    def __init__(self) -> None:
        difference = AggregationTemporality.DELTA
        super().__init__(preferred_temporality={sdk.Counter: difference, sdk.Histogram: difference})
        self._read: dict[Key, float] = defaultdict(float)

    def read(self) -> dict[Key, float]:
        """Return what was counted since the last time."""
        self._read = defaultdict(float)
        self.collect()
        return self._read

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> None:  # noqa: ARG002
        for resource in metrics_data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name in OF_WORKERS:
                        self._add(metric)

    def _add(self, metric: Metric) -> None:
        name, data = metric.name, metric.data
        if isinstance(data, Sum):
            for count in data.data_points:
                self._read[name, _labels(count.attributes), COUNTER_PART] += count.value
        elif isinstance(data, Histogram):
            for point in data.data_points:
                labels = _labels(point.attributes)
                self._read[name, labels, SUM_PART] += point.sum
                bounds = [*(f"{bound:g}" for bound in point.explicit_bounds), "+Inf"]
                for bound, observations in zip(bounds, point.bucket_counts, strict=True):
                    self._read[name, labels, bound] += observations

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Nothing is held."""


def _labels(attributes: Any) -> str:
    return json.dumps(dict(attributes or {}), sort_keys=True)
