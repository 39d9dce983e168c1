"""askbox as `askbox up` runs it, in a home of its own: database, processes, an address. All of it ends with the context."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from services.console.evaluation.ending import Ending
from services.console.evaluation.home import Home, opened_home
from shared.database import Connection, connect
from shared.embedded import start_embedded_server
from shared.errors import AskboxError, ConfigError
from shared.exit_codes import EXIT_CONFIG
from shared.migrations import migrate
from shared.process import die_with_parent
from shared.statements import load_statements

STATEMENTS = load_statements("services.console.evaluation", "evaluation.sql")
_ARE_STATISTICS_FRESH = STATEMENTS["are_statistics_fresh"]
# A home that is thrown away may forget everything at a power cut.
_FORGETFUL = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"
START_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 40.0
LOOK_SECONDS = 0.2
REQUEST_SECONDS_MAX = 120.0
LOG_LINES_SHOWN = 12
LOG_BYTES_SHOWN = 8192
# Below those that the kernel gives to whoever connects.
_PORTS = range(20_000, 32_000)
_PORTS_TRIED = 100


class EvaluationFailed(AskboxError):
    """The evaluation could not be carried through."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A running askbox: a client of its address, and its database."""

    client: httpx2.Client
    url: str

    def are_statistics_fresh(self) -> bool:
        """Whether what BM25 weighs by was counted after the last publication."""

        async def look() -> bool:
            conn = await connect(self.url, "askbox_worker", "askbox eval")
            try:
                return await are_statistics_fresh(conn)
            finally:
                await conn.close()

        return asyncio.run(look())


async def are_statistics_fresh(conn: Connection) -> bool:
    """Whether the term statistics of every collection were counted after its last publication."""
    is_so: bool = await conn.fetchval(_ARE_STATISTICS_FRESH)
    return is_so


@contextlib.contextmanager
def scratch(kept: Path | None, ending: Ending, *, embedders: int) -> Iterator[Scratch]:
    """Start everything in a home of its own, or in the one that is kept, and end it.

    Raises: NoHome when the kept one is in use or no home of evaluations; ConfigError; EvaluationFailed.
    """
    with contextlib.ExitStack() as parts:
        home = parts.enter_context(opened_home(kept))
        with ending.held():  # nobody would end a server that is only half started
            server, url = start_embedded_server(home.folder, extra_configuration="" if kept else _FORGETFUL)
            parts.callback(server.cleanup)
        migrate(url)
        address = parts.enter_context(_running(home, url, embedders))
        yield Scratch(
            parts.enter_context(httpx2.Client(base_url=address, timeout=REQUEST_SECONDS_MAX, trust_env=False)), url
        )


@contextlib.contextmanager
def _running(home: Home, url: str, embedders: int) -> Iterator[str]:
    """Run `askbox up` and return its address once everything answers."""
    folder = home.folder
    (folder / "inbox").mkdir(exist_ok=True)
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    # What else is set or stands in .env holds here too: it is what the user would get that is evaluated.
    environment = os.environ | {
        "ASKBOX_DATABASE_URL": url,
        "ASKBOX_HOME": str(folder),
        "ASKBOX_INBOX": str(folder / "inbox"),
        "ASKBOX_HTTP_HOST": "127.0.0.1",
        "ASKBOX_HTTP_PORT": str(port),
    }
    log = folder / "up.log"
    command = [sys.executable, "-m", "services.console", "up", "--embedders", str(embedders)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (it is this program)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for us, who end it in order
            pass_fds=(home.lock,),  # its database is not cleared away while it ends
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (no other thread runs yet)
        )
    try:
        _wait_healthy(process, address, log)
        yield address
    except EvaluationFailed as error:  # the log goes with its home
        raise EvaluationFailed(f"{error}. askbox's last words:\n{_tail(log)}") from None
    finally:
        _stop(process)


def _wait_healthy(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            if code == EXIT_CONFIG:
                raise ConfigError(f"askbox did not start:\n{_tail(log)}")
            raise EvaluationFailed(f"askbox did not start (exit code {code})")
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{address}/health", timeout=2, trust_env=False).status_code == httpx2.codes.OK:
                return
        time.sleep(LOOK_SECONDS)
    raise EvaluationFailed(f"askbox was not ready within {START_SECONDS_MAX:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started dies with it
        process.wait()


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES_SHOWN))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-LOG_LINES_SHOWN:])


def _free_port() -> int:
    for port in random.sample(_PORTS, _PORTS_TRIED):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EvaluationFailed(f"{_PORTS_TRIED} ports that were tried are in use")
