"""T01: kill at every step. Every failpoint, and every Nth statement, of every process, until all of it runs clean.

One long-lived system; rounds of new, changed, moved and deleted files, uploads, deletions and a question. In each round one
step of each process is armed at once: the ingester, the embedder and the query process fall in the same round, and recover
beside one another. Every round has texts of its own, so that every step really happens. At the end the state equals that of
a fresh ingest of the final files.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx2

from tests.crash.__main__ import Options
from tests.crash.cluster import Cluster, running_cluster
from tests.crash.nursery import running_nursery
from tests.crash.picture import _REMAINS, differences
from tests.crash.report import Report
from tests.crash.sweep_points import POINTS, Point
from tests.crash.sweep_scenario import Round
from tests.crash.system import System, running_system
from tests.openai_server import OpenAIServer, serving
from tests.proxy import Trap

KINDS = ("ingester", "embedder", "query")
# Every fifth statement, by turns before it and after it; which of five the seed decides.
STATEMENT_STRIDE = 5
STATEMENTS_MAX = 1000
STRUCK_SECONDS_MAX = 20.0
QUIET_SECONDS_MAX = 60.0
CLIENT_SECONDS_MAX = 60.0
# Who hangs in a transaction holds its locks until the server ends the session after 60 s; here, after this long.
IDLE_IN_TRANSACTION_SECONDS = 1.5
TRIES_MAX = 6
SETTINGS = {"ASKBOX_LEASE_SECONDS": "2", "ASKBOX_POLL_SECONDS": "0.5", "ASKBOX_RESCAN_SECONDS": "0.5"}
ANCHOR = "# Gate\n\nThe gate opens at nine in the morning.\n\n# Lamp\n\nThe lamp burns all night.\n\n# Well\n\nThe well is deep.\n"
QUESTION = "When does the gate open?"


_DOCUMENTS = """
SELECT d.source_uri, max(encode(b.sha256, 'hex')) FILTER (WHERE w.id = d.live_version_id) AS sha256, count(*) AS versions
FROM document AS d
JOIN document_version AS w ON w.collection_id = d.collection_id AND w.document_id = d.id
JOIN blob AS b ON b.id = w.blob_id
GROUP BY d.id, d.source_uri
"""
_END_IDLE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'idle in transaction' AND now() - state_change > $1 * interval '1 second'
"""


@dataclass
class Tally:
    """What became of the points."""

    survived: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    lost: int = 0
    stored_twice: int = 0
    stuck: int = 0
    rounds: int = 0


