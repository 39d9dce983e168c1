"""Apply `sql/` with yoyo: once, however many processes start together; an edited migration stops the start."""

import hashlib
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
import yoyo

import shared
from shared.database import SCHEMA, describe
from shared.errors import ConfigError

# One number for "askbox migrates", so that processes which start together wait for one another.
_ADVISORY_LOCK = 0x61736B626F78
_LOCK_TIMEOUT_SECONDS = 120
_LOOK_TIMEOUT_SECONDS = 5


def migrations_folder() -> Path:
    """Return where the migrations lie."""
    return Path(shared.__path__[0]).parent / "sql"


def _yoyo_url(url: str) -> str:
    """Name the database for yoyo: psycopg 3, and its bookkeeping in our schema."""
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query), ("schema", f"{SCHEMA},public")]
    return urlunsplit(("postgresql+psycopg", parts.netloc, parts.path, urlencode(query), ""))


def migrate(url: str, folder: Path | None = None) -> list[str]:
    """Bring the database up to date and return the ids of the migrations applied now.

    Raises: ConfigError when the database cannot be reached, or an applied migration was edited or is gone.
    """
    folder = folder or migrations_folder()
    try:
        guard = psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise ConfigError(f"the database at {describe(url)} cannot be reached: {str(error).strip()}") from None
    with guard:
        if guard.info.server_version < 160000:
            raise ConfigError(f"PostgreSQL {guard.info.server_version // 10000} is too old: askbox needs 16 or newer")
        guard.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'")
        # Session-wide, so it ends with this connection even after kill -9.
        guard.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
        guard.execute("DO $$ BEGIN IF to_regnamespace('askbox') IS NULL THEN CREATE SCHEMA askbox; END IF; END $$")
        guard.execute(
            "CREATE TABLE IF NOT EXISTS askbox.applied_migration"
            " (id text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        _refuse_drift(guard, folder)
        applied = _apply(url, folder)
        for identifier in [migration.stem for migration in _files(folder)]:
            guard.execute(
                "INSERT INTO askbox.applied_migration (id, sha256) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (identifier, _sum(folder / f"{identifier}.sql")),
            )
    return applied


def pending_migrations(url: str, folder: Path | None = None) -> list[str] | None:
    """Return the ids of the migrations that are not applied yet, changing nothing; None when this login may not see it.

    Raises: ConfigError when the database cannot be reached, or an applied migration was edited or is gone.
    """
    folder = folder or migrations_folder()
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as reader:
            reader.execute(f"SET statement_timeout = '{_LOOK_TIMEOUT_SECONDS}s'")
            _refuse_drift(reader, folder)
            applied = {str(row[0]) for row in reader.execute("SELECT id FROM askbox.applied_migration")}
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        applied = set()
    except psycopg.errors.InsufficientPrivilege:
        return None
    except psycopg.OperationalError as error:
        raise ConfigError(f"the database at {describe(url)} cannot be reached: {str(error).strip()}") from None
    return [path.stem for path in _files(folder) if path.stem not in applied]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.sql") if not path.name.endswith(".rollback.sql"))


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_drift(guard: psycopg.Connection[tuple[object, ...]], folder: Path) -> None:
    for identifier, known in guard.execute("SELECT id, sha256 FROM askbox.applied_migration ORDER BY id"):
        path = folder / f"{identifier}.sql"
        if not path.exists():
            raise ConfigError(
                f"the database was migrated by a newer askbox: {identifier} is not known here. Update askbox."
            )
        if _sum(path) != known:
            raise ConfigError(
                f"migration {identifier} was edited after it was applied: restore it and add a new migration instead"
            )


def _apply(url: str, folder: Path) -> list[str]:
    backend = yoyo.get_backend(_yoyo_url(url))
    try:
        backend.break_lock()  # we hold the advisory lock, so a lock row is a dead process's
        pending = backend.to_apply(yoyo.read_migrations(str(folder)))
        with backend.lock():
            backend.apply_migrations(pending)
        return [migration.id for migration in pending]
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"a migration was rolled back: {str(error).strip()}. An administrator has to run once, in this database: "
            "CREATE EXTENSION vector; and to give this login CREATEROLE, or the roles askbox_owner, askbox_worker and askbox_reader"
        ) from error
    except psycopg.Error as error:
        raise ConfigError(f"a migration failed and was rolled back: {str(error).strip()}") from error
    finally:
        backend.connection.close()
