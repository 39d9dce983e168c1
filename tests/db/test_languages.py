"""Several languages and several collections side by side: what one holds makes the answers of another no worse."""

import asyncpg
import pytest

from services.embedder.index import IndexHandler
from services.query import store
from services.query.bm25 import coverage, idf_in
from tests.db.test_handlers import ingest
from tests.factories import arrive, claim, publish_version

TEXTS = [
    "The lighthouse keeper counts the waves every night.",
    "A harbour without a lighthouse is a dangerous place for ships.",
    "Ships carry grain and copper from the harbour to the islands.",
    "Nothing here is about the sea at all, only about bread and butter.",
]
QUESTION = "When does the keeper of the lighthouse count the waves, and how often is it?"


async def tend(pool: asyncpg.Pool) -> None:
    """Refresh the statistics of every collection."""
    await pool.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
    while jobs := await claim(pool, "index", batch_size=1):
        await IndexHandler(pool).process(jobs)


async def covered(reader_pool: asyncpg.Pool, scope: list[int], text: str, question: str = QUESTION) -> float:
    """Return how much of a question's weight the chunk with a text holds, in its own language."""
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, scope)
        terms = await store.question_terms(conn, scope, question)
        row = await conn.fetchrow(
            "SELECT language::text, tsvector_to_array(tsv) AS lexemes FROM chunk WHERE text = $1", text
        )
    return coverage(row["lexemes"], idf_in(terms, row["language"]))


async def scores(reader_pool: asyncpg.Pool, scope: list[int], question: str) -> dict[str, float]:
    """Return BM25 of the hits of all collections, by text."""
    found: dict[str, float] = {}
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, scope)
        for collection_id in scope:
            rows = await conn.fetch(
                "SELECT c.text, h.bm25 FROM lexical_hits($1, $2, '{}', 100) AS h JOIN chunk AS c ON c.id = h.chunk_id WHERE h.is_hit",
                collection_id,
                question,
            )
            found |= {row["text"]: row["bm25"] for row in rows}
    return found


async def test_text_in_another_language_changes_no_coverage(pool, reader_pool):
    key = await publish_version(pool, TEXTS)
    await tend(pool)
    alone = await covered(reader_pool, [key.collection_id], TEXTS[0])
    assert alone > 0.6
    await publish_version(pool, ['{"pump": 3, "valve": 4}'], source_uri="inbox:a.json", language="simple")
    await publish_version(pool, ["Der Hafen liegt im Norden der Insel."], source_uri="inbox:b.md", language="german")
    await tend(pool)
    assert await covered(reader_pool, [key.collection_id], TEXTS[0]) == pytest.approx(alone, abs=0.05)


async def test_words_of_grammar_count_for_no_unknown_language(pool, reader_pool):
    key = await publish_version(pool, TEXTS)
    log = "keeper waves lighthouse count often 17 18 19"
    await publish_version(pool, [log], source_uri="inbox:a.log", language="simple")
    await tend(pool)
    assert await covered(reader_pool, [key.collection_id], log) > 0.9
    terms = (
        "SELECT array_agg(lexeme) FROM question_terms(ARRAY[$1::int], $2) WHERE 'simple'::regconfig = ANY (languages)"
    )
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [key.collection_id])
        assert set(await conn.fetchval(terms, key.collection_id, QUESTION)) == {
            "keeper",
            "lighthouse",
            "count",
            "waves",
            "often",
        }
        # A question of nothing else is asked as it stands.
        assert set(await conn.fetchval(terms, key.collection_id, "Who is it?")) == {"who", "is", "it"}


async def test_word_has_one_weight_in_every_language(pool, reader_pool):
    key = await publish_version(pool, TEXTS)
    await publish_version(pool, ["waves", "waves of noise"], source_uri="inbox:a.log", language="simple")
    await tend(pool)
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [key.collection_id])
        terms = {term.lexeme: term for term in await store.question_terms(conn, [key.collection_id], "waves")}
    assert terms["wave"].languages == {"english"}
    assert terms["waves"].languages == {"simple"}
    assert terms["wave"].word == terms["waves"].word
    assert terms["wave"].idf == terms["waves"].idf