def sha256_of(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


class Sweep:
    """The system, the files, and what must be there."""

    def __init__(self, system: System, provider: OpenAIServer, report: Report, client: httpx2.AsyncClient) -> None:
        self.system = system
        self.provider = provider
        self.report = report
        self._client = client
        self.tally = Tally()
        self.looking: asyncpg.Pool | None = None
        self.root = system.folder / "folders"
        self.expected: dict[str, str] = {}
        self._versions_max: dict[str, int] = {}
        self._sent: dict[str, bytes] = {}
        self._numbers = itertools.count()
        self._offsets: dict[str, int] = {}
        self._struck: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self._armed: dict[str, Point | None] = dict.fromkeys(KINDS)

    # -- what is done -----------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        (self.system.inbox / name).write_text(text)
        self._expect(f"inbox:{name}", text)

    def unlink(self, name: str, *, is_document: bool = True) -> None:
        (self.system.inbox / name).unlink()
        if is_document:
            del self.expected[f"inbox:{name}"]

    def move(self, name: str, target: str) -> None:
        (self.system.inbox / name).rename(self.system.inbox / target)
        self.expected[f"inbox:{target}"] = self.expected.pop(f"inbox:{name}")
        self._versions_max[f"inbox:{target}"] = self._versions_max.pop(f"inbox:{name}") + 1

    def _expect(self, source_uri: str, text: str) -> None:
        self.expected[source_uri] = sha256_of(text)
        self._versions_max[source_uri] = self._versions_max.get(source_uri, 0) + 1

    async def upload(self, name: str, text: str) -> None:
        self._expect(f"upload:{name}", text)
        self._sent[f"upload:{name}"] = text.encode()
        await self.insist("POST", "/ingest/files", files={"file": (name, text.encode())})

    async def delete(self, source_uri: str) -> None:
        """Delete a document on purpose, as a caller who does not give up."""
        self.expected.pop(source_uri, None)
        document = await self.fetchval("SELECT id FROM document WHERE source_uri = $1", source_uri)
        if document is not None:
            await self.insist("DELETE", f"/documents/{document}", is_fine=(404,))

    async def ask(self) -> None:
        answer = await self.insist("POST", "/query", json={"question": QUESTION})
        is_right = answer["answered"] and "opens at nine" in answer["answer"]
        self.report.expect(is_right, f"the question was answered otherwise: {answer}")

    async def insist(self, method: str, path: str, *, is_fine: Sequence[int] = (), **options: Any) -> Any:
        """Ask again until there is an answer that is not the server's fault."""
        url = f"http://127.0.0.1:{self.system.members['query'].port}{path}"
        deadline = time.monotonic() + CLIENT_SECONDS_MAX
        last: object = None
        while time.monotonic() < deadline:
            try:
                response = await self._client.request(method, url, **options)
            except httpx2.HTTPError as error:
                last = error
            else:
                if response.is_success or response.status_code in is_fine:
                    return response.json() if response.content and response.is_success else None
                last = f"{response.status_code} {response.text}"
                assert response.status_code >= 500, f"{method} {path}: {last}"
            await asyncio.sleep(0.05)
        raise AssertionError(f"{method} {path} was never answered: {last}")

    # -- rounds -----------------------------------------------------------------------------------------------------

    async def sweep_failpoints(self, points: Iterable[Point]) -> None:
        """Strike at every point, one of each process a round."""
        queues = {kind: deque([point for point in points if point.kind == kind]) for kind in KINDS}
        tries: Counter[str] = Counter()
        while any(queues.values()):
            armed = {kind: queue.popleft() for kind, queue in queues.items() if queue}
            upcoming = {kind: queues[kind][0] for kind in armed if queues[kind]}
            struck = await self.play(armed, upcoming)
            for kind, point in armed.items():
                if upcoming.get(kind) in struck:
                    queues[kind].popleft()
                if point in struck:
                    continue
                tries[point.name] += 1
                if tries[point.name] < TRIES_MAX:
                    queues[kind].append(point)
                else:
                    self.tally.missed.append(point.name)
                    self.report.expect(False, f"no scenario reaches {point.name}")
            if self.tally.rounds % 10 == 0:
                left = max(len(queue) for queue in queues.values())
                self.report.say(
                    f"{len(self.tally.survived)} points survived, at most {left} rounds of failpoints to come"
                )

    async def play(self, armed: dict[str, Point], upcoming: dict[str, Point]) -> list[Point]:
        """Play one round and return the points that were reached.

        A process that is struck starts again armed with its next point, which may strike while it recovers.
        """
        self._read_strikes()
        for strikes in self._struck.values():
            strikes.clear()
        for kind, point in armed.items():
            if self._armed[kind] is not point:
                await self._restart(kind, point.environment)
            self._armed[kind] = None
            self.system.members[kind].once = upcoming[kind].environment if kind in upcoming else {}
        needs = {point.needs for point in armed.values()} - {""}
        await self._round(needs, lambda: self._wait_struck(armed), [point.name for point in armed.values()])
        self._read_strikes()
        for kind, following in upcoming.items():
            member = self.system.members[kind]
            if not member.once and following.strike not in self._struck[kind]:
                self._armed[kind] = following
            member.once = {}
        struck = [point for kind, point in (*armed.items(), *upcoming.items()) if point.strike in self._struck[kind]]
        self.tally.survived += [point.name for point in struck]
        return struck

    async def _wait_struck(self, armed: dict[str, Point]) -> None:
        deadline = time.monotonic() + STRUCK_SECONDS_MAX
        while time.monotonic() < deadline:
            self._read_strikes()
            if all(point.strike in self._struck[kind] for kind, point in armed.items()):
                return
            await asyncio.sleep(0.03)

    async def sweep_statements(self, stride: int, offset: int, count_max: int) -> None:
        """Kill each process at every `stride`th statement, before it or when nobody has heard the answer, until all run clean."""
        running = set(KINDS)
        for turn in range(count_max):
            number = offset + turn * stride
            if not running or number > STATEMENTS_MAX:
                break
            await self.system.wait_ready()
            for kind in running:
                member = self.system.members[kind]
                member.proxy.trap = Trap(number, bool(turn % 2), self._killer(kind))
            traps = {kind: self.system.members[kind].proxy.trap for kind in running}
            names = [f"{kind} statement {number} {'after' if turn % 2 else 'before'}" for kind in sorted(running)]
            if turn % 20 == 0:
                self.report.say(f"statement {number} of {', '.join(sorted(running))}")
            await self._round(set(), None, names)
            for kind, trap in traps.items():
                self.system.members[kind].proxy.trap = None
                assert trap is not None
                if trap.has_sprung:
                    self.tally.survived.append(f"{kind} statement {number}")
                else:
                    running.discard(kind)
                    self.report.figures[f"statements_{kind}"] = number
        self.report.figures["processes_run_clean"] = len(KINDS) - len(running)

    def _killer(self, kind: str) -> Callable[[], None]:
        def spring() -> None:
            self.system.members[kind].signal(signal.SIGKILL)

        return spring

    async def _round(
        self, needs: set[str], meanwhile: Callable[[], Coroutine[Any, Any, None]] | None, names: Sequence[str]
    ) -> None:
        """Play a scenario, look at the invariants while it goes on, and at everything when it is quiet."""
        self.tally.rounds += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(Round(self, next(self._numbers), needs).play())
                if meanwhile is not None:
                    tasks.create_task(meanwhile())
                tasks.create_task(self._check(f"during {names}"))
        except* AssertionError as group:
            self.tally.stuck += 1
            for error in group.exceptions:
                self.report.expect(False, f"{names}: {error}")
        await self._expect_state(names)
        await self._check(f"after {names}")

    async def _check(self, when: str) -> None:
        for finding in await self.system.check():
            self.report.expect(False, f"{when}: {finding}")

    async def _expect_state(self, names: Sequence[str]) -> None:
        """Wait until everything is as it has to be; say what never came to be so."""
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        wrong = ["nothing was seen"]
        while wrong and time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                wrong = await self._differences()
            await asyncio.sleep(0.05 if wrong else 0)
        self.tally.lost += sum(line.startswith(("lost", "other bytes")) for line in wrong)
        self.tally.stored_twice += sum(line.startswith(("twice", "too much")) for line in wrong)
        self.tally.stuck += sum(line.startswith("left over") for line in wrong)
        if wrong:
            self.report.expect(False, f"{names}: {wrong}\n{self.system.tail()}")

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        """Look, on a connection that stays open: what is asked many times a second must cost little."""
        assert self.looking is not None
        return await self.looking.fetchval(statement, *arguments)

    async def _differences(self) -> list[str]:
        assert self.looking is not None
        async with self.looking.acquire() as connection:
            remains = await connection.fetch(_REMAINS)
            rows = {row["source_uri"]: row for row in await connection.fetch(_DOCUMENTS)}
            # Rounds that strike one background job again and again would have it buried, as it should be.
            struck = await connection.fetchval("SELECT count(*) FROM job WHERE stage = 'index' AND attempt > 0")
        found = [f"left over: {row['count']} × {row['kind']}" for row in remains]
        found += [f"still at work: {struck} × index"] if struck else []
        found += [f"lost: {uri}" for uri in self.expected.keys() - rows.keys()]
        found += [f"too much: {uri}" for uri in rows.keys() - self.expected.keys()]
        for uri in self.expected.keys() & rows.keys():
            if rows[uri]["sha256"] != self.expected[uri]:
                found.append(f"other bytes: {uri}")
            elif rows[uri]["versions"] > self._versions_max[uri]:
                found.append(f"twice: {uri} has {rows[uri]['versions']} of {self._versions_max[uri]} versions")
        return found

    # -- processes --------------------------------------------------------------------------------------------------

    async def _restart(self, kind: str, environment: dict[str, str]) -> None:
        member = self.system.members[kind]
        member.once = environment
        before = member.process
        await self.system.kill(kind)
        deadline = time.monotonic() + CLIENT_SECONDS_MAX
        while member.process is before:
            assert time.monotonic() < deadline, f"{kind} was not started again"
            await asyncio.sleep(0.01)

    def _read_strikes(self) -> None:
        """Read on in the logs: which failpoints were reached."""
        for kind in KINDS:
            path = self.system.folder / f"{kind}.log"
            with path.open("rb") as log:
                log.seek(self._offsets.get(kind, 0))
                data = log.read()
            whole = data.rfind(b"\n") + 1
            self._offsets[kind] = self._offsets.get(kind, 0) + whole
            for line in data[:whole].splitlines():
                if b'"failpoint_reached"' in line:
                    strike = json.loads(line)
                    self._struck[kind].append(f"{strike['failpoint']}:{strike['action']}")

    async def end_idle_transactions(self) -> None:
        """Do what the server does to sessions that idle in a transaction, sooner."""
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await self.fetchval(_END_IDLE, IDLE_IN_TRANSACTION_SECONDS)
            await asyncio.sleep(0.5)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def compare_with_fresh(self, cluster: Cluster) -> None:
        """Ingest the final files once more, elsewhere and undisturbed: the states are the same."""
        for path in self.system.inbox.glob("t*.md"):  # their documents were deleted on purpose; the last one's was not
            if f"inbox:{path.name}" not in self.expected:
                path.unlink()
        seen = await self.system.picture()
        async with running_system(self.system.folder / "fresh", cluster, self.provider, **SETTINGS) as fresh:
            fresh.nursery = self.system.nursery
            shutil.copytree(self.system.inbox, fresh.inbox, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            for kind in KINDS:
                await fresh.add(kind)
            await fresh.wait_ready()
            sent = [uri for uri in self.expected if uri.startswith("upload:")]
            for uri in sent:
                name = uri.partition(":")[2]
                answer = await fresh.request(
                    fresh.members["query"], "POST", "/ingest/files", files={"file": (name, self._sent[uri])}
                )
                assert answer.is_success, answer.text
            whole = await fresh.wait_quiet(lambda picture: len(picture.documents) == len(self.expected))
        found = differences(seen, whole)
        self.report.expect(whole.documents and not found, f"not as a fresh ingest: {found}")
        self.report.figures["documents_compared_with_fresh"] = len(whole.documents)


@contextlib.asynccontextmanager
async def sweeping(report: Report, options: Options) -> AsyncIterator[Sweep]:
    """Start a system that is to be swept; at the end compare it with a fresh one."""
    (options.folder / "folders").mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster())
        provider = stack.enter_context(serving())
        settings = SETTINGS | {"ASKBOX_INGEST_ROOTS": str(options.folder / "folders")}
        nursery = await stack.enter_async_context(running_nursery())
        system = await stack.enter_async_context(running_system(options.folder, cluster, provider, **settings))
        system.nursery = nursery
        client = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, timeout=4))
        sweep = Sweep(system, provider, report, client)
        sweep.looking = await stack.enter_async_context(
            asyncpg.create_pool(system.url, min_size=1, max_size=6, server_settings={"search_path": "askbox, public"})
        )
        sweep.write("anchor.md", ANCHOR)
        for kind in KINDS:
            await system.add(kind)
        await system.wait_ready()
        await sweep._expect_state(["start"])
        ending = asyncio.create_task(sweep.end_idle_transactions())
        try:
            yield sweep
            await sweep.compare_with_fresh(cluster)
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        tally = sweep.tally
        report.figures |= {
            "points": len(tally.survived) + len(tally.missed),
            "survived": len(tally.survived),
            "lost": tally.lost,
            "stored_twice": tally.stored_twice,
            "stuck": tally.stuck,
            "rounds": tally.rounds,
        }


async def run(report: Report, options: Options) -> None:
    """Sweep all failpoints and statements, or a share of both."""
    points = list(POINTS)
    if options.scale < 1:
        points = options.dice("points").sample(points, options.sized(len(points), least=6))
    stride = max(1, round(STATEMENT_STRIDE / options.scale))
    async with sweeping(report, options) as sweep:
        await sweep.sweep_failpoints(points)
        report.say(f"failpoints: {len(sweep.tally.survived)} points in {sweep.tally.rounds} rounds")
        await sweep.sweep_statements(stride, options.dice("statements").randint(1, stride), STATEMENTS_MAX)
    if options.scale >= 1:
        report.expect(report.figures["points"] >= 250, "fewer than 250 points")
