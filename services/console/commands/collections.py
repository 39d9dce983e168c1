"""`collections`: what is searched together."""

from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from services.console.client import call
from services.console.commands.output import AsJson, console, print_json
from services.console.settings import ConsoleSettings

app = typer.Typer()
collections_app = typer.Typer(no_args_is_help=True, help="Collections: what is searched together.")
app.add_typer(collections_app, name="collections")

Name = Annotated[str, typer.Argument(metavar="NAME")]


@collections_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the collections that you may read."""
    listed = call(ConsoleSettings.read(), "GET", "/collections")["data"]
    if as_json:
        print_json(listed)
        return
    table = Table(box=None)
    for column in ("name", "you may"):
        table.add_column(column)
    for collection in listed:
        table.add_row(Text(collection["name"]), collection["role"])
    console.print(table if listed else "there is no collection yet: drop a file into the inbox")


@collections_app.command("create")
def create_command(name: Name, as_json: AsJson = False) -> None:
    """Make an empty collection; a folder in the inbox makes one by itself."""
    made = call(ConsoleSettings.read(), "POST", "/collections", body={"name": name})
    print_json(made) if as_json else print(f"made {name}")


@collections_app.command("rename")
def rename_command(
    name: Name, new_name: Annotated[str, typer.Argument(metavar="NEW")], as_json: AsJson = False
) -> None:
    """Rename a collection; one that the inbox fills is renamed by its folder."""
    renamed = call(ConsoleSettings.read(), "PATCH", _path(name), body={"name": new_name})
    print_json(renamed) if as_json else print(f"{name} is {new_name} now")


@collections_app.command("delete")
def delete_command(
    name: Name,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a collection with everything in it; one that the inbox fills goes by removing its folder."""
    if not is_sure and not as_json:
        typer.confirm(f"delete {name} with all its documents?", abort=True)
    call(ConsoleSettings.read(), "DELETE", _path(name))
    print_json({"name": name, "deleted": True}) if as_json else print(f"deleted {name}")


def _path(name: str) -> str:
    return f"/collections/{quote(name, safe='')}"
