"""The home of an evaluation that is killed: its server is stopped and its folder removed, by its guardian or by the next one."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.console.evaluation.home import opened_home
from tests.conftest import open_folder
from tests.waiting import SUBPROCESS_SECONDS_MAX, until

# What holds the home beside it is as `askbox up`, which ends a while after its evaluation.
EVALUATION = """
import subprocess, sys
from pathlib import Path
import psutil
from services.console.evaluation.home import opened_home
from shared.embedded import start_embedded_server
kept = Path(sys.argv[1]) if sys.argv[1:] else None
with opened_home(kept) as home:
    server, _ = start_embedded_server(home.folder)
    up = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(home.lock,))
    (guardian,) = {child.pid for child in psutil.Process().children()} - {up.pid}
    print(home.folder, server.get_pid(), guardian, up.pid, flush=True)
    input()
"""
ONLOOKER = """
import sys
from pathlib import Path
from shared.embedded import start_embedded_server
server, _ = start_embedded_server(Path(sys.argv[1]))
print(server.get_pid(), flush=True)
input()
"""
NEXT = """
from services.console.evaluation.home import opened_home
with opened_home(None) as home, opened_home(None):
    print(home.folder.is_dir())
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def evaluate_next(temporary: Path) -> None:
    """Let two others begin and end, of which the second does not clear the home of the first."""
    environment = os.environ | {"TMPDIR": str(temporary)}
    said = subprocess.run([sys.executable, "-c", NEXT], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"


class Evaluation:
    """One that runs, and waits to be killed."""

    def __init__(self, temporary: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", EVALUATION, *words],
            env=os.environ | {"TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        folder, *numbers = self._process.stdout.readline().split()
        self.folder = Path(folder)
        self.server, self.guardian, self.up = (psutil.Process(int(number)) for number in numbers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        for process in (self.guardian, self.up, self.server):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def evaluation(temporary: Path) -> Iterator[Evaluation]:
    running = Evaluation(temporary)
    yield running
    running.end()


@contextlib.contextmanager
def another_server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """As far as its name tells."""
    program = folder / "postgres"
    program.write_text("#!/bin/sh\nread line\n", encoding="utf-8")
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def is_gone(process: psutil.Process) -> bool:
    return has_ended(process)


async def test_guardian_clears_the_home_of_a_killed_evaluation_once_nobody_uses_it(
    evaluation: Evaluation, temporary: Path
) -> None:
    evaluation.up.suspend()  # its end of the pipe is closed, and it has not noticed yet
    evaluation.kill()
    evaluate_next(temporary)
    assert evaluation.folder.is_dir()
    assert not await is_gone(evaluation.server)
    evaluation.up.resume()
    await until(lambda: is_gone(evaluation.guardian), SUBPROCESS_SECONDS_MAX)
    assert await is_gone(evaluation.server)
    assert not evaluation.folder.exists()


async def test_next_evaluation_clears_what_was_killed_with_its_guardian_and_nothing_else(
    evaluation: Evaluation, temporary: Path
) -> None:
    of_others = temporary / "askbox-eval-of-somebody"
    of_others.mkdir()
    evaluation.guardian.kill()
    with opened_home(temporary / "askbox-eval-kept") as kept:
        pass
    evaluation.up.suspend()
    evaluation.kill()
    evaluation.up.send_signal(signal.SIGKILL)
    await until(lambda: is_gone(evaluation.up))
    evaluate_next(temporary)
    assert await is_gone(evaluation.server)
    assert sorted(temporary.glob("askbox-eval-*")) == [kept.folder, of_others]


async def test_process_that_has_the_number_of_an_abandoned_server_is_let_alone(
    evaluation: Evaluation, temporary: Path
) -> None:
    """As after a power cut, when all numbers are given anew."""
    for process in (evaluation.guardian, evaluation.up):
        process.kill()
        await until(lambda process=process: is_gone(process))
    evaluation.kill()
    evaluation.server.kill()
    await until(lambda: is_gone(evaluation.server))
    file = evaluation.folder / "postgres" / "postmaster.pid"
    _, *rest = file.read_text(encoding="utf-8").split("\n")
    with another_server(temporary) as other:
        file.write_text("\n".join([str(other.pid), *rest]), encoding="utf-8")
        evaluate_next(temporary)
        assert other.poll() is None
    assert not evaluation.folder.exists()


def test_server_of_a_kept_home_that_somebody_looks_at_outlives_the_evaluation(temporary: Path) -> None:
    with opened_home(temporary / "kept") as home:
        pass
    command = [sys.executable, "-c", ONLOOKER, str(home.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as onlooker:
        assert onlooker.stdout is not None
        server = psutil.Process(int(onlooker.stdout.readline()))
        with opened_home(temporary / "kept"):
            pass
        assert not has_ended(server)
        onlooker.communicate("\n")
    assert has_ended(server)


async def test_kept_home_of_a_killed_evaluation_stays_and_its_server_stops(temporary: Path) -> None:
    evaluation = Evaluation(temporary, str(temporary / "kept"))
    try:
        evaluation.kill()
        await until(lambda: is_gone(evaluation.guardian), SUBPROCESS_SECONDS_MAX)
        assert await is_gone(evaluation.server)
        with opened_home(temporary / "kept") as home:
            assert (home.folder / "postgres").is_dir()
    finally:
        evaluation.end()
