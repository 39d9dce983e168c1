"""What is deleted is gone within seconds and stays away, whatever was at work on it; and what stays is found as well as before."""

import asyncio
import contextlib
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import asyncpg
import httpx2

from services.console.keys import create_key, owner_connection, revoke_key
from services.ingester.deletion_guard import MISSING_BELIEVED_MAX
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import newest_state, upload
from tests.crash.recall import recall_after_deletion
from tests.crash.report import Report, percentile
from tests.crash.system import ROOT, Member, System, running_system
from tests.openai_chat import Chat, chats_of
from tests.openai_server import OpenAIServer, serving
from tests.waiting import until

GONE_SECONDS_MAX = 5.0
# As a person has it: what is timed here must not depend on frequent scans.
# A busy machine is no fault of the model's server either.
DEFAULTS = {"ASKBOX_RESCAN_SECONDS": "30", "ASKBOX_SETTLE_SECONDS": "1", "ASKBOX_PROVIDER_SECONDS": "60"}
FILES, SINGLES, IN_WORK, RECREATED, DROPPED = 1500, 40, 4, 100, 8
COLLECTION_FILES = 30
ASKING = 3
SMALL_INBOX_FILES = 60
LONG_SENTENCES = 20_000
RECREATED_WITHIN_SECONDS = 0.05
PATIENCE_SECONDS = 180.0
LOOK_SECONDS = 0.02
CHUNKS, QUESTIONS = 20_000, 100

_LIVE_WITH_SUMS = """
SELECT count(*)
FROM document AS d
JOIN document_version AS v ON v.collection_id = d.collection_id AND v.id = d.live_version_id
JOIN blob AS b ON b.id = v.blob_id
JOIN unnest($1::text[], $2::bytea[]) AS w (uri, sum) ON w.uri = d.source_uri AND w.sum = b.sha256
"""
_LIVE_IN_COLLECTION = """
SELECT count(*) >= $2
FROM document AS d
JOIN collection AS k ON k.id = d.collection_id
WHERE k.name = $1 AND d.live_version_id IS NOT NULL
"""


async def run(report: Report, options: Options) -> None:
    """Delete at every moment and in every way."""
    # Dead rows stay where they are, as they do until a vacuum comes.
    async with running_cluster(configuration="autovacuum = off\n") as cluster:
        url = await cluster.create_database()
        await recall_after_deletion(report, url, options.sized(CHUNKS, 4000), QUESTIONS, options.dice("recall"))
        await cluster.drop_database(url)
        with serving() as provider:
            async with running_system(options.folder, cluster, provider, **DEFAULTS) as system:
                for kind in ("ingester", "embedder", "query"):
                    await system.add(kind)
                await system.add("query", "talker", ASKBOX_LLM_MODEL="test-chat", ASKBOX_LLM_BASE_URL=provider.url)
                await system.wait_ready()
                part = Deletions(report, options, system, provider, await system.connect())
                await part.unlink_some(options.sized(FILES, SMALL_INBOX_FILES), options.sized(SINGLES, 3))
                await part.unlink_most()
                await part.delete_in_work(options.sized(IN_WORK))
                await part.delete_while_answered()
                await part.recreate(options.sized(RECREATED, 6))
                await part.drop_collections(options.sized(DROPPED))
                await part.look_for_resurrected()
                await part.revoke_while_answered()
                part.tell()


