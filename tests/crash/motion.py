"""T10: files in motion. Writers of every kind against the real watcher and a real database; what is true at rest is the folder."""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import asyncpg
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, get_state_machine_test, initialize, invariant, rule

from services.ingester import events, take, watch
from services.ingester.inbox import WholeFile
from services.ingester.inotify import IN_Q_OVERFLOW, Happening, Inotify
from services.ingester.paths import collection_of, inbox_uri
from services.ingester.settings import IngesterSettings
from services.ingester.watch import InboxWatcher
from shared.database import Pool, open_pool
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.report import Report
from tests.factories import make_collection

TRACES = 1000
STEPS = 14
WRITERS_MAX = 3
REST_SECONDS_MAX = 30.0
LOOK_SECONDS = 0.01
PAUSES_MS = (0, 0, 1, 5, 20, 60, 150)
PATHS = ("a.md", "b.md", "team/a.md", "team/b.md", "team/sub/a.md", "other/a.md", "other/sub/c.txt")
FOLDERS = ("team", "team/sub", "other", "other/sub", "new")
# As short as they may be: what is waited for in every trace is waited for a thousand times.
PACE = (
    mock.patch.object(watch, "DELETION_GRACE_SECONDS", 0.03),
    mock.patch.object(watch, "RETRY_SECONDS", 0.05),
    mock.patch.object(take, "DEBOUNCE_SECONDS", 0.03),
    mock.patch.object(events, "HALF_MOVE_SECONDS", 0.03),
)
RESCAN_SECONDS, SETTLE_SECONDS = 0.2, 0.1
_EMPTY = """
DELETE FROM job;
DELETE FROM collection;
DELETE FROM blob;
DELETE FROM skipped_file;
DELETE FROM inbox_mark;
DELETE FROM inbox_pause;
DELETE FROM document_event;
"""
_NEWEST = """
SELECT DISTINCT ON (d.id) k.name, d.source_uri, b.sha256
FROM document AS d
JOIN collection AS k ON k.id = d.collection_id
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
JOIN blob AS b ON b.id = v.blob_id
ORDER BY d.id, v.id DESC
"""
_VERSIONS = """
SELECT d.source_uri, b.sha256, lag(b.sha256) OVER (PARTITION BY d.id ORDER BY v.id) AS before
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
JOIN blob AS b ON b.id = v.blob_id
"""

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass
class Found:
    """What all traces came to."""

    traces: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    files: int = 0
    versions: int = 0
    rest_seconds: list[float] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


@dataclass
class World:
    """Where traces happen: one database for all of them, one folder for each."""

    run: Run
    pool: Pool
    owner: asyncpg.Connection
    folder: Path
    number: int
    found: Found = field(default_factory=Found)


@dataclass
class Writer:
    """A program that has a file open for writing."""

    file: BinaryIO
    path: str


