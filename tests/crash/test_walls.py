"""Each wall around a parser child by itself: the kernel is asked, not the child."""

import asyncio
import json
import os
import sys
from dataclasses import asdict

import psutil
import pytest

from services.ingester.sandbox import ParsedHead, _Child, _read
from services.ingester.walls import try_walls
from shared.errors import ParserLimit
from tests.waiting import until


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
async def test_every_wall_that_needs_nothing_of_the_system_stands(monkeypatch):
    monkeypatch.setenv("ASKBOX_WALLS_CANARY", "seen")
    walls = {wall.name: wall for wall in await try_walls()}
    for name in ("privileges", "processor", "memory", "time"):
        assert walls[name].holds, walls[name].found
    assert "may write files of 0 bytes" in walls["files"].found
    assert "its own is empty" in walls["environment"].found


async def test_child_that_writes_without_end_is_stopped():
    reader = asyncio.StreamReader()
    head = asdict(ParsedHead("text/plain", None, {}, 0))
    for _ in range(100):
        reader.feed_data(json.dumps({"document": head}).encode() + b"\n")
    reader.feed_eof()
    with pytest.raises(ParserLimit, match="expands without end"):
        async for _ in _read(reader, _Child(), 1000, 60):
            pass


_ORPHAN = """
import asyncio, os, sys
import psutil
from services.ingester.sandbox import ParseLimits, ParserPool
from shared.settings import BUNDLED_MODEL

async def parse(parsers, reading):
    async for _ in parsers.parse("waiting.txt", reading, 0):
        pass

async def main():
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(600, 2 * 1024**3, 128))
    await parsers.start()
    parsing = asyncio.create_task(parse(parsers, os.fdopen(int(sys.argv[1]), "rb")))
    while not (children := psutil.Process(parsers.server_pid).children()):
        await asyncio.sleep(0.02)
    # It dies with its parent once it has said so, which it does before it reads.
    while next(line for line in open(f"/proc/{children[0].pid}/limits") if "file size" in line).split()[3] != "0":
        await asyncio.sleep(0.02)
    print(children[0].pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
async def test_child_dies_with_its_ingester_though_its_file_does_not_end():
    reading, writing = os.pipe()  # ours to the end, so that the child waits for more
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ORPHAN, str(reading), stdout=asyncio.subprocess.PIPE, pass_fds=[reading]
    )
    try:
        child = int(await process.stdout.readline())
        await until(lambda: asyncio.sleep(0, is_gone(child)))
    finally:
        os.close(reading)
        os.close(writing)
        await process.communicate()