class Deletions:
    """What was deleted, and how long each was still there."""

    def __init__(
        self,
        report: Report,
        options: Options,
        system: System,
        provider: OpenAIServer,
        connection: asyncpg.Connection,
    ) -> None:
        self._report = report
        self._dice = options.dice("deletes")
        self._system = system
        self._provider = provider
        self._connection = connection
        self._count = 0
        self._gone: set[str] = set()
        self._seconds: dict[str, list[float]] = {}
        self._key: str | None = None

    @property
    def _query(self) -> Member:
        return self._system.members["query"]

    # -- files --------------------------------------------------------------------------------------------------------

    def _write(self, *, sentences: int = 1) -> str:
        """Write another file and return its name."""
        self._count += 1
        name = f"{self._count:06}.md"
        (self._system.inbox / name).write_text(
            f"# Sheet {self._count}\n\n"
            + f"The gardener plants seedling number {self._count} behind the wall.\n" * sentences
        )
        return name

    async def _write_and_wait(self) -> str:
        name = self._write()
        await self._until_ready([name])
        return name

    async def _until_ready(self, names: Iterable[str]) -> None:
        uris = [f"inbox:{name}" for name in names]
        count = "SELECT count(*) = $2 FROM document WHERE source_uri = ANY ($1) AND live_version_id IS NOT NULL"
        await self._wait(lambda: self._connection.fetchval(count, uris, len(uris)), f"{len(uris)} files are not ready")

    async def _until_state(self, name: str, *states: str) -> None:
        async def is_so() -> bool:
            return await newest_state(self._connection, f"inbox:{name}") in states

        await self._wait(is_so, f"{name} is not {' or '.join(states)}")

    async def _wait(self, is_so: Callable[[], Awaitable[object]], complaint: str) -> None:
        await self._system.wait(is_so, PATIENCE_SECONDS, complaint)

    async def _id_of(self, name: str) -> int:
        return await self._connection.fetchval("SELECT id FROM document WHERE source_uri = $1", f"inbox:{name}")

    async def _ask(self, method: str, path: str, member: Member | None = None, **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return await self._system.request(member or self._query, method, path, headers=headers, **options)

    # -- timing -------------------------------------------------------------------------------------------------------

    async def _time_search(self, way: str, name: str, act: Callable[[], Awaitable[object]]) -> None:
        """Delete one document, and search for it until it is not found."""
        body = {"question": "Which seedling does the gardener plant behind the wall?", "top_k": 5}
        body |= {"filters": {"document_ids": [await self._id_of(name)]}}

        async def is_found() -> bool:
            return bool((await self._ask("POST", "/search", json=body)).json()["data"])

        self._report.expect(await is_found(), f"{name} was not found before it was deleted")
        started = time.monotonic()
        await act()
        while await is_found() and time.monotonic() - started < PATIENCE_SECONDS:  # noqa: ASYNC110 (asked over HTTP)
            await asyncio.sleep(LOOK_SECONDS)
        self._note(way, name, time.monotonic() - started)

    async def _time_rows(self, way: str, names: list[str], started: float) -> None:
        """Watch many documents vanish from what is searched."""
        left = {f"inbox:{name}": name for name in names}
        there = "SELECT source_uri FROM document WHERE source_uri = ANY ($1)"
        while left and time.monotonic() - started < PATIENCE_SECONDS:
            still = {row["source_uri"] for row in await self._connection.fetch(there, list(left))}
            now = time.monotonic() - started
            for uri in left.keys() - still:
                self._note(way, left.pop(uri), now)
            await asyncio.sleep(LOOK_SECONDS)
        self._report.expect(not left, f"{way}: {len(left)} of {len(names)} documents are still there")

    def _note(self, way: str, name: str, seconds: float) -> None:
        self._seconds.setdefault(way, []).append(seconds)
        self._gone.add(name)

    # -- ways ---------------------------------------------------------------------------------------------------------

    async def unlink_some(self, files: int, singles: int) -> None:
        """Unlink less than half of the inbox, one by one and many at once."""
        names = [self._write() for _ in range(files)]
        await self._until_ready(names)
        self._report.say(f"{files} files are ready")
        for name in names[:singles]:
            await self._time_search("one file unlinked", name, lambda name=name: _unlink(self._system, [name]))
        many = names[singles : singles + files // 3]
        started = time.monotonic()
        await _unlink(self._system, many)
        await self._time_rows("many files unlinked", many, started)
        self._report.say(f"{singles} and {len(many)} unlinked")

    async def unlink_most(self) -> None:
        """Unlink nearly all: nothing goes until a person says that it is meant."""
        names = sorted(path.name for path in self._system.inbox.glob("*.md"))[:-3]
        await _unlink(self._system, names)
        await self._wait(self._is_paused, "the mass disappearance was believed, or not noticed")
        await self._wait(self._tells_how_to_confirm, "health does not say how to confirm")
        there = "SELECT source_uri FROM document WHERE source_uri = ANY ($1)"
        uris = [f"inbox:{name}" for name in names]
        left = {row["source_uri"].removeprefix("inbox:") for row in await self._connection.fetch(there, uris)}
        # The first of them may go alone: what is noticed by then is too little to be doubted.
        self._report.expect(
            len(names) - len(left) <= MISSING_BELIEVED_MAX,
            f"{len(names) - len(left)} documents went before anybody confirmed",
        )
        self._gone |= set(names) - left
        names = sorted(left)
        confirming = asyncio.create_task(asyncio.to_thread(_confirm, self._system))
        ago = "SELECT extract(epoch FROM clock_timestamp() - confirmed_at)::float FROM inbox_pause WHERE confirmed_at IS NOT NULL"
        started = time.monotonic() - float(str(await until(lambda: self._connection.fetchval(ago), PATIENCE_SECONDS)))
        await self._time_rows("most files unlinked, confirmed", names, started)
        told = await confirming
        self._report.expect(f"the deletion of {len(names)} documents" in told, f"confirmed was {told!r}")
        await self._wait(self._is_healthy, "the pause did not end")
        self._report.say(f"{len(names)} unlinked and confirmed")

    async def _is_paused(self) -> bool:
        missing = "SELECT missing_count FROM inbox_pause"
        there = "SELECT count(*) FROM document WHERE source_uri LIKE 'inbox:%'"
        return await self._connection.fetchval(missing) == await self._connection.fetchval(there) - 3

    async def _tells_how_to_confirm(self) -> bool:
        health = await self._ask("GET", "/health")
        return health.status_code == 503 and "confirm-deletes" in health.text

    async def _is_healthy(self) -> bool:
        return (await self._ask("GET", "/health")).status_code == 200

    async def delete_in_work(self, rounds: int) -> None:
        """Delete what waits, is parsed, or is embedded, by its file and over HTTP; a late worker brings nothing back."""
        for _ in range(rounds):
            for way in (self._unlink_one, self._delete_over_http):
                await self._in_queue(way)
                await self._in_parser(way)
                await self._in_model(way)
        # Who starts anew scans everything; what was deleted over HTTP still lies in the inbox.
        await self._system.kill("ingester")
        await self._write_and_wait()
        await self.look_for_resurrected()
        self._report.say(f"{6 * rounds} deleted in work")

    async def _unlink_one(self, name: str) -> None:
        await _unlink(self._system, [name])

    async def _delete_over_http(self, name: str) -> None:
        response = await self._ask("DELETE", f"/documents/{await self._id_of(name)}")
        self._report.expect(response.status_code == 204, f"DELETE of {name}: {response.status_code} {response.text}")

    async def _in_queue(self, way: Callable[[str], Awaitable[None]]) -> None:
        async with self._locked("lease"):  # nobody can claim
            name = self._write()
            await self._until_state(name, "queued")
            started = time.monotonic()
            await way(name)
            await self._time_rows("deleted while queued", [name], started)

    async def _in_parser(self, way: Callable[[str], Awaitable[None]]) -> None:
        name = self._write(sentences=LONG_SENTENCES)
        await self._until_state(name, "parsing", "embedding", "ready")
        started = time.monotonic()
        await way(name)
        await self._time_rows("deleted while parsed", [name], started)
        await self._until_no_work()

    async def _in_model(self, way: Callable[[str], Awaitable[None]]) -> None:
        before = len(self._provider.calls)
        self._system.provider_proxy.stall()
        try:
            name = self._write()
            await self._until_state(name, "embedding")
            await self._wait(self._has_leased_text, "no text was claimed")
            started = time.monotonic()
            await way(name)
            await self._time_rows("deleted while embedded", [name], started)
        finally:
            self._system.provider_proxy.heal()
        await self._until_no_work()
        self._report.expect(len(self._provider.calls) > before, "the model was never asked, so no worker was late")

    async def _has_leased_text(self) -> bool:
        return await self._connection.fetchval(
            "SELECT count(*) > 0 FROM job WHERE stage = 'embed' AND lease_id IS NOT NULL"
        )

    async def _until_no_work(self) -> None:
        await self._wait(
            lambda: self._connection.fetchval("SELECT count(*) = 0 FROM job WHERE stage <> 'index'"), "work is left"
        )

    @contextlib.asynccontextmanager
    async def _locked(self, table: str) -> AsyncIterator[None]:
        holder = await self._system.connect()
        try:
            await holder.execute(f"BEGIN; LOCK TABLE {table} IN SHARE MODE")
            yield
        finally:
            await holder.close()

    # -- under questions ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _held_answer(self) -> AsyncIterator[tuple["asyncio.Task[str]", Callable[[], None]]]:
        """Begin an answer whose model stops in the middle of it; yields the answer to come, and what lets it go on."""
        chats = chats_of(self._provider)
        chats.is_released = False
        calls = len(chats.calls)
        chats.play(Chat(pieces=("The gardener plants", " a seedling [1]."), hold_at=1))
        body = {"question": "Which seedling does the gardener plant behind the wall?"}

        async def ask() -> str:
            response = await self._ask("POST", "/query/stream", self._system.members["talker"], json=body)
            return f"{response.status_code} {response.text}"

        def release() -> None:
            chats.is_released = True

        asking = asyncio.create_task(ask())
        try:
            await until(lambda: asyncio.sleep(0, len(chats.calls) > calls and chats.calls[-1].sent), PATIENCE_SECONDS)
            yield asking, release
        finally:
            release()
            await asyncio.wait({asking}, timeout=PATIENCE_SECONDS)

    async def delete_while_answered(self) -> None:
        """Delete what an answer is being made of: it goes at once, and the answer ends as it began."""
        names = [path.name for path in self._system.inbox.glob("*.md")]
        name = await self._write_and_wait()
        async with self._held_answer() as (asking, release):
            await self._time_search("deleted while answered", name, lambda: self._unlink_one(name))
            release()
            answer = await asking
        self._report.expect(
            answer.startswith("200") and "event: done" in answer,
            f"an answer about a deleted document ended as {answer[-200:]}",
        )
        self._report.figures["answer whose document was deleted"] = "ends as it began"
        self._report.expect(len(names) < SMALL_INBOX_FILES, "the inbox should be small by now")

    async def revoke_while_answered(self) -> None:
        """Revoke a key whose answer is being made. Last, since from the first key on everybody needs one."""
        async with owner_connection(self._system.url) as conn:
            admin = await create_key(conn, "keeper", "admin", [])
            self._key = await create_key(conn, "leaver", "read", [])
            async with self._held_answer() as (asking, release):
                await revoke_key(conn, "leaver")
                started = time.monotonic()
                codes = []
                while (code := (await self._ask("GET", "/documents")).status_code) != 401:
                    codes.append(code)
                    if time.monotonic() - started > PATIENCE_SECONDS:
                        break
                seconds = time.monotonic() - started
                is_over = asking.done()
                release()
                answer = await asking
        self._key = admin
        self._report.figures["revoked key refused after, s"] = round(seconds, 3)
        self._report.figures["answer begun before the revocation"] = (
            "cut" if is_over else "ends as it began" if "event: done" in answer else "fails"
        )
        self._report.expect(seconds <= GONE_SECONDS_MAX, f"a revoked key was good for {seconds:.1f} s")

    async def drop_collections(self, times: int) -> None:
        """Drop a collection while questions are asked of it: never half of it, never an error of ours."""
        answers = 0
        codes: dict[int, int] = {}
        for number in range(times):
            name = f"shed-{number}"
            files = [
                (f"{n}.md", f"# Shed {n}\n\nThe gardener keeps tool number {n} of round {number} in the shed.\n")
                for n in range(COLLECTION_FILES)
            ]
            await upload(self._query, self._system, files, collection=name)
            is_waiting = number % 2 == 1  # the others are dropped in the middle of their ingest
            await self._wait(
                lambda name=name, least=COLLECTION_FILES if is_waiting else 1: self._connection.fetchval(
                    _LIVE_IN_COLLECTION, name, least
                ),
                f"{name} is not ready",
            )
            stopped = asyncio.Event()
            askers = [asyncio.create_task(self._ask_on(name, stopped, codes)) for _ in range(ASKING)]
            await asyncio.sleep(self._dice.uniform(0, 0.3))
            started = time.monotonic()
            response = await self._ask("DELETE", f"/collections/{name}")
            self._report.expect(
                response.status_code == 204, f"DELETE of {name}: {response.status_code} {response.text}"
            )
            while (
                await self._ask("POST", "/search", json={"question": "tool", "collection": name})
            ).status_code != 404:
                await asyncio.sleep(LOOK_SECONDS)
                if time.monotonic() - started > PATIENCE_SECONDS:
                    break
            self._seconds.setdefault("collection dropped", []).append(time.monotonic() - started)
            await asyncio.sleep(0.1)
            stopped.set()
            answers += sum(await asyncio.gather(*askers))
            left = await self._connection.fetchval("SELECT count(*) FROM document WHERE source_uri LIKE 'upload:%'")
            self._report.expect(left == 0, f"{left} documents of {name} are left")
        await self._until_no_work()
        bad = {code: count for code, count in codes.items() if code not in (200, 404)}
        self._report.figures |= {"collections dropped": times, "questions meanwhile": answers}
        self._report.expect(not bad, f"questions to a collection that goes were answered {bad}")
        self._report.say(f"{times} collections dropped under {answers} questions")

    async def _ask_on(self, name: str, stopped: asyncio.Event, codes: dict[int, int]) -> int:
        count = 0
        while not stopped.is_set():
            named = {"collection": name} if count % 2 else {}
            path = "/query" if count % 3 else "/search"
            body = {"question": "Which tool does the gardener keep in the shed?"} | named
            response = await self._ask("POST", path, json=body)
            codes[response.status_code] = codes.get(response.status_code, 0) + 1
            count += 1
        return count

    # -- coming back ----------------------------------------------------------------------------------------------------

    async def recreate(self, times: int) -> None:
        """Delete a file and write it again within 50 ms, with the same bytes or others; or write it and delete it."""
        names = [self._write() for _ in range(times)]
        await self._until_ready(names)
        kept: dict[str, bytes] = {}
        for number, name in enumerate(names):
            path = self._system.inbox / name
            pause = self._dice.uniform(0, RECREATED_WITHIN_SECONDS)
            content = path.read_bytes() if number % 3 == 0 else path.read_bytes() + b"\nIt was written again.\n"
            if number % 3 == 2:
                path.write_bytes(content)
                await asyncio.sleep(pause)
                path.unlink()
                self._gone.add(name)
                continue
            path.unlink()
            await asyncio.sleep(pause)
            path.write_bytes(content)
            kept[name] = content
        wanted = ([f"inbox:{name}" for name in kept], [hashlib.sha256(content).digest() for content in kept.values()])

        async def are_there() -> bool:
            return await self._connection.fetchval(_LIVE_WITH_SUMS, *wanted) == len(kept)

        await self._wait(are_there, "what was deleted and written again is not there")
        removed = [f"inbox:{name}" for name in names if name not in kept]
        gone = "SELECT count(*) = 0 FROM document WHERE source_uri = ANY ($1)"
        await self._wait(lambda: self._connection.fetchval(gone, removed), "what was written and deleted is there")
        self._report.figures["deleted and written again"] = len(kept)
        self._report.figures["written and deleted at once"] = len(removed)

    async def look_for_resurrected(self) -> None:
        """Whatever was deleted is neither there nor answered with."""
        uris = [f"inbox:{name}" for name in self._gone]
        there = await self._connection.fetch("SELECT source_uri FROM document WHERE source_uri = ANY ($1)", uris)
        self._report.figures["resurrected"] = len(there) + int(self._report.figures.get("resurrected", 0))
        self._report.expect(not there, f"{len(there)} documents came back: {[row['source_uri'] for row in there[:5]]}")
        body = {"question": "Which seedling does the gardener plant behind the wall?", "top_k": 200}
        found = {hit["file_path"] for hit in (await self._ask("POST", "/search", json=body)).json()["data"]}
        self._report.expect(not found & self._gone, f"found although deleted: {sorted(found & self._gone)[:5]}")

    def tell(self) -> None:
        """Put the times together."""
        for way, took in self._seconds.items():
            self._report.figures[f"{way}: p50/p99 s of {len(took)}"] = (
                f"{percentile(took, 0.5):.2f} / {percentile(took, 0.99):.2f}"
            )
        took = [seconds for of_way in self._seconds.values() for seconds in of_way]
        self._report.figures["deleted"] = len(took)
        self._report.figures["unretrievable after: p50 s"] = round(percentile(took, 0.5), 2)
        self._report.figures["unretrievable after: p99 s"] = round(percentile(took, 0.99), 2)
        for way, of_way in self._seconds.items():
            worst = percentile(of_way, 0.99)
            self._report.expect(
                worst <= GONE_SECONDS_MAX, f"{way}: p99 {worst:.1f} s, promised are {GONE_SECONDS_MAX:g} s"
            )


async def _unlink(system: System, names: Iterable[str]) -> None:
    for name in names:
        (system.inbox / name).unlink()


def _confirm(system: System) -> str:
    """What `askbox inbox confirm-deletes` prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ASKBOX_", "OPENAI_"))}
    environment |= {
        "ASKBOX_URL": f"http://127.0.0.1:{system.members['query'].port}",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "services.console", "inbox", "confirm-deletes"]
    done = subprocess.run(
        command, cwd=system.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return re.sub(r"\s+", " ", done.stdout + done.stderr)
