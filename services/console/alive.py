"""The health check of a container: `python -m services.console.alive KIND`, exit code 0 when the process lives.

Each process writes into its row every few seconds, from the loop that does its work. A fresh row of this host therefore
says more than a running process: its loop turns, and the database takes what it writes. A container's host name is its
own, so copies of a service do not answer for one another.
"""

import asyncio
import socket
import sys
from datetime import timedelta

from shared.database import Connection, Role, connect
from shared.errors import AskboxError
from shared.exit_codes import EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from shared.settings import Settings
from shared.statements import load_statements

STATEMENTS = load_statements("services.console", "alive.sql")
_IS_WORKER_FRESH = STATEMENTS["is_worker_fresh"]
# Rows are written every 5 s.
SILENCE_MAX = timedelta(seconds=30)
SECONDS_MAX = 15.0


async def is_worker_fresh(conn: Connection, host: str, kind: str, silence: timedelta) -> bool:
    """Whether a process of this kind was seen on a host within `silence`."""
    is_fresh: bool = await conn.fetchval(_IS_WORKER_FRESH, host, kind, silence)
    return is_fresh


async def _look(kind: str) -> bool:
    url = Settings.read().required_database_url()
    # The query process has a login of its own, which can be nothing but the reader.
    role: Role = "askbox_reader" if kind == "query" else "askbox_worker"
    async with asyncio.timeout(SECONDS_MAX):
        conn = await connect(url, role, "askbox alive")
        try:
            return await is_worker_fresh(conn, socket.gethostname(), kind, SILENCE_MAX)
        finally:
            conn.terminate()


def main() -> int:
    """Look, and say why not."""
    if len(sys.argv) != 2:
        print("usage: python -m services.console.alive ingester|embedder|query", file=sys.stderr)
        return EXIT_USAGE
    kind = sys.argv[1]
    try:
        if asyncio.run(_look(kind)):
            return EXIT_OK
        print(f"no {kind} of {socket.gethostname()} was seen for {SILENCE_MAX.seconds} s")
    except TimeoutError:
        print(f"the database did not answer within {SECONDS_MAX:g} s")
    except AskboxError as error:
        print(error)
    return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
