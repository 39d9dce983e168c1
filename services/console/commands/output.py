"""What all commands print with."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_OBEYED = [code for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
_REPLACED = dict.fromkeys(_OBEYED, "\N{REPLACEMENT CHARACTER}")
_ESCAPED = {code: f"\\u{code:04x}" for code in _OBEYED}


class PlainConsole(Console):
    """Prints text of documents without what a terminal would obey: an author decides what stands in it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the parts of what is printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=segment.text.translate(_REPLACED))


console = PlainConsole(soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Collection = Annotated[str | None, typer.Option("--collection", "-c", help="Only this collection.")]


def print_json(value: Any, *, is_line: bool = False) -> None:
    """Print a value as JSON, for one of many on a single line."""
    indent = None if is_line else 2
    print(json.dumps(value, ensure_ascii=False, indent=indent, default=str).translate(_ESCAPED), flush=is_line)


def place_of(source: dict[str, Any]) -> Text:
    """Show where a source or a hit stands."""
    place = Text(
        f"{source['collection']}/" if source["collection"] not in ("default", source["file_path"].split("/")[0]) else ""
    )
    place.append(source["file_path"], style="bold")
    if source["heading"] and not _names_its_sheet(source):
        place.append(f" › {source['heading']}")
    if source["place"]:
        place.append(f", {source['place']}")
    place.append(f"  (characters {source['char_start']}–{source['char_end']})", style="dim")
    return place


def _names_its_sheet(source: dict[str, Any]) -> bool:
    """Whether the heading is the name of the sheet, which the place says again."""
    sheet = f"sheet {source['heading']}"
    return source["place"] is not None and (source["place"] == sheet or source["place"].startswith(f"{sheet}, "))
