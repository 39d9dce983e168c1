"""T27: whoever is told to stop stops, whatever it waits for, and its work goes to the next one at once.

The settings that the promise is about are those that are shipped: a lease of 30 s, so that a job which nobody gives back
is missed for half a minute, and the product's own patience with work in hand.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from tests.crash.__main__ import Options
from tests.crash.cluster import Cluster, running_cluster
from tests.crash.notes import note
from tests.crash.report import Report, percentile
from tests.crash.system import Member, System, running_system
from tests.e2e.harness import Askbox
from tests.openai_chat import Chat, chats_of
from tests.openai_server import OpenAIServer, serving

STOP_SECONDS_MAX = 10.0
NEXT_CLAIM_SECONDS_MAX = 1.0
GIVEN_UP_SECONDS = 45.0
SILENT_SECONDS = 300.0
SHIPPED = {
    "ASKBOX_LEASE_SECONDS": "30",
    "ASKBOX_POLL_SECONDS": "5",
    "ASKBOX_STOP_SECONDS": "",
    "ASKBOX_PROVIDER_SECONDS": "60",
}
# A process that still reads its program has no say in how it ends.
BY_THE_SIGNAL = {-signal.SIGTERM, -signal.SIGINT}
START_POINTS = 20
START_STEP_SECONDS = 0.15
TERM, INT = (signal.SIGTERM,), (signal.SIGINT,)
TWICE = (signal.SIGTERM, signal.SIGTERM)
BOTH = (signal.SIGINT, signal.SIGTERM, signal.SIGTERM)
TWICE_PAUSE_SECONDS = 0.3
GATE = "# Gate\n\nThe gate opens at nine in the morning.\n"


@dataclass
class Stop:
    """How one process stopped, and how long its work lay until somebody else had it."""

    name: str
    seconds: float
    code: int
    claim_seconds: float | None = None


class Stops:
    """What the cases found."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.all: list[Stop] = []

    def add(self, stop: Stop, *, codes: frozenset[int] = frozenset({0})) -> None:
        """Judge one stop."""
        self.all.append(stop)
        claim = f", next claim {stop.claim_seconds:+.2f} s" if stop.claim_seconds is not None else ""
        self._report.say(f"{stop.name}: code {stop.code} after {stop.seconds:.2f} s{claim}")
        self._report.expect(stop.code in codes, f"{stop.name}: exit code {stop.code}")
        self._report.expect(stop.seconds <= STOP_SECONDS_MAX, f"{stop.name}: stopped after {stop.seconds:.1f} s")
        if stop.claim_seconds is not None:
            self._report.expect(
                stop.claim_seconds <= NEXT_CLAIM_SECONDS_MAX,
                f"{stop.name}: its work was claimed {stop.claim_seconds:.1f} s after it had stopped",
            )


async def stop(system: System, name: str, case: str, signals: Sequence[signal.Signals] = TERM) -> Stop:
    """Tell a process to stop and see how it ends; a second signal comes a little later."""
    member = system.members[name]
    member.is_wanted = False
    assert member.keeper is not None
    started = time.monotonic()
    for place, number in enumerate(signals):
        if place:
            await asyncio.wait({member.keeper}, timeout=TWICE_PAUSE_SECONDS)
        # To the process alone, as a container's supervisor does, and to the group, as a terminal does.
        if place % 2 == 0 and member.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, number)
        else:
            member.signal(number)
    await asyncio.wait({member.keeper}, timeout=GIVEN_UP_SECONDS)
    seconds = time.monotonic() - started
    has_ended = member.keeper.done()
    code = await system.remove(name, signal.SIGTERM if has_ended else signal.SIGKILL)
    return Stop(case, seconds, code if has_ended else 999)


Case = Callable[[System, Stops], Awaitable[None]]


