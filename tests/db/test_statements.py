"""Every named statement: it prepares, its role may run it, and its header tells the truth."""

import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.console.doctor import statements as doctor
from services.console.keys import Key
from services.embedder.index_ddl import SearchIndex
from services.ingester.attachments import Holder
from services.ingester.store import ScanRequest, VersionToParse
from services.query.accounts import KeyTokens
from services.query.citations import Hit
from services.query.fusion import Candidate
from services.query.ingest_store import (
    DeadLetterRow,
    EventRow,
    FailedDocument,
    Original,
    RequestedDocument,
    RequestRow,
    TokenSums,
)
from services.query.neighbours import WordCounts
from services.query.openai_models import Model
from services.query.progress import Ended, InWork, Progress
from services.query.store import CollectionRow, DocumentRow, FoundKey, Pause, SkippedFile, WorkCounts, WorkerRow
from shared.database import connect, prepare_connection
from shared.publication import VersionKey
from shared.queue import Job, SweptJob
from shared.statements import load_statements
from tests.db.clones import clone

ROOT = Path(__file__).resolve().parents[2]

# (package, file, role)
FILES = [
    ("shared", "queue.sql", "askbox_worker"),
    ("shared", "publication.sql", "askbox_worker"),
    ("shared", "intake.sql", "askbox_worker"),
    ("shared", "models.sql", "askbox_worker"),
    ("services.ingester", "statements.sql", "askbox_worker"),
    ("services.ingester", "attachments.sql", "askbox_worker"),
    ("services.embedder", "statements.sql", "askbox_worker"),
    ("services.query", "statements.sql", "askbox_reader"),
    ("services.query", "ingest.sql", "askbox_reader"),
    ("services.query", "filters.sql", "askbox_reader"),
    ("services.query", "metrics.sql", "askbox_reader"),
    ("services.query", "progress.sql", "askbox_reader"),
    ("shared", "totals.sql", "askbox_worker"),
    ("services.query", "ledger.sql", "askbox_reader"),
    ("services.query", "collections.sql", "askbox_reader"),
    ("services.query", "openai_models.sql", "askbox_reader"),
    ("services.query", "accounts.sql", "askbox_reader"),
    ("services.console", "check.sql", "askbox_owner"),
    ("services.console", "alive.sql", "askbox_worker"),
    ("services.console.doctor", "doctor.sql", "askbox_reader"),
    ("services.console.evaluation", "evaluation.sql", "askbox_worker"),
    ("services.console", "keys.sql", "askbox_owner"),
]
EVERY = [
    pytest.param(role, statement, id=f"{package}/{file}:{name}")
    for package, file, role in FILES
    for name, statement in load_statements(package, file).items()
]
DOCUMENTED = [
    pytest.param(role, statement, id=f"{package}/{file}:{name}")
    for package, file, role in FILES
    if file != "check.sql"
    for name, statement in load_statements(package, file).items()
]
# How the headers write types, and how the catalogue does.
TYPES = {
    "int": "int4",
    "bigint": "int8",
    "smallint": "int2",
    "double precision": "float8",
    "boolean": "bool",
}
# Statements whose rows become a dataclass: (file, statement) -> class, and the fields that the code adds.
ROWS = {
    ("shared", "queue.sql", "claim_jobs"): (Job, set()),
    ("shared", "queue.sql", "sweep_leases"): (SweptJob, set()),
    ("shared", "publication.sql", "versions_waiting_for_texts"): (VersionKey, set()),
    ("shared", "publication.sql", "versions_in_embedding"): (VersionKey, set()),
    ("services.ingester", "statements.sql", "get_version"): (VersionToParse, set()),
    ("services.ingester", "attachments.sql", "get_holder"): (Holder, set()),
    ("services.ingester", "statements.sql", "get_scan"): (ScanRequest, set()),
    ("services.query", "ingest.sql", "get_request"): (RequestRow, set()),
    ("services.query", "ingest.sql", "list_requested"): (RequestedDocument, set()),
    ("services.query", "ingest.sql", "list_events"): (EventRow, set()),
    ("services.query", "openai_models.sql", "list_ages"): (Model, set()),
    ("services.query", "accounts.sql", "sum_tokens_by_key"): (KeyTokens, set()),
    ("services.query", "progress.sql", "list_in_work"): (InWork, set()),
    ("services.query", "progress.sql", "list_progress"): (Progress, set()),
    ("services.query", "progress.sql", "list_ended"): (Ended, set()),
    ("services.query", "ingest.sql", "list_failed"): (FailedDocument, set()),
    ("services.query", "ingest.sql", "list_dead_letters"): (DeadLetterRow, set()),
    ("services.query", "ingest.sql", "get_original"): (Original, set()),
    ("services.query", "ingest.sql", "sum_tokens"): (TokenSums, set()),
    ("services.embedder", "statements.sql", "list_due_indexes"): (SearchIndex, set()),
    ("services.query", "statements.sql", "list_collections"): (CollectionRow, set()),
    ("services.query", "statements.sql", "find_key"): (FoundKey, set()),
    ("services.query", "statements.sql", "retrieve"): (Candidate, {"collection_id"}),
    ("services.query", "filters.sql", "retrieve_filtered"): (Candidate, {"collection_id"}),
    ("services.query", "statements.sql", "get_hits"): (
        Hit,
        {"cosine", "bm25", "score", "dense_share", "lexical_share", "dense_place", "lexical_place"},
    ),
    ("services.query", "statements.sql", "count_words"): (WordCounts, set()),
    ("services.query", "statements.sql", "retrieve_nearest"): (Candidate, {"collection_id"}),
    ("services.query", "statements.sql", "list_documents"): (DocumentRow, set()),
    ("services.query", "statements.sql", "count_work"): (WorkCounts, set()),
    ("services.console", "keys.sql", "list_keys"): (Key, set()),
    ("services.console.doctor", "doctor.sql", "get_server"): (doctor.Server, set()),
    ("services.console.doctor", "doctor.sql", "get_roles"): (doctor.RoleRow, set()),
    ("services.console.doctor", "doctor.sql", "get_content"): (doctor.Content, set()),
    ("services.query", "statements.sql", "list_workers"): (WorkerRow, set()),
    ("services.query", "statements.sql", "list_skipped"): (SkippedFile, set()),
    ("services.query", "statements.sql", "get_pauses"): (Pause, set()),
}
_PARAMETER = re.compile(r"\$(\d+) [a-z_0-9]+ ((?:double precision|[a-z]+)(?:\[\])?)")


