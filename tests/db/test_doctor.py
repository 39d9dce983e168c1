"""`askbox doctor` about the database, the command as a whole, and the health check of containers."""

import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from services.console import alive
from services.console.doctor import database, folders
from services.console.doctor.findings import Finding, Level
from services.console.doctor.settings import DoctorSettings
from services.console.doctor.statements import RoleRow
from services.embedder import __main__ as embedder
from services.ingester import __main__ as ingester
from services.ingester.paths import MARK_FILE
from services.ingester.settings import IngesterSettings
from services.query.settings import QuerySettings
from shared.queue import register_worker
from tests.db.clones import clone
from tests.doctoring import KEY, as_nobody, closed, failed, listening, settings_of, warned
from tests.pooler import pooled
from tests.waiting import SUBPROCESS_SECONDS_MAX, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without `.env`, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ASKBOX_", "OPENAI_", "OTEL_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def test_doctor_knows_what_the_processes_do() -> None:
    assert database.INGESTER_CONNECTIONS == ingester.CONNECTIONS_MAX + 1
    assert database.EMBEDDER_CONNECTIONS == embedder.CONNECTIONS_MAX + 2
    assert folders.MARK_FILE == MARK_FILE
    fields = {**QuerySettings.model_fields, **IngesterSettings.model_fields}
    for name in DoctorSettings.__annotations__.keys() & fields.keys():
        assert DoctorSettings.model_fields[name].default == fields[name].default, name


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is held up is not what these tests look for."""
    for name in ("CLOCK_SECONDS_MAX", "NOTIFY_SECONDS_MAX", "SECONDS_MAX"):
        monkeypatch.setattr(database, name, 120.0)


# -- the database -------------------------------------------------------------------------------------------------------


async def look(url: str, **values: Any) -> list[Finding]:
    return await asyncio.to_thread(database.look_at_database, settings_of(database_url=url, **values))


async def test_migrated_database_is_fine(url: str) -> None:
    findings = await look(url)
    assert {finding.level for finding in findings} == {Level.OK}, findings
    assert {"database", "pgvector", "connections", "clock", "migrations", "roles", "wake-ups"} == {
        finding.check for finding in findings
    }


async def test_database_that_does_not_answer_fails_without_its_password() -> None:
    with closed() as port:
        (finding,) = await look(f"postgresql://askbox:{KEY}@127.0.0.1:{port}/askbox")
    assert finding.level is Level.FAIL
    assert "ASKBOX_DATABASE_URL" in finding.found
    assert KEY not in finding.found


async def test_wrong_password_fails(url: str, owner: asyncpg.Connection) -> None:
    await owner.execute("CREATE ROLE doctor_stranger LOGIN PASSWORD 'right'")
    rules = Path(await owner.fetchval("SHOW hba_file"))
    before = rules.read_text()
    rules.write_text(f"local all doctor_stranger scram-sha-256\n{before}")
    try:
        await owner.execute("SELECT pg_reload_conf()")
        login = url.replace("postgres:@", f"doctor_stranger:{KEY}@")

        async def is_refused() -> str | None:
            return failed(await look(login)).get("database")

        found = str(await until(is_refused))  # the server has to read its rules again
        assert "refuses the login" in found
        assert KEY not in found
    finally:
        rules.write_text(before)
        await owner.execute("SELECT pg_reload_conf()")
        await owner.execute("DROP ROLE doctor_stranger")


async def test_database_without_migrations_is_told_who_applies_them(server_url: str) -> None:
    async with clone(server_url, "doctor_empty") as empty:
        findings = await look(empty)
    assert not failed(findings)
    assert "not applied yet" in warned(findings)["migrations"]


async def test_login_that_may_neither_migrate_nor_take_roles_fails(
    server_url: str, url: str, owner: asyncpg.Connection
) -> None:
    await owner.execute("CREATE ROLE doctor_poor LOGIN")
    try:
        assert "may take none" in failed(await look(url.replace("postgres:@", "doctor_poor@")))["roles"]
        async with clone(server_url, "doctor_empty") as empty:
            found = failed(await look(empty.replace("postgres:@", "doctor_poor@")))
        assert "may not apply them" in found["migrations"]
    finally:
        await owner.execute("DROP ROLE doctor_poor")


async def test_login_of_the_query_process_may_be_the_reader_only(url: str, owner: asyncpg.Connection) -> None:
    await owner.execute("CREATE ROLE doctor_reader LOGIN IN ROLE askbox_reader")
    try:
        findings = await look(url.replace("postgres:@", "doctor_reader@"))
        assert not failed(findings)
        assert "askbox_reader only" in warned(findings)["roles"]
    finally:
        await owner.execute("DROP ROLE doctor_reader")


def test_role_that_sees_through_row_level_security_fails() -> None:
    rows = [RoleRow("askbox_worker", True, False), RoleRow("askbox_reader", True, True)]
    assert failed([database.judge_roles({row.name: row for row in rows})])


async def test_edited_migration_fails(url: str, owner: asyncpg.Connection) -> None:
    await owner.execute("UPDATE applied_migration SET sha256 = 'other' WHERE id = '0001_roles'")
    assert "was edited" in failed(await look(url))["migrations"]


async def test_database_of_a_newer_askbox_fails(url: str, owner: asyncpg.Connection) -> None:
    await owner.execute("INSERT INTO applied_migration (id, sha256) VALUES ('9999_future', '')")
    assert "newer askbox" in failed(await look(url))["migrations"]


async def test_looking_applies_nothing(server_url: str) -> None:
    async with clone(server_url, "doctor_empty") as empty:
        await look(empty)
        conn = await asyncpg.connect(empty)
        assert await conn.fetchval("SELECT to_regnamespace('askbox')") is None
        await conn.close()


async def test_pooler_that_shares_sessions_fails(url: str) -> None:
    async with pooled(url) as shared:
        assert "wake-ups" in failed(await look(shared))


async def test_other_model_than_the_one_of_the_database_fails(url: str, owner: asyncpg.Connection) -> None:
    await owner.execute(
        "WITH m AS (INSERT INTO embedding_model (name, dimension) VALUES ('older', 8) RETURNING id)"
        " INSERT INTO collection (name, embedding_model_id) SELECT 'default', id FROM m"
    )
    assert "older" in failed(await look(url))["model of the database"]
    assert not failed(await look(url, embedding_model="older"))


async def test_serving_everybody_without_a_key_fails(url: str) -> None:
    assert "no API key" in failed(await look(url, http_host="0.0.0.0"))["keys"]


async def test_too_few_connections_are_told(url: str) -> None:
    assert "connections" in warned(await look(url, embedders=64))


async def test_clock_that_is_off_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hour_ago = time.time() - 3600
    monkeypatch.setattr(database, "time", SimpleNamespace(time=lambda: hour_ago))
    assert "ahead" in warned(await look(url))["clock"]


def test_embedded_database_that_is_not_there_or_stopped_is_not_started(folder: Path) -> None:
    assert "not there yet" in database.look_at_database(settings_of())[0].found
    assert list(folder.iterdir()) == []
    data = folder / ".askbox" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    assert "stopped" in database.look_at_database(settings_of())[0].found
    (data / "postmaster.pid").write_text(f"{2**22 + 1}\n{data}\n1\n5432\n/nowhere\n")  # of a server that was killed
    assert "stopped" in database.look_at_database(settings_of())[0].found


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without a name")
def test_user_without_a_name_cannot_have_an_embedded_database() -> None:
    found = failed(as_nobody(database.look_at_database, user=54_321, home=Path("/nowhere")))
    assert "has no name" in found["database"]


async def test_embedded_database_that_runs_is_looked_at(owner: asyncpg.Connection) -> None:
    home = Path(await owner.fetchval("SHOW data_directory")).parent
    findings = await asyncio.to_thread(database.look_at_database, settings_of(home=home))
    assert "PostgreSQL" in findings[0].found


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says where only the port is taken."""
    folder = tmp_path_factory.mktemp("doctor")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "OPENAI_", "OTEL_"))
    }
    with listening() as port:
        run = subprocess.run(
            [sys.executable, "-m", "services.console", "doctor", "--json"],
            cwd=folder,
            env=environment | {"ASKBOX_HTTP_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=SUBPROCESS_SECONDS_MAX,
            check=False,
        )
    return {"code": run.returncode, "findings": json.loads(run.stdout), "left": list(folder.iterdir())}


def test_command_ends_with_1_when_something_stops_askbox_and_leaves_nothing_behind(report: dict[str, Any]) -> None:
    found = {finding["check"]: finding for finding in report["findings"]}
    assert [name for name, finding in found.items() if finding["level"] == "fail"] == ["port"]
    assert report["code"] == 1
    assert "embedded" in found["database"]["found"]
    assert report["left"] == []


@linux
def test_walls_are_tried_on_a_real_parser_child(report: dict[str, Any]) -> None:
    found = {finding["check"]: finding["found"] for finding in report["findings"]}
    for wall in ("privileges", "processor", "memory", "time"):
        assert wall in found["parser walls"]
    if "files" in found["parser walls"]:  # by Landlock, which holds for root too
        assert "environment" in found["parser walls"]
    else:
        assert ("parser wall: environment" in found) >= (os.getuid() == 0)


# -- the health check of a container ------------------------------------------------------------------------------------


async def test_process_is_alive_while_its_row_is_fresh(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    worker_id = await register_worker(pool, kind="embedder", host="container", pid=1)
    silence = timedelta(seconds=30)
    assert await alive.is_worker_fresh(owner, "container", "embedder", silence)
    assert not await alive.is_worker_fresh(owner, "another", "embedder", silence)
    assert not await alive.is_worker_fresh(owner, "container", "ingester", silence)
    await owner.execute("UPDATE worker SET last_seen_at = now() - interval '31 s' WHERE id = $1", worker_id)
    assert not await alive.is_worker_fresh(owner, "container", "embedder", silence)


def test_health_check_says_why_not(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(database_url: str) -> tuple[int, str]:
        monkeypatch.setenv("ASKBOX_DATABASE_URL", database_url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["alive", "embedder"])
            return alive.main(), capsys.readouterr().out

    with closed() as port:
        assert run(f"postgresql://nobody@127.0.0.1:{port}/askbox")[0] == 1
    code, said = run(url)
    assert (code, "no embedder" in said) == (1, True)
