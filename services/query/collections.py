"""Collections made, renamed and deleted by callers. A collection that the inbox fills follows its folder."""

from collections.abc import Sequence

import asyncpg

from services.query import store
from services.query.store import CollectionRow
from shared.database import Connection, Pool, retry_conflicts
from shared.errors import Conflict, NotFound, RequestError
from shared.failpoints import Failpoint, reach
from shared.statements import load_statements
from shared.text import storable

STATEMENTS = load_statements("services.query", "collections.sql")
_FIND_MODEL = STATEMENTS["find_model"]
_CREATE = STATEMENTS["create_collection"]
_HAS_INBOX_DOCUMENTS = STATEMENTS["has_inbox_documents"]
_RENAME = STATEMENTS["rename_collection"]
_DELETE = STATEMENTS["delete_collection"]
DELETE_TIMEOUT_SECONDS = 600.0


async def create_collection(pool: Pool, name: str, model: str) -> None:
    """Make an empty collection.

    Raises: RequestError when the name is not allowed; Conflict when it is taken, or no worker has started yet.
    """
    _refuse_unstorable(name)
    model_id = await pool.fetchval(_FIND_MODEL, model)
    if model_id is None:
        raise Conflict(f"the model {model} is not known to the database yet: start an embedder, then try again")
    try:
        created = await pool.fetchval(_CREATE, name, model_id)
    except asyncpg.CheckViolationError:
        raise _bad_name(name) from None
    if created is None:
        raise Conflict(f"there is a collection named {name}")


async def rename_collection(pool: Pool, collection: CollectionRow, scope: Sequence[int], name: str) -> None:
    """Give a collection another name.

    Raises: Conflict when the inbox fills it or the name is taken; RequestError when the name is not allowed.
    """
    _refuse_unstorable(name)

    async def once() -> bool:
        async with pool.acquire() as conn, conn.transaction():
            await _refuse_inbox(conn, collection, scope, "rename its folder in the inbox instead")
            return await conn.fetchval(_RENAME, list(scope), collection.id, name) is not None

    try:
        is_renamed = await retry_conflicts(once)
    except asyncpg.CheckViolationError:
        raise _bad_name(name) from None
    except asyncpg.UniqueViolationError:
        raise Conflict(f"there is a collection named {name}") from None
    if not is_renamed:
        raise NotFound(f"there is no collection named {collection.name}")


async def delete_collection(pool: Pool, collection: CollectionRow, scope: Sequence[int]) -> None:
    """Delete a collection with everything in it.

    Raises: Conflict when the inbox fills it: it would come back with the next scan.
    """

    async def once() -> bool:
        async with pool.acquire() as conn, conn.transaction():
            await _refuse_inbox(conn, collection, scope, "remove its folder from the inbox first")
            deleted = await conn.fetchval(_DELETE, list(scope), collection.id, timeout=DELETE_TIMEOUT_SECONDS)
            await reach(Failpoint.COLLECTION_WRITTEN)
            return deleted is not None

    if not await retry_conflicts(once):
        raise NotFound(f"there is no collection named {collection.name}")
    await reach(Failpoint.COLLECTION_COMMITTED)


async def _refuse_inbox(conn: Connection, collection: CollectionRow, scope: Sequence[int], remedy: str) -> None:
    await store.set_scope(conn, scope)
    if await conn.fetchval(_HAS_INBOX_DOCUMENTS, list(scope), collection.id):
        raise Conflict(f"{collection.name} is filled from the inbox: {remedy}")


def _refuse_unstorable(name: str) -> None:
    if storable(name)[1]:
        raise _bad_name(name)


def _bad_name(name: str) -> RequestError:
    return RequestError(
        f"{name[:50]!r} cannot name a collection: 1 to 200 characters, no slash, no control characters, no dot or space at the beginning"
    )