async def run(report: Report, options: Options) -> None:
    """Stop every kind of process in every state that it may be in."""
    async with running_cluster() as cluster:
        with serving() as provider:
            found = Stops(report)
            places = Places(options.folder, cluster, provider)
            await embedders_in_work(places, found)
            await ingesters_in_work(places, found)
            await queries_in_work(places, found)
            await silent_databases(places, found)
            await starting(places, found, options.sized(START_POINTS, least=3))
            await everything(places, found)
    report.figures |= {
        "stops": len(found.all),
        "slowest stop (s)": round(max(stop.seconds for stop in found.all), 2),
        "median stop (s)": round(percentile([stop.seconds for stop in found.all], 0.5), 2),
        "slowest next claim (s)": round(
            max(stop.claim_seconds for stop in found.all if stop.claim_seconds is not None), 2
        ),
        "exit codes": str(sorted({stop.code for stop in found.all})),
    }


class Places:
    """Systems of their own for each case."""

    def __init__(self, folder: Path, cluster: Cluster, provider: OpenAIServer) -> None:
        self.folder = folder
        self.cluster = cluster
        self.provider = provider
        self._count = 0

    @contextlib.asynccontextmanager
    async def system(self, **settings: str) -> AsyncIterator[System]:
        """A new system with the settings that are shipped, and a provider that behaves."""
        self._count += 1
        self.provider.reset()
        folder = self.folder / str(self._count)
        async with running_system(folder, self.cluster, self.provider, **(SHIPPED | settings)) as system:
            yield system
            self.provider.reset()


# -- work in hand -------------------------------------------------------------------------------------------------------


async def embedders_in_work(places: Places, found: Stops) -> None:
    """A batch is with a provider that does not answer; and one with a provider that does."""
    for signals, case in (
        (TERM, "SIGTERM"),
        (INT, "SIGINT"),
        (TWICE, "SIGTERM twice"),
        (BOTH, "SIGINT, SIGTERM twice"),
    ):
        async with places.system() as system:
            await system.add("ingester")
            found.add(await embedder_with_a_silent_provider(system, f"embedder, silent provider, {case}", signals))
    async with places.system() as system:
        await system.add("ingester")
        await system.add("embedder")
        await system.wait_ready()
        system.provider.pace_seconds = 0.2
        for number in range(6):
            (system.inbox / f"{number}.md").write_text(_note(f"load{number}", 30))
        await _until(system, "SELECT count(*) > 20 FROM embedding", "nothing is embedded")
        found.add(await stop(system, "embedder", "embedder under load"))
        assert await system.fetchval("SELECT count(*) FROM lease") == 0, "a stopped embedder holds a lease"


async def embedder_with_a_silent_provider(system: System, case: str, signals: Sequence[signal.Signals] = TERM) -> Stop:
    """One of two idle embedders gets a batch and no answer; the other gets it when the first stops."""
    for name in ("one", "other"):
        await system.add("embedder", name, OPENAI_API_KEY=name)
    await system.wait_ready()
    provider = system.provider
    await _until(system, "SELECT count(*) = 0 FROM job WHERE stage <> 'index'", "what was there before is not done")
    provider.calls.clear()
    provider.faults.append({"kind": "slow", "seconds": SILENT_SECONDS})
    (system.inbox / "note.md").write_text(_note("held", 3))
    await system.wait(_true(lambda: len(provider.called()) > 0), GIVEN_UP_SECONDS, "nothing was sent")
    holder, held = str(provider.called()[0].key), provider.called()[0].body
    stopped = await stop(system, holder, case, signals)
    ended = time.monotonic()
    await _until(system, "SELECT bool_and(state = 'ready') FROM document_version", "the document is not ready")
    stopped.claim_seconds = (
        min(call.at for call in provider.called() if call.key != holder and call.body == held) - ended
    )
    return stopped


async def ingesters_in_work(places: Places, found: Stops) -> None:
    """A file is with a parser that hangs; and many with one that does not."""
    for signals, case in ((TERM, "SIGTERM"), (TWICE, "SIGTERM twice")):
        async with places.system() as system:
            await system.add("embedder")
            found.add(await ingester_with_a_hanging_parser(system, f"ingester, hanging parser, {case}", signals))
    async with places.system() as system:
        await system.add("embedder")
        await system.add("ingester")
        await system.wait_ready()
        for number in range(200):
            (system.inbox / f"{number}.md").write_text(_note(f"load{number}", 10))
        await _until(system, "SELECT count(*) > 5 FROM document_version WHERE state <> 'queued'", "nothing is parsed")
        found.add(await stop(system, "ingester", "ingester under load"))
        left = await system.fetchval("SELECT count(*) FROM job WHERE stage = 'ingest' AND lease_id IS NOT NULL")
        assert left == 0, "a stopped ingester holds jobs"


