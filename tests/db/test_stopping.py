"""What a process does when it is told to stop: at once, once, and not for ever."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shared.exit_codes import EXIT_FAILURE, EXIT_OK
from shared.listener import Listener
from shared.queue import Job
from shared.settings import WorkerSettings
from shared.worker import Slot, Worker
from tests.factories import arrive
from tests.waiting import SECONDS_MAX, until


class _Untidy:
    """Works for ever, and takes as long to end."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def process(self, jobs: list[Job]) -> None:
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_end.wait()

    async def after(self, jobs: Sequence[Job]) -> None: ...

    async def buried(self, jobs: Sequence[Job]) -> None: ...


async def test_work_that_takes_long_to_tidy_up_is_given_back_at_once(url, pool, owner):
    handler = _Untidy()
    worker = Worker(
        kind="ingester",
        pool=pool,
        listener=Listener(url, "askbox_worker", "test listener", ["ingest"]),
        settings=WorkerSettings(_env_file=None, lease_seconds=300, stop_seconds=0),
        slots=[Slot("parse", "ingest", handler)],
    )
    await arrive(pool, "some words")
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(handler.has_begun.wait(), SECONDS_MAX)
    worker.stop()
    await until(lambda: owner.fetchval("SELECT lease_id IS NULL AND attempt = 0 AND run_at <= now() FROM job"))
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0
    await asyncio.wait_for(running, SECONDS_MAX)
    handler.may_end.set()


PROCESS = """
import asyncio, sys, time
from shared import process

async def main():
    stopping = asyncio.Event()
    {before}
    with process.on_stop_signals(stopping.set, work_seconds=0.1):
        print("begun", flush=True)
        await stopping.wait()
    print("stopping", flush=True)
    {after}
    print("done", flush=True)

sys.exit(process.run_process(main()))
"""


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: list["subprocess.Popen[str]"], *, before: str = "", after: str = "") -> "subprocess.Popen[str]":
    text = textwrap.dedent(PROCESS).format(before=before, after=after)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes.append(process)
    return process


def read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"{word} was never said")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_cuts_no_stop_short(processes, number):
    process = start(processes, after="await asyncio.sleep(0.3)")
    read_until(process, "begun")
    process.send_signal(number)
    read_until(process, "stopping")
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    read_until(process, "done")
    assert process.wait(SECONDS_MAX) == EXIT_OK


def test_process_that_has_only_begun_ends_at_once_and_well(processes):
    process = start(processes, before='print("waiting", flush=True); await asyncio.to_thread(time.sleep, 3600)')
    read_until(process, "waiting")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS_MAX) == EXIT_OK


def test_process_that_cannot_stop_ends_itself_and_says_so(processes):
    hanging = "await asyncio.to_thread(time.sleep, 3600)"
    process = start(processes, before="process.END_SECONDS_MAX = 0.2", after=hanging)
    read_until(process, "begun")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS_MAX) == EXIT_FAILURE


def test_process_whose_loop_hangs_ends_itself_and_says_where(processes):
    hanging = "process.TURN_SECONDS_MAX = process.LOOK_SECONDS = 0.2; time.sleep(3600)"
    process = start(processes, before=hanging)
    said, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == EXIT_FAILURE
    assert "process_failed" in said
    assert "in main" in said  # where every thread was


def test_error_ends_a_process_although_a_thread_computes_on(processes):
    failing = """process.END_SECONDS_MAX = 0.2
    task = asyncio.create_task(asyncio.to_thread(time.sleep, 3600))
    await asyncio.sleep(0.1)
    raise RuntimeError("stuck")"""
    process = start(processes, before=failing)
    assert process.wait(SECONDS_MAX) == EXIT_FAILURE
