"""`ask` and `search`."""

from typing import Annotated, Any

import typer
from rich.text import Text

from services.console.client import call
from services.console.commands.output import AsJson, Collection, console, place_of, print_json
from services.console.settings import ConsoleSettings
from shared.exit_codes import EXIT_FAILURE

app = typer.Typer()
TEXT_SHOWN_MAX = 160

_Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", metavar="KEY=VALUE", help="Only documents whose metadata say so; one key twice means either."
    ),
]
_Path = Annotated[str | None, typer.Option("--path", help="Only documents whose path begins so.")]


@app.command("ask")
def ask_command(
    question: str,
    collection: Collection = None,
    filters: _Filter = None,
    path: _Path = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question."""
    body = {"question": question} | _place(collection, filters, path)
    answer = call(ConsoleSettings.read(), "POST", "/query", body=body)
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
    _show_refusal(answer)
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
    filters: _Filter = None,
    path: _Path = None,
    as_json: AsJson = False,
) -> None:
    """Rank passages for some words, and show why each stands where it does."""
    body = {"question": " ".join(words), "top_k": limit} | _place(collection, filters, path)
    hits = call(ConsoleSettings.read(), "POST", "/search", body=body)
    print_json(hits) if as_json else _show_hits(hits)
    if not hits["data"]:
        raise typer.Exit(EXIT_FAILURE)


def _place(collection: str | None, filters: list[str] | None, path: str | None) -> dict[str, Any]:
    """Say where to look.

    Raises: BadParameter when a filter names no key or no value.
    """
    metadata: dict[str, list[str]] = {}
    for given in filters or []:
        key, divider, value = given.partition("=")
        if not key.strip() or not divider:
            raise typer.BadParameter(f"{given!r} is no KEY=VALUE", param_hint="--filter")
        metadata.setdefault(key.strip(), []).append(value)
    kept = ({"metadata": metadata} if metadata else {}) | ({"path_prefix": path} if path else {})
    return ({"collection": collection} if collection else {}) | ({"filters": kept} if kept else {})


def _show_refusal(answer: dict[str, Any]) -> None:
    refusal = answer["meta"].get("refusal")
    if refusal is None:
        return
    console.print(Text(refusal["words"], style="dim"))
    if answer["closest"]:
        console.print(Text("\nclosest, but no answer:"))
    for hit in answer["closest"]:
        _show_hit(hit)


def _show_hits(hits: dict[str, Any]) -> None:
    for hit in hits["data"]:
        console.print(Text(f"{hit['score']:.3f} ").append_text(place_of(hit)))
        _show_text(hit)
        console.print(Text("      " + _reasons(hit, hits["dense_weight"]), style="dim"))
    if not hits["data"]:
        print("nothing was found")


def _show_hit(hit: dict[str, Any]) -> None:
    console.print(Text("      ").append_text(place_of(hit)))
    _show_text(hit)


def _show_text(hit: dict[str, Any]) -> None:
    if hit["context"]:
        console.print(Text(f"      {hit['context']}", style="dim"))
    console.print(Text("      " + " ".join(hit["text"].split())[:TEXT_SHOWN_MAX], style="dim"))


def _reasons(hit: dict[str, Any], dense_weight: float) -> str:
    """Say in a line what the score is made of."""
    dense, lexical = hit["dense"], hit["lexical"]
    terms = ", ".join(f"{term['term']} {term['idf']:.1f}" for term in hit["terms"]) or "none of the words"
    return (
        f"= {dense_weight:g} × {dense['share']:.3f} meaning ({_placed(dense)}, cosine {hit['similarity']:.3f})"
        f" + {round(1 - dense_weight, 4):g} × {lexical['share']:.3f} words ({_placed(lexical)}, bm25 {hit['bm25']:.2f}: {terms})"
    )


def _placed(arm: dict[str, Any]) -> str:
    return "not among its best" if arm["place"] is None else f"place {arm['place']}"
