"""A database without connections, without locks, without time, without an answer: every process waits, and goes on by itself.

After each fault a file that was dropped during it has to answer questions within the promise, and what was there before
still does. No process may need a hand; those that end must say 75, "not available now".
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import httpx2

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import newest_state
from tests.crash.report import Report
from tests.crash.system import System, running_system
from tests.openai_chat import Chat, chats_of
from tests.openai_server import OpenAIServer, serving
from tests.waiting import until

RECOVERY_SECONDS_MAX = 10.0
READY_ANSWER_SECONDS_MAX = 6.0
ANSWER_SECONDS_MAX = 25.0
# As long as the supervisor waits before it kills.
STOP_SECONDS_MAX = 20.0
# What is not there by then will not come.
PATIENCE_SECONDS = 90.0
STREAMS, POOL = 300, 5
LOCK_SECONDS, PAUSE_SECONDS, HOARD_SECONDS, CANCEL_SECONDS = 30.0, 20.0, 10.0, 10.0
DEADLOCKS, IDLE_KILLS, REFUSALS = 10, 20, 10
CONFIGURATION = "max_connections = 40\nsuperuser_reserved_connections = 3\n"
SETTINGS = {
    "ASKBOX_LLM_MODEL": "openai:test-chat",
    "ASKBOX_QUERY_CONNECTIONS": str(POOL),
    "ASKBOX_QUERY_CONCURRENCY": str(STREAMS + 20),  # somebody else asks meanwhile
    "OPENAI_API_KEY": "sk-test",
    "ASKBOX_PROVIDER_SECONDS": "120",  # a stream is held for as long as the last of them takes to begin
}
_OF_PROCESSES = "datname = current_database() AND application_name ~ '^askbox [eiq]'"
_GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


async def run(report: Report, options: Options) -> None:
    """Exhaust one thing after the other."""
    async with running(options, report) as part:
        for fault in (
            part.without_connections,
            part.without_locks,
            part.in_deadlocks,
            part.without_time,
            part.robbed_in_transactions,
            part.paused,
            part.with_many_streams,
            part.stopped_while_paused,
        ):
            report.say(fault.__name__)
            await fault()
        await part.end()


@contextlib.asynccontextmanager
async def running(options: Options, report: Report) -> AsyncIterator["Exhaustion"]:
    """Three processes with a file that is ready."""
    async with running_cluster(configuration=CONFIGURATION) as cluster:
        with serving() as provider:
            base = {"ASKBOX_LLM_BASE_URL": provider.url}
            async with running_system(options.folder, cluster, provider, **SETTINGS, **base) as system:
                for kind in ("ingester", "embedder", "query"):
                    await system.add(kind)
                await system.wait_ready()
                part = Exhaustion(system, provider, report, options, await system.connect())
                await part.drop()
                await part.until_ready(PATIENCE_SECONDS)
                yield part


@dataclass
class Exhaustion:
    """The faults. `connection` is the harness's own, opened while there were connections."""

    system: System
    provider: OpenAIServer
    report: Report
    options: Options
    connection: asyncpg.Connection
    number: int = 0
    exits: dict[str, list[int]] = field(default_factory=dict)

    # -- what is looked at ------------------------------------------------------------------------------------------

    async def drop(self) -> None:
        """Drop one more file."""
        self.number += 1
        text = f"# Note {self.number}\n\nThe gate number {self.number} opens at nine.\n"
        (self.system.inbox / f"note-{self.number}.md").write_text(text)

    async def until_ready(self, seconds: float) -> float:
        """Wait until the last file is ready and return how long that took."""
        started = time.monotonic()
        last = f"inbox:note-{self.number}.md"
        await self.system.wait(
            lambda: self._is(last, "ready"), seconds, f"note {self.number} is not ready"
        )  # fmt: skip
        return time.monotonic() - started

    async def _is(self, source_uri: str, state: str) -> bool:
        if self.connection.is_closed():
            self.connection = await self.system.connect()
        return await newest_state(self.connection, source_uri) == state

    async def recover(self, name: str) -> None:
        """See that the last file is ready soon, that a question is answered, and that nothing was lost."""
        seconds = await self.until_ready(PATIENCE_SECONDS)
        started = time.monotonic()
        await self.system.wait(self._answers, PATIENCE_SECONDS, "no answer")
        seconds += time.monotonic() - started
        self.report.figures[f"recovery after {name} (s)"] = round(seconds, 1)
        # A promised time is judged where the machine is not busy with other tests.
        if self.options.scale >= 1:
            self.report.expect(seconds <= RECOVERY_SECONDS_MAX, f"{name}: recovered after {seconds:.1f} s")
        picture = await self.system.wait_quiet(lambda seen: len(seen.documents) == self.number, PATIENCE_SECONDS)
        self.report.expect(
            len(picture.documents) == self.number, f"{name}: {len(picture.documents)} of {self.number} documents"
        )
        self.report.expect(not picture.remains, f"{name}: left over {picture.remains}\n{self.system.tail()}")

    async def _answers(self) -> bool:
        query = self.system.members["query"]
        answer = await self.system.request(query, "POST", "/search", json={"question": "When does the gate open?"})
        return answer.status_code == 200 and len(answer.json()["data"]) > 0

    def _seconds(self, full: float, least: float) -> float:
        return max(least, full * min(1.0, self.options.scale))

    # -- faults -----------------------------------------------------------------------------------------------------

    async def without_connections(self) -> None:
        """Others hold every connection that the server has."""
        hoard: list[asyncpg.Connection] = []
        for member in self.system.members.values():
            member.proxy.is_refusing = True
            member.proxy.cut()
        try:
            refusals = 0
            while refusals < REFUSALS:  # the server takes a moment to notice who has left
                try:
                    hoard.append(await asyncpg.connect(self.system.url, timeout=5))
                except asyncpg.TooManyConnectionsError:
                    refusals += 1
                    await asyncio.sleep(0.1)
            for member in self.system.members.values():
                member.proxy.heal()
            await self.drop()
            await asyncio.sleep(self._seconds(HOARD_SECONDS, 2))
            self.report.figures["connections held by others"] = len(hoard)
            ready = await self.system.request(self.system.members["query"], "GET", "/ready")
            self.report.expect(ready.status_code == 503, f"/ready says {ready.status_code} without a connection")
        finally:
            for connection in hoard:
                connection.terminate()
        await self.recover("max_connections")

    async def without_locks(self) -> None:
        """Somebody holds the rows that everybody needs, longer than a process waits for a lock."""
        other = await self.system.connect()
        try:
            await other.execute("BEGIN")
            await other.execute("SELECT 1 FROM document FOR UPDATE")
            await other.execute("SELECT 1 FROM collection FOR UPDATE")
            (self.system.inbox / "note-1.md").write_text("# Note 1\n\nThe gate number 1 opens at noon now.\n")
            await self.drop()
            seconds = self._seconds(LOCK_SECONDS, 2)
            await self._until(_WAITING_FOR_LOCK, 30, "nobody waits for the lock")
            await asyncio.sleep(seconds)
            await other.execute("ROLLBACK")
        finally:
            await other.close()
        await self.recover(f"locks held {seconds:.0f} s")
        text = await self.connection.fetchval("SELECT string_agg(text, ' ') FROM chunk")
        self.report.expect("opens at noon now" in text, "the change that waited for the lock is lost")

    async def in_deadlocks(self) -> None:
        """Somebody takes the same two locks in the other order, so that a process is the victim."""
        other = await self.system.connect()
        before = await other.fetchval(_DEADLOCKS)
        wanted, victims = self.options.sized(DEADLOCKS), 0
        await other.execute("SET deadlock_timeout = '60s'")  # the other one looks first, and is the victim
        try:
            for _ in range(wanted * 4):
                if victims == wanted:
                    break
                self.provider.faults.append({"kind": "slow", "seconds": 0.5})  # so that a lease lasts
                await self.drop()
                victims += await self._deadlock(other)
        finally:
            await other.close()
        self.provider.faults.clear()
        await self.system.wait(lambda: self._counted(before, victims), 10, "deadlocks that Postgres did not count")
        self.report.figures["deadlocks, a process the victim"] = victims
        self.report.expect(victims == wanted, f"{victims} of {wanted} deadlocks could be forced")
        await self.recover("deadlocks")

    async def _deadlock(self, other: asyncpg.Connection) -> bool:
        """Hold a leased job until its owner, who holds the lease, waits for it; then want the lease."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                lease_id = await until(lambda: other.fetchval(_LEASED))
                await other.execute("BEGIN")
                await other.execute("SELECT 1 FROM job WHERE lease_id = $1 FOR UPDATE", lease_id)
                await until(lambda: self.connection.fetchval(_IS_BLOCKED_BY, other.get_server_pid()))
                await other.execute("SELECT 1 FROM lease WHERE id = $1 FOR UPDATE", lease_id)
                await other.execute("ROLLBACK")
                return True
        await other.execute("ROLLBACK")
        return False

    async def _counted(self, before: int, victims: int) -> bool:
        return await self.connection.fetchval(_DEADLOCKS) - before >= victims

    async def without_time(self) -> None:
        """No statement may take longer than a millisecond."""
        await self.connection.execute("ALTER SYSTEM SET statement_timeout = '1ms'")
        try:
            await self.connection.execute("SELECT pg_reload_conf()")
            for _ in range(3):
                await self.drop()
            await asyncio.sleep(self._seconds(CANCEL_SECONDS, 3))
        finally:
            await self._free()
        await self.recover("statement_timeout")

    async def _free(self) -> None:
        """Give time again, from a session that may take some."""

        async def reset() -> bool:
            connection = await asyncpg.connect(self.system.url, server_settings={"statement_timeout": "0"}, timeout=10)
            try:
                await connection.execute("SET statement_timeout = 0")
                await connection.execute("ALTER SYSTEM RESET statement_timeout")
                await connection.execute("SELECT pg_reload_conf()")
            finally:
                await connection.close()
            return True

        await self.system.wait(reset, 60, "the server takes no statement")

    async def robbed_in_transactions(self) -> None:
        """Sessions end in the middle of transactions, as `idle_in_transaction_session_timeout` ends them."""
        wanted, robbed = self.options.sized(IDLE_KILLS, 2), 0
        until = time.monotonic() + 60
        while robbed < wanted and time.monotonic() < until:
            await self.drop()
            for _ in range(100):
                robbed += await self.connection.fetchval(_END_IDLE)
                await asyncio.sleep(0.005)
        self.report.figures["transactions that lost their session"] = robbed
        self.report.expect(robbed >= wanted, f"{robbed} of {wanted} transactions lost their session")
        await self.recover("ended sessions")

    async def paused(self) -> None:
        """The whole server stands still; its kernel still takes connections."""
        seconds = self._seconds(PAUSE_SECONDS, 4)
        query = self.system.members["query"]
        ended_at = time.monotonic() + seconds
        self.system.cluster.pause()
        try:
            await self.drop()
            asking = [
                asyncio.create_task(self._time("/ready while paused", query.port, "GET", "/ready")),
                asyncio.create_task(self._time("/live while paused", query.port, "GET", "/live")),
                asyncio.create_task(
                    self._time("a question while paused", query.port, "POST", "/query", json={"question": "When?"})
                ),
            ]
            ready, live, question = await asyncio.gather(*asking)
            await asyncio.sleep(max(0.0, ended_at - time.monotonic()))
        finally:
            self.system.cluster.resume()
        self.report.expect(
            ready == 503 and question == 503 and live == 200, f"/ready, /query, /live: {ready, question, live}"
        )
        await self.recover(f"a pause of {seconds:.0f} s")

    async def _time(self, name: str, port: int | None, method: str, path: str, **options: object) -> int:
        started = time.monotonic()
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answer = await client.request(method, f"http://127.0.0.1:{port}{path}", **options)
        seconds = time.monotonic() - started
        self.report.figures[f"{name} (s)"] = round(seconds, 2)
        if self.options.scale >= 1:
            limit = ANSWER_SECONDS_MAX if method == "POST" else READY_ANSWER_SECONDS_MAX
            self.report.expect(seconds <= limit, f"{name}: answered after {seconds:.1f} s")
        return answer.status_code

    async def with_many_streams(self) -> None:
        """Sixty times as many answers are streamed as there are connections, all at once."""
        count = self.options.sized(STREAMS, 20)
        chats = chats_of(self.provider)
        chats.default = Chat(pieces=("The gate opens ", "at nine [1]."), hold_at=1)
        client = httpx2.AsyncClient(trust_env=False, timeout=2 * PATIENCE_SECONDS, limits=httpx2.Limits())
        streams = [asyncio.create_task(self._stream(client)) for _ in range(count)]
        await self.system.wait(
            lambda: asyncio.sleep(0, len(chats.calls) >= count), PATIENCE_SECONDS, f"not {count} streams"
        )
        in_use = await self.connection.fetchval(_BUSY_OF_QUERY)
        opened = await self.connection.fetchval(_ALL_OF_QUERY)
        self.report.expect(in_use == 0, f"{in_use} connections are held while {count} answers are streamed")
        self.report.expect(opened <= POOL, f"{opened} connections of a pool of {POOL}")
        self.report.expect(await self._answers(), "nobody else is answered while answers are streamed")
        chats.is_released = True
        answered = sum(await asyncio.gather(*streams))
        await client.aclose()
        chats.forget()
        self.report.figures["streams answered over a pool of 5"] = f"{answered} of {count}"
        self.report.expect(answered == count, f"{answered} of {count} streams were answered")

    async def _stream(self, client: httpx2.AsyncClient) -> bool:
        query = self.system.members["query"]
        address = f"http://127.0.0.1:{query.port}/query/stream"
        answer = await client.post(address, json={"question": "When does the gate open?"})
        return answer.status_code == 200 and answer.text.count("event: done") == 1 and "event: error" not in answer.text

    async def stopped_while_paused(self) -> None:
        """A stop against a server that stands still ends before the supervisor kills."""
        names = ["ingester", "embedder", "query"]
        self.system.cluster.pause()
        try:
            await asyncio.sleep(3)  # long enough for every loop to hang on an answer
            seconds = await asyncio.gather(*(self._stop(name) for name in names))
        finally:
            self.system.cluster.resume()
        for name, (took, code) in zip(names, seconds, strict=True):
            self.report.figures[f"stop of the {name} while paused (s)"] = round(took, 1)
            self.report.expect(code == 0, f"{name} stopped with {code} while the server was paused")
            self.report.expect(took <= STOP_SECONDS_MAX, f"{name} stopped after {took:.1f} s")
        for name in names:
            await self.system.add(name)
        await self.system.wait_ready()
        await self.drop()
        await self.recover("stops while paused")

    async def _stop(self, name: str) -> tuple[float, int]:
        started = time.monotonic()
        self.exits[name] = self.exits.get(name, []) + self.system.members[name].exits
        code = await self.system.remove(name)
        return time.monotonic() - started, code

    async def end(self) -> None:
        """Nothing is wedged, nothing ended by itself but to say that the database is not there."""
        codes = {code for member in self.system.members.values() for code in member.exits}
        codes |= {code for ended in self.exits.values() for code in ended}
        self.report.figures["exit codes of processes that ended by themselves"] = (
            str(sorted(codes)) if codes else "none"
        )
        self.report.expect(codes <= {75}, f"processes ended by themselves with {codes}")
        await self.drop()
        await self.recover("all of it")
        findings = await self.system.check()
        self.report.expect(not findings, f"invariants: {findings}")
        self.report.figures["wedged"] = 0 if not self.report.failures else "see failures"

    async def _until(self, statement: str, seconds: float, complaint: str) -> None:
        await self.system.wait(lambda: self.connection.fetchval(statement), seconds, complaint)


_WAITING_FOR_LOCK = f"SELECT count(*) FROM pg_stat_activity WHERE {_OF_PROCESSES} AND wait_event_type = 'Lock'"
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_IS_BLOCKED_BY = f"SELECT count(*) FROM pg_stat_activity WHERE {_OF_PROCESSES} AND $1 = ANY (pg_blocking_pids(pid))"
_LEASED = "SELECT lease_id FROM job WHERE lease_id IS NOT NULL LIMIT 1"
_END_IDLE = (
    f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {_OF_PROCESSES} "
    "AND state = 'idle in transaction'"
)
_ALL_OF_QUERY = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'askbox query'"
_BUSY_OF_QUERY = f"{_ALL_OF_QUERY} AND state <> 'idle'"
