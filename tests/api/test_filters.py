"""Questions asked of some documents only, and questions that wait for files sent before them."""

import asyncio
import json
import re
import uuid

import asyncpg
import pytest
from pgvector import HalfVector

from services.ingester.parsing.markdown import parse_markdown
from services.query import wait
from services.query.filters import Filters, retrieve_filtered
from services.query.fusion import Candidate
from services.query.retrieve import snapshot
from services.query.store import CollectionRow
from services.query.wait import Awaited, wait_for
from shared.errors import NotFound
from tests.factories import make_collection, publish_version, vector_of
from tests.waiting import SECONDS_MAX

OLD = "The nightly backup runs at two in the morning."
NEW = "The nightly backup runs at three in the morning."
QUESTION = "when does the nightly backup run"


@pytest.fixture
async def shelf(pool) -> dict[str, int]:
    """Three documents about the same: their ids by path."""
    for path, text in {
        "old/plan.md": OLD,
        "new/plan.md": NEW,
        "new/100%_plan.md": "The nightly backup is off.",
    }.items():
        await publish_version(pool, [text, f"Nothing else is said in {path}."], source_uri=f"inbox:{path}")
    rows = await pool.fetch("SELECT substr(source_uri, 7) AS path, id FROM document")
    return {row["path"]: row["id"] for row in rows}


async def asked(client, route: str = "/query", **body) -> dict:
    response = await client.post(route, json={"question": QUESTION} | body)
    assert response.status_code == 200, response.text
    return response.json()


async def paths(client, **given) -> set[str]:
    return {hit["file_path"] for hit in (await asked(client, "/search", filters=given))["data"]}


async def test_only_documents_that_the_filters_leave_are_asked(client, shelf):
    assert await paths(client) == set(shelf)
    assert await paths(client, path_prefix="new/") == {"new/plan.md", "new/100%_plan.md"}
    assert await paths(client, path_prefix="new/100%_") == {"new/100%_plan.md"}
    assert await paths(client, path_prefix="new/%") == set(), "no sign in it means anything"
    assert await paths(client, document_ids=[shelf["old/plan.md"], 10**15]) == {"old/plan.md"}
    assert await paths(client, document_ids=[shelf["old/plan.md"]], path_prefix="new/") == set()
    assert await paths(client, document_ids=[]) == set()
    assert await paths(client, path_prefix="new/\x00") == set()


async def test_answer_quotes_only_what_the_filters_leave(client, shelf):
    new = await asked(client, filters={"path_prefix": "new/plan"})
    old = await asked(client, filters={"document_ids": [shelf["old/plan.md"]]})
    assert NEW in {source["quote"] for source in new["sources"]}
    assert OLD in {source["quote"] for source in old["sources"]}
    assert {source["file_path"] for source in new["sources"]} == {"new/plan.md"}
    assert {source["file_path"] for source in old["sources"]} == {"old/plan.md"}
    none = await asked(client, filters={"path_prefix": "absent/"})
    assert not none["answered"]
    assert none["sources"] == []


async def test_filters_open_no_other_collection(client, pool, shelf):
    await publish_version(pool, ["A secret of the other house."], collection="other", source_uri="inbox:other/s.md")
    secret = await pool.fetchval("SELECT id FROM document WHERE source_uri = 'inbox:other/s.md'")
    found = await asked(client, "/search", collection="default", filters={"document_ids": [secret]})
    assert found["data"] == []


@pytest.mark.parametrize(
    "given",
    [
        {"path": "new/"},
        {"path_prefix": ""},
        {"document_ids": [0]},
        {"document_ids": [2**63]},
        {"document_ids": list(range(1, 1002))},
        [],
    ],
)
async def test_bad_filters_are_refused(client, given):
    response = await client.post("/query", json={"question": QUESTION, "filters": given})
    assert response.status_code == 422
    assert "filters" in response.json()["detail"]


