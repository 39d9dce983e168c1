"""No half-updated document: one is sent again and again while readers ask, and every answer is of one version.

Every chunk of a version says `v=n`, and so does its title; the number of chunks follows from n. Some versions cannot be embedded
at all, some only later, and some lose their embedder or its connection in the middle of their publication.
"""

import asyncio
import contextlib
import json
import random
import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx2

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import upload
from tests.crash.picture import Picture
from tests.crash.report import Report
from tests.crash.system import System, running_system
from tests.openai_server import OpenAIServer, serving
from tests.proxy import Trap
from tests.waiting import until

REINGESTS = 500
READERS = 4
# Of every hundred: rejected by the model for good, refused for a while, broken while it publishes, killed at some statement.
REJECTED, REFUSED, BROKEN, TRAPPED = 10, 10, 8, 6
TWIN_EVERY = 4
# Two that follow at once, without waiting for the one before.
HURRIED_SHARE = 0.15
STATEMENT_MAX = 45
BOOK, TWIN = "book.md", "twin.md"
ROOMS_MIN, ROOMS_STEP = 12, 5
READER_PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
# What a publication waits for when somebody locks it: its first insert, its deletions, its very last write.
LOCKED = ("chunk", "chunk_vector", "chunk_position", "staged_chunk", "document")
_WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'askbox embedder' AND wait_event_type = 'Lock' LIMIT 1
"""
_NEWEST = """
SELECT v.id, v.state, v.error, d.live_version_id, d.id AS document_id
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id
WHERE d.source_uri = $1
ORDER BY v.id DESC
LIMIT 1
"""
_PUBLISHED = """
SELECT count(*) FROM (
  SELECT version_id, lag(version_id) OVER (PARTITION BY document_id ORDER BY id) AS before
  FROM document_event WHERE stage = 'publish' AND outcome = 'ready'
) AS story
WHERE before >= version_id
"""


def rooms_of(version: int) -> int:
    return ROOMS_MIN + version % ROOMS_STEP


def chunks_of(version: int) -> int:
    """The title stands in a chunk of its own."""
    return rooms_of(version) + 1


def page(version: int, fault: str = "") -> str:
    """Return the text of a version; `fault` stands in one of its chunks."""
    lines = [f"# The lighthouse book v={version}\n"]
    for room in range(rooms_of(version)):
        word = f" {fault}" if fault and room == 7 else ""
        lines.append(
            f"## Room {room}\n\nIn room {room} the keeper of the lighthouse writes v={version} into the book of room {room}"
            f" beside the lamp{word}.\n"
        )
    return "\n".join(lines)


def versions_in(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"v=(\d+)", text)}


@dataclass
class Seen:
    """What the readers saw."""

    looked: Counter[str] = field(default_factory=Counter)
    mixed: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Reader:
    """Asks in every way, one after the other, and remembers the newest version that it has seen of each document."""

    def __init__(self, system: System, seen: Seen, dice: random.Random, ids: dict[str, int]) -> None:
        member = system.members["query"]
        self._client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{member.port}", trust_env=False, timeout=60)
        self._seen = seen
        self._dice = dice
        self._ids = ids
        self._newest: dict[str, int] = {}
        self._ways = [self._query, self._stream, self._search, self._search_all, self._document, self._content]

    async def run(self) -> None:
        async with self._client:
            while True:
                name = self._dice.choice(list(self._ids))
                way = self._dice.choice(self._ways)
                self._seen.looked[way.__name__.strip("_")] += 1
                await way(name)
                await asyncio.sleep(READER_PAUSE_SECONDS)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response | None:
        response = await self._client.request(method, path, json=body)
        if response.status_code == 200:
            return response
        self._seen.failed.append(f"{method} {path}: {response.status_code} {response.text[:200]}")
        return None

    def _question(self, name: str | None) -> dict[str, Any]:
        room = self._dice.randrange(ROOMS_MIN)
        body: dict[str, Any] = {
            "question": f"What does the keeper of the lighthouse write into the book of room {room}?"
        }
        return body | ({"filters": {"document_ids": [self._ids[name]]}} if name is not None else {})

    async def _query(self, name: str) -> None:
        if response := await self._ask("POST", "/query", self._question(name)):
            self._judge_sources("query", name, response.json())

    async def _stream(self, name: str) -> None:
        if response := await self._ask("POST", "/query/stream", self._question(name)):
            done = re.findall(r"event: done\r?\ndata: (.*)", response.text)
            if not done:
                self._seen.failed.append(f"a stream without its end: {response.text[-200:]}")
            else:
                self._judge_sources("stream", name, json.loads(done[0]))

    def _judge_sources(self, way: str, name: str, answer: dict[str, Any]) -> None:
        sources = [source for source in answer["sources"] if source["file_path"] == name]
        if not answer["answered"] or not sources:
            self._seen.empty.append(f"{way}: {answer['answer'][:80]}")
            return
        seen = set().union(*(versions_in(source["quote"] + source["title"]) for source in sources))
        self._judge(way, name, seen | versions_in(answer["answer"]))

    async def _search(self, name: str) -> None:
        """The whole document, so that a part of it would be seen."""
        if response := await self._ask("POST", "/search", self._question(name) | {"top_k": 200}):
            hits = response.json()["data"]
            if not hits:
                self._seen.empty.append("search")
                return
            seen = set().union(*(versions_in(hit["text"] + hit["title"]) for hit in hits))
            if len(seen) == 1 and len(hits) != chunks_of(max(seen)):
                self._seen.mixed.append(f"search: {len(hits)} of {chunks_of(max(seen))} chunks of version {seen}")
            self._judge("search", name, seen)

    async def _search_all(self, _name: str) -> None:
        """Every document at once: each is of one version."""
        if response := await self._ask("POST", "/search", self._question(None) | {"top_k": 50}):
            hits = response.json()["data"]
            for name in self._ids:
                own = [hit for hit in hits if hit["file_path"] == name]
                if own:
                    self._judge("search all", name, set().union(*(versions_in(h["text"] + h["title"]) for h in own)))
            if not hits:
                self._seen.empty.append("search all")

    async def _document(self, name: str) -> None:
        if response := await self._ask("GET", f"/documents/{self._ids[name]}"):
            document = response.json()
            if not document["searchable"] or not document["chunks"]:
                self._seen.empty.append(f"document: {document}")
            if document["state"] == "failed" and not document["error"]:
                self._seen.failed.append("a failed version without its reason")

    async def _content(self, name: str) -> None:
        if response := await self._ask("GET", f"/documents/{self._ids[name]}/content"):
            self._judge("content", name, versions_in(response.text))

    def _judge(self, way: str, name: str, versions: set[int]) -> None:
        if len(versions) != 1:
            self._seen.mixed.append(f"{way} of {name}: versions {sorted(versions)}")
            return
        (version,) = versions
        if version < self._newest.get(name, 0):
            self._seen.older.append(f"{way} of {name}: {version} after {self._newest[name]}")
        self._newest[name] = max(version, self._newest.get(name, 0))


class Writer:
    """Sends the versions, each with its fate."""

    def __init__(
        self, system: System, provider: OpenAIServer, connection: asyncpg.Connection, dice: random.Random
    ) -> None:
        self._system = system
        self._provider = provider
        self._connection = connection
        self._dice = dice
        self.version = 0
        self.fates: Counter[str] = Counter()
        self.complaints: list[str] = []

    async def send(self, fault: str = "", *, hurries: bool = False) -> None:
        """Send the next version, at times with its twin, and wait for its end."""
        self.version += 1
        text = page(self.version, fault)
        files = [(BOOK, text)] + ([(TWIN, text)] if self.version % TWIN_EVERY == 1 else [])
        await upload(self._system.members["query"], self._system, files)
        if not hurries:
            await self.wait()

    async def wait(self, expected: str | None = "ready") -> asyncpg.Record:
        """Wait for the end of both documents' newest versions, and note when it is not the expected one."""
        for name in (BOOK, TWIN):
            await self._system.wait(
                lambda name=name: self._has_ended(name), PATIENCE_SECONDS, f"{name} v={self.version} has not ended"
            )
        row = await self.newest(BOOK)
        if expected is not None and row["state"] != expected:
            self.complaints.append(f"v={self.version} is {row['state']} instead of {expected}: {row['error']}")
        return row

    async def newest(self, name: str) -> asyncpg.Record:
        return await self._connection.fetchrow(_NEWEST, f"upload:{name}")

    async def _has_ended(self, name: str) -> bool:
        row = await self.newest(name)
        return row is not None and row["state"] in ("ready", "failed")

    async def plain(self) -> None:
        await self.send(hurries=self._dice.random() < HURRIED_SHARE)

    async def rejected(self) -> None:
        """The model takes one of its texts never: the version before goes on answering."""
        before = (await self.wait(None))["live_version_id"]
        fault = f"REJECTED{self.version + 1}"
        self._provider.poison[fault] = 400
        await self.send(fault, hurries=True)
        row = await self.wait("failed")
        if row["live_version_id"] != before:
            self.complaints.append(
                f"v={self.version} failed, and {before} answers no more but {row['live_version_id']}"
            )
        if not row["error"]:
            self.complaints.append(f"v={self.version} failed without a reason")

    async def refused(self) -> None:
        """The server fails at one of its batches, and later does not."""
        fault = f"REFUSED{self.version + 1}"
        self._provider.poison[fault] = 500
        before = sum(call.status == 500 for call in list(self._provider.calls))
        await self.send(fault, hurries=True)
        await self._system.wait(
            lambda: self._is_refused(before), PATIENCE_SECONDS, f"v={self.version} came to no batch that is refused"
        )
        del self._provider.poison[fault]
        await self.wait()

    async def _is_refused(self, before: int) -> bool:
        return sum(call.status == 500 for call in list(self._provider.calls)) > before

    async def broken(self) -> None:
        """Its publication is held in the middle, and then loses its session, its statement or its process."""
        table = self._dice.choice(LOCKED)
        fault = self._dice.choice(("terminate", "cancel", "kill"))
        await self.send(hurries=True)
        holder = await self._system.connect()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await holder.execute(f"BEGIN; LOCK TABLE {table} IN SHARE MODE")
            pid = None
            with contextlib.suppress(TimeoutError):
                pid = await until(lambda: self._connection.fetchval(_WAITING), 3)
            if pid is not None:
                self.fates[f"broken at {table}"] += 1
                if fault == "kill":
                    self._system.members["embedder"].signal(signal.SIGKILL)
                else:
                    function = "pg_terminate_backend" if fault == "terminate" else "pg_cancel_backend"
                    await self._connection.fetchval(f"SELECT {function}($1)", pid)
        finally:
            await holder.close()
        await self.wait()

    async def trapped(self) -> None:
        """The embedder dies at some statement, before it or before its answer."""
        member = self._system.members["embedder"]
        trap = Trap(
            self._dice.randint(1, STATEMENT_MAX), is_after=self._dice.random() < 0.5,
            spring=lambda: member.signal(signal.SIGKILL) and None,
        )  # fmt: skip
        member.proxy.trap = trap
        await self.send()
        member.proxy.trap = None
        self.fates["killed at a statement"] += trap.has_sprung


