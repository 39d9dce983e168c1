"""Real rows for tests, made the way the product makes them, and a model whose vectors can be recomputed."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np

from services.ingester.chunking import Chunk, Limits, chunk_document
from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.sandbox import ParsedHead
from services.ingester.store import begin_parsing, finish_staging, stage_chunks
from shared import intake, queue
from shared.embedding import Vectors
from shared.intake import Arrival, Intake
from shared.publication import VersionKey, ask, insert_embed_jobs
from shared.queue import ClaimRule, Job

DIMENSION = 16
MODEL = "test-model"
LEASE = timedelta(seconds=30)
DEADLINE = timedelta(seconds=600)


class CountingTokenizer:
    """One token a word, and two of its own."""

    tokens_max = 64
    special_count = 2

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + self.special_count for text in texts]


class HashModel:
    """A vector that depends on the text alone."""

    name = MODEL
    dimension = DIMENSION
    tokenizer = CountingTokenizer()

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.tokens_used = 0

    async def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        self.tokens_used += sum(self.tokenizer.count(texts))
        return np.stack([vector_of(text) for text in texts]) if texts else np.zeros((0, DIMENSION), dtype=np.float32)


def vector_of(text: str) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def make_collection(pool: asyncpg.Pool, name: str = "default") -> tuple[int, int]:
    """Return (collection id, model id)."""
    model_id = await intake.ensure_model(pool, MODEL, DIMENSION)
    return await intake.ensure_collection(pool, name, model_id), model_id


async def arrive(
    pool: asyncpg.Pool, content: str, *, source_uri: str = "inbox:note.md", collection: str = "default"
) -> Intake:
    """Let a file arrive."""
    collection_id, _ = await make_collection(pool, collection)
    stored = await intake.store_bytes(pool, pieces(content.encode()))
    return await intake.add_version(pool, collection_id, source_uri, stored)


def make_chunks(texts: Sequence[str], *, prefix: str = "") -> list[Chunk]:
    chunks = []
    at = 0
    for ordinal, text in enumerate(texts):
        chunks.append(Chunk(ordinal, text, prefix, prefix, None, at, at + len(text), len(text.split()) + 2))
        at += len(text) + 1
    return chunks


def chunks_of(document: ParsedDocument, *, tokens_target: int = 24) -> list[Chunk]:
    tokenizer = CountingTokenizer()
    return list(chunk_document(document, tokenizer.count, Limits(tokens_target, tokenizer.tokens_max, 2)))


async def claim(pool: asyncpg.Pool, stage: queue.Stage, *, batch_size: int = 64, worker_id: int = 1) -> list[Job]:
    return await queue.claim_jobs(pool, ClaimRule(stage, batch_size, LEASE, DEADLINE), worker_id=worker_id)


async def stage_version(
    pool: asyncpg.Pool,
    texts: Sequence[str],
    *,
    source_uri: str = "inbox:note.md",
    collection: str = "default",
    document: ParsedDocument | None = None,
    is_asked: bool = True,
    language: str = "english",
) -> VersionKey:
    """Let a file arrive and stage chunks for it, as the ingester does; `is_asked` false leaves out the `ask` behind it.

    The chunks are the texts, or those of a parsed document.
    """
    chunks = make_chunks(texts) if document is None else chunks_of(document)
    head = ParsedHead("text/plain", None, {}, 0)
    if document is not None:
        head = ParsedHead("text/plain", document.title, {}, 0, document.page_unit, document.line_unit)
    arrival = await arrive(pool, "\n".join(texts) + f"\n{source_uri}", source_uri=source_uri, collection=collection)
    assert arrival.arrival is Arrival.NEW_VERSION
    assert arrival.version_id is not None
    key = VersionKey(arrival.collection_id, arrival.version_id)
    _, model_id = await make_collection(pool, collection)
    (job,) = [job for job in await claim(pool, "ingest", batch_size=1000) if job.subject_id == key.version_id]
    async with pool.acquire() as conn, conn.transaction():
        await queue.hold_lease(conn, job.lease_id)
        assert await begin_parsing(conn, key)
        await stage_chunks(conn, key, chunks, languages=[language] * len(chunks), path_words="note")
        await queue.complete_jobs(conn, job.lease_id, [job.id])
        await finish_staging(conn, key, head)
        await insert_embed_jobs(conn, key, model_id)
    if is_asked:
        await ask(pool, key)
    return key


async def publish_version(pool: asyncpg.Pool, texts: Sequence[str], **kwargs: Any) -> VersionKey:
    """Stage a version and embed its texts, so that it is live."""
    from services.embedder.embed import EmbedHandler

    key = await stage_version(pool, texts, **kwargs)
    _, model_id = await make_collection(pool, kwargs.get("collection", "default"))
    handler = EmbedHandler(pool, HashModel(), model_id)
    while jobs := await claim(pool, "embed"):
        await handler.process(jobs)
        await handler.after(jobs)
    await handler.finish()
    return key
