"""Forced interleavings of publication: real connections, each step where it hurts most."""

import asyncio
import random
from contextlib import AsyncExitStack

import asyncpg

from services.console.check import check
from services.embedder.embed import EmbedHandler
from services.ingester.sandbox import ParsedHead
from services.ingester.store import begin_parsing, finish_staging, stage_chunks
from shared import intake, publication, queue
from shared.errors import LeaseLost
from shared.publication import Answer, PublicationSweep, VersionKey, ask, insert_embed_jobs
from tests.db.test_publication import embed_all, live_texts, state_of
from tests.factories import HashModel, arrive, claim, make_chunks, make_collection, stage_version, vector_of
from tests.waiting import SECONDS_MAX, until

# What a stress test does at least, and in which time it has to be done.
SECONDS_MIN, STAGINGS_MIN, STRESS_SECONDS_MAX = 5, 51, 90


class Overtaken(Exception):
    """A newer version arrived before this one was begun."""


async def wait_for_lock(owner: asyncpg.Connection, count: int = 1) -> None:
    """Wait until `count` sessions of this database wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await until(lambda: owner.fetchval(f"SELECT ({waiting}) >= $1", count))


async def staging(conn: asyncpg.Connection, pool: asyncpg.Pool, texts: list[str], source_uri: str) -> VersionKey:
    """Do what staging does in the caller's open transaction, without committing it."""
    arrival = await arrive(pool, source_uri + " ".join(texts), source_uri=source_uri)
    key = VersionKey(arrival.collection_id, arrival.version_id)
    _, model_id = await make_collection(pool)
    async with pool.acquire() as other:
        await other.execute("DELETE FROM job WHERE stage = 'ingest' AND subject_id = $1", key.version_id)
        if not await begin_parsing(other, key):
            raise Overtaken
    await stage_chunks(conn, key, make_chunks(texts), languages=["english"] * len(texts), path_words="")
    await finish_staging(conn, key, ParsedHead("text/plain", None, {}, 0))
    await insert_embed_jobs(conn, key, model_id)
    return key


async def complete(conn: asyncpg.Connection, jobs: list[queue.Job], model_id: int) -> None:
    """Do what a completion does in the caller's open transaction, without committing it."""
    await queue.complete_jobs(conn, jobs[0].lease_id, [job.id for job in jobs])
    await conn.execute(
        "INSERT INTO embedding (model_id, text_hash, vector) SELECT $1, h, $3::text::halfvec FROM unnest($2::bytea[]) h",
        model_id,
        [job.text_hash for job in jobs],
        str(vector_of("x").tolist()),
    )


async def test_two_last_completions_publish_once(pool, owner):
    key = await stage_version(pool, ["left", "right"])
    left, right = await claim(pool, "embed", batch_size=1), await claim(pool, "embed", batch_size=1)
    _, model_id = await make_collection(pool)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(pool.acquire())
        second = await stack.enter_async_context(pool.acquire())
        one, two = first.transaction(), second.transaction()
        await one.start()
        await two.start()
        await complete(first, left, model_id)
        await complete(second, right, model_id)
        await one.commit()
        assert await ask(pool, key) is Answer.WAITING
        await two.commit()
    answers = await asyncio.gather(ask(pool, key), ask(pool, key))
    assert sorted(answers) == sorted([Answer.PUBLISHED, Answer.NOT_STAGED])
    assert await live_texts(owner) == ["left", "right"]


async def test_completion_during_a_staging_that_has_not_committed_is_not_lost(pool, owner):
    """S stages over T's job; T completes and asks while S is invisible; S commits and asks."""
    first = await stage_version(pool, ["common"], source_uri="inbox:first.md")
    jobs = await claim(pool, "embed")
    _, model_id = await make_collection(pool)
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        second = await staging(conn, pool, ["common"], "inbox:second.md")
        async with pool.acquire() as other, other.transaction():
            await complete(other, jobs, model_id)
        assert await ask(pool, first) is Answer.PUBLISHED
        assert await ask(pool, second) is Answer.NOT_STAGED  # still invisible
        await transaction.commit()
    assert await ask(pool, second) is Answer.PUBLISHED


