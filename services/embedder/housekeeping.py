"""What embedders sweep besides leases: vectors nobody uses, versions and originals nobody names, old events, token entries."""

import time
from datetime import timedelta

from shared.database import Pool, Session
from shared.failpoints import Failpoint, reach
from shared.intake import sweep_storage
from shared.publication import prune_events
from shared.statements import load_statements

STATEMENTS = load_statements("services.embedder", "statements.sql")
_PRUNE = STATEMENTS["prune_embeddings"]
_SUM_USAGE = STATEMENTS["sum_token_usage"]
EMBEDDING_AGE_MIN = timedelta(days=30)
EVENT_AGE_MIN = timedelta(days=30)
USAGE_AGE_MIN = timedelta(days=1)
ROWS_MAX = 1000
# One question makes two entries, and a sweep must be faster than questions are.
USAGE_ROWS_MAX = 20_000
PERIOD_SECONDS = 60.0


async def sum_token_usage(conn: Session, age: timedelta, limit: int) -> None:
    """Add a bounded number of old entries of what models used to the sums of their days."""
    await conn.execute(_SUM_USAGE, age, limit)


class Housekeeping:
    """Runs at the first call, so that a process which ends every minute does it too, and then at most once a minute."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._at: float | None = None

    async def __call__(self) -> None:
        """Sweep a bounded number of rows of each kind."""
        if self._at is not None and time.monotonic() - self._at < PERIOD_SECONDS:
            return
        self._at = time.monotonic()
        await reach(Failpoint.HOUSEKEEPING_BEGUN)
        await sweep_storage(self._pool)
        await reach(Failpoint.STORAGE_SWEPT)
        await prune_events(self._pool, EVENT_AGE_MIN, ROWS_MAX)
        await self._pool.execute(_PRUNE, EMBEDDING_AGE_MIN, ROWS_MAX)
        await sum_token_usage(self._pool, USAGE_AGE_MIN, USAGE_ROWS_MAX)
