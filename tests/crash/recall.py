"""What is found when most of an indexed collection was deleted: the graph is one of dead rows until a vacuum comes."""

import asyncio
import random
import time
from dataclasses import replace

import asyncpg
import numpy as np
from pgvector import HalfVector

from services.embedder.store import IndexRule
from services.ingester.watch import DELETED_AT_ONCE_MAX
from services.query import store
from shared import intake
from shared.database import Connection, open_pool
from tests.crash.report import Report
from tests.planting import SHORT, Planted, indexing_worker, mixture, nearest, plant, recall
from tests.waiting import until

RECALL_MIN = 0.90
DIMENSION, KEPT_SHARE = 64, 0.1
DOCUMENT_CHUNKS = 20  # as `plant` gives them
PATIENCE_SECONDS = 180.0


async def recall_after_deletion(report: Report, url: str, count: int, questions: int, dice: random.Random) -> None:
    """Delete nine documents of ten from an indexed collection, and compare what is found with an exact search."""
    (planted,) = (await plant(url, {"large": count}, DIMENSION)).values()
    connection = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    # `plant` writes chunks without their documents, which are what is deleted.
    await connection.execute(
        "INSERT INTO document (collection_id, id, source_uri) OVERRIDING SYSTEM VALUE "
        "SELECT collection_id, document_id, 'inbox:' || document_id FROM chunk GROUP BY 1, 2"
    )
    # Below a quarter of this an index goes again, which would make the comparison easy.
    rule = IndexRule(exact_chunks_max=count // 5)
    async with open_pool(url, "askbox_worker", "deletes", connections_max=4) as workers:
        worker = indexing_worker(url, workers, rule, SHORT)
        running = asyncio.create_task(worker.run())
        await until(
            lambda: connection.fetchval("SELECT count(*) = 2 FROM search_index WHERE is_valid"), PATIENCE_SECONDS
        )
        before = await _recall(url, planted, np.arange(count), questions)
        documents = count // DOCUMENT_CHUNKS
        kept = set(dice.sample(range(documents), round(documents * KEPT_SHARE)))
        started = time.monotonic()
        doomed = [f"inbox:{document}" for document in range(documents) if document not in kept]
        for number in range(0, len(doomed), DELETED_AT_ONCE_MAX):
            await intake.delete_documents(workers, planted.collection.id, doomed[number : number + DELETED_AT_ONCE_MAX])
        seconds = time.monotonic() - started
        left = np.array([place for place in range(count) if place // DOCUMENT_CHUNKS in kept])
        planned = await _recall(url, planted, left, questions, is_forced=False)
        after = await _recall(url, planted, left, questions)
        await connection.execute("VACUUM chunk_vector", timeout=PATIENCE_SECONDS)
        vacuumed = await _recall(url, planted, left, questions)
        worker.stop()
        await running
    is_indexed = await connection.fetchval("SELECT count(*) = 2 FROM search_index WHERE is_valid")
    await connection.close()
    report.figures |= {
        "chunks indexed": count,
        "of these kept": len(left),
        "recall@10 before": round(before, 3),
        "recall@10 after 90 % were deleted, as planned": round(planned, 3),
        "recall@10 after 90 % were deleted": round(after, 3),
        "recall@10 after the vacuum": round(vacuumed, 3),
        "documents deleted a second": round((documents - len(kept)) / seconds),
    }
    report.say(f"recall@10 {before:.3f}, {after:.3f} after 90 % were deleted, {vacuumed:.3f} after the vacuum")
    report.expect(is_indexed, "the index went, so nothing was measured")
    report.expect(
        planned >= RECALL_MIN, f"recall@10 is {planned:.3f} after 90 % were deleted, as a question is planned"
    )
    report.expect(after >= RECALL_MIN, f"recall@10 is {after:.3f} after 90 % were deleted")
    report.expect(vacuumed >= RECALL_MIN, f"recall@10 is {vacuumed:.3f} after the vacuum")


async def _recall(url: str, planted: Planted, places: np.ndarray, count: int, *, is_forced: bool = True) -> float:
    """Return the share of the true ten best among the chunks at `places` that a question finds.

    `is_forced`: through the index, also where the planner would rather sort what is left.
    """
    exact = replace(planted, vectors=planted.vectors[places])
    number_of = {place: number for number, place in enumerate(places.tolist())}
    questions = mixture(count, DIMENSION, 99)
    async with open_pool(url, "askbox_reader", "recall", connections_max=1) as readers, readers.acquire() as conn:
        async with conn.transaction():
            await store.set_scope(conn, [planted.collection.id])
            if is_forced:
                await conn.execute("SET LOCAL enable_sort = off")
                assert await _walks_index(conn, planted), "the plan does not use the index, so nothing is measured"
            found = [await nearest(conn, planted, question) for question in questions]
    return recall(exact, questions, [[number_of[place] for place in row if place in number_of] for row in found])


async def _walks_index(conn: Connection, planted: Planted) -> bool:
    collection = planted.collection
    question = HalfVector(mixture(1, DIMENSION, 98)[0])
    plan = await conn.fetch(
        f"EXPLAIN {store.retrieve_statement(DIMENSION)}",
        [collection.id], collection.id, collection.model_id, "[]", question, 100,
    )  # fmt: skip
    return any("chunk_vector_hnsw" in row[0] for row in plan)
