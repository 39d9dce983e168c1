"""Deaf listeners: NOTIFY is a hint, so without it everything still comes, at the poll's pace, and a person can see why.

The settings that decide are the defaults: a poll of 5 s. A document passes two polls, the ingester's and the embedder's.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import asyncpg
import httpx2

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import drop_and_wait
from tests.crash.report import Report, percentile
from tests.crash.system import ROOT, Member, System, running_system
from tests.openai_server import serving

POLL_SECONDS = 5.0
READY_SECONDS_MAX = POLL_SECONDS + 2
SEEN_SECONDS_MAX = 15.0
# Every connection of a pool has to be found dead, one statement after another.
SILENCED_SECONDS_MAX = 60.0
DEFAULTS = {
    "ASKBOX_POLL_SECONDS": str(POLL_SECONDS),
    "ASKBOX_LEASE_SECONDS": "30",
    "ASKBOX_RESCAN_SECONDS": "30",
    "ASKBOX_SETTLE_SECONDS": "1",
}
LISTENER = "listener"  # stands in the application_name of every connection that listens
STORM = 50_000
FILES, BLACK_HOLES, WHOLE_BLACK_HOLES, RESTARTS = 15, 6, 3, 6
# How long until a document that comes at some moment is dropped behind the one before, at most: longer than the poll.
SPREAD_SECONDS_MAX = 6.0
PATIENCE_SECONDS = 180.0


async def run(report: Report, options: Options) -> None:
    """Take NOTIFY away in every way, and measure."""
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(options.folder, cluster, provider, **DEFAULTS) as system:
                for kind in ("ingester", "embedder", "query"):
                    await system.add(kind)
                await system.wait_ready()
                part = _Part(system, report, options, await system.connect())
                await part.hear_nothing_at_all(options.sized(FILES, 4))
                await part.lose_listeners(options.sized(FILES, 4), options.sized(BLACK_HOLES))
                await part.lose_every_connection(options.sized(WHOLE_BLACK_HOLES))
                await part.restart_while_idle(options.sized(RESTARTS))
                await part.be_stormed(options.sized(STORM, 1000))
                remains = (await system.wait_quiet(lambda _: True)).remains
                report.expect(not remains, f"left over: {remains}")
                findings = await system.check()
                report.expect(not findings, f"invariants: {findings}")


class _Part:
    def __init__(self, system: System, report: Report, options: Options, connection: asyncpg.Connection) -> None:
        self._system = system
        self._report = report
        self._dice = options.dice("listener")
        self._connection = connection
        self._count = 0

    async def hear_nothing_at_all(self, files: int) -> None:
        """Drop every trigger that notifies."""
        definition = await self._connection.fetchval(
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'job_wakes_workers'"
        )
        await self._connection.execute("DROP TRIGGER job_wakes_workers ON job")
        await self._drop_files("ready without triggers", files)
        await self._connection.execute(definition)

    async def lose_listeners(self, files: int, times: int) -> None:
        """Silence the listeners' own connections alone, for good: what connects again hears nothing either."""
        workers = [self._system.members[name] for name in ("ingester", "embedder")]
        for worker in workers:
            worker.proxy.silence(LISTENER, and_new=True)
        await self._drop_files("ready with deaf listeners", files)
        status = await asyncio.to_thread(_status, self._system)
        self._report.expect("not listening" in status, f"`askbox status` tells nothing of deaf listeners: {status}")
        for worker in workers:
            worker.proxy.heal()
        await self._until_healthy()
        seen = []
        for number in range(times):
            worker = workers[number % len(workers)]
            await asyncio.sleep(self._dice.uniform(0, POLL_SECONDS))  # anywhere between two probes
            worker.proxy.silence(LISTENER, and_new=True)
            seen.append(await self._seconds_until(self._shows_deafness, "health shows no deaf listener"))
            worker.proxy.heal()
            await self._until_healthy()
        self._tell("deafness shown in health", seen, SEEN_SECONDS_MAX)

    async def lose_every_connection(self, times: int) -> None:
        """Silence all that a worker has open; what it opens anew goes through, so it can hear again before anybody looks."""
        noticed, ready = [], []
        for number in range(times):
            worker = self._system.members[("ingester", "embedder")[number % 2]]
            before = self._losses(worker)
            worker.proxy.silence()
            dropped = asyncio.create_task(self._drop(PATIENCE_SECONDS))
            is_noticed = self._seconds_until(
                lambda w=worker, b=before: self._is_noticed(w, b), "a silenced process did not notice"
            )
            noticed.append(await is_noticed)
            ready.append(await dropped)
            await self._until_healthy()
        self._tell("whole process silenced, noticed", noticed, SEEN_SECONDS_MAX)
        self._tell("whole process silenced, ready", ready, SILENCED_SECONDS_MAX)

    def _losses(self, worker: Member) -> int:
        log = (self._system.folder / f"{worker.name}.log").read_text(encoding="utf-8", errors="replace")
        return log.count('"event": "listener_lost"')

    async def _is_noticed(self, worker: Member, before: int) -> bool:
        return self._losses(worker) > before

    async def restart_while_idle(self, times: int) -> None:
        """Restart Postgres as a crash does while nobody works, and drop a file as soon as it is back."""
        took = []
        for _ in range(times):
            await self._connection.close()
            await self._system.cluster.stop_hard()
            await asyncio.sleep(self._dice.uniform(0, 2))
            await self._system.cluster.start()
            self._connection = await self._system.connect()
            took.append(await self._drop(PATIENCE_SECONDS))
            await self._until_healthy()
        self._tell("ready after a restart while idle", took, READY_SECONDS_MAX)

    async def be_stormed(self, count: int) -> None:
        """Notify in two ways, half of it each: many commits, and one commit with many that differ."""
        storming = asyncio.create_task(self._storm(count))
        took = []
        while not storming.done():
            took.append(await self._drop(PATIENCE_SECONDS))
        await storming
        took.append(await self._drop(PATIENCE_SECONDS))
        self._report.figures["notifications in the storm"] = count
        self._tell("ready in a storm", took, READY_SECONDS_MAX)
        await self._until_healthy()

    async def _storm(self, count: int) -> None:
        connection = await self._system.connect()
        for stage in ("ingest", "embed"):
            await connection.execute(
                f"DO $$ BEGIN FOR i IN 1..{count // 4} LOOP PERFORM pg_notify('askbox_{stage}', ''); COMMIT; END LOOP; END $$",
                timeout=PATIENCE_SECONDS,
            )
            await connection.execute(
                "SELECT pg_notify('askbox_' || $1::text, n::text) FROM generate_series(1, $2::int) AS n",
                stage, count // 4, timeout=PATIENCE_SECONDS,
            )  # fmt: skip
        await connection.close()

    # -- files ------------------------------------------------------------------------------------------------------

    async def _drop(self, seconds: float) -> float:
        self._count += 1
        name = f"{self._count:05}.md"
        text = f"# Note {self._count}\n\nBell number {self._count} hangs in the tower of the old harbour.\n"
        return await drop_and_wait(self._system, self._connection, name, text, seconds=seconds)

    async def _drop_files(self, what: str, files: int) -> None:
        took = []
        for _ in range(files):
            # Two polls of two processes are in no step, and each file finds them elsewhere.
            await asyncio.sleep(self._dice.uniform(0, SPREAD_SECONDS_MAX))
            took.append(await self._drop(PATIENCE_SECONDS))
        self._tell(what, took, READY_SECONDS_MAX)

    def _tell(self, what: str, took: list[float], limit: float) -> None:
        self._report.figures[f"{what}: times"] = len(took)
        self._report.figures[f"{what}: p50 s"] = round(percentile(took, 0.5), 2)
        self._report.figures[f"{what}: max s"] = round(max(took), 2)
        self._report.say(f"{what}: {len(took)} times, at most {max(took):.2f} s")
        self._report.expect(max(took) <= limit, f"{what}: {max(took):.2f} s, promised are {limit:g} s")

    # -- health -----------------------------------------------------------------------------------------------------

    async def _health(self) -> httpx2.Response:
        return await self._system.request(self._system.members["query"], "GET", "/health")

    async def _shows_deafness(self) -> bool:
        response = await self._health()
        return response.status_code == 503 and not response.json()["checks"]["listener"]["ok"]

    async def _is_well(self) -> bool:
        return (await self._health()).status_code == 200

    async def _seconds_until(self, is_so: Callable[[], Awaitable[object]], complaint: str) -> float:
        return await self._system.wait(is_so, PATIENCE_SECONDS, complaint)

    async def _until_healthy(self) -> None:
        await self._seconds_until(self._is_well, "health is still degraded")


def _status(system: System) -> str:
    """What `askbox status` prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ASKBOX_", "OPENAI_"))}
    environment |= {
        "ASKBOX_URL": f"http://127.0.0.1:{system.members['query'].port}",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "services.console", "status"]
    done = subprocess.run(
        command, cwd=system.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr
