"""T08: files of authors who mean harm, one after the other through a real ingester. Each ends alone and with a reason.

They are generated (`tests.formats.hostile`). Meanwhile somebody listens where they point to, looks at every child of the
parse server, and traces its system calls where there is `strace`; a good file between them has to be ready as ever.
"""

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import asyncpg
import psutil

from services.ingester.sandbox import _ERRORS
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import drop_and_wait
from tests.crash.report import Report
from tests.crash.system import System, running_system
from tests.formats.hostile import Hostile, Recipe, corpus
from tests.openai_server import serving

GIB = 1024**3
MEMORY_BYTES_MAX = GIB
# A sixth of the default, and everything else as it is: so many files use all of it that the part would take hours.
PARSE_SECONDS = 20
WALL_SECONDS_MORE = 2.0
GOOD_SECONDS_MAX = 5.0
BATCH = 10
# Of one batch: two at a time, each as long as it may take, then what it staged is embedded.
BATCH_SECONDS_MAX = 1200.0
LOOK_SECONDS = 0.005
CANARY = "quokkacanary"
TRACED = "connect,bind,sendto,sendmsg,openat,open,creat,mkdir,rename,unlink,symlink,link,execve"
SETTINGS = {
    "ASKBOX_CHUNK_TOKENS": "500",
    "ASKBOX_EMBED_BATCH": "256",
    "ASKBOX_PROVIDER_SECONDS": "60",
    "ASKBOX_RESCAN_SECONDS": "5",
    "ASKBOX_LEASE_SECONDS": "30",
}
_ENDED = """
SELECT d.source_uri, v.state, v.error, v.error_code, extract(epoch FROM coalesce(v.embedding_at, v.ended_at) - v.parsing_at)::float AS seconds
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
WHERE d.source_uri = ANY($1) AND v.state IN ('ready', 'failed')
"""
_IN_WORK = "SELECT count(*) FROM document_version WHERE state IN ('queued', 'parsing', 'embedding')"
_ATTACHED = "SELECT count(*) FROM document WHERE position('//' IN source_uri) > 0"
_TEXT_TABLES = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'askbox'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'blob_part'
ORDER BY c.relname
"""
_LEFT_WITHIN = re.compile(
    r'AF_INET6?|"\.\./|O_WRONLY|O_RDWR|O_CREAT|^(?:creat|mkdir|rename|unlink|symlink|link|execve)'
)
# What a process may open for writing though it writes nothing: the bin, and its own settings below /proc.
_HARMLESS = re.compile(r'"/dev/null"|"/proc/')
# It names its limit: how busy the machine is decides whether it does so.
_RAN_OUT = ("parsing took longer", "the parser was stopped", "the parser needed more memory", "needs more memory")
_NO_REASONS = (
    "the parser failed",
    "the parser wrote",
    "the parser said nothing",
    "the parser stopped",
    "the parser found",
)


@dataclass
class Children:
    """What was seen of the processes that parse. Units: bytes, seconds."""

    server: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    seen: set[int] = field(default_factory=set)
    server_starts: set[int] = field(default_factory=set)
    _started: dict[int, float] = field(default_factory=dict)

    def look(self, ingester: psutil.Process) -> None:
        """Look at all that live, twice at those that a busy machine keeps alive for long."""
        if not self.server or not psutil.pid_exists(self.server):
            self.server = next((process.pid for process in ingester.children(recursive=True) if _is_server(process)), 0)
            self.server_starts |= {self.server} - {0}
        alive: set[int] = set()
        with contextlib.suppress(OSError):
            alive = set(map(int, Path(f"/proc/{self.server}/task/{self.server}/children").read_text().split()))
        now = time.monotonic()
        for pid in alive:
            self._started.setdefault(pid, now)
            self.seconds = max(self.seconds, now - self._started[pid])
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                marks = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
                self.memory_bytes = max(self.memory_bytes, *marks, 0)
        self.seen |= alive
        for pid in self._started.keys() - alive:
            del self._started[pid]


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "services.ingester.parse_server" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    return False


@dataclass
class Listener:
    """Listens where hostile files point to, and counts who comes."""

    port: int = 0
    count: int = 0

    def hear(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        writer.close()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """Listen while the context lasts."""
    listener = Listener()
    server = await asyncio.start_server(listener.hear, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


async def run(report: Report, options: Options) -> None:
    """Feed the whole corpus."""
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(options.folder, cluster, provider, **SETTINGS) as system:
                await feed(report, options, system, parse_seconds=PARSE_SECONDS)


async def feed(
    report: Report, options: Options, system: System, *, parse_seconds: int, names: Iterable[str] = (),
    good_seconds_max: float = GOOD_SECONDS_MAX, wall_seconds_more: float = WALL_SECONDS_MORE,
) -> None:  # fmt: skip
    """Drop hostile files in batches and a good one behind each; `names` are the beginnings of those to drop."""
    secret = options.folder / "secret.txt"
    secret.write_text(f"{CANARY} is what nobody may read.\n")
    scratch, traces = options.folder / "scratch", options.folder / "traces"
    scratch.mkdir()
    traces.mkdir()
    strace = shutil.which("strace")
    wrapper = (
        (strace, "-D", "-ff", "-qq", "--seccomp-bpf", "-e", f"trace={TRACED}", "-o", f"{traces}/t") if strace else ()
    )
    limits = {"ASKBOX_PARSE_SECONDS": str(parse_seconds), "ASKBOX_PARSE_MEMORY_BYTES": str(MEMORY_BYTES_MAX)}
    async with listening() as listener:
        recipe = Recipe(secret, f"http://127.0.0.1:{listener.port}/", options.scale)
        wanted = tuple(names)
        files = (file for file in corpus(recipe) if not wanted or file.name.startswith(wanted))
        member = await system.add("ingester", wrapper=wrapper, TMPDIR=str(scratch), **limits)
        await system.add("embedder")
        await system.wait_ready()
        assert member.pid is not None
        children = Children()
        looking = asyncio.create_task(_look(children, psutil.Process(member.pid)))
        connection = await system.connect()
        try:
            fed = Fed(report, system, connection, good_seconds_max)
            number = 0
            while batch := list(islice(files, BATCH)):
                number += 1
                await fed.feed(number, batch)
            await fed.end()
            await _judge(report, system, connection, fed, children, listener)
            report.expect(
                children.seconds <= parse_seconds + wall_seconds_more, f"a child lived for {children.seconds:.1f} s"
            )
            _judge_calls(report, traces, children, has_strace=bool(strace))
            left = [path.name for path in scratch.iterdir()]
            report.expect(not left, f"left in the folder for temporary files: {left[:5]}")
            report.expect(not list(Path("/tmp").glob("askbox-escaped*")), "a file was written outside")
        finally:
            looking.cancel()
            await connection.close()


async def _look(children: Children, ingester: psutil.Process) -> None:
    while True:
        with contextlib.suppress(psutil.Error):
            children.look(ingester)
        await asyncio.sleep(LOOK_SECONDS)


@dataclass
class Fed:
    """What became of each file."""

    report: Report
    system: System
    connection: asyncpg.Connection
    good_seconds_max: float
    ended: dict[str, asyncpg.Record] = field(default_factory=dict)
    files: list[Hostile] = field(default_factory=list)
    good_seconds: list[float] = field(default_factory=list)

    async def feed(self, number: int, files: Sequence[Hostile]) -> None:
        """Drop a batch, wait for its end, then drop a good file."""
        uris: dict[str, Hostile] = {}
        for file in files:
            name = file.name.replace("/", "-")
            (self.system.inbox / name).write_bytes(await asyncio.to_thread(file.write))
            uris[f"inbox:{name}"] = file

        async def have_ended() -> bool:
            return len(await self.connection.fetch(_ENDED, list(uris))) == len(uris)

        await self.system.wait(have_ended, BATCH_SECONDS_MAX, f"not ended: {sorted(uris)}")
        for row in await self.connection.fetch(_ENDED, list(uris)):
            self.ended[uris[row["source_uri"]].name] = row
        self.files += files
        await self._wait_for_attachments()
        seconds = await drop_and_wait(
            self.system, self.connection, f"good{number}.md", f"# Good {number}\n\nA harbour with {number} ships.\n"
        )
        self.good_seconds.append(seconds)
        self.report.expect(
            seconds <= self.good_seconds_max, f"a good file took {seconds:.1f} s behind {files[-1].name}"
        )
        slowest = max(files, key=lambda file: self.ended[file.name]["seconds"])
        self.report.say(
            f"{len(self.files)} files; the slowest of these, {slowest.name}, took {self.ended[slowest.name]['seconds']:.1f} s; "
            f"a good one {seconds:.1f} s"
        )

    async def _wait_for_attachments(self) -> None:
        async def is_quiet() -> bool:
            return await self.connection.fetchval(_IN_WORK) == 0

        await self.system.wait(is_quiet, BATCH_SECONDS_MAX, "attachments are in work")

    async def end(self) -> None:
        """See what each file ended as."""
        for file in self.files:
            row = self.ended[file.name]
            reason = row["error"] or ""
            ran_out = any(words in reason for words in _RAN_OUT)
            self.report.expect(
                file.end in ("", row["state"]) or ran_out, f"{file.name} ended {row['state']}: {reason[:200]}"
            )
            is_ours = row["state"] == "ready" or row["error_code"] in _ERRORS
            self.report.expect(is_ours, f"{file.name} failed for {row['error_code']}: {reason[:200]}")
            self.report.expect(not reason.startswith(_NO_REASONS), f"{file.name} has no reason: {reason[:200]}")


async def _judge(
    report: Report, system: System, connection: asyncpg.Connection, fed: Fed, children: Children, listener: Listener
) -> None:
    """Compare what was seen with what should be."""
    failed = [row for row in fed.ended.values() if row["state"] == "failed"]
    stopped = [name for name, row in fed.ended.items() if "the parser was stopped" in (row["error"] or "")]
    late = [name for name, row in fed.ended.items() if "parsing took longer" in (row["error"] or "")]
    restarts = sum(len(member.exits) for member in system.members.values())
    found = await _tables_with(connection, CANARY)
    report.figures |= {
        "files": len(fed.ended),
        "ready": len(fed.ended) - len(failed),
        "failed with a reason": len(failed),
        "of these out of time": len(late),
        "of these stopped or crashed": f"{len(stopped)} {stopped[:8]}",
        "attached documents": await connection.fetchval(_ATTACHED),
        "restarts of processes": restarts,
        "restarts of the parse server": len(children.server_starts) - 1,
        "children seen": len(children.seen),
        "child memory max (MiB)": children.memory_bytes // 2**20,
        "child seconds max": round(children.seconds, 1),
        "slowest parse (s)": round(max(row["seconds"] for row in fed.ended.values()), 1),
        "connections to the canary": listener.count,
        "canary in tables": len(found),
        "good file: max s": round(max(fed.good_seconds), 2),
        "good files": len(fed.good_seconds),
    }
    report.expect(restarts == 0, f"{restarts} restarts: {[(m.name, m.exits) for m in system.members.values()]}")
    report.expect(len(children.server_starts) == 1, f"the parse server was started {len(children.server_starts)} times")
    report.expect(children.seen, "no child was seen")
    report.expect(children.memory_bytes <= MEMORY_BYTES_MAX, f"a child held {children.memory_bytes // 2**20} MiB")
    report.expect(listener.count == 0, f"{listener.count} connections to where the files point")
    report.expect(not found, f"the canary is in {found}")
    findings = await system.check()
    report.expect(not findings, f"invariants: {findings}")


async def _tables_with(connection: asyncpg.Connection, word: str) -> list[str]:
    tables = [row["relname"] for row in await connection.fetch(_TEXT_TABLES)]
    return [
        table
        for table in tables
        if await connection.fetchval(f'SELECT EXISTS (SELECT FROM "{table}" AS t WHERE t::text LIKE $1)', f"%{word}%")
    ]


def _judge_calls(report: Report, traces: Path, children: Children, *, has_strace: bool) -> None:
    """Look at what the children asked of the kernel."""
    if not has_strace:
        report.figures["system calls of children"] = "not traced: there is no strace"
        return
    count, bad = 0, []
    for pid in children.seen:
        with contextlib.suppress(FileNotFoundError):
            for line in (traces / f"t.{pid}").read_text(errors="replace").splitlines():
                count += 1
                if _LEFT_WITHIN.search(line) and not _HARMLESS.search(line):
                    bad.append(line[:200])
    report.figures["system calls of children"] = f"{count} traced, {len(bad)} to a network or to write"
    report.expect(count, "no system call of a child was traced")
    report.expect(not bad, f"children asked for what is not theirs: {bad[:3]}")
