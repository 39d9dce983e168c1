"""The database: is it there, is it one that askbox can work with, and may this login do what is needed?"""

import asyncio
import contextlib
import os
import pwd
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil

from services.console.doctor import statements
from services.console.doctor.findings import Finding, Level, fail, ok, user_name, warn
from services.console.doctor.settings import DoctorSettings
from services.console.doctor.statements import RoleRow, Server
from shared.database import (
    PGVECTOR_VERSION_MIN,
    POSTGRES_VERSION_MIN,
    OwnConnection,
    Role,
    connect,
    describe,
)
from shared.errors import AskboxError
from shared.migrations import pending_migrations

# How many connections each process opens at most, those of its listener and of index builds included.
INGESTER_CONNECTIONS = 7
EMBEDDER_CONNECTIONS = 10
CLOCK_SECONDS_MAX = 5.0
NOTIFY_SECONDS_MAX = 5.0
SECONDS_MAX = 30.0
_READER: Role = "askbox_reader"
ROLES: tuple[Role, ...] = ("askbox_worker", _READER)
_OWNER = "askbox_owner"
# A pooler refuses the settings that a session begins with, or hands it a server process that another one prepared.
_POOLER_ERRORS = (
    asyncpg.ProtocolViolationError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
)


def look_at_database(settings: DoctorSettings) -> list[Finding]:
    """Look at the database that the settings name, or at the embedded one if it runs."""
    if settings.database_url is not None:
        return asyncio.run(_look(settings, settings.database_url.get_secret_value()))
    url = embedded_url(settings.home / "postgres")
    return [url] if isinstance(url, Finding) else asyncio.run(_look(settings, url))


def embedded_url(data: Path) -> str | Finding:
    """Name the embedded database that runs, or say that it does not; it is not started."""
    if not (data / "PG_VERSION").exists():
        if not _has_name(os.geteuid()):
            found = f"embedded, and {user_name()} has no name on this machine, which Postgres wants"
            return fail("database", found, "add a user of that number, or set ASKBOX_DATABASE_URL")
        return ok("database", f"embedded, under {data.absolute()}: not there yet, `askbox up` makes it")
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid, port, folder = int(lines[0]), int(lines[3]), lines[4]
    except PermissionError:
        advice = "run askbox as the user whom it belongs to, or set ASKBOX_HOME"
        return fail("database", f"{data.absolute()} cannot be read", advice)
    except (OSError, ValueError, IndexError):
        pid = 0
    if not pid or not psutil.pid_exists(pid):
        return ok(
            "database",
            f"embedded, under {data.absolute()}: stopped, `askbox up` starts it; nothing in it was looked at",
        )
    return f"postgresql://postgres@/postgres?host={folder}&port={port}"


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


async def _look(settings: DoctorSettings, url: str) -> list[Finding]:
    try:
        async with asyncio.timeout(SECONDS_MAX), _session(url, None) as conn:
            server = await statements.get_server(conn)
            findings = [
                _judge_server(server, url),
                _judge_vector(server),
                _judge_connections(server, settings),
                _judge_clock(server),
            ]
            if server.version_number >= POSTGRES_VERSION_MIN:
                findings += await _look_inside(conn, settings, url, server)
            return findings
    except AskboxError as error:
        return [Finding("database", Level.FAIL, str(error))]
    except TimeoutError:
        found = f"{describe(url)} did not answer within {SECONDS_MAX:g} s"
        return [fail("database", found, "see whether it is overloaded, or its disk is full")]
    except _POOLER_ERRORS as error:
        return [_pooler(f"{describe(url)} does not take or keep what a session sets ({error})")]


@contextlib.asynccontextmanager
async def _session(url: str, role: Role | None) -> AsyncIterator[OwnConnection]:
    conn = await connect(url, role, "askbox doctor")
    try:
        yield conn
    finally:
        with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await conn.close(timeout=2)


async def _look_inside(conn: OwnConnection, settings: DoctorSettings, url: str, server: Server) -> list[Finding]:
    roles = await statements.get_roles(conn, [_OWNER, *ROLES])
    findings = [await asyncio.to_thread(judge_migrations, url, server, roles)]
    takeable = [role for role in ROLES if role in roles and roles[role].is_takeable]
    if server.is_migrated:
        findings.append(judge_roles(roles))
    # Only the reader may see the keys; a login that cannot be it belongs to a process which needs none.
    is_reader = _READER in takeable
    async with _session(url, _READER if is_reader else None) as second:
        findings.append(await _judge_session(conn, second, url))
        if server.is_migrated and is_reader:
            findings += _judge_content(await statements.get_content(second), settings)
    return findings


def _judge_server(server: Server, url: str) -> Finding:
    version = f"PostgreSQL {server.version_number // 10_000} at {describe(url)}"
    if server.version_number < POSTGRES_VERSION_MIN:
        return fail("database", version, f"askbox needs {POSTGRES_VERSION_MIN // 10_000} or newer")
    if server.is_standby:
        return fail("database", f"{version} is a read-only standby", "set ASKBOX_DATABASE_URL to the primary server")
    return ok("database", version)