@pytest.fixture(scope="module")
async def connections(server_url: str, template: str) -> AsyncIterator[dict[str, asyncpg.Connection]]:
    """One connection per role; preparing changes nothing, so the statements share them."""
    async with clone(server_url, "test_statements", template=template) as url:
        opened = {}
        for role in ("askbox_owner", "askbox_worker", "askbox_reader"):
            opened[role] = await connect(url, role, "test statements")
            await prepare_connection(opened[role])
        yield opened
        for connection in opened.values():
            await connection.close()


def header(statement: str) -> list[str]:
    """Return the comment lines above a statement."""
    lines = []
    for line in statement.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line)
    return lines


def documented_parameters(statement: str) -> dict[int, str]:
    """Return the types of the parameters as the header lists them: `-- $1 name type · $2 …`, going on with `-- · $6 …`."""
    listed = " ".join(line for line in header(statement) if re.match(r"-- (· )?\$\d+ ", line))
    items = [item for item in re.split(r"^-- | · |-- · ", listed) if item.strip()]
    found = {}
    for item in items:
        match = _PARAMETER.match(item.strip())
        assert match, f"not `$n name type`: {item!r}"
        found[int(match[1])] = match[2]
    return found


@pytest.mark.parametrize(("role", "statement"), EVERY)
async def test_statement_prepares_and_its_role_may_run_it(
    connections: dict[str, asyncpg.Connection], role: str, statement: str
):
    connection = connections[role]
    prepared = await connection.prepare(statement)
    # Preparing asks for no privilege; EXPLAIN opens the plan and does.
    await connection.fetch(f"EXPLAIN {statement}", *[None] * len(prepared.get_parameters()))


async def test_the_reader_may_not_run_what_the_workers_do(connections: dict[str, asyncpg.Connection]):
    claim = load_statements("shared", "queue.sql")["claim_jobs"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connections["askbox_reader"].fetch(f"EXPLAIN {claim}", *[None] * 9)


@pytest.mark.parametrize(("role", "statement"), DOCUMENTED)
async def test_header_lists_the_parameters(connections: dict[str, asyncpg.Connection], role: str, statement: str):
    prepared = await connections[role].prepare(statement)
    actual = {number: type_.name for number, type_ in enumerate(prepared.get_parameters(), start=1)}
    listed = {}
    for number, name in documented_parameters(statement).items():
        element, array = name.removesuffix("[]"), "[]" if name.endswith("[]") else ""
        listed[number] = TYPES.get(element, element) + array
    assert listed == actual


@pytest.mark.parametrize(("role", "statement"), DOCUMENTED)
async def test_header_tells_whether_there_are_rows(
    connections: dict[str, asyncpg.Connection], role: str, statement: str
):
    (rows,) = [line for line in header(statement) if line.startswith("-- Rows: ")]
    prose = [line for line in header(statement) if not re.match(r"-- (· )?\$\d+ |-- Rows: ", line)]
    assert header(statement)[0] == prose[0]
    assert prose[-1].endswith("."), "a header begins with a sentence"
    prepared = await connections[role].prepare(statement)
    assert bool(prepared.get_attributes()) == (not rows.startswith("-- Rows: none."))


@pytest.mark.parametrize(("package", "file", "role"), FILES)
def test_every_statement_is_used(package: str, file: str, role: str):
    folder = ROOT / package.replace(".", "/")
    if file == "check.sql":
        assert "INVARIANTS.items()" in (folder / "check.py").read_text()
        return
    code = "\n".join(path.read_text() for path in folder.glob("*.py"))
    unused = [name for name in load_statements(package, file) if f'STATEMENTS["{name}"]' not in code]
    assert unused == []


@pytest.mark.parametrize(("package", "file", "name"), ROWS)
async def test_columns_are_the_fields_of_the_dataclass(
    connections: dict[str, asyncpg.Connection], package: str, file: str, name: str
):
    role = next(role for p, f, role in FILES if (p, f) == (package, file))
    prepared = await connections[role].prepare(load_statements(package, file)[name])
    columns = [attribute.name for attribute in prepared.get_attributes()]
    cls, added = ROWS[package, file, name]
    assert len(set(columns)) == len(columns)
    assert {field.name for field in dataclasses.fields(cls)} == {*columns, *added}


def test_every_dataclass_made_of_a_row_is_compared():
    made = set()
    for path in [*(ROOT / "shared").glob("*.py"), *(ROOT / "services").glob("**/*.py")]:
        made |= set(re.findall(r"\b([A-Z]\w+)\((?:\w+=[\w.]+, )?\*\*\{?\*?\*?(?:row|fields)\b", path.read_text()))
    assert made == {cls.__name__ for cls, _ in ROWS.values()}


def test_a_misspelt_name_says_what_there_is():
    statements = load_statements("shared", "queue.sql")
    with pytest.raises(LookupError, match=r"no statement is named 'claim_job'; there are claim_jobs, "):
        statements["claim_job"]
