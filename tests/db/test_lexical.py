"""The lexical arm and the walls around it: what the reader finds, and what it never sees."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.embedder.index import IndexHandler
from services.query import bm25, store
from shared.database import open_pool
from tests.db.clones import clone
from tests.factories import claim, make_collection, publish_version, stage_version

TEXTS = [
    "The lighthouse keeper counts the waves every night.",
    "Waves, waves and more waves: the harbour is full of waves.",
    "A harbour without a lighthouse is a dangerous place for ships.",
    "Ships carry grain and copper from the harbour to the islands.",
    "It's O'Brien's path: C:\\temp\\files and https://example.org/a?b=c&d=e in one sentence.",
    "Nothing here is about the sea at all, only about bread and butter.",
]
IDENTIFIER_WEIGHT = 1.5
FOREIGN = ["The lighthouse of another collection.", "Secret waves that nobody else may read."]
# Tables that hold what belongs to a collection. `collection` itself only names them.
WALLED = [
    "document",
    "document_version",
    "staged_chunk",
    "chunk",
    "chunk_position",
    "chunk_vector",
    "blob",
    "blob_part",
    "term_stat",
    "collection_stat",
    "collection_language",
    "tombstone",
    "ingest_request_skipped",
    "ingest_request",
    "ingest_request_document",
    "document_event",
    "job",
    "dead_letter",
]


@dataclass(frozen=True)
class Corpus:
    """Two collections with fresh statistics."""

    url: str
    mine: int
    foreign: int


@dataclass(frozen=True)
class LexicalHit:
    """A row of `lexical_hits`."""

    chunk_id: int
    bm25: float
    is_hit: bool


@pytest.fixture(scope="module")
async def corpus(server_url: str, template: str) -> AsyncIterator[Corpus]:
    async with clone(server_url, "test_lexical", template=template) as url:
        async with open_pool(url, "askbox_worker", "test worker", connections_max=4) as workers:
            mine = (await publish_version(workers, TEXTS, source_uri="inbox:mine.md", collection="mine")).collection_id
            foreign = (
                await publish_version(workers, FOREIGN, source_uri="inbox:theirs.md", collection="theirs")
            ).collection_id
            await workers.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
            while jobs := await claim(workers, "index", batch_size=1):
                await IndexHandler(workers).process(jobs)
        yield Corpus(url, mine, foreign)


@pytest.fixture(scope="module")
async def readers(corpus: Corpus) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(corpus.url, "askbox_reader", "test reader", connections_max=2) as opened:
        yield opened


Planting = Callable[..., AbstractAsyncContextManager[asyncpg.Connection]]


@pytest.fixture
async def planted(corpus: Corpus) -> AsyncIterator[Planting]:
    """A connection that plants rows as superuser, goes on as a reader, and takes everything back."""
    connection = await asyncpg.connect(corpus.url, server_settings={"search_path": "askbox, public"})

    @asynccontextmanager
    async def plant(*statements: str, scope: Sequence[int] = (corpus.mine,)) -> AsyncIterator[asyncpg.Connection]:
        transaction = connection.transaction()
        await transaction.start()
        try:
            for statement in statements:
                await connection.execute(statement)
            await connection.execute("SET LOCAL ROLE askbox_reader")
            await store.set_scope(connection, scope)
            yield connection
        finally:
            await transaction.rollback()

    yield plant
    await connection.close()


async def lexical_hits(
    conn: asyncpg.Connection, collection_id: int, question: str, dense: Sequence[int] = (), limit: int = 100
) -> list[LexicalHit]:
    rows = await conn.fetch(
        "SELECT chunk_id, bm25, is_hit FROM lexical_hits($1, $2, $3, $4)", collection_id, question, list(dense), limit
    )
    return [LexicalHit(**row) for row in rows]


async def ask_as_reader(
    readers: asyncpg.Pool, corpus: Corpus, question: str, dense: Sequence[int] = (), limit: int = 100
) -> list[LexicalHit]:
    async with readers.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [corpus.mine])
        return await lexical_hits(conn, corpus.mine, question, dense, limit)


async def chunk_ids(conn: asyncpg.Connection) -> dict[str, int]:
    return {row["text"]: row["id"] for row in await conn.fetch("SELECT id, text FROM chunk")}


async def expected_scores(conn: asyncpg.Connection, collection_id: int, question: str) -> dict[int, float]:
    """Compute BM25 in Python from what the tables hold."""
    stat = await conn.fetchrow(
        "SELECT chunk_count, lexeme_count FROM collection_stat WHERE collection_id = $1", collection_id
    )
    counts = dict(
        map(
            tuple, await conn.fetch("SELECT lexeme, chunk_count FROM term_stat WHERE collection_id = $1", collection_id)
        )
    )
    words = [
        row["lexeme"] for row in await conn.fetch("SELECT lexeme FROM unnest(text_lexemes('english', $1))", question)
    ]
    names = await conn.fetchval("SELECT array_agg(n) FROM identifiers($1) AS i, identifier_names(i) AS n", question)
    idf = {
        word: bm25.inverse_document_frequency(counts.get(word, 0), stat["chunk_count"])
        * (IDENTIFIER_WEIGHT if word in (names or ()) else 1)
        for word in words
    }
    scores = {}
    for chunk in await conn.fetch(
        "SELECT id, tsv::text, lexeme_count FROM chunk WHERE collection_id = $1", collection_id
    ):
        frequencies = dict(
            map(
                tuple,
                await conn.fetch(
                    "SELECT lexeme, cardinality(positions) FROM unnest($1::text::tsvector)",
                    chunk["tsv"],
                ),
            )
        )
        scores[chunk["id"]] = bm25.bm25(
            frequencies, idf, chunk["lexeme_count"], stat["lexeme_count"] / stat["chunk_count"]
        )
    return scores


# -- the walls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [None, ""])
async def test_without_a_scope_nothing_is_searched(corpus: Corpus, readers: asyncpg.Pool, scope: str | None):
    async with readers.acquire() as conn, conn.transaction():
        if scope is not None:
            await conn.execute("SELECT set_config('askbox.scope', $1, true)", scope)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not in the scope of this session"):
            await lexical_hits(conn, corpus.mine, "lighthouse")


@pytest.mark.parametrize("is_null", [False, True])
async def test_collection_outside_the_scope_is_refused(corpus: Corpus, readers: asyncpg.Pool, *, is_null: bool):
    async with readers.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [corpus.mine])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("SELECT * FROM lexical_hits($1, 'x', '{}', 9)", None if is_null else corpus.foreign)


async def test_scope_ends_with_its_transaction(corpus: Corpus, readers: asyncpg.Pool):
    async with readers.acquire() as conn:
        async with conn.transaction():
            await store.set_scope(conn, [corpus.mine])
            assert await conn.fetchval("SELECT count(*) FROM chunk") == len(TEXTS)
        assert await conn.fetchval("SELECT count(*) FROM chunk") == 0
        assert await conn.fetchval("SELECT askbox.scope()") == []


async def test_foreign_chunks_cannot_be_scored_by_id(corpus: Corpus, readers: asyncpg.Pool):
    async with readers.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [corpus.foreign])
        foreign = [row["id"] for row in await conn.fetch("SELECT id FROM chunk")]
    assert foreign
    hits = await ask_as_reader(readers, corpus, "secret waves", foreign)
    assert not {hit.chunk_id for hit in hits} & set(foreign)


async def test_public_may_not_execute_the_function(planted: Planting, corpus: Corpus):
    async with planted() as conn:
        await conn.execute("RESET ROLE")
        await conn.execute("CREATE ROLE nobody_special")
        await conn.execute("GRANT USAGE ON SCHEMA askbox TO nobody_special")
        await conn.execute("SET LOCAL ROLE nobody_special")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function lexical_hits"):
            await lexical_hits(conn, corpus.mine, "lighthouse")


async def test_every_walled_table_is_in_the_list(planted: Planting):
    async with planted() as conn:
        rows = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'askbox'::regnamespace AND relrowsecurity AND relforcerowsecurity"
        )
        assert {row["relname"] for row in rows} == {*WALLED, "collection"}
        # What carries a collection is walled, but sums of tokens, and grants, which are looked up before a scope.
        rows = await conn.fetch(
            "SELECT DISTINCT attrelid::regclass::text AS name FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
            "WHERE relnamespace = 'askbox'::regnamespace AND relkind = 'r' AND attname = 'collection_id'"
        )
        assert {row["name"] for row in rows} - {*WALLED} == {"token_usage", "token_sum", "key_grant"}


# Rows of one collection in the tables that publishing leaves empty.
PLANT_EVERYWHERE = """
WITH letter AS (
  INSERT INTO dead_letter (stage, subject_id, collection_id, attempt, error_code, error, created_at)
  VALUES ('scan', {0}, {0}, 1, 'x', 'x', now())
), waiting AS (
  INSERT INTO job (stage, subject_id, collection_id) VALUES ('scan', {0}, {0})
), buried AS (
  INSERT INTO tombstone (collection_id, source_uri, sha256) VALUES ({0}, 'inbox:x', sha256('x'))
), request AS (
  INSERT INTO ingest_request (collection_id) VALUES ({0}) RETURNING id
), skipped AS (
  INSERT INTO ingest_request_skipped (request_id, collection_id, file_path, reason) SELECT id, {0}, 'x', 'x' FROM request
)
INSERT INTO ingest_request_document SELECT id, {0}, 1, 1, 'x' FROM request
"""


@pytest.mark.parametrize("table", WALLED)
async def test_reader_sees_the_rows_of_its_scope_only(planted: Planting, corpus: Corpus, table: str):
    if table == "staged_chunk":
        async with planted() as conn:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch("SELECT 1 FROM staged_chunk")
        return
    statements = [PLANT_EVERYWHERE.format(collection_id) for collection_id in (corpus.mine, corpus.foreign)]
    counts = {}
    for scope in ((), (corpus.mine,), (corpus.foreign,), (corpus.mine, corpus.foreign)):
        async with planted(*statements, scope=scope) as conn:
            counts[scope] = await conn.fetchval(f"SELECT count(*) FROM {table}")
            if table not in ("blob", "blob_part"):
                seen = await conn.fetch(f"SELECT DISTINCT collection_id FROM {table}")
                assert {row["collection_id"] for row in seen} == set(scope)
    assert counts[()] == 0
    assert counts[(corpus.mine,)] > 0
    assert counts[(corpus.foreign,)] > 0
    assert counts[(corpus.mine, corpus.foreign)] == counts[(corpus.mine,)] + counts[(corpus.foreign,)]


async def test_reader_changes_nothing_outside_its_scope(planted: Planting, corpus: Corpus):
    async with planted() as conn:
        assert await conn.execute("DELETE FROM document WHERE source_uri = 'inbox:theirs.md'") == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await conn.execute("INSERT INTO tombstone VALUES ($1, 'inbox:x', sha256('x'))", corpus.foreign)


@pytest.mark.parametrize(
    "table", ["document_version", "chunk", "staged_chunk", "term_stat", "embedding", "lease", "api_key"]
)
async def test_reader_writes_no_table_of_the_workers(planted: Planting, table: str):
    async with planted() as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(f"INSERT INTO {table} DEFAULT VALUES")


async def test_staged_text_is_not_searched(pool: asyncpg.Pool, reader_pool: asyncpg.Pool):
    await make_collection(pool)
    key = await stage_version(pool, ["unpublished lighthouse"])
    async with reader_pool.acquire() as conn, conn.transaction():
        await store.set_scope(conn, [key.collection_id])
        assert await lexical_hits(conn, key.collection_id, "lighthouse") == []


# -- the scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        "lighthouse",
        "How many waves does the lighthouse keeper count?",
        "harbour harbour harbour ships",
        "bread or butter, waves or grain?",
        "note",  # a word of the path
        "https://example.org/a?b=c",
        "unheardof lighthouse",
    ],
)
async def test_scores_are_those_of_the_formula(readers: asyncpg.Pool, planted: Planting, corpus: Corpus, question: str):
    async with planted() as conn:
        expected = await expected_scores(conn, corpus.mine, question)
    hits = await ask_as_reader(readers, corpus, question, list(expected))
    assert {hit.chunk_id: hit.bm25 for hit in hits} == pytest.approx(expected, abs=1e-9)
    assert {hit.chunk_id for hit in hits if hit.is_hit} == {c for c, score in expected.items() if score > 0}
    assert any(hit.is_hit for hit in hits)


async def test_stale_statistics_still_give_the_formula(planted: Planting, corpus: Corpus):
    stale = [
        "UPDATE term_stat SET chunk_count = 90 WHERE lexeme = 'wave'",
        "DELETE FROM term_stat WHERE lexeme = 'harbour'",
        "UPDATE collection_stat SET chunk_count = 3, lexeme_count = 17",
    ]
    async with planted(*stale) as conn:
        expected = await expected_scores(conn, corpus.mine, "waves in the harbour")
        hits = await lexical_hits(conn, corpus.mine, "waves in the harbour", list(expected))
    assert {hit.chunk_id: hit.bm25 for hit in hits} == pytest.approx(expected, abs=1e-9)


async def test_before_the_first_statistics_words_are_found(planted: Planting, corpus: Corpus):
    async with planted("DELETE FROM term_stat", "DELETE FROM collection_stat") as conn:
        hits = await lexical_hits(conn, corpus.mine, "lighthouse")
        ids = await chunk_ids(conn)
    assert {hit.chunk_id for hit in hits} == {ids[TEXTS[0]], ids[TEXTS[2]]}


async def test_chunk_of_the_dense_arm_without_a_common_word_gets_zero(
    readers: asyncpg.Pool, planted: Planting, corpus: Corpus
):
    async with planted() as conn:
        ids = await chunk_ids(conn)
    bread, waves = ids[TEXTS[5]], ids[TEXTS[1]]
    hits = {hit.chunk_id: hit for hit in await ask_as_reader(readers, corpus, "waves", [bread, waves])}
    assert hits[bread] == LexicalHit(bread, 0.0, is_hit=False)
    assert hits[waves].is_hit
    assert hits[waves].bm25 > 0


async def test_limit_bounds_the_hits_and_keeps_the_best(readers: asyncpg.Pool, corpus: Corpus):
    every = await ask_as_reader(readers, corpus, "waves harbour ships lighthouse")
    best = max(every, key=lambda hit: hit.bm25)
    assert len(every) > 1
    assert await ask_as_reader(readers, corpus, "waves harbour ships lighthouse", limit=1) == [best]


async def test_question_is_read_in_every_language_of_the_collection(planted: Planting, corpus: Corpus):
    async with planted(f"INSERT INTO collection_language VALUES ({corpus.mine}, 'simple')") as conn:
        terms = await store.question_terms(conn, [corpus.mine], "Waves")
    assert {term.lexeme: term.languages for term in terms} == {"wave": {"english"}, "waves": {"simple"}}
    assert len({(term.word, term.idf) for term in terms}) == 1


async def test_unknown_lexeme_counts_nothing(planted: Planting, corpus: Corpus):
    async with planted() as conn:
        (term,) = await store.question_terms(conn, [corpus.mine], "xyzzyplugh")
        assert term.idf == pytest.approx(bm25.inverse_document_frequency(0, len(TEXTS)))
        assert await lexical_hits(conn, corpus.mine, "xyzzyplugh") == []


# -- the budget --------------------------------------------------------------------------------------------------------

# 'wave' is so common that it alone is over the budget of 500 chunks, 'harbour' is within it.
COMMON = (
    "UPDATE collection_stat SET chunk_count = 1000, lexeme_count = 9000",
    "UPDATE term_stat SET chunk_count = 600 WHERE lexeme = 'wave'",
    "UPDATE term_stat SET chunk_count = 400 WHERE lexeme = 'harbour'",
)


async def test_only_term_is_searched_even_over_the_budget(planted: Planting, corpus: Corpus):
    async with planted(*COMMON) as conn:
        ids = await chunk_ids(conn)
        hits = await lexical_hits(conn, corpus.mine, "waves")
    assert {hit.chunk_id for hit in hits} == {ids[TEXTS[0]], ids[TEXTS[1]]}


async def test_common_word_finds_nothing_beside_a_rarer_one_but_scores(planted: Planting, corpus: Corpus):
    async with planted(*COMMON) as conn:
        ids = await chunk_ids(conn)
        both, common = ids[TEXTS[1]], ids[TEXTS[0]]
        expected = await expected_scores(conn, corpus.mine, "waves in the harbour")
        hits = {hit.chunk_id: hit for hit in await lexical_hits(conn, corpus.mine, "waves in the harbour", [common])}
    assert {chunk_id for chunk_id, hit in hits.items() if hit.is_hit} == {both, ids[TEXTS[2]], ids[TEXTS[3]]}
    assert hits[both].bm25 == pytest.approx(expected[both], abs=1e-9)
    assert hits[common].bm25 == pytest.approx(expected[common], abs=1e-9)
    assert hits[common].bm25 > 0


async def test_typing_error_does_not_push_a_common_word_out(planted: Planting, corpus: Corpus):
    async with planted(*COMMON) as conn:
        ids = await chunk_ids(conn)
        hits = await lexical_hits(conn, corpus.mine, "wavs and waves")
    assert {hit.chunk_id for hit in hits} == {ids[TEXTS[0]], ids[TEXTS[1]]}


async def test_many_unknown_words_do_not_push_a_known_one_out(readers: asyncpg.Pool, corpus: Corpus):
    noise = " ".join(f"qq{n}zz" for n in range(1000))
    (best, *_) = await ask_as_reader(readers, corpus, f"{noise} keeper")
    assert best.is_hit


# -- questions as people and machines write them -----------------------------------------------------------------------

WEIRD = [
    "",
    " \t\n",
    "the of and is",
    "'",
    "it's O'Brien''s",
    "''''''",
    "\\",
    "C:\\temp\\files \\' \\\\",
    "a & b | !c <-> d <2> (e",
    "& | ! <-> ( ) : * :*",
    "wave:* 'wave':A",
    "https://example.org/a?b=c&d=e#f user@example.org /usr/bin/env",
    "$1 $$ $a$ %s %I {} {{}} ${x}",
    "'; DROP TABLE chunk; --",
    "\u0001\u0007\u001b[31m",
    "日本語 слово العربية 🚢🚢 é e\u0301 \u200b \ufeff \U0010ffff",
    "x" * 5000,
    " ".join(f"word{n}" for n in range(10_000)),
    "waves " * 10_000,
    "1 2.5 -3e10 1/2 2024-01-01",
    "<b>waves</b> <script> & &amp;",
]


def check_hits(hits: Sequence[LexicalHit], limit: int) -> None:
    assert len({hit.chunk_id for hit in hits}) == len(hits)
    assert sum(hit.is_hit for hit in hits) <= limit
    assert all(hit.bm25 > 0 if hit.is_hit else hit.bm25 >= 0 for hit in hits)


@pytest.mark.parametrize("question", WEIRD, ids=lambda question: ascii(question[:20]))
async def test_weird_question_is_answered(readers: asyncpg.Pool, corpus: Corpus, question: str):
    check_hits(await ask_as_reader(readers, corpus, question, [1, 2, 3, -1], limit=3), 3)


async def test_questions_with_quotes_and_paths_find_their_chunk(
    readers: asyncpg.Pool, planted: Planting, corpus: Corpus
):
    async with planted() as conn:
        wanted = (await chunk_ids(conn))[TEXTS[4]]
    for question in ("O'Brien's", "C:\\temp\\files", "https://example.org/a?b=c&d=e", "example.org"):
        assert [hit.chunk_id for hit in await ask_as_reader(readers, corpus, question)] == [wanted], question


@settings(max_examples=150)
@given(
    question=st.text(
        st.one_of(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.sampled_from("'\\&|!<->():* \"wave")
        ),
        max_size=60,
    )
)
@example(question="'\\'")
async def test_no_question_raises(readers: asyncpg.Pool, corpus: Corpus, question: str):
    check_hits(await ask_as_reader(readers, corpus, question), 100)
