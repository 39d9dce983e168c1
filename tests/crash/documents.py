"""Documents of the harness: how they get in, and how to see from outside that they are ready."""

import asyncio
import time
from collections.abc import Sequence

import asyncpg

from tests.crash.system import Member, System

LOOK_SECONDS = 0.02
# Without any scale: what is not there by then will not come.
READY_SECONDS_MAX = 90.0
_ENDED = """
SELECT v.state, v.error
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
WHERE d.source_uri = $1
ORDER BY v.id DESC
LIMIT 1
"""


async def newest_state(connection: asyncpg.Connection, source_uri: str) -> str | None:
    """Return the state of a document's newest version, or None when there is no such document."""
    row = await connection.fetchrow(_ENDED, source_uri)
    return row["state"] if row is not None else None


async def drop_and_wait(
    system: System, connection: asyncpg.Connection, name: str, text: str, *, seconds: float = READY_SECONDS_MAX
) -> float:
    """Drop a file into the inbox and return after how many seconds it answers questions.

    Raises: TimeoutError when it does not.
    """
    started = time.monotonic()
    (system.inbox / name).write_text(text)
    async with asyncio.timeout(seconds):
        while await newest_state(connection, f"inbox:{name}") != "ready":  # noqa: ASYNC110 (it happens in the database)
            await asyncio.sleep(LOOK_SECONDS)
    return time.monotonic() - started


async def upload(
    member: Member, system: System, files: Sequence[tuple[str, str]], *, collection: str | None = None
) -> str:
    """Send files to the query process and return the job's id."""
    response = await system.request(
        member, "POST", "/ingest/files",
        files=[("file", (name, text.encode(), "text/markdown")) for name, text in files],
        params={"collection": collection} if collection else None,
    )  # fmt: skip
    assert response.status_code in (200, 202), response.text
    return response.json()["job_id"]