async def ingester_with_a_hanging_parser(system: System, case: str, signals: Sequence[signal.Signals] = TERM) -> Stop:
    """One of two ingesters gets a file and its parser hangs; the other gets it when the first stops."""
    for name in ("one", "other"):
        await system.add("ingester", name)
    await system.wait_ready()
    parsers = {name: psutil.Process(system.members[name].pid).children() for name in ("one", "other")}
    for process in (process for several in parsers.values() for process in several):
        process.suspend()
    try:
        (system.inbox / "note.md").write_text(_note("parsed", 3))
        statement = "SELECT w.pid FROM lease l JOIN worker w ON w.id = l.worker_id JOIN job j ON j.lease_id = l.id"
        await _until(system, statement, "nobody parses")
        pid = await system.fetchval(statement)
        holder, peer = sorted(parsers, key=lambda name: system.members[name].pid != pid)
        for process in parsers[peer]:
            process.resume()
        stopped = await stop(system, holder, case, signals)
        ended = time.monotonic()
        await _until(
            system, "SELECT bool_and(state IN ('embedding', 'ready')) FROM document_version", "the file is not parsed"
        )
        stopped.claim_seconds = time.monotonic() - ended  # its parsing included
    finally:
        for process in (process for several in parsers.values() for process in several):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    return stopped


async def queries_in_work(places: Places, found: Stops) -> None:
    """An answer is being streamed; somebody watches; a question waits for its vector; an upload comes slowly."""
    async with places.system(ASKBOX_LLM_MODEL="test-chat") as system:
        await system.add("embedder")
        await system.add("ingester")
        (system.inbox / "note.md").write_text(GATE)
        await _until(system, "SELECT count(*) > 0 FROM document_version WHERE state = 'ready'", "the note is not ready")
        for case, signals in (("SIGTERM", TERM), ("SIGTERM twice", TWICE), ("SIGINT", INT)):
            found.add(await query_in_mid_stream(system, f"query in mid-stream, {case}", signals))
        found.add(await query_with_viewers(system, "query with viewers"))
        found.add(await query_with_a_silent_provider(system, "query, silent provider"))
        found.add(await query_in_an_upload(system, "query in an upload"))


async def query_in_mid_stream(system: System, case: str, signals: Sequence[signal.Signals] = TERM) -> Stop:
    """A client reads an answer that the model does not end."""
    chats = chats_of(system.provider)
    chats.default = Chat(pieces=("The gate ", "opens ", "at nine [1]."), stall_at=2)
    member = await _query(system)

    async def read() -> str:
        body = ""
        async with httpx2.AsyncClient(trust_env=False, timeout=GIVEN_UP_SECONDS) as client:
            with contextlib.suppress(httpx2.HTTPError):
                async with client.stream(
                    "POST",
                    f"http://127.0.0.1:{member.port}/query/stream",
                    json={"question": "When does the gate open?"},
                ) as response:
                    async for piece in response.aiter_text():
                        body += piece
        return body

    reading = asyncio.create_task(read())
    calls = len(chats.calls)
    await system.wait(
        _true(lambda: len(chats.calls) > calls and chats.calls[-1].sent >= 2), GIVEN_UP_SECONDS, "no answer is streamed"
    )
    stopped = await stop(system, "query", case, signals)
    body = await asyncio.wait_for(reading, GIVEN_UP_SECONDS)
    assert "opens" in body, body
    await system.wait(_true(lambda: chats.calls[-1].left_at), GIVEN_UP_SECONDS, "the model is still asked")
    return stopped


