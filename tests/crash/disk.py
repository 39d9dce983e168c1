"""Full disks: that of Postgres, that of the parsers' temporary files; and an inbox that nobody may write to.

Each disk is a small file system of its own in memory, filled to the last byte, so the harness has to be root. A Postgres
that finds no room for its log ends itself; the harness then starts it again as soon as there is room, as its supervisor does.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import newest_state
from tests.crash.report import Report
from tests.crash.system import Member, System, running_system
from tests.openai_server import serving

RESUME_SECONDS_MAX = 30.0
PATIENCE_SECONDS = 120.0
DATA_BYTES = 320 * 1024**2
SCRATCH_BYTES, INBOX_BYTES = 4 * 1024**2, 16 * 1024**2
FILLED_BYTES = 1024**2
# How much is left free each time, so that there is no room at ever another step.
ROOM_BYTES_MAX = 1024**2
TIMES, FILES, COMMENT_BYTES = 5, 12, 200_000
# Longer than all attempts that a job has, so that one which were charged would be buried.
FULL_SECONDS = 40.0
CONFIGURATION = "max_wal_size = 64MB\nmin_wal_size = 32MB\nwal_recycle = on\n"
_GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_WORDS = "No space left on device"


class NoDisk(Exception):
    """This machine lets nobody make a file system."""


async def run(report: Report, options: Options) -> None:
    """Fill every disk, and make room again."""
    try:
        await fill_data(report, options, times=options.sized(TIMES))
        await fill_scratch(report, options, seconds=max(3.0, FULL_SECONDS * options.scale))
        await read_only_inbox(report, options)
    except NoDisk as error:
        report.figures["skipped"] = str(error)
        report.say(f"skipped: {error}")


@contextlib.contextmanager
def small_disk(folder: Path, disk_bytes: int) -> Iterator[Path]:
    """Make a file system of a fixed size.

    Raises: NoDisk when this machine does not let us.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={disk_bytes},mode=755", "tmpfs", str(folder)]
    if (
        os.geteuid() != 0
        or shutil.which("mount") is None
        or subprocess.run(command, capture_output=True, check=False).returncode != 0
    ):
        raise NoDisk("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, room_bytes: int = 0) -> Path:
    """Leave so many bytes of a disk."""
    filler = disk / ".filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(FILLED_BYTES)) == FILLED_BYTES:
                pass
        file.truncate(max(0, file.tell() - room_bytes))
    return filler


async def fill_data(report: Report, options: Options, *, times: int) -> None:
    """Postgres has no room: nothing is half ready, a person can see why, and all goes on when there is some."""
    dice = options.dice("disk")
    with small_disk(options.folder / "data", DATA_BYTES) as disk:
        async with running_cluster(folder=disk, configuration=CONFIGURATION) as cluster:
            with serving() as provider:
                async with running_system(options.folder / "full", cluster, provider) as system:
                    await _start(system)
                    part = _Part(system, report, options)
                    await part.drop(3)
                    await part.until_ready(PATIENCE_SECONDS)
                    for number in range(times):
                        part.read_on()
                        filler = fill(disk, dice.randrange(ROOM_BYTES_MAX))
                        try:
                            await part.drop(FILES)
                            await part.until_seen(f"full disk {number + 1}")
                            await asyncio.sleep(dice.uniform(0, max(1.0, 10 * min(1.0, options.scale))))
                        finally:
                            filler.unlink()
                        await part.resume(f"Postgres' disk, time {number + 1}")
                    await part.end()


async def fill_scratch(report: Report, options: Options, *, seconds: float) -> None:
    """The parsers have no room for a temporary file."""
    with small_disk(options.folder / "scratch", SCRATCH_BYTES) as disk:
        async with _system(options, "scratched") as system:
            await _start(system, TMPDIR=str(disk))
            part = _Part(system, report, options)
            await part.drop(1)
            await part.until_ready(PATIENCE_SECONDS)
            part.read_on()
            filler = fill(disk)
            try:
                await part.drop(FILES)
                started = time.monotonic()
                await part.until_seen("full scratch")
                await system.wait(part.is_in_health, PATIENCE_SECONDS, "health tells nothing of a full scratch")
                await asyncio.sleep(max(0.0, seconds - (time.monotonic() - started)))
            finally:
                filler.unlink()
            await part.resume(f"a scratch full for {seconds:.0f} s")
            await part.end()


async def read_only_inbox(report: Report, options: Options) -> None:
    """Nobody may write into the inbox: its files are taken, and what that costs is told."""
    folder = options.folder / "shut"
    with small_disk(folder / "inbox", INBOX_BYTES) as inbox:
        async with _system(options, "shut") as system:
            part = _Part(system, report, options)
            await part.drop(3)
            _remount(inbox, "ro")
            await _start(system)
            await part.until_ready(PATIENCE_SECONDS)

            async def is_told() -> bool:
                health = await system.request(system.members["query"], "GET", "/health")
                return "cannot be written to" in health.text

            await system.wait(is_told, PATIENCE_SECONDS, "health tells nothing of a read-only inbox")
            _remount(inbox, "rw")
            await part.drop(3)
            await part.resume("a read-only inbox")
            _remount(inbox, "ro")
            for member in list(system.members):
                await system.kill(member)
            await part.until_ready(PATIENCE_SECONDS)
            _remount(inbox, "rw")
            await part.end()


def _remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


@contextlib.asynccontextmanager
async def _system(options: Options, name: str) -> AsyncIterator[System]:
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(options.folder / name, cluster, provider) as system:
                yield system


async def _start(system: System, **ingester: str) -> None:
    await system.add("ingester", **ingester)
    await system.add("embedder")
    await system.add("query")
    await system.wait_ready()


class _Part:
    def __init__(self, system: System, report: Report, options: Options) -> None:
        self._system = system
        self._report = report
        self._options = options
        self._dice = options.dice("texts")
        self._number = 0
        self._read: dict[str, int] = {}

    async def drop(self, count: int) -> None:
        """Drop files that need room, and little work: most of each is a comment."""
        for _ in range(count):
            self._number += 1
            text = f"<p>Note {self._number} says that the gate opens at {self._dice.random()}.</p>"
            comment = f"<!-- {self._dice.randbytes(COMMENT_BYTES // 2).hex()} -->"
            (self._system.inbox / f"note-{self._number}.html").write_text(
                f"<html><body>{text}{comment}</body></html>\n"
            )

    def read_on(self) -> None:
        """Take what the logs tell so far for read: it is of another time."""
        self._read = {path.name: path.stat().st_size for path in self._system.folder.glob("*.log")}

    async def until_seen(self, name: str) -> None:
        """Wait until a log tells the cause."""
        started = time.monotonic()

        async def is_told() -> bool:
            for path in self._system.folder.glob("*.log"):
                with path.open(encoding="utf-8", errors="replace") as log:
                    log.seek(self._read.get(path.name, 0))
                    if _WORDS in log.read():
                        return True
            return False

        await self._system.wait(is_told, PATIENCE_SECONDS, f"{name}: no log tells why nothing goes on")
        self._report.figures[f"{name}: cause in a log after (s)"] = round(time.monotonic() - started, 1)

    async def is_in_health(self) -> bool:
        query: Member = self._system.members["query"]
        health = await self._system.request(query, "GET", "/health")
        return health.status_code == 503 and _WORDS in health.text

    async def resume(self, name: str) -> None:
        """See that all goes on once there is room, Postgres started again if it had ended itself."""
        started = time.monotonic()
        is_started = await self._restart_postgres()
        seconds = await self.until_ready(PATIENCE_SECONDS) + time.monotonic() - started
        self._report.figures[f"{name}: resumed after (s)"] = round(seconds, 1)
        if is_started:
            self._report.figures[f"{name}: Postgres"] = "had ended itself"
        if self._options.scale >= 1:
            self._report.expect(seconds <= RESUME_SECONDS_MAX, f"{name}: resumed after {seconds:.1f} s")

    async def _restart_postgres(self) -> bool:
        try:
            await (await self._system.connect()).close()
        except asyncpg.CannotConnectNowError:
            return False  # it recovers by itself
        except OSError:
            with contextlib.suppress(AssertionError, TimeoutError):
                await self._system.cluster.start()
            return True
        return False

    async def until_ready(self, seconds: float) -> float:
        """Wait until every file is ready."""

        async def is_so() -> bool:
            connection = await self._system.connect()
            try:
                for number in range(1, self._number + 1):
                    if await newest_state(connection, f"inbox:note-{number}.html") != "ready":
                        return False
                return True
            finally:
                await connection.close()

        return await self._system.wait(is_so, seconds, "not every file is ready")

    async def end(self) -> None:
        """Nothing half ready, nothing lost, nothing failed."""
        picture = await self._system.wait_quiet(lambda seen: len(seen.documents) == self._number, PATIENCE_SECONDS)
        self._report.expect(not picture.remains, f"left over: {picture.remains}")
        self._report.expect(
            len(picture.documents) == self._number, f"{len(picture.documents)} of {self._number} documents"
        )
        findings = await self._system.check()
        self._report.expect(not findings, f"invariants: {findings}")
        codes = {code for member in self._system.members.values() for code in member.exits} - {-9}
        self._report.expect(codes <= {75}, f"processes ended by themselves with {codes}")
