"""Failed documents once more: the same bytes as a new version, texts that died included."""

from collections.abc import Sequence
from datetime import timedelta

from services.query import ingest_store, store
from services.query.retrieve import snapshot
from shared.database import Pool, retry_conflicts
from shared.failpoints import Failpoint, reach
from shared.publication import VersionKey, add_event
from shared.spans import TraceContext, end_file_span, end_send_span, start_file_span, start_send_span
from shared.telemetry import Event, log

RETRIES_MAX = 10_000
PAGE_SIZE = 200


async def retry_document(pool: Pool, collection_id: int, document_id: int, source_uri: str) -> int | None:
    """Read a document again and return its new version, or None when its newest version has not failed.

    Transaction: its own.
    """
    appeared = start_file_span(source_uri, timedelta(0), 0, is_requested=True)
    sending = start_send_span("ingest", parent=appeared)

    async def once() -> int | None:
        async with pool.acquire() as conn, conn.transaction():
            await store.set_scope(conn, [collection_id])
            version_id = await ingest_store.retry_document(
                conn, collection_id, document_id, TraceContext.of(appeared), TraceContext.of(sending)
            )
            if version_id is not None:
                await add_event(conn, VersionKey(collection_id, version_id), document_id, "retry", "queued")
                await reach(Failpoint.RETRY_WRITTEN)
            return version_id

    version_id = await retry_conflicts(once)
    if version_id is not None:
        await reach(Failpoint.RETRY_COMMITTED)
        end_send_span(sending, 1)
        end_file_span(appeared, collection_id, document_id, version_id)
        log(Event.DOCUMENT_RETRIED, document_id=document_id, version_id=version_id)
    return version_id


async def retry_failed(pool: Pool, scope: Sequence[int], *, after_id: int = 0) -> tuple[int, int | None]:
    """Read every failed document of the scope behind an id again.

    Shape: (how many, the id behind which the next call goes on, or None when none is left).
    """
    retried, after = 0, after_id
    while True:
        async with snapshot(pool, scope) as conn:
            failed = await ingest_store.list_failed(conn, scope, after_id=after, limit=PAGE_SIZE)
        for document in failed:
            if retried == RETRIES_MAX:
                return retried, after
            version_id = await retry_document(pool, document.collection_id, document.document_id, document.source_uri)
            retried += version_id is not None
            after = document.document_id
        if len(failed) < PAGE_SIZE:
            return retried, None
