"""`ask(v)`: what it publishes, keeps, refuses and repairs."""

import asyncpg
import pytest

from services.console.check import check
from services.embedder.embed import EmbedHandler
from services.ingester.ingest import CHUNKS_PER_TRANSACTION
from shared import intake, publication, queue
from shared.intake import Arrival
from shared.publication import Answer, PublicationSweep, VersionKey, ask
from tests.factories import (
    HashModel,
    arrive,
    claim,
    make_collection,
    pieces,
    publish_version,
    stage_version,
    vector_of,
)


async def live_texts(owner: asyncpg.Connection) -> list[str]:
    rows = await owner.fetch(
        "SELECT c.text FROM chunk_position p JOIN chunk c ON c.id = p.chunk_id"
        " JOIN document d ON d.live_version_id = p.version_id ORDER BY d.id, p.ordinal"
    )
    return [row["text"] for row in rows]


async def state_of(owner: asyncpg.Connection, key: VersionKey) -> str:
    return await owner.fetchval("SELECT state FROM document_version WHERE id = $1", key.version_id)


async def embed_all(pool: asyncpg.Pool, model: HashModel | None = None) -> HashModel:
    model = model or HashModel()
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, model, model_id)
    while jobs := await claim(pool, "embed"):
        await handler.process(jobs)
        await handler.after(jobs)
    await handler.finish()
    return model


async def test_version_is_published_when_its_last_text_has_a_vector(pool, owner, url):
    key = await publish_version(pool, ["one apple", "two pears", "three plums"])
    assert await state_of(owner, key) == "ready"
    assert await live_texts(owner) == ["one apple", "two pears", "three plums"]
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 0
    assert await owner.fetchval("SELECT count(*) FROM job WHERE stage <> 'index'") == 0
    assert await check(url) == []


async def test_edit_keeps_unchanged_chunks_and_embeds_only_new_texts(pool, owner, url):
    await publish_version(pool, ["one", "two", "three", "four"])
    before = {row["text"]: row["id"] for row in await owner.fetch("SELECT text, id FROM chunk")}
    await stage_version(pool, ["zero", "one", "two changed", "three", "four"])
    model = await embed_all(pool)
    after = {row["text"]: row["id"] for row in await owner.fetch("SELECT text, id FROM chunk")}
    assert sorted(model.encoded) == ["two changed", "zero"]
    assert await live_texts(owner) == ["zero", "one", "two changed", "three", "four"]
    assert {text: after[text] for text in ("one", "three", "four")} == {
        text: before[text] for text in ("one", "three", "four")
    }
    assert await check(url) == []


async def test_equal_paragraphs_keep_separate_places(pool, owner, url):
    await publish_version(pool, ["same", "other", "same", "same"])
    assert await live_texts(owner) == ["same", "other", "same", "same"]
    await stage_version(pool, ["same", "same", "other", "same", "same"])
    model = await embed_all(pool)
    assert model.encoded == []
    assert await live_texts(owner) == ["same", "same", "other", "same", "same"]
    await stage_version(pool, ["other", "same"])
    await embed_all(pool)
    assert await live_texts(owner) == ["other", "same"]
    assert await check(url) == []


async def test_empty_version_replaces_the_text_of_a_document(pool, owner, url):
    await publish_version(pool, ["something"])
    key = await stage_version(pool, [])
    assert await state_of(owner, key) == "ready"
    assert await live_texts(owner) == []
    assert await check(url) == []


async def test_identical_text_is_embedded_once_for_all_documents(pool, owner):
    await stage_version(pool, ["shared text", "only a"], source_uri="inbox:a.md")
    await stage_version(pool, ["shared text", "only b"], source_uri="inbox:b.md")
    model = await embed_all(pool)
    assert sorted(model.encoded) == ["only a", "only b", "shared text"]
    assert await owner.fetchval("SELECT count(*) FROM embedding") == 3
    assert await owner.fetchval("SELECT count(*) FROM document_version WHERE state = 'ready'") == 2


async def test_published_vector_is_that_of_its_text(pool, owner):
    await publish_version(pool, ["some words of a note"])
    stored = await owner.fetchval("SELECT vector::text FROM chunk_vector")
    values = [float(value) for value in stored.strip("[]").split(",")]
    assert values == pytest.approx(vector_of("some words of a note").tolist(), abs=1e-3)


async def test_older_version_never_replaces_a_newer_one(pool, owner):
    old = await stage_version(pool, ["old"], is_asked=False)
    new = await stage_version(pool, ["new"], is_asked=False)
    await embed_all(pool)  # asks for both, in either order
    assert await ask(pool, new) in (Answer.PUBLISHED, Answer.NOT_STAGED)
    assert await live_texts(owner) == ["new"]
    assert await state_of(owner, old) == "superseded"
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 0