def _judge_vector(server: Server) -> Finding:
    wanted = ".".join(map(str, PGVECTOR_VERSION_MIN))
    version = server.vector_version or server.vector_available
    if version is None:
        return fail(
            "pgvector", "this server does not have it", f"install pgvector {wanted} or newer where PostgreSQL runs"
        )
    if tuple(int(part) for part in version.split(".")) < PGVECTOR_VERSION_MIN:
        advice = f"install {wanted} or newer, then run ALTER EXTENSION vector UPDATE: older ones damage HNSW indexes"
        return fail("pgvector", version, advice)
    return ok("pgvector", version)


def _judge_connections(server: Server, settings: DoctorSettings) -> Finding:
    needed = INGESTER_CONNECTIONS + settings.embedders * EMBEDDER_CONNECTIONS + settings.query_connections
    found = f"{server.connections_max} may be open, {server.connections} are; one of each process needs up to {needed}"
    if needed > server.connections_max:
        return warn(
            "connections", found, "raise max_connections, or lower ASKBOX_QUERY_CONNECTIONS or ASKBOX_EMBEDDERS"
        )
    return ok("connections", found)


def _judge_clock(server: Server) -> Finding:
    ahead = server.clock_seconds - time.time()
    if abs(ahead) > CLOCK_SECONDS_MAX:
        found = f"the database's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        return warn("clock", found, "set both by NTP: askbox goes by the database's, logs and traces by the machine's")
    return ok("clock", "the database's agrees with this machine's")


def judge_migrations(url: str, server: Server, roles: dict[str, RoleRow]) -> Finding:
    """Tell whether the database is up to date, and if not, whether this login can bring it there."""
    try:
        pending = pending_migrations(url)
    except AskboxError as error:
        return fail("migrations", str(error), "then run `askbox doctor` again")
    if pending is None:
        return ok("migrations", "this login may not see which are applied")
    if not pending:
        return ok("migrations", "all applied")
    found = f"{len(pending)} not applied yet, from {pending[0]}"
    lacking = [name for name in (_OWNER, *ROLES) if name not in roles]
    if (lacking and not server.can_create_roles) or (not server.is_migrated and not server.can_create_schema):
        advice = (
            "let an administrator run `askbox migrate` once, or give this login CREATEROLE and CREATE on the database"
        )
        return fail("migrations", f"{found}, and this login may not apply them", advice)
    return warn("migrations", found, "`askbox up` and `askbox migrate` apply them")


def judge_roles(roles: dict[str, RoleRow]) -> Finding:
    """Judge whether this login may take the roles of the processes, and whether these are bound by the rules."""
    advice = "run `askbox migrate` with the login that askbox uses, or grant it the roles WITH SET TRUE"
    if unbound := [role.name for role in roles.values() if role.is_unbound and role.name in ROLES]:
        found = f"{', '.join(unbound)} would see through row-level security"
        return fail("roles", found, f"ALTER ROLE {unbound[0]} NOSUPERUSER NOBYPASSRLS")
    takeable = [name for name in ROLES if name in roles and roles[name].is_takeable]
    if not takeable:
        return fail("roles", f"this login may take none of {', '.join(ROLES)}", advice)
    if len(takeable) < len(ROLES):
        return warn(
            "roles",
            f"this login may take {takeable[0]} only",
            "enough for a process of its own; `askbox up` needs both",
        )
    return ok("roles", f"this login may take {', '.join(takeable)}")


async def _judge_session(first: OwnConnection, second: OwnConnection, url: str) -> Finding:
    """See whether each connection has a server process of its own, and hears a NOTIFY of the other."""
    if await statements.get_backend(first) == await statements.get_backend(second):
        return _pooler(f"two connections to {describe(url)} share one server process")
    heard = asyncio.Event()
    await first.add_listener(statements.NOTIFY_CHANNEL, lambda *_: heard.set())
    await statements.notify_doctor(second)
    try:
        async with asyncio.timeout(NOTIFY_SECONDS_MAX):
            await heard.wait()
    except TimeoutError:
        found = f"a NOTIFY did not arrive within {NOTIFY_SECONDS_MAX:g} s"
        return warn("wake-ups", found, "connect directly; until then work is found at the pace of ASKBOX_POLL_SECONDS")
    return ok("wake-ups", "sessions are direct, and NOTIFY arrives")


def _pooler(found: str) -> Finding:
    advice = (
        "set ASKBOX_DATABASE_URL to the server itself: a pooler that shares sessions loses LISTEN, roles and settings"
    )
    return fail("wake-ups", found, advice)


def _judge_content(content: statements.Content, settings: DoctorSettings) -> list[Finding]:
    findings = []
    if others := [name for name in content.models if name != settings.embedding_model]:
        found = f"the database was filled with {', '.join(others)}, and ASKBOX_EMBEDDING_MODEL is {settings.embedding_model}"
        findings.append(fail("model of the database", found, "set it back, or start with an empty database"))
    elif content.models:
        findings.append(ok("model of the database", content.models[0]))
    if settings.http_host not in {"127.0.0.1", "localhost", "::1"} and not content.has_keys:
        found = f"ASKBOX_HTTP_HOST is {settings.http_host}, and there is no API key"
        findings.append(
            fail("keys", found, "make one with `askbox keys create NAME --role admin`, or serve 127.0.0.1 only")
        )
    return findings
