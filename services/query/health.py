"""Is the whole system well? One row per process tells who is alive and whether its listener hears."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from services.query import store
from services.query.retrieve import snapshot
from services.query.store import WorkCounts, WorkerRow
from shared.database import CONFLICT_ERRORS, CONNECTION_ERRORS, Pool
from shared.text import without_addresses

# Workers touch their rows every 5 s.
SILENCE_MAX = timedelta(seconds=20)
# For the whole look: a database that takes longer is not well.
SECONDS_MAX = 5.0


async def health(pool: Pool, *, is_told: bool = True) -> tuple[bool, dict[str, Any]]:
    """Look at everything that a question or a file needs.

    Shape: (is everything well, checks by name, each with `ok` and, unless not `is_told`, what it saw). Nothing is counted
    for those who are not told.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(SECONDS_MAX):
            version = await pool.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            workers = await store.list_workers(pool, SILENCE_MAX)
            pauses = await store.get_pauses(pool)
            work = await _count_work(pool) if is_told else None
    except (*CONNECTION_ERRORS, *CONFLICT_ERRORS) as error:
        return False, _shown({"database": {"ok": False, "reason": str(error) or type(error).__name__}}, is_told=is_told)
    checks: dict[str, Any] = {
        "database": {"ok": True, "latency_ms": round((time.monotonic() - started) * 1000, 1)},
        "pgvector": {"ok": version is not None, "version": version},
        "ingester": _processes(workers, "ingester"),
        "embedder": _processes(workers, "embedder"),
        "query": _processes(workers, "query") | {"ok": True},  # whoever answers this is one
        "listener": _listeners(workers),
        "pending_embeddings": {"ok": True, "count": sum(work.stages.get("embed", {}).values()) if work else 0},
        "dead_letters": {"ok": True, "count": work.dead_letters if work else 0},
        "inbox": _inbox(workers, [pause.reason for pause in pauses if pause.confirmed_at is None]),
    }
    return all(check["ok"] for check in checks.values()), _shown(checks, is_told=is_told)


async def _count_work(pool: Pool) -> WorkCounts:
    scope = [collection.id for collection in await store.list_collections(pool)]
    async with snapshot(pool, scope) as conn:
        return await store.count_work(conn, scope)


def _shown(checks: dict[str, Any], *, is_told: bool) -> dict[str, Any]:
    return checks if is_told else {name: {"ok": check["ok"]} for name, check in checks.items()}


def _processes(workers: list[WorkerRow], kind: str) -> dict[str, Any]:
    processes = [f"{worker.pid}@{worker.host}" for worker in workers if worker.kind == kind]
    count = len(processes)
    seen: dict[str, Any] = {"ok": count > 0, "count": count, "processes": processes}
    if not count:
        return (
            seen if kind == "query" else seen | {"reason": f"no {kind} was seen for {SILENCE_MAX.seconds} s: start one"}
        )
    if kind == "ingester":  # what it has to say is about the inbox, and stands there
        return seen
    if notes := _notes(workers, kind, is_hindered=False):
        seen["note"] = notes
    if hindrances := _notes(workers, kind, is_hindered=True):
        seen |= {"ok": False, "reason": hindrances}
    return seen


def _notes(workers: list[WorkerRow], kind: str, *, is_hindered: bool) -> str:
    said = [w.note for w in workers if w.kind == kind and w.is_hindered == is_hindered and w.note]
    return "; ".join(dict.fromkeys(without_addresses(note) for note in said))


def _listeners(workers: list[WorkerRow]) -> dict[str, Any]:
    deaf = [
        f"{worker.kind} {worker.pid}@{worker.host}"
        for worker in workers
        if worker.kind != "query" and not worker.is_listening
    ]
    return {"ok": not deaf} | ({"reason": f"not listening, so at the poll's pace: {', '.join(deaf)}"} if deaf else {})


def _inbox(workers: list[WorkerRow], waiting: list[str]) -> dict[str, Any]:
    reasons = list(
        dict.fromkeys([worker.note for worker in workers if worker.kind == "ingester" and worker.note] or waiting)
    )
    # Of several ingesters all see the same folder.
    waiting_files = max((worker.waiting_file_count for worker in workers), default=0)
    return {"ok": not reasons, "waiting_files": waiting_files} | ({"reason": "; ".join(reasons)} if reasons else {})