async def test_chunk_is_not_scored_by_the_stems_of_another_language(pool, reader_pool):
    key = await publish_version(pool, TEXTS)
    await publish_version(pool, ["wave", "waves"], source_uri="inbox:a.log", language="simple")
    await tend(pool)
    assert set(await scores(reader_pool, [key.collection_id], "waves")) == {TEXTS[0], "waves"}


async def test_common_word_still_finds_its_language_beside_a_rarer_form_of_it(pool, reader_pool, owner):
    key = await publish_version(pool, TEXTS)
    await publish_version(pool, ["waves"], source_uri="inbox:a.log", language="simple")
    await tend(pool)
    await owner.execute(
        "UPDATE collection_stat SET chunk_count = 10000; UPDATE term_stat SET chunk_count = 6000 WHERE lexeme = 'wave'"
    )
    assert set(await scores(reader_pool, [key.collection_id], "waves")) == {TEXTS[0], "waves"}


async def test_same_text_scores_alike_in_a_small_and_a_large_collection(pool, reader_pool):
    small = await publish_version(pool, ["The beacon keeper sleeps."], collection="small")
    crowd = [f"Sentence {n} of the crowd is about bread." for n in range(200)]
    large = await publish_version(pool, ["The beacon keeper sleeps!", *crowd], collection="large")
    await tend(pool)
    found = await scores(reader_pool, [small.collection_id, large.collection_id], "the beacon keeper")
    assert found["The beacon keeper sleeps."] == pytest.approx(found["The beacon keeper sleeps!"])


async def test_word_of_grammar_elsewhere_keeps_its_meaning(pool, reader_pool):
    """`die` is an article in German: a question in English asks for it all the same."""
    key = await publish_version(pool, ["Cells die in the dark.", "Cells grow in the light."])
    await publish_version(pool, ["Der Hafen liegt im Norden der Insel."], source_uri="inbox:b.md", language="german")
    await tend(pool)
    found = await scores(reader_pool, [key.collection_id], "how do cells die?")
    assert found["Cells die in the dark."] > found["Cells grow in the light."]


MIXED = """The committee met on Tuesday and decided that the budget for the coming year would be larger than the one before.
Der Ausschuss traf sich am Dienstag und beschloss, dass der Haushalt für das kommende Jahr größer sein wird als der vorige.
for (int i = 0; i < n; i++) { if (x[i] == NULL) { return -1; } else { total += x[i]->value; } }
It was said that the costs of energy had risen more than was expected by the members of the council."""


async def test_each_chunk_is_staged_in_its_own_language(pool, owner):
    await arrive(pool, MIXED)
    await ingest(pool)
    rows = await owner.fetch("SELECT language::text, path_words FROM staged_chunk ORDER BY ordinal")
    assert [row["language"] for row in rows] == ["english", "german", "simple", "english"]
    assert {row["path_words"] for row in rows} == {"note.md"}


async def test_language_is_a_part_of_what_a_chunk_is(pool, owner):
    """Else a chunk that is read in another language now would keep the words it had."""
    await publish_version(pool, ["waves"], source_uri="inbox:a.md")
    await publish_version(pool, ["waves"], source_uri="inbox:b.md", language="simple")
    assert await owner.fetchval("SELECT count(DISTINCT chunk_hash) FROM chunk") == 2


async def test_long_question_of_mere_grammar_is_read_within_the_time_of_a_statement(pool, reader_pool):
    """Cubic time would be minutes; a statement has 25 s."""
    key = await publish_version(pool, TEXTS)
    await publish_version(pool, ["Der Hafen liegt im Norden der Insel."], source_uri="inbox:b.md", language="german")
    await tend(pool)
    words = [
        "i",
        "me",
        "my",
        "we",
        "our",
        "you",
        "he",
        "him",
        "his",
        "she",
        "her",
        "it",
        "its",
        "they",
        "them",
        "what",
        "which",
        "who",
        "this",
        "that",
        "these",
        "those",
        "am",
        "is",
        "are",
        "was",
    ]
    question = "\x01".join(words[place % len(words)] for place in range(4000))
    assert await covered(reader_pool, [key.collection_id], TEXTS[0], question) == 0
