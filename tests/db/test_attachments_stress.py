"""Mails come, change, move and go while several ingesters and an embedder work on them and lose their leases."""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from email.message import EmailMessage

import asyncpg

from services.console.check import check
from services.embedder.embed import EmbedHandler
from services.ingester.parsing import parse
from services.ingester.paths import attachment_names
from shared import intake, queue
from shared.database import CONFLICT_ERRORS
from shared.errors import LeaseLost
from shared.publication import PublicationSweep
from tests.db.test_attachments import arrive, bury_over_http, drain, handler_of, mail, states
from tests.factories import HashModel, claim, make_collection

STEPS = 120
AUTHORS, INGESTERS = 2, 3
URIS = [f"inbox:{number}.eml" for number in range(4)]
# Between a claim and its lease others look; that is no fault of what is tried here.
PASSING = {"lease_owns_jobs"}


class Stress:
    """The people, the workers, and what they met."""

    def __init__(self, pool: asyncpg.Pool, model_id: int, collection_id: int) -> None:
        self._pool, self._model_id, self._collection_id = pool, model_id, collection_id
        self._dice = random.Random(7)
        self.met: Counter[str] = Counter()
        self.is_over = False

    def _mail(self) -> EmailMessage:
        """A mail of few names and few texts, so that the same bytes come again."""
        dice = self._dice
        files: dict[str, str | bytes | EmailMessage] = {
            f"{name}.txt": f"text {dice.randint(0, 5)}" for name in dice.sample(range(6), dice.randint(0, 5))
        }
        if dice.random() < 0.5:
            held = {f"{name}.txt": f"deep {dice.randint(0, 5)}" for name in dice.sample(range(4), dice.randint(0, 3))}
            files["in.eml"] = mail(held, subject="in")
        return mail(files, text=f"body {dice.randint(0, 9)}")

    async def write(self) -> None:
        """Do what people do."""
        for _ in range(STEPS):
            step, uri = self._dice.random(), self._dice.choice(URIS)
            with contextlib.suppress(*CONFLICT_ERRORS):
                if step < 0.6:
                    await arrive(self._pool, self._mail(), uri)
                elif step < 0.75:
                    await arrive(self._pool, self._mail(), self._dice.choice(URIS), moved_from=uri)
                elif step < 0.85:
                    await intake.delete_documents(self._pool, self._collection_id, [uri])
                else:
                    await self._bury()

    async def _bury(self) -> None:
        document_id = await self._pool.fetchval("SELECT id FROM document ORDER BY random() LIMIT 1")
        with contextlib.suppress(AssertionError):  # somebody else was faster
            if document_id is not None:
                await bury_over_http(self._pool, document_id)

    async def ingest(self) -> None:
        """Do what an ingester does, and sweep a lease of another now and then."""
        handler = handler_of(self._pool)
        while not self.is_over:
            jobs = await claim(self._pool, "ingest", batch_size=1)
            if not jobs:
                await asyncio.sleep(0.005)
                continue
            if self._dice.random() < 0.1:
                await self._expire("(SELECT id FROM lease ORDER BY random() LIMIT 1)")
                continue  # its own stays until it is swept as well
            try:
                await handler.process(jobs)
                await handler.after(jobs)
                self.met["staged"] += 1
            except LeaseLost:
                self.met["lost"] += 1
            except CONFLICT_ERRORS:
                with contextlib.suppress(LeaseLost):
                    async with self._pool.acquire() as conn:
                        await queue.release_jobs(conn, jobs[0].lease_id)

    async def embed(self) -> None:
        """Do what an embedder does."""
        handler = EmbedHandler(self._pool, HashModel(), self._model_id)
        while not self.is_over:
            with contextlib.suppress(LeaseLost, *CONFLICT_ERRORS):
                jobs = await claim(self._pool, "embed")
                if not jobs:
                    await asyncio.sleep(0.01)
                    continue
                await handler.process(jobs)
                await handler.after(jobs)
        await handler.finish()

    async def _expire(self, which: str) -> None:
        await self._pool.execute(f"UPDATE lease SET expires_at = now() - interval '1 second' WHERE id IN {which}")
        await queue.sweep_leases(self._pool)

    async def settle(self) -> None:
        """Finish what is left."""
        while await self._pool.fetchval("SELECT count(*) FROM lease"):
            await self._expire("(SELECT id FROM lease)")
        await self._pool.execute("UPDATE job SET run_at = now()")
        await PublicationSweep(self._pool)()
        await drain(self._pool)
        await PublicationSweep(self._pool)()


async def held(pool: asyncpg.Pool) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return what mails should hold, by the bytes of their newest versions, and what they do."""
    rows = await pool.fetch(
        "SELECT DISTINCT ON (d.id) d.source_uri, p.bytes FROM document AS d "
        "JOIN document_version AS v ON v.collection_id = d.collection_id AND v.document_id = d.id "
        "JOIN blob_part AS p ON p.blob_id = v.blob_id ORDER BY d.id, v.id DESC"
    )
    stones = {(row[0], row[1]) for row in await pool.fetch("SELECT source_uri, sha256 FROM tombstone")}
    contents = {row["source_uri"]: row["bytes"] for row in rows}
    wanted = {}
    for uri, content in contents.items():
        attached = parse(uri, content)[1].attachments if uri.endswith(".eml") else ()
        for name, one in zip(attachment_names([one.name for one in attached]), attached, strict=True):
            data = b"".join(one.pieces())
            if (f"{uri}//{name}", hashlib.sha256(data).digest()) not in stones:
                wanted[f"{uri}//{name}"] = data
    return wanted, {uri: content for uri, content in contents.items() if "//" in uri}


async def test_mails_hold_in_the_end_what_their_last_versions_say(pool, url):
    collection_id, model_id = await make_collection(pool)
    stress = Stress(pool, model_id, collection_id)
    working = [asyncio.create_task(stress.ingest()) for _ in range(INGESTERS)] + [asyncio.create_task(stress.embed())]
    async with asyncio.TaskGroup() as people:
        for _ in range(AUTHORS):
            people.create_task(stress.write())
    assert [finding for finding in await check(url) if finding.invariant not in PASSING] == []
    stress.is_over = True
    await asyncio.gather(*working)
    await stress.settle()
    assert stress.met["staged"] > STEPS / 6, stress.met
    assert set((await states(pool)).values()) <= {"ready"}
    wanted, found = await held(pool)
    assert found == wanted
    assert await check(url) == []