async def test_older_version_that_is_asked_for_behind_the_newer_one_is_superseded(pool, owner):
    old = await stage_version(pool, ["old"], is_asked=False)
    new = await stage_version(pool, ["new"], is_asked=False)
    _, model_id = await make_collection(pool)
    await EmbedHandler(pool, HashModel(), model_id).process(await claim(pool, "embed"))
    assert await ask(pool, new) is Answer.PUBLISHED
    assert await ask(pool, old) is Answer.SUPERSEDED
    assert await live_texts(owner) == ["new"]
    assert await state_of(owner, old) == "superseded"
    assert await owner.fetchval("SELECT count(*) FROM staged_chunk") == 0


async def test_new_arrival_supersedes_a_version_that_nobody_has_begun(pool, owner):
    first = await arrive(pool, "first")
    second = await arrive(pool, "second")
    states = {row["id"]: row["state"] for row in await owner.fetch("SELECT id, state FROM document_version")}
    assert states == {first.version_id: "superseded", second.version_id: "queued"}


async def test_new_arrival_lets_a_version_in_work_finish(pool, owner):
    begun = await stage_version(pool, ["begun"])
    await arrive(pool, "newer")
    await embed_all(pool)
    assert await state_of(owner, begun) == "ready"


async def test_same_bytes_under_the_same_name_make_no_version(pool):
    first = await arrive(pool, "same")
    second = await arrive(pool, "same")
    assert second.arrival is Arrival.UNCHANGED
    assert second.version_id == first.version_id


async def test_same_bytes_under_two_names_are_stored_once(pool, owner):
    await arrive(pool, "same", source_uri="inbox:a.md")
    await arrive(pool, "same", source_uri="inbox:b.md")
    assert await owner.fetchval("SELECT count(*) FROM blob") == 1
    assert await owner.fetchval("SELECT count(*) FROM document_version") == 2


async def test_tombstoned_bytes_stay_away_until_their_file_is_gone(pool, owner):
    arrival = await arrive(pool, "deleted on purpose")
    await owner.execute(
        "INSERT INTO tombstone SELECT collection_id, 'inbox:note.md', b.sha256 FROM document_version v"
        " JOIN blob b ON b.id = v.blob_id"
    )
    await owner.execute("DELETE FROM document")
    assert (await arrive(pool, "deleted on purpose")).arrival is Arrival.TOMBSTONED
    assert await owner.fetchval("SELECT count(*) FROM document") == 0
    await intake.delete_documents(pool, arrival.collection_id, ["inbox:note.md"])
    assert (await arrive(pool, "deleted on purpose")).arrival is Arrival.NEW_VERSION


async def test_rename_keeps_the_document_and_embeds_nothing(pool, owner):
    await publish_version(pool, ["kept text"])
    document_id = await owner.fetchval("SELECT id FROM document")
    collection_id, _ = await make_collection(pool)
    stored = await intake.store_bytes(pool, pieces(b"kept text\ninbox:note.md"))
    moved = await intake.add_version(pool, collection_id, "inbox:other.md", stored, moved_from="inbox:note.md")
    assert moved.arrival is Arrival.NEW_VERSION
    assert moved.document_id == document_id
    assert await owner.fetchval("SELECT source_uri FROM document") == "inbox:other.md"


async def test_lost_question_is_asked_by_the_sweep(pool, owner):
    await publish_version(pool, ["known"])  # its text has a vector already
    key = await stage_version(pool, ["known", "known"], is_asked=False)  # killed between commit and ask
    assert await state_of(owner, key) == "embedding"
    await PublicationSweep(pool)()
    assert await state_of(owner, key) == "ready"


async def test_pruned_vector_is_computed_again(pool, owner, url):
    key = await stage_version(pool, ["pruned", "kept"])
    jobs = await claim(pool, "embed")
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    await handler._complete(jobs[0].lease_id, jobs, {job.text_hash: vector_of("any") for job in jobs})
    await owner.execute("DELETE FROM embedding WHERE text_hash = sha256('pruned')")
    assert await ask(pool, key) is Answer.WAITING
    model = await embed_all(pool)
    assert model.encoded == ["pruned"]
    assert await state_of(owner, key) == "ready"
    assert await owner.fetchval("SELECT count(*) FROM chunk_vector") == 2