async def run(report: Report, options: Options) -> None:
    """Send one document 500 times under four readers."""
    async with running_cluster() as cluster:
        with serving() as provider:
            # A busy machine is no fault of the model's server, and none of the answers may fail for it.
            async with running_system(options.folder, cluster, provider, ASKBOX_PROVIDER_SECONDS="60") as system:
                for kind in ("ingester", "embedder", "query"):
                    await system.add(kind)
                await system.wait_ready()
                await flip(report, options, system, provider)


def _fates(count: int, dice: random.Random) -> list[str]:
    fates = []
    for name, share in (("rejected", REJECTED), ("refused", REFUSED), ("broken", BROKEN), ("trapped", TRAPPED)):
        fates += [name] * max(1, round(count * share / 100))
    fates += ["plain"] * (count - len(fates))
    dice.shuffle(fates)
    return fates


async def flip(report: Report, options: Options, system: System, provider: OpenAIServer) -> None:
    """Send, read, and judge."""
    count = options.sized(REINGESTS, 12)
    for number in range(4):
        (system.inbox / f"other-{number}.md").write_text(
            f"# Another lighthouse {number}\n\nThe keeper of lighthouse {number} writes nothing into any book.\n"
        )
    connection = await system.connect()
    writer = Writer(system, provider, connection, options.dice("writer"))
    await writer.send()
    ids = {name: (await writer.newest(name))["document_id"] for name in (BOOK, TWIN)}
    seen = Seen()
    readers = [
        asyncio.create_task(Reader(system, seen, options.dice(f"reader {number}"), ids).run())
        for number in range(READERS)
    ]
    try:
        for number, fate in enumerate(_fates(count, options.dice("fates")), start=1):
            await getattr(writer, fate)()
            writer.fates[fate] += 1
            if number % 50 == 0:
                report.say(f"{number} of {count} sent, {sum(seen.looked.values())} answers")
        await writer.send()
    finally:
        for reader in readers:
            reader.cancel()
        ended = await asyncio.gather(*readers, return_exceptions=True)
    for error in ended:
        report.expect(isinstance(error, asyncio.CancelledError), f"a reader ended: {error!r}")
    older = await connection.fetchval(_PUBLISHED)
    letters = await connection.fetchval("SELECT count(*) FROM dead_letter")
    await system.request(system.members["query"], "DELETE", "/dead-letters")
    await connection.close()
    with contextlib.suppress(AssertionError):  # what is left is told below
        await system.wait(lambda: _is_quiet(system), PATIENCE_SECONDS, "work is left")
    remains = _unfinished(await system.picture())
    findings = await system.check()
    _tell(report, writer, seen, older)
    report.figures["dead letters of rejected texts"] = letters
    report.expect(not remains, f"left over: {remains}")
    report.expect(not findings, f"invariants: {findings}")


def _unfinished(picture: Picture) -> dict[str, int]:
    """What the model rejected stays failed, and its reason visible."""
    return {name: left for name, left in picture.remains.items() if name != "version failed"}


async def _is_quiet(system: System) -> bool:
    return not _unfinished(await system.picture())


def _tell(report: Report, writer: Writer, seen: Seen, older: int) -> None:
    report.figures |= {
        "versions sent again": writer.version - 1,
        "answers looked at": sum(seen.looked.values()),
        "of mixed versions": len(seen.mixed),
        "empty": len(seen.empty),
        "older after newer": len(seen.older) + older,
        "requests that failed": len(seen.failed),
        "fates": ", ".join(f"{name} {times}" for name, times in sorted(writer.fates.items())),
    }
    for kind in ("mixed", "empty", "older", "failed"):
        complaints = getattr(seen, kind)
        report.expect(not complaints, f"{len(complaints)} answers {kind}, the first: {complaints[:3]}")
    report.expect(older == 0, f"{older} publications of an older version over a newer one")
    report.expect(not writer.complaints, f"{len(writer.complaints)} versions: {writer.complaints[:3]}")