async def query_with_viewers(system: System, case: str) -> Stop:
    """Clients watch the work, which has no end: their streams end all the same, and as streams should."""
    member = await _query(system)
    seen: list[str] = []

    async def watch() -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=GIVEN_UP_SECONDS) as client:
            async with client.stream("GET", f"http://127.0.0.1:{member.port}/ingest/events") as response:
                async for line in response.aiter_lines():
                    seen.append(line)  # noqa: PERF401 (one by one, as they come)

    watching = [asyncio.create_task(watch()) for _ in range(3)]
    await system.wait(_true(lambda: seen.count("event: work") >= len(watching)), GIVEN_UP_SECONDS, "nothing is shown")
    stopped = await stop(system, "query", case)
    await asyncio.wait_for(asyncio.gather(*watching), GIVEN_UP_SECONDS)  # a stream that is cut raises
    return stopped


async def query_with_a_silent_provider(system: System, case: str) -> Stop:
    """Questions wait for their vectors."""
    member = await _query(system)
    system.provider.calls.clear()
    system.provider.faults.extend([{"kind": "slow", "seconds": SILENT_SECONDS}] * 3)
    asked = [
        asyncio.create_task(system.request(member, "POST", "/query", json={"question": f"When does gate {n} open?"}))
        for n in range(3)
    ]
    await system.wait(_true(lambda: len(system.provider.called()) > 0), GIVEN_UP_SECONDS, "nothing was asked")
    stopped = await stop(system, "query", case)
    await asyncio.gather(*asked, return_exceptions=True)
    return stopped


async def query_in_an_upload(system: System, case: str) -> Stop:
    """A client sends a file slowly, and goes on when nobody listens any more."""
    member = await _query(system)
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="slow.md"\r\n\r\n' + b"word " * 1000
        sent.set()
        await asyncio.sleep(GIVEN_UP_SECONDS)

    async def upload() -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=GIVEN_UP_SECONDS) as client:
            with contextlib.suppress(httpx2.HTTPError):
                await client.post(
                    f"http://127.0.0.1:{member.port}/ingest/files",
                    content=body(),
                    headers={"Content-Type": "multipart/form-data; boundary=x"},
                )

    uploading = asyncio.create_task(upload())
    await sent.wait()
    stopped = await stop(system, "query", case)
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    return stopped


async def _query(system: System) -> Member:
    member = await system.add("query", ASKBOX_LLM_BASE_URL=f"http://127.0.0.1:{system.provider_proxy.port}/v1")
    await system.wait_ready()
    return member


# -- a database that says nothing ---------------------------------------------------------------------------------------


async def silent_databases(places: Places, found: Stops) -> None:
    """Connections are black holes; nothing passes; the server is frozen; it is gone."""
    for fault in ("silent", "stalled", "paused", "gone"):
        async with places.system() as system:
            found_here = await stops_without_a_database(system, fault, kinds=("embedder", "ingester", "query"))
            for stopped in found_here:
                found.add(stopped)


async def stops_without_a_database(system: System, fault: str, *, kinds: Sequence[str]) -> list[Stop]:
    """Stop processes that have work in hand and cannot tell their database."""
    await system.add("embedder")
    await system.add("ingester")
    if "query" in kinds:
        await system.add("query")
    await system.wait_ready()
    system.provider.pace_seconds = 0.2
    for number in range(12):
        (system.inbox / f"{number}.md").write_text(_note(f"{fault}{number}", 30))
    await _until(system, "SELECT count(*) > 10 FROM embedding", "nothing is embedded")
    asked: list[asyncio.Task[object]] = []
    if "query" in kinds:
        asked = [
            asyncio.create_task(system.request(system.members["query"], "POST", "/search", json={"question": "any"}))
            for _ in range(2)
        ]
    _break(system, fault)
    try:
        # As long as it takes them to ask the database something: the fault itself.
        await asyncio.sleep(1.5)
        stops = await asyncio.gather(*(stop(system, kind, f"{kind}, {fault} database") for kind in kinds))
    finally:
        if fault == "paused":
            system.cluster.resume()
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return list(stops)


