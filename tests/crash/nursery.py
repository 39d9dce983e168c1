"""Starts processes of askbox in a tenth of the time: forks them from one that has imported everything.

What is started is what `python -m services.KIND` runs, a process of its own in a session of its own; only the imports, which
are most of what a start costs, are done once. As a process: `python -m tests.crash.nursery`, with a socket as its input.
"""

import asyncio
import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

from shared.process import die_with_parent, run_process

KINDS = ("ingester", "embedder", "query")
# Imported by them when they are needed, which is at every start.
ALSO = ("openai", "tiktoken", "numpy", "pgvector.asyncpg", "services.query.app")
START_SECONDS_MAX = 60.0
MESSAGE_BYTES_MAX = 65_536


class Nursling:
    """A started process, as `asyncio.subprocess.Process` shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


class Nursery:
    """The harness's end: asks for processes, and hears how they end."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._nurslings: dict[int, Nursling] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._asking = asyncio.Lock()
        self._hearing = asyncio.create_task(self._hear())

    async def spawn(self, kind: str, folder: Path, environment: dict[str, str], log: int) -> Nursling:
        async with self._asking, asyncio.timeout(START_SECONDS_MAX):
            request = json.dumps({"kind": kind, "folder": str(folder), "environment": environment}).encode()
            socket.send_fds(self._control, [request], [log])
            return self._nurslings[await self._started.get()]

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        while message := await loop.sock_recv(self._control, MESSAGE_BYTES_MAX):
            said = json.loads(message)
            if "started" in said:
                self._nurslings[said["started"]] = Nursling(said["started"])
                self._started.put_nowait(said["started"])
            else:
                self._nurslings.pop(said["ended"]).end(said["code"])

    async def stop(self) -> None:
        """End it; what it started dies with it."""
        self._hearing.cancel()
        self._control.close()
        await self._process.wait()


@contextlib.asynccontextmanager
async def running_nursery() -> AsyncIterator[Nursery]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    root = str(Path(__file__).resolve().parents[2])
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.crash.nursery", stdin=theirs.fileno(), cwd=root,
            env=os.environ | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
    nursery = Nursery(process, ours)
    try:
        yield nursery
    finally:
        await nursery.stop()


def main() -> None:
    """Fork on demand until the harness is gone."""
    die_with_parent(signal.SIGKILL)
    for name in (*(f"services.{kind}.__main__" for kind in KINDS), *ALSO):
        importlib.import_module(name)
    control = socket.socket(fileno=os.dup(0))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == reading:
                    os.read(reading, 4096)
                    _reap(control)
                    continue
                message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, 1)
                if not message:
                    return
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    _become(json.loads(message), descriptors[0], [control.detach(), reading, writing])
                os.close(descriptors[0])
                control.send(json.dumps({"started": pid}).encode())


def _reap(control: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(ended[1])
            control.send(json.dumps({"ended": ended[0], "code": code}).encode())


def _become(request: dict[str, Any], log: int, inherited: list[int]) -> NoReturn:
    """Be the process that was asked for."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        die_with_parent(signal.SIGKILL)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for descriptor in (*inherited, log, nothing):
            os.close(descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        service = importlib.import_module(f"services.{request['kind']}.__main__")
        code = run_process(service.main())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
