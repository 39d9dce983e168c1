"""Names that the parser takes apart or glues together: found whole, found by their parts, and the whole before the parts."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.embedder.index import IndexHandler
from services.query import store
from shared.database import open_pool
from tests.db.clones import clone
from tests.factories import claim, publish_version

TEXTS = {
    "foo_bar": "The helper foo_bar reads one line of the table and returns what stands in it.",
    "foo and bar": "The function foo and its bar: foo here, bar there, foo and bar again.",
    "camel": "Call fetchUserName once a session and keep what it gives.",
    "version": "Since v4.17.2 the reader keeps its place after a crash.",
    "bare version": "The archive 9.8.7 was withdrawn.",
    "error": "It ends with ERR-1234 when the disk is full.",
    "hexadecimal": "Access denied is 0x80070005 on that system.",
    "oracle": "A long report may stop with ORA-01555, snapshot too old.",
    "cve": "The hole is known as CVE-2024-3094 and was closed in spring.",
    "path": "Settings are read in src/app/loader.py before anything starts.",
    "file": "Write the address into settings.yaml and start again.",
    "variable": "ASKBOX_LLM_MODEL names the model that writes.",
    "mail": "Write to jane.roe@example.org about invoices.",
    "address": "The mirror lies under https://mirror.example.net/pub/archive_list.html since May.",
    "module": "With os.path.join two folders become one name.",
    "language": "It was rewritten from C++ to another language.",
    "slash": "The receptor/ligand pair was measured twice.",
    "platform": "There is a build for x86_64 alone.",
    "glued": "Read about the capabilities.Quickstart comes next.",
}
NOISE = [f"Sentence {n} is about the harbour, its ships and the weather of day {n}." for n in range(40)]


@pytest.fixture(scope="module")
async def reader(server_url: str, template: str) -> AsyncIterator[asyncpg.Connection]:
    """A reader's connection to a collection of such texts among others, with fresh statistics."""
    async with clone(server_url, "test_identifiers", template=template) as url:
        async with open_pool(url, "askbox_worker", "test worker", connections_max=4) as workers:
            key = await publish_version(workers, [*TEXTS.values(), *NOISE])
            await workers.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
            while jobs := await claim(workers, "index", batch_size=1):
                await IndexHandler(workers).process(jobs)
        async with (
            open_pool(url, "askbox_reader", "test reader", connections_max=1) as readers,
            readers.acquire() as conn,
            conn.transaction(),
        ):
            await store.set_scope(conn, [key.collection_id])
            yield conn


async def found(reader: asyncpg.Connection, question: str) -> list[str]:
    """Return the texts that the lexical arm finds, best first."""
    rows = await reader.fetch(
        "SELECT c.text FROM lexical_hits((scope())[1], $1, '{}', 100) AS h JOIN chunk AS c ON c.id = h.chunk_id "
        "WHERE h.is_hit ORDER BY h.bm25 DESC, h.chunk_id",
        question,
    )
    return [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("foo_bar", "foo_bar"),
        ("what does foo_bar return?", "foo_bar"),
        ("FOO_BAR", "foo_bar"),
        ("fetchUserName", "camel"),
        ("fetchusername", "camel"),
        ("fetch the user's name", "camel"),
        ("v4.17.2", "version"),
        ("4.17.2", "version"),
        ("what changed in 4.17?", "version"),
        ("v9.8.7", "bare version"),
        ("9.8.7", "bare version"),
        ("err-1234", "error"),
        ("error code 1234", "error"),
        ("0x80070005", "hexadecimal"),
        ("ORA-01555", "oracle"),
        ("oracle 01555", "oracle"),
        ("CVE-2024-3094", "cve"),
        ("CVE 2024 3094", "cve"),
        ("src/app/loader.py", "path"),
        ("app/loader.py", "path"),
        ("loader.py", "path"),
        ("the loader", "path"),
        ("settings.yaml", "file"),
        ("yaml", "file"),
        ("askbox_llm_model", "variable"),
        ("LLM", "variable"),
        ("jane.roe@example.org", "mail"),
        ("jane.roe", "mail"),
        ("roe", "mail"),
        ("mirror.example.net", "address"),
        ("archive_list.html", "address"),
        ("archive list of the mirror", "address"),
        ("os.path.join", "module"),
        ("join", "module"),
        ("C++", "language"),
        ("ligand", "slash"),
        ("x86_64", "platform"),
        ("x86", "platform"),
        ("quickstart", "glued"),
    ],
)
async def test_name_is_found_whole_and_by_its_parts(reader: asyncpg.Connection, question: str, wanted: str):
    assert (await found(reader, question))[:1] == [TEXTS[wanted]]


async def test_parts_alone_are_found_behind_the_whole(reader: asyncpg.Connection):
    texts = await found(reader, "foo_bar")
    assert texts == [TEXTS["foo_bar"], TEXTS["foo and bar"]]


@pytest.mark.parametrize(
    "text",
    [
        "A plain sentence, of words.",
        "e.g. the U.S. and i.e. a state-of-the-art well-known day",
        "3.5 of 12 on 2024-01-02",
    ],
)
async def test_prose_has_no_identifiers(reader: asyncpg.Connection, text: str):
    assert await reader.fetchval("SELECT array_agg(i) FROM identifiers($1) AS i", text) is None
    same = "SELECT text_lexemes('english', $1) = to_tsvector('english', $1)"
    assert await reader.fetchval(same, text) is True


async def test_identifiers_count_for_no_length(reader: asyncpg.Connection):
    row = await reader.fetchrow(
        "SELECT tsv_length(text_lexemes('english', t)) AS with_names, tsv_length(to_tsvector('english', t)) AS without "
        "FROM (SELECT 'Call foo_bar of src/app/main.py in v1.2.3' AS t) AS s"
    )
    assert row["with_names"] == row["without"]


@pytest.mark.parametrize(
    "text",
    [
        "a_" * 4000,
        "/".join(["x1"] * 4000),
        "'_' \\_\\ a'_b \\'_x",
        "_" * 5000,
        "A1b2" * 2000,
        "v" + "1." * 4000 + "1",
        "aB-1 " * 2000,
    ],
    ids=["one", "path", "quotes", "bars", "mixed", "version", "many"],
)
async def test_any_text_is_lexed(reader: asyncpg.Connection, text: str):
    assert await reader.fetchval("SELECT chunk_tsv('english', $1, $1, $1) IS NOT NULL", text) is True
    await found(reader, text)
