"""What answers used, by key and model: noted at once, written behind the answer.

**Invariants:** no answer waits for it; it holds a bounded number of entries and counts what it had to drop; entries wait
while the database is away.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool, Session
from shared.metrics import count_question_tokens
from shared.statements import load_statements
from shared.telemetry import Event, log
from shared.text import one_line

STATEMENTS = load_statements("services.query", "ledger.sql")

_INSERT_TOKEN_USAGE = STATEMENTS["insert_token_usage"]

ENTRIES_HELD_MAX = 10_000
ENTRIES_WRITTEN_MAX = 500
RETRY_SECONDS = 5.0
CLOSE_SECONDS_MAX = 1.0
# Behind these the entries are held on to.
_NOT_WRITTEN: tuple[type[BaseException], ...] = (*CONNECTION_ERRORS, *CONFLICT_ERRORS, asyncio.CancelledError)


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that one model read and wrote for one question."""

    key_id: int | None
    collection_id: int | None
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0


async def insert_token_usage(conn: Session, usages: Sequence[Usage]) -> None:
    """Write what was used."""
    await conn.execute(
        _INSERT_TOKEN_USAGE,
        [usage.key_id for usage in usages],
        [usage.collection_id for usage in usages],
        [usage.model for usage in usages],
        [usage.prompt_tokens for usage in usages],
        [usage.completion_tokens for usage in usages],
        [usage.embedding_tokens for usage in usages],
    )


class Ledger:
    """Holds entries until they are written."""

    def __init__(self) -> None:
        self._held: deque[Usage] = deque()
        self._dropped = 0
        self._is_closing = False
        self._wake = asyncio.Event()

    def add(self, usage: Usage) -> None:
        """Note what was used. Also of an answer that nobody waited for: it was paid for."""
        count_question_tokens("prompt", usage.prompt_tokens)
        count_question_tokens("completion", usage.completion_tokens)
        count_question_tokens("embedding", usage.embedding_tokens)
        if len(self._held) >= ENTRIES_HELD_MAX:
            self._dropped += 1
            return
        self._held.append(usage)
        self._wake.set()

    async def write_on(self, pool: Pool) -> None:
        """Write entries as they come, until closed and empty."""
        while self._held or not self._is_closing:
            try:
                await self._write(pool)
            except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                reason = one_line(str(error)) or type(error).__name__
                log(Event.DATABASE_UNAVAILABLE, logging.WARNING, reason=reason, usages_held=len(self._held))
                await asyncio.sleep(RETRY_SECONDS)

    async def _write(self, pool: Pool) -> None:
        if not self._held and not self._is_closing:
            self._wake.clear()
            await self._wake.wait()
        entries = [self._held.popleft() for _ in range(min(len(self._held), ENTRIES_WRITTEN_MAX))]
        if not entries:
            return
        try:
            await insert_token_usage(pool, entries)
        except _NOT_WRITTEN:
            self._held.extendleft(reversed(entries))
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, what comes behind is written)
            # The same again would fail the same way, for ever, before everything behind it.
            log(Event.TOKEN_USAGE_DROPPED, logging.ERROR, usages=len(entries), reason=type(error).__name__)
        if self._dropped:
            log(Event.TOKEN_USAGE_DROPPED, logging.ERROR, usages=self._dropped)
            self._dropped = 0

    def close(self) -> None:
        """Let `write_on` end when all is written."""
        self._is_closing = True
        self._wake.set()


@asynccontextmanager
async def open_ledger(pool: Pool) -> AsyncIterator[Ledger]:
    """Keep a ledger while the context lasts; at its end what is held gets a bounded time to be written."""
    ledger = Ledger()
    writing = asyncio.create_task(ledger.write_on(pool))
    try:
        yield ledger
    finally:
        ledger.close()
        await asyncio.wait({writing}, timeout=CLOSE_SECONDS_MAX)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
