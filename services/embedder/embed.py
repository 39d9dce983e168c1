"""One claimed batch of texts → vectors: look, compute, store with the completion, ask after the commit.

What is computed when the model becomes unavailable within a batch is stored all the same; only the rest is given back.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pgvector import HalfVector

from shared import conventions as names
from shared import queue
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool, retry_conflicts
from shared.embedding import EmbeddingModel, Vectors
from shared.errors import LeaseLost, PermanentError, RetryableError
from shared.failpoints import Failpoint, reach
from shared.metrics import count_embedded
from shared.publication import ask_all, versions_waiting_for_texts
from shared.queue import Job
from shared.spans import (
    Attributes,
    TraceContext,
    embeddings_span,
    is_recording,
    member_spans,
    version_attributes,
)
from shared.statements import load_statements
from shared.telemetry import Event, log
from shared.text import embedded_text, one_line, storable

STATEMENTS = load_statements("services.embedder", "statements.sql")
# A text that ten thousand documents share tells of this many of them; the others' traces have a gap there.
SPANS_PER_BATCH_MAX = 128
# A version of 300,000 chunks is published for minutes: what others wait for is published beside it.
ASKING_MAX = 3
_TEXTS = STATEMENTS["texts_to_embed"]
_TRACES = STATEMENTS["traces_of_texts"]
_INSERT = STATEMENTS["insert_embeddings"]
_ADD_USAGE = STATEMENTS["add_embedding_usage"]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What became of a batch, by the hash of the text. What stands in neither was not reached: `halted` tells why."""

    vectors: dict[bytes, Vectors]
    rejected: dict[bytes, PermanentError]
    halted: RetryableError | None = None


