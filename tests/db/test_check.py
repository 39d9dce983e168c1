"""`askbox check`: silent on a good database, and each invariant speaks when it alone is violated."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from services.console.check import INVARIANTS, ROWS_SHOWN_MAX, Finding, check
from services.embedder.index import IndexHandler
from shared import queue
from shared.database import connect, open_pool
from shared.errors import ConfigError
from shared.publication import Answer, ask
from tests.db.clones import clone
from tests.factories import arrive, claim, make_collection, publish_version, stage_version
from tests.waiting import until

# (invariant, what violates it, what else must speak then). A `{live}` document has a live version, `{staged}` waits for a
# vector, `{queued}` for the ingester. Triggers and foreign keys do not fire; constraints are dropped where they forbid it.
CASES: list[tuple[str, str, set[str]]] = [
    (
        "failed_version_has_a_reason",
        (
            "ALTER TABLE document_version DROP CONSTRAINT failed_version_has_a_reason;"
            "UPDATE document_version SET error = ' ' WHERE state = 'failed'"
        ),
        set(),
    ),
    (
        "version_state_is_legal",
        (
            "ALTER TABLE document_version DROP CONSTRAINT state_is_legal;"
            "UPDATE document_version SET state = 'odd' WHERE state = 'superseded'"
        ),
        set(),
    ),
    (
        "one_document_per_source",
        (
            "ALTER TABLE document DROP CONSTRAINT one_document_per_source;"
            "UPDATE document SET source_uri = (SELECT max(source_uri) FROM document)"
        ),
        set(),
    ),
    (
        "live_version_is_ready",
        "UPDATE document_version SET state = 'superseded' WHERE id = {live}",
        set(),
    ),
    (
        "ready_version_is_live",
        "UPDATE document_version SET state = 'ready', ready_at = now(), chunk_count = 0, token_count = 0 WHERE id = {old}",
        set(),
    ),
    (
        "no_older_version_over_a_newer_one",
        "UPDATE document SET live_version_id = {old} WHERE live_version_id = {live}",
        {
            "live_version_is_ready",
            "ready_version_is_live",
            "only_live_versions_have_positions",
            "chunk_stands_in_the_live_version_once",
        },
    ),
    (
        "document_has_a_version",
        "INSERT INTO document (collection_id, source_uri) VALUES (1, 'inbox:none.md')",
        set(),
    ),
    (
        "chunk_has_a_document",
        "UPDATE chunk SET document_id = 999 WHERE id = {chunk}",
        {"vector_has_a_chunk"},
    ),
    (
        "chunk_stands_in_the_live_version_once",
        (
            "DELETE FROM chunk_position WHERE chunk_id = {last_chunk};"
            "UPDATE document_version SET chunk_count = chunk_count - 1 WHERE id = {live}"
        ),
        set(),
    ),
    (
        "only_live_versions_have_positions",
        (
            "INSERT INTO chunk_position (collection_id, version_id, ordinal, chunk_id, char_start, char_end) "
            "SELECT collection_id, {old}, 0, id, 0, length(text) FROM chunk WHERE id = {chunk}"
        ),
        set(),
    ),
    (
        "ordinals_have_no_gap",
        "UPDATE chunk_position SET ordinal = ordinal + 100 WHERE chunk_id = {chunk}",
        set(),
    ),
    (
        "ready_version_has_its_chunks",
        "UPDATE document_version SET chunk_count = chunk_count + 1 WHERE id = {live}",
        set(),
    ),
    (
        "position_is_as_long_as_its_text",
        "UPDATE chunk_position SET char_end = char_end + 1 WHERE chunk_id = {chunk}",
        set(),
    ),
    (
        "attachment_has_its_mail",
        "UPDATE document SET source_uri = 'inbox:elsewhere.eml//x', parent_id = 0 WHERE live_version_id = {live}",
        set(),
    ),
    (
        "lines_are_no_more_than_the_text_has",
        "UPDATE chunk_position SET lines = ARRAY[1, 3] WHERE chunk_id = {chunk}",
        set(),
    ),
    (
        "chunk_has_one_vector_of_its_model",
        "DELETE FROM chunk_vector WHERE chunk_id = {chunk}",
        set(),
    ),
    (
        "vector_has_a_chunk",
        "INSERT INTO chunk_vector SELECT collection_id, model_id, 999, document_id, vector FROM chunk_vector WHERE chunk_id = {chunk}",
        set(),
    ),
    (
        "vector_is_of_its_model",
        "UPDATE chunk_vector SET vector = '[1,0]' WHERE chunk_id = {chunk}",
        {"vector_is_that_of_its_text"},
    ),
    (
        "vector_is_not_zero",
        "UPDATE chunk_vector SET vector = subvector(vector - vector, 1, 16) WHERE chunk_id = {chunk}",
        {"vector_is_that_of_its_text"},
    ),
    (
        "cached_vector_is_of_its_model",
        "INSERT INTO embedding (model_id, text_hash, vector) VALUES (1, sha256('x'), '[1,0]')",
        set(),
    ),
    (
        "text_is_embedded_once",
        "ALTER TABLE embedding DROP CONSTRAINT embedding_pkey;INSERT INTO embedding SELECT * FROM embedding LIMIT 1",
        set(),
    ),
    (
        "vector_is_that_of_its_text",
        "UPDATE chunk_vector SET vector = (SELECT vector FROM chunk_vector WHERE chunk_id <> {chunk} LIMIT 1) WHERE chunk_id = {chunk}",
        set(),
    ),
    (
        "text_hash_is_that_of_the_text",
        "UPDATE chunk SET text = reverse(text) WHERE id = {chunk}",
        set(),
    ),
    (
        "lexeme_count_is_that_of_the_text",
        "UPDATE chunk SET lexeme_count = lexeme_count + 1 WHERE id = {chunk}",
        set(),
    ),
    (
        "collection_agrees_down_the_chain",
        "UPDATE chunk_vector SET collection_id = 2 WHERE chunk_id = {chunk}",
        {"vector_has_a_chunk", "chunk_has_one_vector_of_its_model"},
    ),
    (
        "staged_chunks_belong_to_versions_in_work",
        (
            "UPDATE staged_chunk SET version_id = {live} WHERE version_id = {staged};"
            "UPDATE document_version SET chunk_count = 0, embedding_at = now() WHERE id = {staged}"
        ),
        set(),
    ),
    (
        "staged_version_has_its_chunks",
        "DELETE FROM staged_chunk WHERE version_id = {staged} AND ordinal = 0",
        set(),
    ),
    (
        "version_in_work_has_a_job",
        "DELETE FROM job WHERE stage = 'ingest' AND subject_id = {queued}",
        set(),
    ),
    (
        "complete_version_is_published_soon",
        (
            "DELETE FROM job WHERE stage = 'embed'; DELETE FROM lease;"
            "UPDATE document_version SET embedding_at = now() - interval '61 seconds' WHERE id = {staged}"
        ),
        set(),
    ),
    (
        "lease_is_swept_in_time",
        "UPDATE lease SET expires_at = now() - interval '61 seconds'",
        set(),
    ),
    (
        "leased_job_has_a_lease",
        "UPDATE job SET lease_id = 999 WHERE id = (SELECT min(id) FROM job WHERE lease_id IS NULL)",
        set(),
    ),
    (
        "lease_owns_jobs",
        "INSERT INTO lease (worker_id, expires_at, deadline_at) VALUES (1, now() + interval '1 minute', now() + interval '1 minute')",
        set(),
    ),
    (
        "attempts_are_bounded",
        "ALTER TABLE job DROP CONSTRAINT attempts_are_bounded; UPDATE job SET attempt = max_attempts + 1",
        set(),
    ),
    (
        "one_job_per_subject",
        (
            "ALTER TABLE job DROP CONSTRAINT one_job_per_subject;"
            "INSERT INTO job (stage, subject_id, collection_id) SELECT 'ingest', {queued}, 1"
        ),
        set(),
    ),
    (
        "dead_letter_has_a_reason",
        "ALTER TABLE dead_letter DROP CONSTRAINT dead_letter_has_a_reason; UPDATE dead_letter SET error = ' '",
        set(),
    ),
    (
        "version_has_its_original",
        (
            "UPDATE blob SET sha256 = NULL, file_bytes = NULL "
            "WHERE id = (SELECT blob_id FROM document_version WHERE id = {live})"
        ),
        set(),
    ),
    (
        "original_has_all_its_bytes",
        (
            "UPDATE blob_part SET bytes = bytes || 'x' "
            "WHERE blob_id = (SELECT blob_id FROM document_version WHERE id = {live})"
        ),
        set(),
    ),
    (
        "no_input_was_truncated",
        "UPDATE document_version SET truncated_count = 1 WHERE id = {live}",
        set(),
    ),
    (
        "language_of_every_chunk_is_asked",
        "UPDATE chunk SET language = 'german' WHERE id = {chunk}",
        set(),
    ),
    (
        "key_is_hashed",
        "ALTER TABLE api_key DROP CONSTRAINT key_is_hashed; INSERT INTO api_key (name, sha256) VALUES ('plain', 'secret')",
        set(),
    ),
    (
        "folder_in_scan_has_a_job",
        "INSERT INTO ingest_request (collection_id, directory) SELECT min(id), '/data' FROM collection",
        set(),
    ),
    (
        "row_level_security_is_forced",
        "ALTER TABLE chunk NO FORCE ROW LEVEL SECURITY",
        set(),
    ),
    (
        "reader_cannot_bypass_security",
        "GRANT askbox_owner TO askbox_reader",
        set(),
    ),
    (
        "no_index_is_invalid",
        (
            "SET LOCAL allow_system_table_mods = on;"
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'chunk_tsv'::regclass"
        ),
        set(),
    ),
    (
        "search_index_has_a_collection",
        "CREATE INDEX chunk_tsv_gin_999 ON chunk USING gin (tsv) WHERE collection_id = 999",
        set(),
    ),
    (
        "no_constraint_is_unvalidated",
        "ALTER TABLE chunk ADD CONSTRAINT later CHECK (token_count >= 0) NOT VALID",
        set(),
    ),
]
# Planted in another way below.
ELSEWHERE = {"no_transaction_is_forgotten"}


@pytest.fixture(scope="module")
async def good_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database with something in every state."""
    async with clone(server_url, "test_check", template=template) as url:
        async with open_pool(url, "askbox_worker", "test worker", connections_max=4) as workers:
            await make_collection(workers, "default")
            await make_collection(workers, "other")
            await publish_version(workers, ["First text.", "Second text.", "Third text."], source_uri="inbox:a.md")
            await publish_version(workers, ["First text.", "A new text.", "Third text."], source_uri="inbox:a.md")
            await publish_version(workers, ["Far away."], source_uri="inbox:b.md", collection="other")
            await workers.execute("UPDATE job SET run_at = now() WHERE stage = 'index'")
            for job in await claim(workers, "index", batch_size=1):
                await IndexHandler(workers).process([job])
            failing = await stage_version(workers, ["A text that no model takes."], source_uri="inbox:failed.md")
            (job,) = await claim(workers, "embed")
            async with workers.acquire() as conn:
                await queue.bury_jobs(conn, job.lease_id, [job.id], error_code="rejected_text", error="no")
            assert await ask(workers, failing) is Answer.FAILED
            await stage_version(workers, ["Waiting for a vector.", "And this one too."], source_uri="inbox:staged.md")
            assert len(await claim(workers, "embed", batch_size=1)) == 1
            await workers.execute(
                "UPDATE lease SET expires_at = now() + interval '1 hour', deadline_at = now() + interval '1 hour'"
            )
            await arrive(workers, "not parsed yet", source_uri="inbox:queued.md")
        yield url