async def test_few_documents_are_ranked_exactly_beside_many(reader_pool, pool):
    """The wanted chunks are neither among the nearest nor among the best by words of the whole collection."""
    for number in range(8):
        crowd = [f"backup backup of the nightly crowd {number} {n}" for n in range(10)]
        await publish_version(pool, crowd, source_uri=f"inbox:crowd/{number}.md")
    await publish_version(pool, ["one backup far off", "nothing of the kind"], source_uri="inbox:few.md")
    collection_id, model_id = await make_collection(pool)
    vector = HalfVector(vector_of("backup backup of the nightly crowd 3 3"))

    async def find(prefix: str) -> list[Candidate]:
        collection = CollectionRow(collection_id, "default", model_id)
        async with snapshot(reader_pool, [collection_id]) as conn:
            return await retrieve_filtered(
                conn,
                [collection_id],
                collection,
                "nightly backup",
                vector,
                Filters(path_prefix=prefix),
                arm_limit=2,
                scored_limit=5,
            )

    few = sorted(await find("few"), key=lambda candidate: -candidate.bm25)
    assert [(candidate.bm25 > 0, candidate.is_lexical_hit) for candidate in few] == [(True, True), (False, False)]
    crowd = await find("crowd/")
    assert 2 <= len(crowd) <= 4
    assert max(candidate.cosine for candidate in crowd) == pytest.approx(1, abs=0.01), "the nearest of more than 5"


async def send(client, content: bytes) -> str:
    response = await client.post("/ingest/files", files={"file": ("plan.md", content)})
    assert response.status_code == 202, response.text
    return response.json()["job_id"]


@pytest.fixture
def looks(monkeypatch) -> asyncio.Event:
    """Set when a question has looked for its files."""
    seen = asyncio.Event()
    look = wait._has_ended

    async def noted(pool, awaited):
        has_ended = await look(pool, awaited)
        seen.set()
        return has_ended

    monkeypatch.setattr(wait, "_has_ended", noted)
    return seen


async def end_uploads(pool) -> None:
    """Let every version end, as workers do."""
    await pool.execute("DELETE FROM job")
    await pool.execute("UPDATE document_version SET state = 'failed', error = 'x', error_code = 'x', ended_at = now()")


@pytest.mark.parametrize("route", ["/query", "/query/stream", "/search"])
async def test_question_waits_until_its_files_have_ended(client, pool, looks, route):
    await make_collection(pool)
    job_id = await send(client, b"# Plan\n\nThe nightly backup runs at noon.\n")
    asking = asyncio.create_task(client.post(route, json={"question": QUESTION, "wait_for": job_id}))
    await asyncio.wait_for(looks.wait(), SECONDS_MAX)
    assert not asking.done()
    await end_uploads(pool)
    response = await asyncio.wait_for(asking, SECONDS_MAX)
    assert response.status_code == 200
    assert re.search(r'"pending": ?0', response.text)


async def test_waiting_ends_though_the_files_have_not(client, pool, reader_pool):
    collection_id, _ = await make_collection(pool)
    awaited = Awaited(uuid.UUID(await send(client, b"never read")), [collection_id])
    assert not await wait_for(reader_pool, awaited, seconds_max=0.2)
    await end_uploads(pool)
    assert await wait_for(reader_pool, awaited, seconds_max=0.2)


async def test_job_of_nobody_or_of_others_cannot_be_waited_for(client, pool, reader_pool):
    collection_id, _ = await make_collection(pool)
    job_id = await send(client, b"note")
    for route in ("/query", "/query/stream", "/search"):
        response = await client.post(route, json={"question": QUESTION, "wait_for": str(uuid.uuid4())})
        assert response.status_code == 404, "before the first event, so an ordinary problem"
    with pytest.raises(NotFound):
        await wait_for(reader_pool, Awaited(uuid.UUID(job_id), [collection_id + 1]))
    response = await client.post("/query", json={"question": QUESTION, "wait_for": "job"})
    assert response.status_code == 422


async def test_waiting_holds_neither_a_slot_nor_a_connection(client, pool, looks):
    """Eight questions wait where four are worked on at once over four connections; one that does not wait is answered."""
    await publish_version(pool, [OLD])
    job_id = await send(client, b"not read yet")
    waiting = [
        asyncio.create_task(client.post("/query", json={"question": QUESTION, "wait_for": job_id})) for _ in range(8)
    ]
    await asyncio.wait_for(looks.wait(), SECONDS_MAX)
    assert (await asked(client))["sources"][0]["quote"] == OLD
    assert not any(task.done() for task in waiting)
    await pool.execute("DELETE FROM document_version WHERE state = 'queued'")
    await pool.execute("DELETE FROM ingest_request_document")
    assert {(await asyncio.wait_for(task, SECONDS_MAX)).status_code for task in waiting} == {200}


