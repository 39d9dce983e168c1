"""The doctor's statements, each as a function."""

from dataclasses import dataclass

from shared.database import Connection
from shared.statements import load_statements

STATEMENTS = load_statements("services.console.doctor", "doctor.sql")
_GET_SERVER = STATEMENTS["get_server"]
_GET_ROLES = STATEMENTS["get_roles"]
_GET_CONTENT = STATEMENTS["get_content"]
_GET_BACKEND = STATEMENTS["get_backend"]
_NOTIFY_DOCTOR = STATEMENTS["notify_doctor"]
NOTIFY_CHANNEL = "askbox_doctor"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is and what a login may do there."""

    version_number: int
    is_standby: bool
    connections_max: int
    connections: int
    vector_version: str | None
    vector_available: str | None
    can_create_roles: bool
    can_create_schema: bool
    is_migrated: bool
    clock_seconds: float


@dataclass(frozen=True, slots=True)
class RoleRow:
    """One of askbox's roles, as this login sees it."""

    name: str
    is_takeable: bool
    is_unbound: bool


@dataclass(frozen=True, slots=True)
class Content:
    """What the database holds already."""

    models: list[str]
    has_keys: bool


async def get_server(conn: Connection) -> Server:
    """Return what this server is and what this login may do."""
    row = await conn.fetchrow(_GET_SERVER)
    assert row is not None
    return Server(**row)


async def get_roles(conn: Connection, names: list[str]) -> dict[str, RoleRow]:
    """Return those of the roles that exist, by name."""
    return {row["name"]: RoleRow(**row) for row in await conn.fetch(_GET_ROLES, names)}


async def get_content(conn: Connection) -> Content:
    """Return the models that collections were filled with, and whether there is a key."""
    row = await conn.fetchrow(_GET_CONTENT)
    assert row is not None
    return Content(**row)


async def get_backend(conn: Connection) -> int:
    """Return the number of the server process that this session talks to."""
    pid: int = await conn.fetchval(_GET_BACKEND)
    return pid


async def notify_doctor(conn: Connection) -> None:
    """Wake whoever listens on `NOTIFY_CHANNEL`."""
    await conn.fetchval(_NOTIFY_DOCTOR)