async def test_vector_pruned_between_the_look_and_the_publication_rolls_back(pool, owner, monkeypatch):
    key = await stage_version(pool, ["one", "two"], is_asked=False)
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    jobs = await claim(pool, "embed")
    await handler._complete(jobs[0].lease_id, jobs, {job.text_hash: vector_of("any") for job in jobs})
    publish = publication._publish
    pruned = []

    async def prune_first(conn, *args):
        if not pruned:
            pruned.append(await owner.execute("DELETE FROM embedding WHERE text_hash = sha256('one')"))
        await publish(conn, *args)

    monkeypatch.setattr(publication, "_publish", prune_first)
    assert await ask(pool, key) is Answer.WAITING
    assert pruned == ["DELETE 1"]
    assert await owner.fetchval("SELECT count(*) FROM chunk") == 0
    await embed_all(pool)
    assert await state_of(owner, key) == "ready"
    assert await owner.fetchval("SELECT count(*) FROM chunk_vector") == 2


async def test_buried_text_fails_every_version_that_waits_and_leaves_the_old_one_live(pool, owner):
    await publish_version(pool, ["old and good"])
    bad = await stage_version(pool, ["poison", "fine"])
    other = await stage_version(pool, ["poison"], source_uri="inbox:other.md")
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    jobs = await claim(pool, "embed")
    poison = [job for job in jobs if job.text_hash == await owner.fetchval("SELECT sha256('poison')")]
    async with pool.acquire() as conn:
        await queue.bury_jobs(conn, poison[0].lease_id, [poison[0].id], error_code="rejected_text", error="no vector")
    await handler.buried(poison)
    assert await state_of(owner, bad) == "failed"
    assert await state_of(owner, other) == "failed"
    assert "no vector" in await owner.fetchval("SELECT error FROM document_version WHERE id = $1", bad.version_id)
    assert await live_texts(owner) == ["old and good"]


async def test_model_rejecting_one_text_buries_that_one_alone(pool, owner):
    from shared.errors import RejectedText

    class Picky(HashModel):
        async def encode(self, texts):
            if any("poison" in text for text in texts):
                raise RejectedText
            return await super().encode(texts)

    good = await stage_version(pool, [f"text {n}" for n in range(20)], source_uri="inbox:good.md")
    bad = await stage_version(pool, ["poison", "beside it"], source_uri="inbox:bad.md")
    await embed_all(pool, Picky())
    assert await state_of(owner, good) == "ready"
    assert await state_of(owner, bad) == "failed"
    assert await owner.fetchval("SELECT count(*) FROM dead_letter") == 1


async def test_text_that_has_its_vector_already_calls_no_model(pool, owner):
    key = await stage_version(pool, ["present"])
    _, model_id = await make_collection(pool)
    await owner.execute(
        "INSERT INTO embedding (model_id, text_hash, vector) SELECT $1, text_hash, $2::text::halfvec FROM staged_chunk",
        model_id,
        str(vector_of("present").tolist()),
    )
    model = await embed_all(pool)
    assert model.encoded == []
    assert await state_of(owner, key) == "ready"


async def test_job_whose_text_has_vanished_is_done(pool, owner):
    await stage_version(pool, ["vanishes"])
    await owner.execute("DELETE FROM document")
    model = await embed_all(pool)
    assert model.encoded == []
    assert await owner.fetchval("SELECT count(*) FROM job") == 0
    assert await owner.fetchval("SELECT count(*) FROM lease") == 0


async def test_zombie_embedder_stores_nothing(pool, owner):
    await stage_version(pool, ["contested"])
    zombie = await claim(pool, "embed")
    await owner.execute("UPDATE lease SET expires_at = now() - interval '1 second'")
    await queue.sweep_leases(pool)
    _, model_id = await make_collection(pool)
    handler = EmbedHandler(pool, HashModel(), model_id)
    from shared.errors import LeaseLost

    with pytest.raises(LeaseLost):
        await handler.process(zombie)
    assert await owner.fetchval("SELECT count(*) FROM embedding") == 0
    await embed_all(pool)
    assert await owner.fetchval("SELECT count(*) FROM embedding") == 1


async def test_second_document_that_wants_a_text_hurries_its_job(pool, owner):
    texts = [f"line {n}" for n in range(200)]
    await stage_version(pool, texts, source_uri="inbox:long.md")
    last = await owner.fetchval("SELECT rank FROM job WHERE text_hash = sha256('line 199')")
    await stage_version(pool, ["line 199"], source_uri="inbox:short.md")
    assert last > 0
    assert await owner.fetchval("SELECT rank FROM job WHERE text_hash = sha256('line 199')") == 0


async def test_large_version_is_published_whole(pool, owner, url):
    texts = [f"sentence number {n}" for n in range(3 * CHUNKS_PER_TRANSACTION // 2)]
    await publish_version(pool, texts)
    assert await live_texts(owner) == texts
    assert await check(url) == []