async def test_metadata_are_matched_by_key_and_value(client, pool, shelf):
    for path, metadata in {
        "old/plan.md": '{"author": "Ada", "tags": "backup, night", "year": "2024"}',
        "new/plan.md": '{"author": "Ada", "tags": "restore", "year": "2025"}',
        "new/100%_plan.md": '{"author": "Bob, Eve"}',
    }.items():
        await pool.execute("UPDATE document SET metadata = $2 WHERE id = $1", shelf[path], metadata)
    assert await paths(client, metadata={"author": "Ada"}) == {"old/plan.md", "new/plan.md"}
    assert await paths(client, metadata={"author": "Bob, Eve"}) == {"new/100%_plan.md"}
    assert await paths(client, metadata={"author": "Eve"}) == {"new/100%_plan.md"}
    assert await paths(client, metadata={"tags": "night"}) == {"old/plan.md"}
    assert await paths(client, metadata={"tags": ["night", "restore"]}) == {"old/plan.md", "new/plan.md"}
    assert await paths(client, metadata={"author": "Ada", "year": 2025}) == {"new/plan.md"}
    assert await paths(client, metadata={"author": "Ada"}, path_prefix="new/") == {"new/plan.md"}
    for nothing in ({"author": "ada"}, {"editor": "Ada"}, {"author": "A%"}, {"a' OR true --": "x"}):
        assert await paths(client, metadata=nothing) == set(), nothing
    assert await paths(client, metadata={}) == set(shelf)
    assert await paths(client, metadata={"a\x00": ["\x00", "b"]}) == set()
    hostile = json.dumps({"question": QUESTION, "filters": {"metadata": {"a\ud800": ["\udfff"]}}})
    response = await client.post("/search", content=hostile, headers={"content-type": "application/json"})
    assert response.status_code < 500


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{n}": "x" for n in range(21)},
        {"key": ["x"] * 101},
        {"key": "x" * 1001},
        {"k" * 1001: "x"},
        {"key": {"inner": "x"}},
        {"key": None},
        {"key": []},
        ["key"],
    ],
)
async def test_number_and_length_of_metadata_are_bounded(client, metadata):
    response = await client.post("/search", json={"question": QUESTION, "filters": {"metadata": metadata}})
    assert response.status_code == 422


async def texts(client, question: str, **body) -> set[str]:
    response = await client.post("/search", json={"question": question, **body})
    assert response.status_code == 200, response.text
    return {hit["text"] for hit in response.json()["data"]}


async def test_phrase_and_excluded_word_hold_for_both_arms(client, pool):
    """The vectors of the factories say nothing of words, so that the dense arm alone would bring every chunk."""
    held, turned, weekly, other = chunks = [
        "The nightly backup runs at two.",
        "A backup is nightly work.",
        "The weekly plan has a nightly\nbackup too.",
        "Bread is baked.",
    ]
    await publish_version(pool, chunks)
    assert await texts(client, "nightly backup") == set(chunks)
    assert await texts(client, '"nightly backup"') == {held, weekly}
    assert await texts(client, '"Nightly backups"') == {held, weekly}, "in their forms"
    assert await texts(client, '"nightly backup" -weekly') == {held}
    assert await texts(client, "plan -weekly") == {held, turned, other}
    assert await texts(client, 'plan -"nightly backup"') == {turned, other}
    assert await texts(client, '"nightly backup" "plan"') == {weekly}
    assert await texts(client, '"is"') == set(chunks), "of a word that the language drops nothing is left to look for"
    assert await texts(client, "plan -is") == set(chunks), "nor to leave out"
    assert await texts(client, 'backup "baked bread"') == set()
    assert await texts(client, "well-known nightly-backup -- -5") == set(chunks)


async def test_phrase_does_not_run_from_a_title_or_a_path_into_the_text(client, pool):
    """The index holds title, text, path (`note`) and identifiers of a chunk one behind the other."""
    page = "# Nightly backup\n\nPolicy of the house is to ask somebody, and fetchUserName is called by the keeper."
    await publish_version(pool, [page], document=parse_markdown(page, 0))
    (text,) = await texts(client, "policy")
    assert text.startswith("Policy")
    assert text.endswith("keeper.")
    for phrase in ("nightly backup", "policy of the house", "keeper", "note", "fetch user name"):
        assert await texts(client, f'ask "{phrase}"') == {text}, phrase
        assert await texts(client, f'ask -"{phrase}"') == set(), phrase
    for phrase in ("backup policy", "nightly backup policy", "keeper note", "note fetch"):
        assert await texts(client, f'ask "{phrase}"') == set(), phrase
        assert await texts(client, f'ask -"{phrase}"') == {text}, phrase


