"""`ask` and `search`."""

from typing import Annotated, Any

import typer
from rich.text import Text

from services.console.client import call
from services.console.commands.output import AsJson, Collection, console, place_of, print_json
from services.console.settings import ConsoleSettings
from shared.exit_codes import EXIT_FAILURE

app = typer.Typer()


@app.command("ask")
def ask_command(question: str, collection: Collection = None, as_json: AsJson = False) -> None:
    """Ask a question."""
    answer = call(
        ConsoleSettings.read(),
        "POST",
        "/query",
        body={"question": question} | ({"collection": collection} if collection else {}),
    )
    if as_json:
        print_json(answer)
        return
    console.print(Text(answer["answer"]))
    if answer["sources"]:
        console.print()
    for source in answer["sources"]:
        console.print(Text(f"[{source['index']}] ").append_text(place_of(source)))
        if source["context"]:
            console.print(Text(f"    {source['context']}", style="dim"))
    if answer["meta"]["note"]:
        console.print(Text(answer["meta"]["note"], style="dim"))
    if pending := answer["meta"]["pending"]:
        reading = "1 document is" if pending == 1 else f"{pending} documents are"
        console.print(Text(f"{reading} still being read: ask again for what that adds", style="dim"))


@app.command("search")
def search_command(
    words: Annotated[list[str], typer.Argument()],
    collection: Collection = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 10,
    as_json: AsJson = False,
) -> None:
    """Rank passages for some words."""
    body: dict[str, Any] = {"question": " ".join(words), "top_k": limit} | (
        {"collection": collection} if collection else {}
    )
    hits = call(ConsoleSettings.read(), "POST", "/search", body=body)
    print_json(hits) if as_json else _show_hits(hits["data"])
    if not hits["data"]:
        raise typer.Exit(EXIT_FAILURE)


def _show_hits(hits: list[dict[str, Any]]) -> None:
    for hit in hits:
        console.print(Text(f"{hit['score']:.3f} ").append_text(place_of(hit)))
        if hit["context"]:
            console.print(Text(f"      {hit['context']}", style="dim"))
        console.print(Text("      " + " ".join(hit["text"].split())[:160], style="dim"))
    if not hits:
        print("nothing was found")
