"""A child that its file has taken over says what fits no document: its file fails at once, alone and with a reason."""

import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from services.console.check import check
from services.ingester.chunking import Chunk
from services.ingester.ingest import IngestHandler
from services.ingester.sandbox import ParsedHead
from shared import queue
from shared.errors import PermanentError
from shared.publication import PublicationSweep
from tests.factories import arrive, claim, make_chunks

FIRST, SECOND = make_chunks(["forty crowns", "thirty days"])


class Liar:
    """A child that says whatever its file wants."""

    def __init__(self, chunks: Sequence[Chunk], head: ParsedHead) -> None:
        self._chunks, self._head = chunks, head

    async def parse(self, _name: str, _file: IO[bytes], _bytes: int) -> AsyncGenerator[ParsedHead | Chunk, None]:
        yield self._head
        for chunk in self._chunks:
            yield chunk


@pytest.mark.parametrize(
    "chunks",
    [
        [replace(FIRST, char_end=FIRST.char_end + 1)],
        [FIRST, FIRST],
        [SECOND],
        [replace(FIRST, page_turns=[[2, 0, "\x00"]])],
    ],
    ids=["range", "twice", "gap", "text"],
)
async def test_chunks_that_fit_no_document_fail_their_file_at_once(pool, url, chunks):
    await arrive(pool, "forty crowns")
    handler = IngestHandler(
        pool, Liar(chunks, ParsedHead("text/plain", None, {}, 0)), Path(tempfile.gettempdir()), PublicationSweep(pool)
    )
    (job,) = await claim(pool, "ingest", batch_size=1)
    with pytest.raises(PermanentError, match=r"should not|refuses its content") as refused:
        await handler.process([job])
    async with pool.acquire() as conn:
        await queue.bury_jobs(
            conn, job.lease_id, [job.id], error_code=refused.value.code, error=str(refused.value)[:500]
        )
    await handler.buried([job])
    assert await pool.fetchval("SELECT state FROM document_version") == "failed"
    assert await pool.fetchval("SELECT count(*) FROM staged_chunk") == 0
    assert await check(url) == []