@pytest.fixture(scope="module")
async def names(good_url: str) -> dict[str, int]:
    """The ids that the cases speak of."""
    connection = await asyncpg.connect(good_url, server_settings={"search_path": "askbox, public"})
    row = await connection.fetchrow(
        "SELECT (SELECT live_version_id FROM document WHERE source_uri = 'inbox:a.md') AS live,"
        " (SELECT id FROM document_version WHERE state = 'superseded') AS old,"
        " (SELECT id FROM document_version WHERE state = 'embedding') AS staged,"
        " (SELECT id FROM document_version WHERE state = 'queued') AS queued,"
        " (SELECT id FROM chunk WHERE text = 'First text.') AS chunk,"
        " (SELECT id FROM chunk WHERE text = 'Third text.') AS last_chunk"
    )
    await connection.close()
    assert None not in row.values()
    return dict(row)


async def test_good_database_has_no_findings(good_url: str):
    assert await check(good_url) == []


async def test_empty_database_has_no_findings(url: str):
    assert await check(url) == []


def test_every_invariant_has_a_case():
    assert sorted([*(name for name, _, _ in CASES), *ELSEWHERE]) == sorted(INVARIANTS)


@pytest.mark.parametrize(("invariant", "violation", "others"), CASES, ids=[case[0] for case in CASES])
async def test_violated_invariant_is_reported(
    good_url: str, names: dict[str, int], invariant: str, violation: str, others: set[str]
):
    connection = await asyncpg.connect(good_url, server_settings={"search_path": "askbox, public"})
    if "pg_postmaster_start_time" in INVARIANTS[invariant]:  # it lets a server that has just started pass
        await until(lambda: connection.fetchval("SELECT pg_postmaster_start_time() < now() - interval '21 seconds'"))
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(violation.format(**names))
        await connection.execute("SET LOCAL ROLE askbox_owner")
        found = {name for name, statement in INVARIANTS.items() if await connection.fetch(statement)}
    finally:
        await transaction.rollback()
        await connection.close()
    assert found == {invariant, *others}


