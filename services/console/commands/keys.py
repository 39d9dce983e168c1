"""`keys`: who may read, write or administer which collection. Works on the database, not through the server."""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.console.commands.output import AsJson, console, print_json
from services.console.settings import ConsoleSettings

if TYPE_CHECKING:
    from services.console.keys import Key

app = typer.Typer()
keys_app = typer.Typer(no_args_is_help=True, help="API keys. As soon as there is one, every request needs one.")
app.add_typer(keys_app, name="keys")

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="What the key is known by.")]


class Role(StrEnum):
    """What a key may do in a collection."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@keys_app.command("create")
def create_command(
    name: KeyName,
    role: Annotated[
        Role, typer.Option(help="read asks; write also ingests and deletes; admin does everything.")
    ] = Role.READ,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", help="Only these collections; none means every one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, once."""
    from services.console import keys
    from services.console.up import database

    collections = collection or []

    async def create(url: str) -> str:
        async with keys.owner_connection(url) as conn:
            return await keys.create_key(conn, name, role.value, collections)

    with database(ConsoleSettings.read()) as url:
        secret = asyncio.run(create(url))
    _show_secret({"key": secret, "name": name, "role": role.value, "collections": collections or None}, as_json=as_json)


@keys_app.command("rotate")
def rotate_command(name: KeyName, as_json: AsJson = False) -> None:
    """Give a key another secret; the old one opens nothing from now on."""
    from services.console import keys
    from services.console.up import database

    async def rotate(url: str) -> str:
        async with keys.owner_connection(url) as conn:
            return await keys.rotate_key(conn, name)

    with database(ConsoleSettings.read()) as url:
        secret = asyncio.run(rotate(url))
    _show_secret({"key": secret, "name": name}, as_json=as_json)


@keys_app.command("revoke")
def revoke_command(name: KeyName, as_json: AsJson = False) -> None:
    """Close a key, at once."""
    from services.console import keys
    from services.console.up import database

    async def revoke(url: str) -> None:
        async with keys.owner_connection(url) as conn:
            await keys.revoke_key(conn, name)

    with database(ConsoleSettings.read()) as url:
        asyncio.run(revoke(url))
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        print(f"{name} opens nothing any more")


@keys_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List keys and what they may do, without their secrets."""
    from services.console import keys
    from services.console.up import database

    async def read(url: str) -> "list[Key]":
        async with keys.owner_connection(url) as conn:
            return await keys.list_keys(conn)

    with database(ConsoleSettings.read()) as url:
        found = asyncio.run(read(url))
    if as_json:
        print_json([_as_json(key) for key in found])
        return
    table = Table(box=None)
    for column in ("name", "may", "created", "revoked"):
        table.add_column(column)
    for key in found:
        grants = [f"{role} {collection or 'everywhere'}" for collection, role in _grants(key)]
        table.add_row(
            Text(key.name),
            Text(", ".join(grants)),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "",
        )
    console.print(table if found else "there is no key: on loopback askbox is open")


def _as_json(key: "Key") -> dict[str, Any]:
    return {
        "name": key.name,
        "grants": [{"collection": collection, "role": role} for collection, role in _grants(key)],
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def _grants(key: "Key") -> list[tuple[str | None, str]]:
    return list(zip(key.collections, key.roles, strict=True))


def _show_secret(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    print(made["key"])
    console.print(Text("This is shown once. Send it as `Authorization: Bearer …`, or set ASKBOX_API_KEY.", style="dim"))