async def test_staging_that_asks_before_the_completion_commits_is_not_lost(pool, owner):
    """S stages and asks while T's completion is invisible; T commits and asks last."""
    await stage_version(pool, ["common"], source_uri="inbox:first.md")
    jobs = await claim(pool, "embed")
    _, model_id = await make_collection(pool)
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await complete(conn, jobs, model_id)
        # S must insert the job again or find it: its ON CONFLICT waits for T, so it runs beside.
        staged = asyncio.create_task(stage_version(pool, ["common"], source_uri="inbox:second.md"))
        await wait_for_lock(owner)
        await transaction.commit()
    second = await staged
    # S saw no vector, so there is a job again; the look at the claim finds the vector and calls no model.
    model = await embed_all(pool)
    assert model.encoded == []
    assert await state_of(owner, second) == "ready"


async def test_question_waits_for_the_document_and_sees_what_its_holder_did(pool, owner):
    """The lock wait and the look are separate statements: one statement's snapshot would predate the wait."""
    key = await stage_version(pool, ["text"])
    jobs = await claim(pool, "embed")
    _, model_id = await make_collection(pool)
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.fetchval("SELECT id FROM document FOR NO KEY UPDATE")
        asking = asyncio.create_task(ask(pool, key))
        await wait_for_lock(owner)
        async with pool.acquire() as other, other.transaction():
            await complete(other, jobs, model_id)
        await transaction.commit()
    assert await asking is Answer.PUBLISHED


async def test_stagings_of_the_same_texts_in_opposite_orders_do_not_deadlock(pool, owner):
    texts = [f"shared {n}" for n in range(300)]
    for round_number in range(3):
        names = [f"inbox:{round_number}-{n}.md" for n in range(4)]
        keys = await asyncio.gather(
            *[
                stage_version_of_claimed(pool, [f"{round_number} {t}" for t in random.sample(texts, 300)], name)
                for name in names
            ]
        )
        assert len(keys) == 4
    assert await owner.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'") == 900
    assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def test_jobs_of_texts_are_inserted_in_the_order_of_their_hashes(pool, owner):
    """Whoever inserts the same keys in another order deadlocks with this one; a race shows it now and then only."""
    await stage_version(pool, [f"text {n}" for n in range(100)])
    hashes = [
        row["text_hash"] for row in await owner.fetch("SELECT text_hash FROM job WHERE stage = 'embed' ORDER BY id")
    ]
    assert hashes == sorted(hashes)
    assert len(hashes) == 100


async def test_sweep_leaves_a_document_that_somebody_holds(pool, owner):
    """Its holder will ask; a sweep that waited for each would hold up all the others."""
    key = await stage_version(pool, ["text"])
    async with pool.acquire() as conn, conn.transaction():
        await conn.fetchval("SELECT id FROM document FOR NO KEY UPDATE")
        asking = asyncio.create_task(ask(pool, key, waits=False))
        blocked = asyncio.create_task(wait_for_lock(owner))
        await asyncio.wait({asking, blocked}, return_when=asyncio.FIRST_COMPLETED)
        is_left = asking.done()
        blocked.cancel()
        await asyncio.gather(blocked, return_exceptions=True)
    assert is_left
    assert await asking is Answer.WAITING


async def stage_version_of_claimed(pool: asyncpg.Pool, texts: list[str], source_uri: str) -> VersionKey:
    async with pool.acquire() as conn, conn.transaction():
        return await staging(conn, pool, texts, source_uri)


async def test_publication_and_deletion_do_not_deadlock(pool, owner):
    collection_id, _ = await make_collection(pool)
    for number in range(10):
        uri = f"inbox:{number}.md"
        key = await stage_version(pool, [f"a {number}", f"b {number}"], source_uri=uri, is_asked=False)
        _, model_id = await make_collection(pool)
        handler = EmbedHandler(pool, HashModel(), model_id)
        jobs = await claim(pool, "embed")
        await handler._complete(jobs[0].lease_id, jobs, {job.text_hash: vector_of("x") for job in jobs})
        answer, deleted = await asyncio.gather(ask(pool, key), intake.delete_documents(pool, collection_id, [uri]))
        assert answer in (Answer.PUBLISHED, Answer.GONE)
        assert deleted.keys() == {uri}
    assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    assert await owner.fetchval("SELECT count(*) FROM chunk") == 0
    assert await owner.fetchval("SELECT count(*) FROM chunk_vector") == 0