async def test_findings_count_all_rows_and_show_a_few(url: str, owner: asyncpg.Connection):
    await owner.execute(
        "INSERT INTO lease (id, worker_id, expires_at, deadline_at) OVERRIDING SYSTEM VALUE "
        "SELECT n, 1, now() + interval '1 minute', now() + interval '1 minute' FROM generate_series(1, 9) AS n"
    )
    (finding,) = await check(url)
    assert finding.invariant == "lease_owns_jobs"
    assert finding.violations == 9
    assert len(set(finding.rows)) == ROWS_SHOWN_MAX
    assert set(finding.rows) <= set("123456789")


async def test_lease_that_has_just_expired_is_no_finding(url: str, pool: asyncpg.Pool, owner: asyncpg.Connection):
    await owner.execute("INSERT INTO job (stage, subject_id, collection_id) VALUES ('scan', 1, 1)")
    await claim(pool, "scan")
    await owner.execute("UPDATE lease SET expires_at = now() - $1::interval", timedelta(seconds=30))
    assert await check(url) == []


async def test_forgotten_transaction_is_seen(url: str, monkeypatch: pytest.MonkeyPatch):
    name = "no_transaction_is_forgotten"
    at_once = INVARIANTS[name].replace("interval '60 seconds'", "interval '0 seconds'")
    assert at_once != INVARIANTS[name]
    monkeypatch.setitem(INVARIANTS, name, at_once)
    forgetful = await connect(url, "askbox_worker", "test worker")
    try:
        async with forgetful.transaction():
            await forgetful.execute("SELECT 1")
            findings = await check(url)
        assert findings == [Finding(name, 1, [str(forgetful.get_server_pid())])]
    finally:
        await forgetful.close()


async def test_every_fallen_wall_is_reported(url: str, owner: asyncpg.Connection):
    walls = "SELECT relname FROM pg_class WHERE relnamespace = 'askbox'::regnamespace AND relforcerowsecurity"
    tables = [row["relname"] for row in await owner.fetch(walls)]
    for table in tables:
        await owner.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    found = await owner.fetch(INVARIANTS["row_level_security_is_forced"])
    assert {row["relname"] for row in found} == set(tables)


async def test_database_without_migrations_is_told_apart(server_url: str):
    async with clone(server_url, "test_check_empty") as empty:
        with pytest.raises(ConfigError, match="run `askbox migrate` first"):
            await check(empty)
