"""`up`, `migrate`, `check`, `version`: they need the database, not the server."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from services.console.commands.output import AsJson, print_json
from services.console.settings import ConsoleSettings
from shared.exit_codes import EXIT_FAILURE
from shared.failpoints import Failpoint

app = typer.Typer()


@app.command("up")
def up_command(
    embedders: Annotated[int | None, typer.Option(min=1, max=64, help="How many embedders to run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine until Ctrl-C; with --json each line is an object, as the processes' own are."""
    from services.console.up import up

    settings = ConsoleSettings.read()
    if embedders is not None:
        settings = settings.model_copy(update={"embedders": embedders})
    code = up(settings, as_json=as_json)
    raise typer.Exit(code)


@app.command("migrate")
def migrate_command(
    first_key: Annotated[
        bool,
        typer.Option("--first-key", help="Also make an administrator's key where there was never one, and print it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database up to date."""
    from services.console.keys import FIRST_KEY_NAME
    from services.console.up import database
    from shared.migrations import migrate

    settings = ConsoleSettings.read()
    with database(settings) as url:
        applied = migrate(url)
        secret = asyncio.run(_first_key(url)) if first_key else None
    if as_json:
        print_json({"applied": applied} | ({"key": secret, "name": FIRST_KEY_NAME} if secret else {}))
        return
    print(f"applied {', '.join(applied)}" if applied else "the database is up to date")
    if secret:
        print(f"the first key, for everything, shown once: {secret}")


async def _first_key(url: str) -> str | None:
    from services.console.keys import create_first_key, owner_connection

    async with owner_connection(url) as conn:
        return await create_first_key(conn)


@app.command("check")
def check_command(as_json: AsJson = False) -> None:
    """Test every invariant of the database; exit code 1 when one does not hold."""
    from services.console.check import INVARIANTS, check
    from services.console.up import database

    settings = ConsoleSettings.read()
    with database(settings) as url:
        findings = asyncio.run(check(url))
    if as_json:
        print_json({"invariants": len(INVARIANTS), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"VIOLATED {finding.invariant}: {finding.violations} rows, such as {', '.join(finding.rows)}")
        print(f"{len(INVARIANTS) - len(findings)} of {len(INVARIANTS)} invariants hold")
    if findings:
        raise typer.Exit(EXIT_FAILURE)


@app.command("failpoints")
def failpoints_command(as_json: AsJson = False) -> None:
    """List the steps at which ASKBOX_FAILPOINTS can make a process die, fail or hang: for tests."""
    if as_json:
        print_json([{"name": point.label, "meaning": point.meaning} for point in Failpoint])
        return
    width = max(len(point.label) for point in Failpoint)
    for point in Failpoint:
        print(f"{point.label:<{width}}  {point.meaning}")


@app.command("version")
def version_command(as_json: AsJson = False) -> None:
    """Print the version."""
    from importlib.metadata import version as package_version

    version = package_version("askbox")
    if as_json:
        print_json({"version": version})
    else:
        print(version)