class Motion(RuleBasedStateMachine):
    """Programs that write, and the watcher between their steps. Time passes only where a rule lets it."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._number = world.found.traces
        world.found.traces += 1
        self._inbox = world.folder / f"inbox-{self._number}"
        self._outside = world.folder / f"outside-{self._number}"
        self._inbox.mkdir()
        self._outside.mkdir()
        self._count = 0
        self._writers: list[Writer] = []
        self._whole: set[bytes] = set()  # sums of what was once a whole file
        self._renamed = False
        self._history: list[str] = []
        self._before_open: list[Callable[[], None]] = []
        self._while_read: list[Callable[[], None]] = []
        self._drops = 0
        self._turn = threading.RLock()
        self._dice = random.Random(f"{world.number} {self._number}")
        self._patches = contextlib.ExitStack()
        # Only a program's main thread may choose how to take a signal; whoever runs this has done so.
        self._patches.enter_context(mock.patch.object(watch.signal, "signal"))
        for pace in PACE:
            self._patches.enter_context(pace)
        self._patches.enter_context(mock.patch.object(take, "WholeFile", self._file_class()))
        self._patches.enter_context(mock.patch.object(Inotify, "read", self._reader()))
        world.run(world.owner.execute(_EMPTY))
        self._task: asyncio.Task[None] | None = None
        self._start()

    # -- the watcher ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        async def start() -> asyncio.Task[None]:
            _, model_id = await make_collection(self._world.pool)
            asked = IngesterSettings(inbox=self._inbox, rescan_seconds=RESCAN_SECONDS, settle_seconds=SETTLE_SECONDS)
            self._watcher = InboxWatcher(self._world.pool, asked, model_id)
            return asyncio.create_task(self._watcher.run())

        self._task = self._world.run(start())

    def _stop(self) -> None:
        async def stop(task: "asyncio.Task[None]") -> None:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(outcome, asyncio.CancelledError):
                self._complain(f"the watcher ended with {outcome!r}")

        if self._task is not None:
            self._world.run(stop(self._task))
        self._task = None

    def _file_class(self) -> type[WholeFile]:
        """A file before whose opening, and during whose reading, somebody else has a turn."""
        machine = self

        class DisturbedFile(WholeFile):
            def __init__(self, root: Path, relative: str, *, file_bytes_max: int) -> None:
                _have_turns(machine._before_open)
                super().__init__(root, relative, file_bytes_max=file_bytes_max)

            def pieces(self) -> Iterator[bytes]:
                for piece in super().pieces():
                    _have_turns(machine._while_read)
                    yield piece

        return DisturbedFile

    def _reader(self) -> Callable[[Inotify], list[Happening]]:
        read, machine = Inotify.read, self

        def read_or_drop(inotify: Inotify) -> list[Happening]:
            happenings = read(inotify)
            if not machine._drops or not happenings:
                return happenings
            machine._drops -= 1
            return [Happening(None, IN_Q_OVERFLOW, 0)]

        return read_or_drop

    # -- programs ---------------------------------------------------------------------------------------------------

    def _note(self, step: str) -> None:
        self._history.append(step)
        self._world.found.steps[step.split("(", maxsplit=1)[0]] += 1

    def _do(self, step: str, act: Callable[[], object]) -> None:
        """Do what a program does; that a file is not there is its own affair. Some do it in the thread that reads files."""
        missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
        with self._turn, contextlib.suppress(*missing):
            self._note(step)
            act()

    def _content(self) -> bytes:
        self._count += 1
        return f"Sheet {self._count} of trace {self._number}: the gardener plants.\n".encode() * (1 + self._count % 5)

    def _is_whole(self, content: bytes) -> None:
        self._whole.add(hashlib.sha256(content).digest())

    def _write(self, path: Path, content: bytes, mode: str = "wb") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode != "wb" and path.exists():
            self._is_whole(path.read_bytes() + content if mode == "ab" else content)
        self._is_whole(content)
        with path.open(mode) as file:
            if mode == "r+b":
                file.truncate(0)
            file.write(content)

    @initialize(paths=st.sets(st.sampled_from(PATHS), min_size=1))
    def furnish(self, paths: set[str]) -> None:
        for path in sorted(paths):
            self._do(f"write({path}, wb)", lambda path=path: self._write(self._inbox / path, self._content()))

    @rule(path=st.sampled_from(PATHS), mode=st.sampled_from(["wb", "ab", "r+b"]))
    def write(self, path: str, mode: str) -> None:
        self._do(f"write({path}, {mode})", lambda: self._write(self._inbox / path, self._content(), mode))

    @rule(path=st.sampled_from(PATHS))
    def rename_into_place(self, path: str) -> None:
        def act() -> None:
            self._write(self._outside / "new", self._content())
            (self._inbox / path).parent.mkdir(parents=True, exist_ok=True)
            (self._outside / "new").replace(self._inbox / path)

        self._do(f"rename_into_place({path})", act)

    @rule(path=st.sampled_from(PATHS), other=st.sampled_from(PATHS))
    def copy(self, path: str, other: str) -> None:
        self._do(f"copy({path}, {other})", lambda: self._write(self._inbox / other, (self._inbox / path).read_bytes()))

    @rule(path=st.sampled_from(PATHS), mode=st.sampled_from(["wb", "ab"]))
    def begin(self, path: str, mode: str) -> None:
        """Open a file and write a part of it; go on with it at any time."""
        if len(self._writers) == WRITERS_MAX:
            return
        (self._inbox / path).parent.mkdir(parents=True, exist_ok=True)
        writer = Writer((self._inbox / path).open(mode, buffering=0), path)
        self._writers.append(writer)
        self._do(f"begin({path}, {mode})", lambda: _write_on(writer, self._content()))

    @rule(which=st.integers(0, WRITERS_MAX - 1))
    def write_on(self, which: int) -> None:
        for writer in self._writers[which : which + 1]:
            self._do(f"write_on({writer.path})", lambda writer=writer: _write_on(writer, self._content()))

    @rule(which=st.integers(0, WRITERS_MAX - 1))
    def finish(self, which: int) -> None:
        for writer in self._writers[which : which + 1]:
            self._writers.remove(writer)
            self._do(f"finish({writer.path})", lambda writer=writer: self._finish(writer))

    def _finish(self, writer: Writer) -> None:
        _write_on(writer, self._content())
        # Two that write one file at once make what nobody meant, and it is whole when one of them closes it.
        self._is_whole(Path(f"/proc/self/fd/{writer.file.fileno()}").read_bytes())
        writer.file.close()

    @rule(path=st.sampled_from(PATHS))
    def touch(self, path: str) -> None:
        self._do(f"touch({path})", lambda: os.utime(self._inbox / path))

    @rule(path=st.sampled_from(PATHS))
    def delete(self, path: str) -> None:
        self._do(f"delete({path})", (self._inbox / path).unlink)

    @rule(path=st.sampled_from(PATHS))
    def delete_and_write(self, path: str) -> None:
        def act() -> None:
            (self._inbox / path).unlink(missing_ok=True)
            self._write(self._inbox / path, self._content())

        self._do(f"delete_and_write({path})", act)

    @rule(path=st.sampled_from(PATHS), other=st.sampled_from(PATHS))
    def move(self, path: str, other: str) -> None:
        def act() -> None:
            (self._inbox / other).parent.mkdir(parents=True, exist_ok=True)
            (self._inbox / path).rename(self._inbox / other)
            self._renamed = True

        self._do(f"move({path}, {other})", act)

    @rule(folder=st.sampled_from(FOLDERS), other=st.sampled_from(FOLDERS))
    def move_folder(self, folder: str, other: str) -> None:
        def act() -> None:
            with contextlib.suppress(OSError):  # into itself, or onto one that is not empty
                (self._inbox / folder).rename(self._inbox / other)
                self._renamed = True

        self._do(f"move_folder({folder}, {other})", act)

    @rule(folder=st.sampled_from(FOLDERS))
    def take_folder_away(self, folder: str) -> None:
        def act() -> None:
            (self._inbox / folder).rename(self._outside / f"away-{self._count}")
            self._count += 1

        self._do(f"take_folder_away({folder})", act)

    # -- at the worst moment ----------------------------------------------------------------------------------------

    @rule(path=st.sampled_from(PATHS))
    def swap_before_it_is_opened(self, path: str) -> None:
        def act() -> None:
            self._write(self._outside / "swapped", self._content())
            (self._outside / "swapped").replace(self._inbox / path)

        self._before_open.append(lambda: self._do(f"swapped({path})", act))

    @rule(path=st.sampled_from(PATHS))
    def delete_before_it_is_opened(self, path: str) -> None:
        self._before_open.append(lambda: self._do(f"deleted({path})", (self._inbox / path).unlink))

    @rule(path=st.sampled_from(PATHS), mode=st.sampled_from(["wb", "ab"]))
    def write_while_it_is_read(self, path: str, mode: str) -> None:
        act = lambda: self._write(self._inbox / path, self._content(), mode)  # noqa: E731 (it is done later)
        self._while_read.append(lambda: self._do(f"written_while_read({path}, {mode})", act))

    @rule()
    def drop_events(self) -> None:
        self._do("drop_events()", lambda: setattr(self, "_drops", self._drops + 1))

    @rule()
    def restart(self) -> None:
        self._note("restart()")
        self._stop()
        self._start()

    @invariant()
    def time_passes(self) -> None:
        """Between any two steps the watcher gets as far as chance lets it."""
        ms = self._dice.choice(PAUSES_MS)
        self._history.append(f"{ms} ms")
        self._world.run(asyncio.sleep(ms / 1000))

    # -- rest -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let everybody finish, wait until the database is as the folder is, and look whether it stays so."""
        try:
            while self._writers:
                self._finish(self._writers.pop())
            self._before_open.clear()
            self._while_read.clear()
            self._drops = 0
            started = time.monotonic()
            self._world.run(self._rest())
            self._world.found.rest_seconds.append(time.monotonic() - started)
            self._stop()
        finally:
            self._patches.close()
            for writer in self._writers:
                writer.file.close()
            shutil.rmtree(self._inbox, ignore_errors=True)
            shutil.rmtree(self._outside, ignore_errors=True)

    async def _rest(self) -> None:
        deadline = time.monotonic() + REST_SECONDS_MAX
        # Whoever had a turn while a file was read may still be at it.
        while await self._stored() != self._expected() and time.monotonic() < deadline:  # noqa: ASYNC110 (in the database)
            await asyncio.sleep(LOOK_SECONDS)
        for _ in range(2):  # nothing that is still under way changes it
            before = self._watcher._scanned_at
            while self._watcher._scanned_at == before and time.monotonic() < deadline:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(LOOK_SECONDS)
        stored, expected = await self._stored(), self._expected()
        found = self._world.found
        found.files += len(expected)
        for name in sorted(stored.keys() | expected.keys()):
            if (seen := stored.get(name)) != (wanted := expected.get(name)):
                self._complain(f"{name}: {_short(seen)} is stored, {_short(wanted)} is there")
        rows = await self._world.owner.fetch(_VERSIONS)
        found.versions += len(rows)
        for row in rows:
            if row["sha256"] not in self._whole:
                self._complain(f"{row['source_uri']}: a part of a file became a version")
            if row["sha256"] == row["before"] and not self._renamed:
                self._complain(f"{row['source_uri']}: the same bytes became another version")
        if self._watcher.note:
            self._complain(f"the watcher says: {self._watcher.note}")
        sums = await self._world.owner.fetchval("SELECT count(*) FROM blob WHERE sha256 IS NULL")
        # One that ends in the midst of storing leaves them to the sweep.
        if sums and "restart()" not in self._history:
            self._complain(f"{sums} unfinished originals are left")

    def _expected(self) -> dict[tuple[str, str], bytes]:
        expected = {}
        with self._turn:
            for path in self._inbox.rglob("*"):
                if path.is_file() and not path.name.startswith("."):
                    relative = str(path.relative_to(self._inbox))
                    sha256 = hashlib.sha256(path.read_bytes()).digest()
                    expected[collection_of(relative), inbox_uri(relative)] = sha256
        return expected

    async def _stored(self) -> dict[tuple[str, str], bytes]:
        rows = await self._world.owner.fetch(_NEWEST)
        return {(row["name"], row["source_uri"]): row["sha256"] for row in rows}

    def _complain(self, complaint: str) -> None:
        self._world.found.mismatches.append(f"trace {self._number}: {complaint}; {' · '.join(self._history)}")


