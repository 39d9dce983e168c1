"""T11: more files than anybody tells of. Dropped at once, while nobody watches, in folders that may not be watched, in one file."""

import asyncio
import contextlib
import hashlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from services.ingester.events import DROPPED_TOLD_SECONDS
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.report import Report
from tests.crash.system import Member, System, running_system
from tests.openai_server import serving

FILES, FOLDERS, WRITES = 20_000, 500, 20_000
DROP_FOLDERS = 20
EVENTS_QUEUED = 16
WATCHES = 10
RESCAN_SECONDS = 10.0
FOUND_SECONDS_MAX = RESCAN_SECONDS + 10.0
TAKEN_SECONDS_MAX = 900.0
OTHER_SECONDS_MAX = 10.0
MEMORY_BYTES_MAX = 1024**3
LOOK_SECONDS = 0.1
LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")
# The limit of a user namespace of its own, so that nobody else runs short.
FEW_WATCHES = ("unshare", "-Ur", "sh", "-c", f'echo {WATCHES} > /proc/sys/user/max_inotify_watches && exec "$0" "$@"')
# What is measured is finding and taking; parsing has its own parts.
_PARSE_LATER = """
CREATE FUNCTION askbox.later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.run_at = now() + interval ''1 day''; RETURN NEW; END';
CREATE TRIGGER parses_later BEFORE INSERT ON askbox.job FOR EACH ROW EXECUTE FUNCTION askbox.later();
"""
_NEWEST = """
SELECT DISTINCT ON (d.id) d.source_uri, b.sha256, count(*) OVER (PARTITION BY d.id) AS versions
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
JOIN blob AS b ON b.id = v.blob_id
ORDER BY d.id, v.id DESC
"""
_WAITING = "SELECT coalesce(max(waiting_file_count), 0) FROM worker"
_DROPPED = "SELECT coalesce(sum(value), 0) FROM metric_total WHERE name = 'askbox.inbox.events.dropped'"