async def test_excluded_word_is_neither_looked_up_nor_embedded(client, pool, reader_pool):
    await publish_version(pool, [OLD])
    response = await client.post("/search", json={"question": 'nightly -morning -"at noon" "backup"'})
    found = response.json()
    assert (found["phrases"], found["excluded"], found["data"]) == (["backup"], ["morning", "at noon"], [])
    plain = await client.post("/search", json={"question": "nightly backup"})
    reached = await client.post("/search", json={"question": 'nightly "backup" -noon'})
    assert [(hit["score"], hit["similarity"], hit["terms"]) for hit in reached.json()["data"]] == [
        (hit["score"], hit["similarity"], hit["terms"]) for hit in plain.json()["data"]
    ]


async def test_answer_says_when_nothing_holds_what_was_asked_for(client, shelf):
    answer = await asked(client, question='backup "not written anywhere" -three', filters={"path_prefix": "old/"})
    assert not answer["answered"]
    assert answer["answer"].endswith(
        "No passage fits the filters, holds “not written anywhere” and is without “three”."
    )
    response = await client.post("/query", json={"question": "-backup"})
    assert response.status_code == 400
    assert "what is looked for" in response.json()["detail"]


async def test_phrases_and_words_open_no_other_collection(reader_pool, pool, shelf):
    await publish_version(pool, ["A secret of the other house."], collection="other", source_uri="inbox:other/s.md")
    other_id = await pool.fetchval("SELECT id FROM collection WHERE name = 'other'")
    own_id = await pool.fetchval("SELECT id FROM collection WHERE name = 'default'")
    for statement in (
        "SELECT chunk_id FROM chunks_holding($1, 'secret', true)",
        "SELECT chunk_id FROM chunks_sharing($1, 'secret', ARRAY(SELECT n::bigint FROM generate_series(1, 99) AS n), 9)",
    ):
        async with snapshot(reader_pool, [own_id]) as conn:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch(statement, other_id)


async def test_dense_arm_leaves_out_what_the_words_rule_out(reader_pool, pool):
    """The nearest one is ruled out, and does not take the place of the next."""
    await publish_version(pool, ["one of the crowd", "something far off"])
    collection_id, model_id = await make_collection(pool)

    async def is_nearest(filters: Filters) -> bool:
        async with snapshot(reader_pool, [collection_id]) as conn:
            found = await retrieve_filtered(
                conn,
                [collection_id],
                CollectionRow(collection_id, "default", model_id),
                "unheard",
                HalfVector(vector_of("one of the crowd")),
                filters,
                arm_limit=1,
                scored_limit=1,
            )
        (candidate,) = found
        return round(candidate.cosine, 2) == 1

    assert await is_nearest(Filters(phrases=("crowd",)))
    assert not await is_nearest(Filters(excluded=("crowd",)))
    assert not await is_nearest(Filters(phrases=("something far",)))


async def test_words_are_looked_for_among_the_wanted_documents(reader_pool, pool):
    """Of many chunks that hold a word the wanted ones are neither the nearest nor the best of the collection."""
    for number in range(12):
        crowd = [f"backup backup backup of the crowd {number} {n}" for n in range(30)]
        await publish_version(pool, crowd, source_uri=f"inbox:crowd/{number}.md")
    await publish_version(pool, ["about one backup and some other things", "x y", "z z"], source_uri="inbox:few.md")
    collection_id, model_id = await make_collection(pool)
    async with snapshot(reader_pool, [collection_id]) as conn:
        found = await retrieve_filtered(
            conn,
            [collection_id],
            CollectionRow(collection_id, "default", model_id),
            "backup",
            HalfVector(vector_of("x y")),
            Filters(path_prefix="few"),
            arm_limit=1,
            scored_limit=1,
        )
    assert {(round(one.cosine, 2) == 1, one.bm25 > 0) for one in found} == {(True, False), (False, True)}
