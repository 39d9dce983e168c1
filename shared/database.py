"""Connections: every one takes its role, its search path and its bounds when it is opened."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from pgvector.asyncpg import register_vector

from shared.errors import ConfigError, DatabaseUnavailable
from shared.text import one_line

Role = Literal["askbox_owner", "askbox_worker", "askbox_reader"]
if TYPE_CHECKING:  # generic in the stubs only
    OwnConnection = asyncpg.Connection[asyncpg.Record]
    Connection = OwnConnection | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
    PoolAcquireContext = asyncpg.pool.PoolAcquireContext[asyncpg.Record]
else:
    OwnConnection = asyncpg.Connection
    Connection = OwnConnection | PoolConnectionProxy
    Pool = asyncpg.Pool
# Where one autocommit statement runs: on a connection, or on any connection of a pool.
Session = Connection | Pool

T = TypeVar("T")
SCHEMA = "askbox"
POSTGRES_VERSION_MIN = 160000
PGVECTOR_VERSION_MIN = (0, 8, 4)
CONNECT_TIMEOUT_SECONDS = 10.0
LOCK_TIMEOUT_SECONDS = 15.0
# What a statement takes on a connection that fell silent. Longer than for a lock, whose error says more; the few statements
# that may take longer have time-outs of their own.
COMMAND_TIMEOUT_SECONDS = 25.0
# For a connection of a pool, a new one included; for one to be given back; for a statement to be cancelled; for all at the end.
ACQUIRE_SECONDS_MAX = 20.0
RELEASE_SECONDS_MAX = 5.0
CANCEL_SECONDS_MAX = 2.0
CLOSE_SECONDS_MAX = 1.0

# What may go wrong with a connection, as opposed to with a statement: worth connecting again.
CONNECTION_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a statement on a session whose end was announced, and not yet carried out
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover has begun
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process was away for a while, and its session is ended
    asyncpg.TransactionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
    DatabaseUnavailable,
    OSError,
    TimeoutError,
)
# What the server lacks, whatever it is asked for: no job is to blame, even though the server answers the next question.
SERVER_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.DiskFullError,
    asyncpg.PostgresIOError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
)
# Those that only the database can have caused: of the others, a full disk of our own is one too.
DATABASE_ERRORS: tuple[type[BaseException], ...] = (
    *(error for error in CONNECTION_ERRORS if error is not OSError),
    ConnectionError,
)
# What another transaction caused: worth the same statement again.
CONFLICT_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.ForeignKeyViolationError,
)
# How a question walks a vector index; pgvector takes these over when it is loaded. Twice as many candidates as an arm's
# 100: with as many the recall is 0.90-0.95, with twice 0.98. Where rows in it are dead the walk goes on, in an order that
# does not matter, since candidates are scored anew.
_INDEX_WALK = {
    "hnsw.ef_search": "200",
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.max_scan_tuples": "20000",
}


def _server_settings(role: Role | None, application_name: str) -> dict[str, str]:
    settings = {
        "search_path": f"{SCHEMA}, public",
        "application_name": application_name,
        "timezone": "UTC",
        "idle_in_transaction_session_timeout": "60s",
        "lock_timeout": f"{LOCK_TIMEOUT_SECONDS:.0f}s",
        # A partial index is proved from a parameter only in a custom plan.
        "plan_cache_mode": "force_custom_plan",
        "jit": "off",
    }
    if role == "askbox_reader":
        settings |= _INDEX_WALK
    return settings | ({"role": role} if role else {})


class _BoundedConnection(asyncpg.Connection):
    """A connection that is given up when it is silent even to a cancellation.

    asyncpg waits for one as long as for a statement, and whoever gives the connection back or rolls back waits with it.
    """

    async def _cancel(self, *waiters: Any) -> None:
        giving_up = asyncio.get_running_loop().call_later(CANCEL_SECONDS_MAX, self.terminate)
        try:
            await super()._cancel(*waiters)  # type: ignore[misc]
        finally:
            giving_up.cancel()

    async def close(self, *, timeout: float | None = None) -> None:
        # A pool closes what it distrusts in tasks that nobody waits for: their errors would be told as ours.
        with contextlib.suppress(*CONNECTION_ERRORS):
            await super().close(timeout=CLOSE_SECONDS_MAX if timeout is None else timeout)


class _BoundedPool(asyncpg.Pool):
    """A pool that nobody waits for without end, while every connection hangs on a silent server."""

    def acquire(self, *, timeout: float | None = None) -> "PoolAcquireContext":
        return super().acquire(timeout=ACQUIRE_SECONDS_MAX if timeout is None else timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        await super().release(connection, timeout=RELEASE_SECONDS_MAX if timeout is None else timeout)


def describe(url: str) -> str:
    """Name a database without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"