async def run(report: Report, options: Options) -> None:
    """Flood the inbox in every way."""
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(
                options.folder, cluster, provider, ASKBOX_RESCAN_SECONDS=str(RESCAN_SECONDS), ASKBOX_SETTLE_SECONDS="1"
            ) as system:
                part = Flood(report, system, await system.connect())
                await part.prepare()
                await part.drop_where_nobody_watches(options.sized(FOLDERS, 30))
                await part.watch_with_few_events()
                await part.drop_at_once(options.sized(FILES, 200))
                await part.drop_while_dead(options.sized(FILES // 4, 50))
                await part.storm(options.sized(WRITES, 500))
                await part.judge()


class Log:
    """What a process writes into its log, from the last look on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def facts(self, event: str) -> list[dict[str, Any]]:
        """Return the new lines of an event."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            *lines, rest = file.read().split(b"\n")
            self._at = file.tell() - len(rest)
        return [json.loads(line) for line in lines if event.encode() in line]


class Flood:
    """What lies in the inbox, and what of it has arrived."""

    def __init__(self, report: Report, system: System, connection: asyncpg.Connection) -> None:
        self._report = report
        self._system = system
        self._connection = connection
        self._wanted: dict[str, bytes] = {}
        self._peak_bytes = 0
        self._waiting_max = 0
        self._log = Log(system.folder / "ingester.log")
        # A proxy of the harness would be what takes the time.
        self._direct = {"ASKBOX_DATABASE_URL": system.url, "ASKBOX_LOG_LEVEL": "DEBUG"}

    async def prepare(self) -> None:
        await self._connection.execute(_PARSE_LATER)
        # The model's row is an embedder's to make.
        await self._system.add("embedder")
        await self._system.add("query")
        await self._system.wait_ready()

    async def watch_with_few_events(self) -> None:
        """Let the ingester begin to watch while the kernel keeps few events."""
        with _few_queued_events() as is_small:
            await self._system.add("ingester", **self._direct)
            await self._system.wait_ready()
        self._report.figures["events that the kernel keeps"] = EVENTS_QUEUED if is_small else LIMIT.read_text().strip()

    # -- ways -------------------------------------------------------------------------------------------------------

    async def drop_at_once(self, count: int) -> None:
        """Drop everything within about two seconds, into folders of all sizes, faster than any reader is."""
        for number in range(DROP_FOLDERS):
            self._put(f"at once/{number}/first.md", f"the first of {number}\n".encode())
        await self._until_settled("the folders of the flood")
        self._ingester.signal(signal.SIGSTOP)
        started = time.monotonic()
        await asyncio.to_thread(self._drop, "at once", count, DROP_FOLDERS)
        dropped = time.monotonic() - started
        self._ingester.signal(signal.SIGCONT)
        found = await self._until_found(started, "files dropped at once")
        await self._until_taken("files dropped at once")
        taken = time.monotonic() - started
        overflows = await self._overflows()
        told = len(Log(self._system.folder / "ingester.log").facts("events_dropped"))
        self._report.figures |= {
            "files dropped at once": count,
            "seconds of the drop": round(dropped, 1),
            "seconds until the last was found": round(found, 1),
            "most files that health tells are waiting": self._waiting_max,
            "seconds until the last was taken": round(taken, 1),
            "files taken a second": round(count / taken),
            "times that events were dropped": overflows,
            "lines of the log about it": told,
        }
        self._report.expect(found <= FOUND_SECONDS_MAX, f"the last of {count} files was found after {found:.1f} s")
        self._report.expect(overflows > 0, "no metric tells that events were dropped")
        self._report.expect(told > 0, "no line of the log tells that events were dropped")
        self._report.expect(
            told <= 1 + taken / DROPPED_TOLD_SECONDS, f"{told} lines of the log tell that events were dropped"
        )

    async def drop_while_dead(self, count: int) -> None:
        """Drop files while no ingester runs, and start one."""
        await self._system.remove("ingester")
        await asyncio.to_thread(self._drop, "while dead", count, 5)
        started = time.monotonic()
        await self._system.add("ingester", **self._direct)
        found = await self._until_found(started, "files dropped while nobody watched")
        await self._until_taken("files dropped while nobody watched")
        self._report.figures |= {
            "files dropped while no ingester ran": count,
            "seconds from its start until all were found": round(found, 1),
        }
        self._report.expect(found <= FOUND_SECONDS_MAX, f"the last of {count} files was found after {found:.1f} s")

    async def storm(self, writes: int) -> None:
        """Write to one file all the time; another one waits for nobody."""
        path = self._system.inbox / "storm.log"

        def write() -> float:
            began = time.monotonic()
            for number in range(writes):
                with path.open("ab") as file:
                    file.write(f"line {number}\n".encode())
            return time.monotonic() - began

        writing = asyncio.create_task(asyncio.to_thread(write))
        started = time.monotonic()
        await asyncio.to_thread(self._put, "calm.md", b"a calm file\n")
        await self._until_stored("calm.md", "a file beside the storm")
        calm = time.monotonic() - started
        seconds = await writing
        self._wanted["storm.log"] = hashlib.sha256(path.read_bytes()).digest()
        await self._until_stored("storm.log", "the file that was written all the time")
        rows = {row["source_uri"]: row["versions"] for row in await self._connection.fetch(_NEWEST)}
        versions = rows["inbox:storm.log"]
        self._report.figures |= {
            "writes to one file": writes,
            "seconds of them": round(seconds, 1),
            "versions of it": versions,
            "seconds until a file beside it was taken": round(calm, 1),
        }
        self._report.expect(calm <= OTHER_SECONDS_MAX, f"a file beside the storm waited {calm:.1f} s")
        self._report.expect(versions <= seconds / 2 + 3, f"{versions} versions of a file in {seconds:.1f} s")

    async def drop_where_nobody_watches(self, folders: int) -> None:
        """Only ten folders may be watched."""
        if not await _can_limit_watches():
            self._report.figures["folders beyond the limit of watches"] = "a user namespace cannot be made here"
            return
        # Through the proxy: who is nobody in particular may not enter the folder of the database's socket.
        await self._system.add("ingester", wrapper=FEW_WATCHES, ASKBOX_LOG_LEVEL="DEBUG")
        await self._system.wait_ready()
        for number in range(folders):
            (self._system.inbox / "many" / f"{number}").mkdir(parents=True)
        note = await self._until_note("are not watched")
        await self._until_settled("what was there")
        started = time.monotonic()
        for number in range(folders):
            self._put(f"many/{number}/late.md", f"late {number}\n".encode())
        found = await self._until_found(started, "files in folders that are not watched")
        await self._until_taken("files in folders that are not watched")
        self._report.figures |= {
            "folders, of which ten may be watched": folders,
            "what health says of it": note,
            "seconds until the last file in them was found": round(found, 1),
        }
        self._report.expect(found <= FOUND_SECONDS_MAX, f"files in unwatched folders were found after {found:.1f} s")
        await self._system.remove("ingester")

    # -- judging ----------------------------------------------------------------------------------------------------

    async def judge(self) -> None:
        rows = await self._connection.fetch(_NEWEST)
        stored = {row["source_uri"].removeprefix("inbox:"): row["sha256"] for row in rows}
        twice = [
            row["source_uri"] for row in rows if row["versions"] > 1 and not row["source_uri"].endswith("storm.log")
        ]
        lost = [name for name, sha256 in self._wanted.items() if stored.get(name) != sha256]
        self._report.figures |= {
            "files": len(self._wanted),
            "files that arrived as they are": len(self._wanted) - len(lost),
            "files taken twice": len(twice),
            "memory of the ingester, MiB": self._peak_bytes // 1024**2,
        }
        self._report.expect(not lost, f"{len(lost)} files have not arrived: {lost[:3]}")
        self._report.expect(not twice, f"{len(twice)} files were taken twice: {twice[:3]}")
        self._report.expect(len(stored) == len(self._wanted), f"{len(stored)} documents of {len(self._wanted)} files")
        self._report.expect(self._peak_bytes <= MEMORY_BYTES_MAX, f"the ingester took {self._peak_bytes} bytes")
        findings = await self._system.check()
        self._report.expect(not findings, f"invariants: {findings}")

    # -- small things -----------------------------------------------------------------------------------------------

    @property
    def _ingester(self) -> Member:
        return self._system.members["ingester"]

    def _put(self, name: str, content: bytes) -> None:
        path = self._system.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._wanted[name] = hashlib.sha256(content).digest()

    def _drop(self, folder: str, count: int, folders: int) -> None:
        for number in range(count):
            where = folder if number % 2 else f"{folder}/{number % folders}"
            self._put(f"{where}/{number}.md", f"# {folder} {number}\n\nThe gardener plants.\n".encode())

    async def _until_found(self, started: float, what: str) -> float:
        """Wait until a scan has seen every file, as the log says."""

        async def is_so() -> bool:
            self._note_memory()
            scans = [fact["files"] for fact in self._log.facts("inbox_scanned")]
            return any(files >= len(self._wanted) for files in scans)

        await self._system.wait(is_so, TAKEN_SECONDS_MAX, f"{what} were not all found")
        return time.monotonic() - started

    async def _until_taken(self, what: str) -> None:
        async def is_so() -> bool:
            self._note_memory()
            self._waiting_max = max(self._waiting_max, await self._connection.fetchval(_WAITING))
            return await self._connection.fetchval("SELECT count(*) FROM document") >= len(self._wanted)

        await self._system.wait(is_so, TAKEN_SECONDS_MAX, f"{what} were not all taken")
        self._report.say(f"{what}: taken")

    async def _until_stored(self, name: str, what: str) -> None:
        async def is_so() -> bool:
            rows = await self._connection.fetch(_NEWEST)
            stored = {row["source_uri"]: row["sha256"] for row in rows}
            return stored.get(f"inbox:{name}") == self._wanted[name]

        await self._system.wait(is_so, TAKEN_SECONDS_MAX, f"{what} is not stored")

    async def _until_settled(self, what: str) -> None:
        """Wait until nothing waits, and no scan that began before is under way."""
        await self._until_taken(what)
        await self._system.wait(self._is_settled, TAKEN_SECONDS_MAX, f"{what} is not settled")
        self._log.facts("inbox_scanned")

    async def _is_settled(self) -> bool:
        return bool(self._log.facts("inbox_scanned")) and await self._waiting_by_health() == 0

    async def _until_note(self, words: str) -> str:
        note = ""

        async def is_so() -> bool:
            nonlocal note
            note = str((await self._inbox_by_health()).get("reason", ""))
            return words in note

        await self._system.wait(is_so, FOUND_SECONDS_MAX * 2, f"health says {note!r} of the inbox")
        return note

    async def _waiting_by_health(self) -> int:
        return int((await self._inbox_by_health())["waiting_files"])

    async def _inbox_by_health(self) -> dict[str, object]:
        answer = await self._system.request(self._system.members["query"], "GET", "/health")
        return dict(answer.json()["checks"]["inbox"])

    async def _overflows(self) -> int:
        """Workers add what they count every few seconds."""
        with contextlib.suppress(AssertionError):
            await self._system.wait(
                lambda: self._connection.fetchval(f"SELECT ({_DROPPED}) > 0"), 20, "nothing is counted"
            )
        return int(await self._connection.fetchval(_DROPPED))

    def _note_memory(self) -> None:
        if (pid := self._ingester.pid) is not None:
            with contextlib.suppress(psutil.Error):
                self._peak_bytes = max(self._peak_bytes, psutil.Process(pid).memory_info().rss)


@contextlib.contextmanager
def _few_queued_events() -> Iterator[bool]:
    """Let whoever begins to watch meanwhile keep few events; False where that is not ours to say."""
    before = LIMIT.read_text(encoding="ascii")
    try:
        LIMIT.write_text(str(EVENTS_QUEUED), encoding="ascii")
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        LIMIT.write_text(before, encoding="ascii")


async def _can_limit_watches() -> bool:
    with contextlib.suppress(OSError):
        process = await asyncio.create_subprocess_exec(*FEW_WATCHES, "true", stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0
    return False