def _break(system: System, fault: str) -> None:
    if fault == "paused":
        system.cluster.pause()
        return
    for member in system.members.values():
        match fault:
            case "silent":
                member.proxy.silence()
            case "stalled":
                member.proxy.stall()
            case "gone":
                member.proxy.is_refusing = True
                member.proxy.reset()


# -- from the first moment ----------------------------------------------------------------------------------------------


async def starting(places: Places, found: Stops, points: int) -> None:
    """A process is told to stop while it starts, at many moments, and while it waits for what is not there."""
    async with places.system() as system:
        await system.add("embedder", "first")
        await system.wait_ready()
        for kind in ("embedder", "ingester", "query"):
            for point in range(points):
                found.add(await stop_while_starting(system, kind, START_STEP_SECONDS * point), codes=STARTING_CODES)
        left = await system.fetchval("SELECT count(*) FROM worker WHERE kind <> 'embedder'")
        assert left == 0, f"{left} processes that were stopped are still announced"
    async with places.system() as system:
        system.provider_proxy.stall()
        await system.add("embedder")
        await system.add("ingester")
        await _until(system, "SELECT count(*) = 2 FROM worker WHERE is_hindered", "nobody waits")
        for kind in ("embedder", "ingester"):
            found.add(await stop(system, kind, f"{kind}, waiting for a silent provider"))
        system.provider_proxy.heal()
    async with places.system() as system:
        for kind in ("embedder", "ingester", "query"):
            member = await system.add(kind)
            member.proxy.stall()
        await asyncio.sleep(3.0)  # their programs are read, and they wait for the database: the fault itself
        stops = await asyncio.gather(
            *(stop(system, kind, f"{kind}, starting without a database") for kind in ("embedder", "ingester", "query"))
        )
        for stopped in stops:
            found.add(stopped, codes=STARTING_CODES)


STARTING_CODES = frozenset({0, *BY_THE_SIGNAL})


async def stop_while_starting(system: System, kind: str, seconds: float) -> Stop:
    """Tell a process to stop so long after it was started."""
    await system.add(kind)
    await asyncio.sleep(seconds)  # the moment is the fault
    return await stop(system, kind, f"{kind}, {seconds:.2f} s after its start")


# -- all of it ----------------------------------------------------------------------------------------------------------


async def everything(places: Places, found: Stops) -> None:
    """`askbox up` under load, on a terminal's Ctrl-C and on SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        url = await places.cluster.create_database()
        places.provider.reset()
        found.add(await asyncio.to_thread(stop_everything, places, url, number))
        await places.cluster.drop_database(url)


def stop_everything(places: Places, url: str, number: signal.Signals) -> Stop:
    """Start all processes, load them, stop them, and look for who is left."""
    folder = places.folder / f"up-{number.name}"
    folder.mkdir()
    askbox = Askbox(
        folder,
        url,
        embedders=2,
        ASKBOX_EMBEDDING_MODEL="openai:test-embedding",
        ASKBOX_EMBEDDING_BASE_URL=places.provider.url,
        ASKBOX_LOG_LEVEL="WARNING",
    )
    askbox.start()
    assert askbox.process is not None
    family = psutil.Process(askbox.process.pid).children(recursive=True)
    places.provider.pace_seconds = 0.5
    for place in range(50):
        (askbox.inbox / f"{place}.md").write_text(_note(f"up{place}", 20))
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while len(places.provider.called()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    started = time.monotonic()
    askbox.process.send_signal(number)
    try:
        code = askbox.process.wait(GIVEN_UP_SECONDS)
    finally:
        seconds = time.monotonic() - started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(askbox.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=2)
    for process in alive:
        process.kill()
    assert not alive, f"left behind: {alive}"
    return Stop(f"askbox up, {number.name}", seconds, code)


# -- small things -------------------------------------------------------------------------------------------------------


def _note(name: str, sections: int) -> str:
    import random

    return note(random.Random(name), name, sections)


def _true(fact: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def look() -> object:
        return fact()

    return look


async def _until(system: System, statement: str, complaint: str) -> None:
    await system.wait(lambda: system.fetchval(statement), GIVEN_UP_SECONDS * 2, complaint)
