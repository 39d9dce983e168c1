"""Try the walls around a parser child: `python -m services.ingester.walls [--json]`.

A real child of a real parse server is given a pipe that never ends: while it waits, the kernel is asked what it may do;
then it is given more than it may hold, and longer than it may take.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from services.ingester.parse_server import OPEN_FILES_MAX
from services.ingester.sandbox import ParseLimits, ParserPool
from shared.errors import PermanentError
from shared.settings import BUNDLED_MODEL

CANARY = "ASKBOX_WALLS_CANARY"
MEMORY_BYTES = 512 * 1024**2
FLOOD_BYTES = 2 * MEMORY_BYTES
PATIENCE_SECONDS = 20.0
PARSE_SECONDS = 1.0
SETTLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Wall:
    """One protection, whether it holds here, and what was seen."""

    name: str
    holds: bool
    found: str


async def try_walls() -> list[Wall]:
    """Try every wall.

    Raises: RetryableError when the parse server does not start.
    """
    os.environ[CANARY] = "seen"
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(PATIENCE_SECONDS, MEMORY_BYTES, 128))
    await parsers.start()
    try:
        walls = await _ask_the_kernel(parsers) if sys.platform == "linux" else []
        walls.append(await _try_memory(parsers))
    finally:
        await parsers.stop()
    hurried = ParserPool(BUNDLED_MODEL, ParseLimits(PARSE_SECONDS, MEMORY_BYTES, 128))
    await hurried.start()
    try:
        walls.append(await _try_time(hurried))
    finally:
        await hurried.stop()
    return walls


async def _ask_the_kernel(parsers: ParserPool) -> list[Wall]:
    async with _waiting_child(parsers) as child:
        process = Path(f"/proc/{child}")
        limits = (process / "limits").read_text()
        interfaces = [line.split(":")[0].strip() for line in (process / "net/dev").read_text().splitlines()[2:]]
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        own = (process / "environ").read_bytes()
    is_offline = set(interfaces) <= {"lo"}
    has_none = CANARY.encode() not in own and parsers.walls["environment"]
    return [
        Wall("network", is_offline, f"its interfaces: {', '.join(interfaces) or 'none'}"),
        Wall("environment", has_none, _told_environment(own, cannot_read_ours=parsers.walls["environment"])),
        Wall("privileges", status["NoNewPrivs"].strip() == "1", f"NoNewPrivs is {status['NoNewPrivs'].strip()}"),
        Wall(
            "files",
            _soft_limit(limits, "Max file size") == "0" and parsers.walls["files"],
            f"may write files of {_soft_limit(limits, 'Max file size')} bytes and open "
            f"{'none but those of Python' if parsers.walls['files'] else 'what its user may: this system has no Landlock'}",
        ),
        Wall(
            "processor",
            _soft_limit(limits, "Max cpu time").isdecimal(),
            f"{_soft_limit(limits, 'Max cpu time')} s of it",
        ),
    ]


def _told_environment(own: bytes, *, cannot_read_ours: bool) -> str:
    if CANARY.encode() in own:
        return "it is given the ingester's environment"
    reach = "out of its reach" if cannot_read_ours else "readable to it through /proc"
    return f"its own is empty, and the ingester's is {reach}"


def _soft_limit(limits: str, name: str) -> str:
    line = next(line for line in limits.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()[0]


async def _try_memory(parsers: ParserPool) -> Wall:
    """Hand it more bytes than it may have."""
    taken: list[int] = []
    with _pipe() as (reading, writing):
        flood = threading.Thread(target=_flood, args=(writing, taken), daemon=True)
        flood.start()
        with contextlib.suppress(PermanentError, TimeoutError):  # whatever it says, what it took tells
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for _ in parsers.parse("flood.txt", reading, FLOOD_BYTES):
                    pass
    flood.join(PATIENCE_SECONDS)
    found = f"it took {sum(taken)} bytes with a limit of {MEMORY_BYTES}"
    return Wall("memory", sum(taken) < MEMORY_BYTES, found)


def _flood(writing: BinaryIO, taken: list[int]) -> None:
    piece = b"x y " * 262_144
    with contextlib.suppress(OSError, ValueError):  # the reader is gone
        while sum(taken) < FLOOD_BYTES:
            taken.append(writing.write(piece))
        writing.close()


async def _try_time(parsers: ParserPool) -> Wall:
    """Let it wait for an end that does not come."""
    with _pipe() as (reading, _):
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for _item in parsers.parse("endless.txt", reading, 0):
                    pass
        except PermanentError as error:
            return Wall("time", True, str(error))
        except TimeoutError:
            return Wall("time", False, f"it still ran after {PATIENCE_SECONDS:g} s with a limit of {PARSE_SECONDS:g} s")
    return Wall("time", False, "it ended by itself")


@contextlib.asynccontextmanager
async def _waiting_child(parsers: ParserPool) -> AsyncIterator[int]:
    """Hold a child that waits for the rest of its file, and name it."""

    async def parse(reading: BinaryIO) -> None:
        async for _ in parsers.parse("waiting.txt", reading, 0):
            pass

    with _pipe() as (reading, _):
        parsing = asyncio.create_task(parse(reading))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (children := psutil.Process(parsers.server_pid).children()):  # noqa: ASYNC110 (a process tells nobody)
                    await asyncio.sleep(0.02)
            await _settle(children[0].pid)
            yield children[0].pid
        finally:
            parsing.cancel()
            await asyncio.gather(parsing, return_exceptions=True)


def _open_files(child: int) -> int:
    limit = _soft_limit(Path(f"/proc/{child}/limits").read_text(), "Max open files")
    return int(limit) if limit.isdecimal() else -1


async def _settle(child: int) -> None:
    """Wait until a child that was just forked has set its limits; where it cannot, what it has is looked at all the same."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            while _open_files(child) != OPEN_FILES_MAX:  # noqa: ASYNC110 (a process tells nobody)
                await asyncio.sleep(0.02)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Make a pipe, both of whose ends are open while the context lasts."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        yield reader, writer


def main() -> int:
    """Print what was tried."""
    walls = asyncio.run(try_walls())
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(wall) for wall in walls]))
    else:
        for wall in walls:
            print(f"{'holds' if wall.holds else 'OPEN ':5} {wall.name}: {wall.found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
