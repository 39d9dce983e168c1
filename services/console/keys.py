"""API keys: the secret is shown once, its sha256 is stored."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from shared.database import Connection, connect
from shared.errors import RequestError
from shared.statements import load_statements

STATEMENTS = load_statements("services.console", "keys.sql")
_MISSING = STATEMENTS["missing_collections"]
_CREATE = STATEMENTS["create_key"]
_CREATE_FIRST = STATEMENTS["create_first_key"]
_LIST = STATEMENTS["list_keys"]
_REVOKE = STATEMENTS["revoke_key"]
_ROTATE = STATEMENTS["rotate_key"]
SECRET_BYTES = 32
NAME_CHARACTERS_MAX = 100
FIRST_KEY_NAME = "first"


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its grants, side by side; a collection of None stands for every one."""

    name: str
    created_at: datetime
    revoked_at: datetime | None
    collections: list[str | None]
    roles: list[str]


@asynccontextmanager
async def owner_connection(url: str) -> AsyncIterator[Connection]:
    """Open one connection that may write keys."""
    connection = await connect(url, "askbox_owner", "askbox keys")
    try:
        yield connection
    finally:
        await connection.close()


async def create_key(conn: Connection, name: str, role: str, collections: Sequence[str]) -> str:
    """Make a key and return its secret; without collections it is valid in all, those to come included.

    Raises: RequestError when the name is taken or empty, or a collection does not exist.
    """
    if not 0 < len(name.strip()) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise RequestError(f"a key's name has 1 to {NAME_CHARACTERS_MAX} printable characters")
    missing = [row["name"] for row in await conn.fetch(_MISSING, list(collections))]
    if missing:
        raise RequestError(f"there is no collection named {', '.join(missing)}: `askbox collections create` makes one")
    secret = _new_secret()
    if await conn.fetchval(_CREATE, name, _hash(secret), role, list(collections)) is None:
        raise RequestError(f"there is a key named {name}: choose another name, or give it a new secret with `rotate`")
    return secret


async def create_first_key(conn: Connection) -> str | None:
    """Make an administrator's key where there was never one, and return its secret."""
    secret = _new_secret()
    created = await conn.fetchval(_CREATE_FIRST, FIRST_KEY_NAME, _hash(secret))
    return secret if created is not None else None


async def list_keys(conn: Connection) -> list[Key]:
    """Return every key, revoked ones included, by name."""
    return [Key(**row) for row in await conn.fetch(_LIST)]


async def revoke_key(conn: Connection, name: str) -> None:
    """Close a key.

    Raises: RequestError when there is no valid key of this name.
    """
    if await conn.fetchval(_REVOKE, name) is None:
        raise RequestError(f"there is no valid key named {name}: `askbox keys list` shows them")


async def rotate_key(conn: Connection, name: str) -> str:
    """Give a key another secret and return it; the old one opens nothing any more.

    Raises: RequestError when there is no key of this name.
    """
    secret = _new_secret()
    if await conn.fetchval(_ROTATE, name, _hash(secret)) is None:
        raise RequestError(f"there is no key named {name}: `askbox keys list` shows them")
    return secret


def _new_secret() -> str:
    return f"askbox_{secrets.token_urlsafe(SECRET_BYTES)}"


def _hash(secret: str) -> bytes:
    # A fast hash is enough: the secret has 256 random bits, so nothing can be guessed from a list.
    return hashlib.sha256(secret.encode()).digest()
