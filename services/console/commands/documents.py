"""`documents`, `trace`, `retry`, `dead-letters`: what there is, what became of it, and what to do when it failed."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.console.client import call
from services.console.commands.output import AsJson, Collection, console, print_json
from services.console.settings import ConsoleSettings
from shared.errors import NotFound, RequestError

app = typer.Typer()
PAGE_SIZE = 200


@app.command("documents")
def documents_command(
    collection: Collection = None,
    state: Annotated[str | None, typer.Option(help="queued, parsing, embedding, ready or failed.")] = None,
    as_json: AsJson = False,
) -> None:
    """List documents with their state."""
    documents = list(_pages(ConsoleSettings.read(), "/documents", {"collection": collection, "state": state}))
    if as_json:
        print_json(documents)
        return
    table = Table(box=None)
    for column in ("id", "collection", "file", "state", "chunks", "title or reason"):
        table.add_column(column, overflow="fold")  # a path is to be copied from here
    for document in documents:
        table.add_row(
            str(document["id"]),
            Text(document["collection"]),
            Text(document["file_path"]),
            document["state"],
            str(document["chunks"] if document["chunks"] is not None else "–"),
            Text(document["error"] or document["title"] or ""),
        )
    console.print(table if documents else "there are none")


DocumentName = Annotated[
    str, typer.Argument(metavar="DOCUMENT", help="Its id, or its path as `documents` or an answer shows it.")
]


@app.command("trace")
def trace_command(document: DocumentName, as_json: AsJson = False) -> None:
    """Tell the story of a document: every stage, attempt, worker, duration and outcome."""
    settings = ConsoleSettings.read()
    document_id = _id_of(settings, document)
    story = list(_pages(settings, f"/documents/{document_id}/events", {}))
    if as_json:
        print_json({"data": story, "has_more": False})
        return
    for version, events in itertools.groupby(story, lambda event: (event["version"], event["trace_id"])):
        console.print(Text(f"version {version[0]}, trace {version[1] or 'unknown'}", style="bold"))
        console.print(_story(events))


def _story(events: Iterable[dict[str, Any]]) -> Table:
    """Show what happened to one version, within 80 columns."""
    table = Table(box=None)
    for column in ("at", "stage", "outcome", "took", "worker, attempt, what"):
        table.add_column(column)
    for event in events:
        took = event["duration_ms"]
        facts = [event["worker"]] if event["worker"] else []
        facts += [f"attempt {event['attempt']}"] if event["attempt"] else []
        facts += [f"{name} {value}" for name, value in event["detail"].items()]
        table.add_row(
            event["at"][:19].replace("T", " "),
            event["stage"],
            event["outcome"],
            f"{took:.0f} ms" if took is not None else "",
            Text(", ".join(facts)),
        )
    return table


@app.command("retry")
def retry_command(
    document: Annotated[str | None, typer.Argument(metavar="DOCUMENT", help="Its id or its path.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every document that failed.")] = False,
    collection: Collection = None,
    as_json: AsJson = False,
) -> None:
    """Read a failed document again, or all of them."""
    if (document is None) == (not is_all):
        raise typer.BadParameter("name a document, or say --all")
    settings = ConsoleSettings.read()
    if document is None:
        answer = _retry_all(settings, collection)
        count = answer["retried"]
    else:
        answer = call(settings, "POST", f"/documents/{_id_of(settings, document)}/retry")
        count = 1
    if as_json:
        print_json(answer)
    else:
        print(f"{count} documents are read again" if count != 1 else "1 document is read again")


@app.command("dead-letters")
def dead_letters_command(
    is_dropped: Annotated[bool, typer.Option("--drop", help="Forget them all.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs that will not be tried again, with their last error."""
    settings = ConsoleSettings.read()
    if is_dropped:
        answer = _drop_all(settings)
        print_json(answer) if as_json else print(f"dropped {answer['dropped']}")
        return
    letters = list(_pages(settings, "/dead-letters", {}))
    if as_json:
        print_json(letters)
        return
    table = Table(box=None)
    for column in ("id", "collection", "stage", "attempts", "died", "reason"):
        table.add_column(column)
    for letter in letters:
        table.add_row(
            str(letter["id"]),
            Text(letter["collection"]),
            letter["stage"],
            str(letter["attempt"]),
            letter["died_at"][:19].replace("T", " "),
            Text(letter["error"]),
        )
    console.print(table if letters else "there are none")


def _retry_all(settings: ConsoleSettings, collection: str | None) -> dict[str, Any]:
    """Ask until all were asked for, each document once: what fails again meanwhile lies behind."""
    retried, after, has_more = 0, 0, True
    while has_more:
        answer = call(settings, "POST", "/documents/retry", params={"collection": collection, "after": after})
        retried += answer["retried"]
        has_more = answer["has_more"] and answer["next_after"] > after
        after = answer["next_after"]
    return {"retried": retried, "has_more": False}


def _drop_all(settings: ConsoleSettings) -> dict[str, Any]:
    """Ask until nothing more is dropped."""
    dropped, has_more = 0, True
    while has_more:
        answer = call(settings, "DELETE", "/dead-letters")
        dropped += answer["dropped"]
        has_more = answer["has_more"] and answer["dropped"] > 0
    return {"dropped": dropped, "has_more": False}


def _pages(settings: ConsoleSettings, path: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every item of a list that comes by pages."""
    has_more, after = True, 0
    while has_more:
        page = call(settings, "GET", path, params={**params, "limit": PAGE_SIZE, "after": after})
        yield from page["data"]
        has_more = page["has_more"]
        after = page["data"][-1]["id"] if page["data"] else after


def _id_of(settings: ConsoleSettings, document: str) -> int:
    """Return the id of a document that is named by its id or its path.

    Raises: NotFound when there is none; RequestError when several collections hold the path.
    """
    if document.isdecimal():
        return int(document)
    found = [
        row
        for row in _pages(settings, "/documents", {})
        if document in (row["file_path"], f"{row['collection']}/{row['file_path']}")
    ]
    if not found:
        raise NotFound(f"there is no document {document}: `askbox documents` lists them")
    if len(found) > 1:
        raise RequestError(
            f"{len(found)} collections hold {document}: name its id, {' or '.join(str(d['id']) for d in found)}"
        )
    document_id: int = found[0]["id"]
    return document_id