def _write_on(writer: Writer, content: bytes) -> None:
    writer.file.write(content)


def _have_turns(waiting: list[Callable[[], None]]) -> None:
    with contextlib.suppress(IndexError):  # somebody else had the last one
        while True:
            waiting.pop()()


def _short(sha256: bytes | None) -> str:
    return sha256.hex()[:8] if sha256 is not None else "nothing"


def run_traces(
    url: str, folder: Path, *, traces: int, number: int, tell: Callable[[Found], None] = lambda _: None
) -> Found:
    """Run so many traces, chosen by a number, against a migrated database."""

    class Told(Motion):
        def teardown(self) -> None:
            super().teardown()
            tell(self._world.found)

    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        pool = runner.run(stack.enter_async_context(open_pool(url, "askbox_worker", "motion", connections_max=6)))
        owner = runner.run(asyncpg.connect(url, server_settings={"search_path": "askbox, public"}))
        world = World(runner.run, pool, owner, folder, number)
        try:
            # One that fails is told of by itself: what happens beside a running watcher does not happen twice alike.
            chosen = settings(
                max_examples=traces, stateful_step_count=STEPS, deadline=None, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            seed(number)(get_state_machine_test(lambda: Told(world), settings=chosen))()
        finally:
            runner.run(owner.close())
            runner.run(stack.aclose())
    return world.found


async def run(report: Report, options: Options) -> None:
    """Let files move in every way, a thousand times."""
    traces = options.sized(TRACES, least=5)

    def tell(found: Found) -> None:
        if found.traces % 50 == 0:
            report.say(f"{found.traces} traces, {len(found.mismatches)} mismatches")

    signal.signal(signal.SIGIO, signal.SIG_IGN)
    async with running_cluster() as cluster:
        url = await cluster.create_database()
        found = await asyncio.to_thread(run_traces, url, options.folder, traces=traces, number=options.seed, tell=tell)
    report.figures |= {
        "traces": found.traces,
        "mismatches": len(found.mismatches),
        "steps": sum(found.steps.values()),
        "files at rest": found.files,
        "versions": found.versions,
        "seconds to rest, worst": round(max(found.rest_seconds, default=0.0), 2),
    }
    report.figures |= {f"  {step}": count for step, count in sorted(found.steps.items())}
    for mismatch in found.mismatches[:20]:
        report.expect(False, mismatch)
    report.expect(not found.mismatches, f"{len(found.mismatches)} mismatches in {found.traces} traces")
