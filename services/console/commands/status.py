"""`status` and `inbox`."""

import contextlib
import time
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.console.client import call
from services.console.commands.output import AsJson, console, print_json
from services.console.commands.work import work_in_words, work_table
from services.console.settings import ConsoleSettings

app = typer.Typer()
inbox_app = typer.Typer(no_args_is_help=True, help="The inbox folder.")
app.add_typer(inbox_app, name="inbox")
WATCH_SECONDS = 1.0


@app.command("status")
def status_command(
    watch: Annotated[bool, typer.Option("--watch", help="Show it every second until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what waits and whether everything runs."""
    settings = ConsoleSettings.read()
    if not watch:
        status = _status(settings)
        print_json(status) if as_json else console.print(_shown(status))
        return
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it, and no failure
        _watch(settings) if console.is_terminal and not as_json else _print_again(settings, as_json=as_json)


def _watch(settings: ConsoleSettings) -> NoReturn:
    with Live(_shown(_status(settings)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_shown(_status(settings)), refresh=True)


def _print_again(settings: ConsoleSettings, *, as_json: bool) -> NoReturn:
    """Print line by line what a file or a program reads, which cannot be drawn over: in words, only what has changed."""
    told = ""
    while True:
        status = _status(settings)
        if as_json:
            print_json(status, is_line=True)
        elif (line := _in_words(status)) != told:
            console.print(Text(line))
            told = line
        time.sleep(WATCH_SECONDS)


def _status(settings: ConsoleSettings) -> dict[str, Any]:
    return {
        "health": call(settings, "GET", "/health"),
        "stats": call(settings, "GET", "/ingest/stats"),
        "inbox": call(settings, "GET", "/inbox"),
        "work": call(settings, "GET", "/ingest/work"),
    }


def _shown(status: dict[str, Any]) -> Group:
    """Show everything, and below it what is in work."""
    work = work_table(status["work"])
    return Group(_status_table(status), Text(), work) if work else Group(_status_table(status))


def _in_words(status: dict[str, Any]) -> str:
    health = status["health"]
    unwell = ", ".join(name for name, seen in health["checks"].items() if not seen["ok"])
    return f"status {health['status']}{f' ({unwell})' if unwell else ''}: {work_in_words(status['work'])}"


def _status_table(status: dict[str, Any]) -> Table:
    health, stats, inbox = status["health"], status["stats"], status["inbox"]
    table = Table(show_header=False, box=None)
    table.add_row("status", Text(health["status"], style="green" if health["status"] == "ok" else "yellow"))
    for name, seen in health["checks"].items():
        if not seen["ok"]:
            table.add_row(name, Text(str(seen.get("reason") or "not well"), style="yellow"))
    if waiting := health["checks"].get("inbox", {}).get("waiting_files"):
        table.add_row("inbox", f"{waiting:,} files seen and not yet taken")
    documents = ", ".join(f"{count} {state}" for state, count in sorted(stats["documents"].items())) or "none"
    table.add_row("documents", documents)
    table.add_row("chunks", str(stats["chunks"]))
    table.add_row("waiting", f"{stats['pending_documents']} documents, {stats['pending_embeddings']} texts to embed")
    if stats["oldest_pending_seconds"] is not None:
        table.add_row("oldest waits", f"{stats['oldest_pending_seconds']:.0f} s")
    table.add_row("dead letters", str(stats["dead_letters"]))
    for skipped in inbox["skipped"][:10]:
        table.add_row("skipped", Text(f"{skipped['file_path']}: {skipped['reason']}"))
    if len(inbox["skipped"]) > 10:
        table.add_row("", f"and {len(inbox['skipped']) - 10} more: --json shows all")
    return table


@inbox_app.command("confirm-deletes")
def confirm_deletes_command(as_json: AsJson = False) -> None:
    """Say that files which vanished at once are meant to be deleted."""
    confirmed = call(ConsoleSettings.read(), "POST", "/inbox/confirm-deletes")
    if as_json:
        print_json(confirmed)
    else:
        print(f"the deletion of {confirmed['confirmed']} documents goes on")
