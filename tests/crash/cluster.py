"""A Postgres that can be stopped as a power cut stops it, paused, and robbed of its backends."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil

from shared.embedded import start_embedded_server
from shared.migrations import migrate

# Nothing here loses power: what the operating system was given it keeps, so `fsync` proves nothing and costs time.
CONFIGURATION = "fsync = off\nlog_min_messages = fatal\nmax_wal_size = 256MB\n"
CONTROL_SECONDS_MAX = 60
TEMPLATE = "askbox_template"


class Cluster:
    """An embedded server of the harness's own, and databases on it."""

    def __init__(self, home: Path, configuration: str) -> None:
        self._server, self.url = start_embedded_server(home, extra_configuration=configuration)
        self._folder = Path(self._server.pgdata)
        self._options = self._read_options()
        self._count = 0
        self._has_template = False
        self.restarts = 0

    def _read_options(self) -> str:
        """What the server was started with; the same again after a stop."""
        return (self._folder / "postmaster.opts").read_text(encoding="utf-8").split(" ", 1)[1].strip()

    @property
    def socket_path(self) -> str:
        return self.url.partition("host=")[2].partition("&")[0].replace("%2F", "/") + "/.s.PGSQL.5432"

    def database_url(self, name: str) -> str:
        return self.url.replace("/postgres?", f"/{name}?")

    async def create_database(self) -> str:
        """Return the connection string of a new, migrated database."""
        if not self._has_template:
            await self._execute(f"CREATE DATABASE {TEMPLATE}")
            await asyncio.to_thread(migrate, self.database_url(TEMPLATE))
            self._has_template = True
        self._count += 1
        name = f"crash_{self._count}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        return self.database_url(name)

    async def drop_database(self, url: str) -> None:
        name = url.partition("?")[0].rpartition("/")[2]
        await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    # -- faults -----------------------------------------------------------------------------------------------------

    async def stop_hard(self) -> None:
        """Stop without a checkpoint: every session dies, the next start recovers from the log."""
        await self._control("-m", "immediate", "stop")

    async def start(self) -> None:
        """Start and wait until it answers."""
        await self._control("-l", str(self._server.log), "-o", self._options, "start")
        self.restarts += 1

    async def kill_backend(self, pid: int) -> None:
        """Kill one backend as the kernel's memory killer does; Postgres then resets every session."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the whole server."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = int((self._folder / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
        postmaster = psutil.Process(pid)
        for process in [postmaster, *postmaster.children()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    async def _control(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(self._server.bin_path / "pg_ctl"), "-D", str(self._folder), "-w", *arguments,
            user=self._server.system_user, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(CONTROL_SECONDS_MAX):
            code = await process.wait()
        assert code == 0, f"pg_ctl {arguments} ended with {code}"

    def end(self) -> None:
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            self.resume()
        self._server.cleanup()


@contextlib.asynccontextmanager
async def running_cluster(*, configuration: str = "", folder: Path | None = None) -> AsyncIterator[Cluster]:
    """Run a server while the context lasts, under `folder` or in memory where there is enough."""
    memory = Path("/dev/shm")
    parent = folder or (memory if memory.is_dir() and os.access(memory, os.W_OK) else None)
    home = Path(tempfile.mkdtemp(prefix="askbox-crash-", dir=parent))
    home.chmod(0o755)
    cluster = await asyncio.to_thread(Cluster, home, CONFIGURATION + configuration)
    try:
        yield cluster
    finally:
        await asyncio.to_thread(cluster.end)
        shutil.rmtree(home, ignore_errors=True)
