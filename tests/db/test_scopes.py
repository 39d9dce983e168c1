"""Every statement's own scope, asked by a superuser, for whom the walls of row-level security do not stand."""

from dataclasses import dataclass

import asyncpg
import pytest
from pgvector import HalfVector

from services.query import ingest_store, store
from services.query.filters import Filters, retrieve_filtered
from services.query.fusion import Candidate, Ranked
from services.query.store import CollectionRow
from shared.database import prepare_connection
from tests.factories import publish_version, vector_of

TEXT = "The lighthouse keeper counts the waves."


@dataclass(frozen=True)
class Planted:
    """One published document and whoever may see everything."""

    conn: asyncpg.Connection
    collection: CollectionRow
    document_id: int
    chunk_id: int


@pytest.fixture
async def planted(pool: asyncpg.Pool, owner: asyncpg.Connection) -> Planted:
    key = await publish_version(pool, [TEXT])
    model_id = await owner.fetchval("SELECT embedding_model_id FROM collection")
    await prepare_connection(owner)
    # The function that ranks words asks for the session's scope besides, and would say no before the statement does.
    await owner.execute("SELECT set_config('askbox.scope', $1, false)", f"{{{key.collection_id}}}")
    row = await owner.fetchrow("SELECT id, document_id FROM chunk")
    return Planted(owner, CollectionRow(key.collection_id, "default", model_id), row["document_id"], row["id"])


def scopes(planted: Planted) -> tuple[list[int], list[int]]:
    return [planted.collection.id], [planted.collection.id + 1]


async def test_retrieval_stays_inside_the_scope(planted):
    inside, outside = scopes(planted)
    vector = HalfVector(vector_of(TEXT))
    for terms in (await store.question_terms(planted.conn, inside, "lighthouse"), []):
        arguments = (planted.collection, terms, vector)
        assert len(await store.retrieve(planted.conn, inside, *arguments, arm_limit=5)) == 1
        assert await store.retrieve(planted.conn, outside, *arguments, arm_limit=5) == []
    filtered = (planted.collection, "lighthouse", vector, Filters())
    assert len(await retrieve_filtered(planted.conn, inside, *filtered, arm_limit=5)) == 1
    assert await retrieve_filtered(planted.conn, outside, *filtered, arm_limit=5) == []


async def test_dense_arm_finds_nothing_outside_the_scope(planted):
    """What it found is what the lexical arm scores: it has to stop by itself."""
    inside, outside = scopes(planted)
    whole = store.retrieve_statement(len(vector_of(TEXT)))
    arm = (
        whole.partition("), lexical AS MATERIALIZED (")[0] + ") SELECT chunk_id FROM dense WHERE $4::jsonb IS NOT NULL"
    )
    arguments = (planted.collection.id, planted.collection.model_id, "[]", HalfVector(vector_of(TEXT)), 5)
    assert len(await planted.conn.fetch(arm, inside, *arguments)) == 1
    assert await planted.conn.fetch(arm, outside, *arguments) == []


async def test_what_retrieval_shows_stays_inside_the_scope(planted):
    inside, outside = scopes(planted)
    candidate = Candidate(planted.collection.id, planted.chunk_id, planted.document_id, 1.0, 1.0, is_lexical_hit=True)
    ranked = {planted.chunk_id: Ranked(candidate, 1.0)}
    assert len(await store.get_hits(planted.conn, inside, planted.collection.id, ranked, [])) == 1
    assert await store.get_hits(planted.conn, outside, planted.collection.id, ranked, []) == []
    assert await store.question_terms(planted.conn, inside, "lighthouse")
    assert await store.question_terms(planted.conn, outside, "lighthouse") == []


async def test_documents_are_listed_and_deleted_inside_the_scope_only(planted):
    inside, outside = scopes(planted)
    assert await store.get_document(planted.conn, outside, planted.document_id) is None
    assert await ingest_store.list_events(planted.conn, outside, planted.document_id, after_id=0, limit=9) == []
    assert await ingest_store.get_original(planted.conn, outside, planted.document_id) is None
    assert await store.count_states(planted.conn, outside) == {}
    assert not await store.bury_document(planted.conn, outside, planted.document_id)
    assert await store.get_document(planted.conn, inside, planted.document_id) is not None
    assert await ingest_store.list_events(planted.conn, inside, planted.document_id, after_id=0, limit=9) != []
    assert await ingest_store.get_original(planted.conn, inside, planted.document_id) is not None
    assert await store.bury_document(planted.conn, inside, planted.document_id)