class EmbedHandler:
    """Embeds the texts that `embed` jobs stand for."""

    def __init__(self, pool: Pool, model: EmbeddingModel, model_id: int) -> None:
        self._pool = pool
        self._model = model
        self._model_id = model_id
        self._asking: set[asyncio.Task[None]] = set()
        self._tokens_recorded = 0

    async def process(self, jobs: list[Job]) -> None:
        """Embed one batch."""
        started = time.monotonic()
        hashes = {job.text_hash: job for job in jobs if job.text_hash is not None}
        rows = await self._pool.fetch(_TEXTS, self._model_id, list(hashes))
        texts = {bytes(row["text_hash"]): embedded_text(row["prefix"], row["text"]) for row in rows}
        tokens = {bytes(row["text_hash"]): row["token_count"] for row in rows}
        await reach(Failpoint.TEXTS_FOUND)
        with member_spans(names.EMBED_TEXTS, await self._versions(list(texts))):
            encoded = await self._encode(texts)
            await reach(Failpoint.VECTORS_COMPUTED)
            vectors, rejected = encoded.vectors, encoded.rejected
            if encoded.halted is not None and not vectors and not rejected:
                raise encoded.halted
            done = [job for text_hash, job in hashes.items() if text_hash in vectors or text_hash not in texts]
            tokens_used = self._model.tokens_used
            usage = self._usage(tokens_used - self._tokens_recorded, done, tokens)
            await self._complete(jobs[0].lease_id, done, vectors, usage)
            self._tokens_recorded = tokens_used if usage else self._tokens_recorded
        count_embedded(len(vectors), sum(tokens[text_hash] for text_hash in vectors))
        for text_hash, error in rejected.items():
            await self._bury(hashes[text_hash], error)
        log(
            Event.JOBS_COMPLETED,
            jobs=len(jobs),
            embedded=len(vectors),
            present_or_vanished=len(jobs) - len(texts),
            rejected=len(rejected),
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )
        if encoded.halted is not None:
            await self.after([*done, *(hashes[text_hash] for text_hash in rejected)])
            raise encoded.halted

    async def after(self, jobs: Sequence[Job]) -> None:
        """Publish while the model computes the next batches; the questions of a few batches run behind."""
        await self._await_asking(ASKING_MAX - 1)
        hashes = [job.text_hash for job in jobs if job.text_hash is not None]
        self._asking.add(asyncio.create_task(self._ask(hashes)))

    async def buried(self, jobs: Sequence[Job]) -> None:
        """Fail every version that waits for these texts."""
        hashes = [job.text_hash for job in jobs if job.text_hash is not None]
        await ask_all(self._pool, await versions_waiting_for_texts(self._pool, self._model_id, hashes))

    async def finish(self) -> None:
        """Wait for the last publications; what they could not do, the sweep does."""
        await self._await_asking(0)

    async def _await_asking(self, count_max: int) -> None:
        """Wait until no more than so many publications run."""
        while True:
            for asking in [task for task in self._asking if task.done()]:
                self._asking.remove(asking)
                try:
                    asking.result()
                except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
                    reason = one_line(str(error)) or type(error).__name__
                    log(Event.DATABASE_UNAVAILABLE, logging.WARNING, reason=reason)
            if len(self._asking) <= count_max:
                return
            await asyncio.wait(self._asking, return_when=asyncio.FIRST_COMPLETED)

    async def _versions(self, hashes: Sequence[bytes]) -> list[tuple[TraceContext, Attributes]]:
        """Return the traces of the versions that want these texts: asked before the commit, which may publish them."""
        if not hashes or not is_recording():
            return []
        return [
            (
                TraceContext(row["traceparent"], row["tracestate"]),
                version_attributes(row["collection_id"], row["document_id"], row["version_id"])
                | {names.TEXTS: row["text_count"]},
            )
            for row in await self._pool.fetch(_TRACES, self._model_id, list(hashes), SPANS_PER_BATCH_MAX)
        ]

    async def _encode(self, texts: dict[bytes, str]) -> _Encoded:
        """Embed all texts; where the model rejects a batch, halve it until the text that it rejects stands alone."""
        vectors: dict[bytes, Vectors] = {}
        rejected: dict[bytes, PermanentError] = {}
        stack = [list(texts)] if texts else []
        while stack:
            part = stack.pop()
            try:
                with embeddings_span(self._model.name, len(part)):
                    rows = await self._model.encode([texts[text_hash] for text_hash in part])
                vectors.update(zip(part, rows, strict=True))
            except PermanentError as error:
                if len(part) == 1:
                    rejected[part[0]] = error
                else:
                    stack += [part[len(part) // 2 :], part[: len(part) // 2]]
            except RetryableError as error:
                return _Encoded(vectors, rejected, error)
        return _Encoded(vectors, rejected)

    async def _complete(
        self,
        lease_id: int,
        jobs: Sequence[Job],
        vectors: dict[bytes, Vectors],
        usage: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Delete the jobs and store the vectors of those that were still ours and their cost, in one transaction."""
        if not jobs:
            return
        by_id = {job.id: job.text_hash for job in jobs}

        async def once() -> None:
            async with self._pool.acquire() as conn, conn.transaction():
                done = await queue.complete_jobs(conn, lease_id, list(by_id))
                ours = [by_id[job_id] for job_id in done if by_id[job_id] in vectors]
                if ours:
                    await conn.fetch(
                        _INSERT,
                        self._model_id,
                        ours,
                        [HalfVector(vectors[text_hash]) for text_hash in ours if text_hash],
                    )
                if usage:
                    await conn.execute(_ADD_USAGE, self._model.name, list(usage), list(usage.values()))
                await reach(Failpoint.VECTORS_WRITTEN)

        await retry_conflicts(once)
        await reach(Failpoint.VECTORS_COMMITTED)

    def _usage(self, total: int, jobs: Sequence[Job], tokens: Mapping[bytes, int]) -> dict[int, int]:
        """Divide what the model has read since the last record among the collections that asked for these texts."""
        weights: dict[int, int] = {}
        for job in jobs:
            if job.text_hash is not None and job.text_hash in tokens:
                weights[job.collection_id] = weights.get(job.collection_id, 0) + tokens[job.text_hash]
        return shares(total, weights)

    async def _bury(self, job: Job, error: PermanentError) -> None:
        async with self._pool.acquire() as conn:
            try:
                await queue.bury_jobs(conn, job.lease_id, [job.id], error_code=error.code, error=_reason(error))
            except LeaseLost:
                return
        log(Event.JOB_BURIED, job_id=job.id, code=error.code, reason=_reason(error))

    async def _ask(self, hashes: Sequence[bytes]) -> None:
        keys = await versions_waiting_for_texts(self._pool, self._model_id, hashes)
        await ask_all(self._pool, keys)


def shares(total: int, weights: Mapping[int, int]) -> dict[int, int]:
    """Divide a total in proportion to weights, leaving nothing over; what has no share is left out."""
    divided: dict[int, int] = {}
    weight_left = sum(weights.values())
    for name, weight in weights.items():
        share = round(total * weight / weight_left) if weight_left else 0
        total, weight_left = total - share, weight_left - weight
        if share > 0:
            divided[name] = share
    return divided


def _reason(error: PermanentError) -> str:
    return one_line(storable(str(error))[0])