async def test_deletion_waits_for_a_publication_and_takes_it_along(pool, owner):
    key = await stage_version(pool, ["short lived"], is_asked=False)
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    jobs = await claim(pool, "embed")
    await handler._complete(jobs[0].lease_id, jobs, {job.text_hash: vector_of("x") for job in jobs})
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        assert (await publication._ask(conn, key, 0.0))[0] is Answer.PUBLISHED
        deleting = asyncio.create_task(intake.delete_documents(pool, key.collection_id, ["inbox:note.md"]))
        await wait_for_lock(owner)
        await transaction.commit()
    assert await deleting
    assert await owner.fetchval("SELECT count(*) FROM chunk") == 0


async def test_two_arrivals_under_one_name_are_ordered_by_the_documents_lock(pool, owner):
    arrivals = await asyncio.gather(*[arrive(pool, f"content {n}") for n in range(12)])
    ids = sorted(arrival.version_id for arrival in arrivals if arrival.version_id)
    assert len(set(ids)) == 12
    states = [row["state"] for row in await owner.fetch("SELECT state FROM document_version ORDER BY id")]
    assert states == ["superseded"] * 11 + ["queued"]
    assert await owner.fetchval("SELECT count(*) FROM document") == 1


async def test_two_arrivals_of_the_same_content_store_it_once(pool, owner):
    await asyncio.gather(*[arrive(pool, "same content", source_uri=f"inbox:{n}.md") for n in range(12)])
    assert await owner.fetchval("SELECT count(*) FROM blob") == 1
    assert await owner.fetchval("SELECT count(*) FROM document_version") == 12


async def test_stress_loses_nothing_and_publishes_no_older_version(pool, owner, url):
    """Four stagers, four embedders, a deleter and a pruner over six documents and forty texts."""
    rng = random.Random(7)
    _, model_id = await make_collection(pool)
    started = asyncio.get_running_loop().time()
    flips = 0

    def goes_on() -> bool:
        seconds = asyncio.get_running_loop().time() - started
        return seconds < SECONDS_MIN or (flips < STAGINGS_MIN and seconds < STRESS_SECONDS_MAX)

    async def stager(number: int) -> None:
        nonlocal flips
        while goes_on():
            texts = [f"text {rng.randrange(40)}" for _ in range(rng.randrange(1, 8))]
            try:
                key = await stage_version_of_claimed(
                    pool, [*texts, f"{number} {flips}"], f"inbox:{rng.randrange(6)}.md"
                )
            except (Overtaken, asyncpg.ForeignKeyViolationError):
                continue  # a newer version came, or the document was deleted
            flips += 1
            await ask(pool, key)

    async def embedder() -> None:
        handler = EmbedHandler(pool, HashModel(), model_id)
        while goes_on():
            jobs = await claim(pool, "embed", batch_size=5)
            if not jobs:
                await asyncio.sleep(0.005)
                continue
            try:
                await handler.process(jobs)
                await handler.after(jobs)
            except LeaseLost:
                continue
        await handler.finish()

    async def deleter() -> None:
        while goes_on():
            await asyncio.sleep(0.05)
            collection_id, _ = await make_collection(pool)
            await intake.delete_documents(pool, collection_id, [f"inbox:{rng.randrange(6)}.md"])

    async def pruner() -> None:
        while goes_on():
            await asyncio.sleep(0.03)
            await owner.execute("DELETE FROM embedding WHERE random() < 0.2")

    await asyncio.gather(*[stager(n) for n in range(3)], *[embedder() for _ in range(3)], deleter(), pruner())
    sweep = PublicationSweep(pool)
    async with asyncio.timeout(SECONDS_MAX):
        while await owner.fetchval("SELECT count(*) FROM document_version WHERE state = 'embedding'"):
            handler = EmbedHandler(pool, HashModel(), model_id)
            while jobs := await claim(pool, "embed"):
                await handler.process(jobs)
                await handler.after(jobs)
            await handler.finish()
            await sweep()
    findings = await check(url)
    assert findings == []
    assert flips >= STAGINGS_MIN
    assert await owner.fetchval("SELECT count(*) FROM document_version WHERE state = 'ready'") > 0
    assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