async def connect(url: str, role: Role | None, application_name: str) -> OwnConnection:
    """Open one connection of its own, outside any pool.

    Raises: DatabaseUnavailable when the database cannot be reached; ConfigError when it refuses the login or is not
        migrated.
    """
    try:
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            connection_class=_BoundedConnection,
            server_settings=_server_settings(role, application_name),
        )
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InvalidPasswordError,
    ) as error:
        raise ConfigError(f"ASKBOX_DATABASE_URL: {describe(url)} refuses the login: {error}") from None
    except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
        raise ConfigError(
            f"{describe(url)} has no role {role} for this login: run `askbox migrate` first ({error})"
        ) from None
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        raise ConfigError(f"ASKBOX_DATABASE_URL is not a connection string: {error}") from None
    except CONNECTION_ERRORS as error:  # an error of TLS is an OSError
        raise _unavailable(url, error) from None


def _unavailable(url: str, error: BaseException) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the database at {describe(url)} cannot be reached ({one_line(str(error)) or type(error).__name__}): "
        "start it, or correct ASKBOX_DATABASE_URL"
    )


async def prepare_connection(connection: OwnConnection) -> None:
    """Teach a new connection the vector types, wherever the extension lies."""
    schema = await connection.fetchval(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
    )
    if schema is None:
        raise ConfigError("the database has no pgvector: run `askbox migrate` first")
    await register_vector(connection, schema=schema)


async def check_server(connection: Connection) -> None:
    """Refuse a server that is too old, or a role that would see through row-level security.

    Raises: ConfigError saying what to do.
    """
    version = connection.get_server_version()
    if version.major * 10_000 < POSTGRES_VERSION_MIN:
        raise ConfigError(f"PostgreSQL {version.major} is too old: askbox needs 16 or newer")
    vector = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if vector is None or tuple(int(part) for part in vector.split(".")) < PGVECTOR_VERSION_MIN:
        wanted = ".".join(map(str, PGVECTOR_VERSION_MIN))
        raise ConfigError(
            f"pgvector is {vector or 'missing'}: older than {wanted} damages HNSW indexes; update it, then ALTER EXTENSION vector UPDATE"
        )
    if await connection.fetchval("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"):
        raise ConfigError(
            "this process runs as a role that bypasses row-level security: run `askbox migrate` and give it a login that may take its role"
        )


@asynccontextmanager
async def open_pool(url: str, role: Role, application_name: str, *, connections_max: int) -> AsyncIterator[Pool]:
    """Open a pool whose connections all have `role`.

    Raises: DatabaseUnavailable and ConfigError as `connect` and `check_server` do; DatabaseUnavailable also for what the
        block meets on a connection and does not handle, as when the database goes away while a process starts.
    """
    try:
        probe = await connect(url, role, application_name)
        try:
            await check_server(probe)
        finally:
            probe.terminate()
        pool = _make_pool(url, role, application_name, connections_max)
        await pool
        try:
            yield pool
        finally:
            await _close(pool)
    except DatabaseUnavailable:
        raise
    except DATABASE_ERRORS as error:
        raise _unavailable(url, error) from error


def _make_pool(url: str, role: Role, application_name: str, connections_max: int) -> Pool:
    return _BoundedPool(
        url,
        min_size=1,
        max_size=connections_max,
        max_queries=50_000,
        max_inactive_connection_lifetime=300,
        loop=None,
        connection_class=_BoundedConnection,
        record_class=asyncpg.Record,
        init=prepare_connection,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        server_settings=_server_settings(role, application_name),
    )


async def _close(pool: Pool) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def distrust_idle(pool: Pool, error: BaseException) -> None:
    """Open a pool's idle connections anew when one of them was silent: what befell it befell the others."""
    if isinstance(error, TimeoutError):
        await pool.expire_connections()


async def retry_conflicts(work: Callable[[], Coroutine[Any, Any, T]], *, attempts_max: int = 5) -> T:
    """Run a short transaction again when another transaction got in its way.

    Raises: the conflict of the last attempt.
    """
    for attempt in range(1, attempts_max + 1):
        try:
            return await work()
        except CONFLICT_ERRORS:
            if attempt == attempts_max:
                raise
            await asyncio.sleep(0.01 * 2**attempt)
    raise AssertionError("attempts_max is at least 1")


async def at_the_end(work: Coroutine[Any, Any, object], *, seconds: float) -> bool:
    """Do what a process does last if the database takes it in time, and leave it behind if not; say which it was.

    `wait_for` would wait on: a statement on a connection that has fallen silent takes minutes even to be cancelled.
    """
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({working}, timeout=seconds)
    finally:
        working.cancel()
    if not working.done() or working.cancelled():
        return False
    with contextlib.suppress(*CONNECTION_ERRORS, *CONFLICT_ERRORS):
        working.result()
    return True
