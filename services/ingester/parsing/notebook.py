"""Jupyter notebooks: cells in order, each a `page`; code with its results as text, pictures left out.

Both forms are read: that of today, and the older one with worksheets. What is no notebook is read as JSON.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.ingester.parsing.blocks import BlockKind, PageUnit, ParsedDocument
from services.ingester.parsing.json_text import parse_json
from services.ingester.parsing.markdown import parse_markdown
from services.ingester.parsing.plain import plain_blocks
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter

# What a program printed: its beginning tells what it was, and the rest would crowd out what people wrote.
OUTPUT_CHARACTERS_MAX = 20_000
# Of more the objects would not fit into a child's memory, at some 200 bytes each; pictures have none of these signs.
PARTS_MAX = 3_000_000
_COLOURS = re.compile(r"\x1b\[[0-9;?]*+[A-Za-z]")


@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell as both forms hold it."""

    kind: str
    source: str
    level: int
    outputs: list[Any]


def parse_notebook(text: str, replaced: int) -> ParsedDocument:
    """Read a notebook. Raises: ParserLimit."""
    if sum(map(text.count, "[{,")) > PARTS_MAX:
        return parse_json(text, replaced)
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        return parse_json(text, replaced)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells", notebook.get("worksheets")), list):
        return parse_json(text, replaced)
    writer = TextWriter()
    shortened_count = 0
    for number, cell in enumerate(_cells(notebook), start=1):
        if cell.kind in ("markdown", "heading"):
            _write_markdown(writer, cell, number)
        else:
            kind = BlockKind.LINES if cell.kind == "code" else None
            _write_lines(writer, cell.source, number, kind)
        printed, is_shortened = _printed(cell.outputs)
        shortened_count += is_shortened
        _write_lines(writer, printed, number, BlockKind.LINES, has_lines=False)
    about = _mapping(notebook.get("metadata"))
    metadata = {"programming_language": str(_mapping(about.get("kernelspec")).get("language") or "")}
    if shortened_count:
        metadata["shortened_outputs"] = str(shortened_count)
    claimed = about.get("title")
    title = meaningful_title(claimed) if isinstance(claimed, str) else None
    return writer.document(
        title or _first_heading(writer) or writer.main_heading,
        metadata,
        replaced_before=replaced,
        page_unit=PageUnit.CELL,
    )


def _cells(notebook: dict[str, Any]) -> Iterator[_Cell]:
    sheets = notebook.get("worksheets") if "cells" not in notebook else [notebook]
    for sheet in sheets if isinstance(sheets, list) else []:
        cells = _mapping(sheet).get("cells")
        for cell in map(_mapping, cells if isinstance(cells, list) else []):
            level = cell.get("level")
            outputs = cell.get("outputs")
            yield _Cell(
                str(cell.get("cell_type", "")),
                _joined(cell.get("source", cell.get("input"))),
                level if isinstance(level, int) and 1 <= level <= 6 else 1,
                outputs if isinstance(outputs, list) else [],
            )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _joined(value: Any) -> str:
    """Return a text that may be given as a list of its lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _write_markdown(writer: TextWriter, cell: _Cell, number: int) -> None:
    if cell.kind == "heading":
        writer.add(BlockKind.HEADING, cell.source, level=cell.level, page=number)
        return
    # Front matter is that of a file; a cell may begin with a rule. Nobody sees the lines of a cell that is shown as text.
    part = parse_markdown(f"\n{cell.source}", 0)
    was_row = False
    for block in part.blocks:
        text = block.heading if block.kind is BlockKind.HEADING else part.text[block.start : block.end]
        is_row = block.kind is BlockKind.ROW
        writer.add(
            block.kind, text, level=block.level, page=number, context=block.context, is_joined=is_row and was_row
        )
        was_row = is_row


def _write_lines(writer: TextWriter, text: str, number: int, kind: BlockKind | None, *, has_lines: bool = True) -> None:
    for block in plain_blocks(text):
        line = block.line if has_lines else None
        writer.add(kind or block.kind, text[block.start : block.end], page=number, line=line)


def _printed(outputs: list[Any]) -> tuple[str, bool]:
    """Return what the outputs of a cell say as text, and whether that is only the beginning of it."""
    parts: list[str] = []
    for output in map(_mapping, outputs):
        if output.get("output_type") in ("pyerr", "error"):
            parts.append(f"{output.get('ename', '')}: {output.get('evalue', '')}")
            continue
        data = _mapping(output.get("data"))
        parts.append(_joined(output.get("text", data.get("text/plain"))).strip("\n"))
    text = _COLOURS.sub("", "\n".join(part for part in parts if part))
    return text[:OUTPUT_CHARACTERS_MAX], len(text) > OUTPUT_CHARACTERS_MAX


def _first_heading(writer: TextWriter) -> str | None:
    """Return the heading that the notebook begins with, if it is of the first level."""
    first = next((block for block in writer.blocks if block.kind is BlockKind.HEADING), None)
    return first.heading if first is not None and first.level == 1 else None
