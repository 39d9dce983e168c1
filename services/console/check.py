"""Run every invariant and report what violates it."""

from dataclasses import dataclass

from shared.database import connect
from shared.errors import ConfigError
from shared.statements import load_statements

INVARIANTS = load_statements("services.console", "check.sql")
ROWS_SHOWN_MAX = 5
STATEMENT_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold, with the rows that violate it."""

    invariant: str
    violations: int
    rows: list[str]


async def check(url: str) -> list[Finding]:
    """Run all invariants in one snapshot and return those that do not hold."""
    connection = await connect(url, "askbox_owner", "askbox check")
    try:
        if await connection.fetchval("SELECT to_regclass('askbox.api_key')") is None:
            raise ConfigError("the database is not migrated: run `askbox migrate` first")
        findings = []
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for name, statement in INVARIANTS.items():
                # What other logins' sessions do is hidden from the owner of the tables, not from the login.
                role = "NONE" if "pg_stat_activity" in statement else "askbox_owner"
                await connection.execute(f"SET LOCAL ROLE {role}")
                rows = await connection.fetch(statement, timeout=STATEMENT_TIMEOUT_SECONDS)
                if rows:
                    findings.append(Finding(name, len(rows), [str(row[0]) for row in rows[:ROWS_SHOWN_MAX]]))
        return findings
    finally:
        await connection.close()
