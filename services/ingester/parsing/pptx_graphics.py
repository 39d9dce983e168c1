"""What stands in the frames of a presentation: tables, charts, diagrams; pure."""

from collections.abc import Iterator

from lxml import etree

from services.ingester.parsing.blocks import BlockKind
from services.ingester.parsing.office import CONTEXT_CHARACTERS_MAX, child, local, value, whole_number
from services.ingester.parsing.pptx_text import items, paragraphs
from services.ingester.parsing.slides import Item
from services.ingester.parsing.writer import folded
from shared.text import one_line

# A chart with more is a cloud of points, of which nobody asks for one; its title and its series are read all the same.
CHART_CELLS_MAX = 20_000
# An axis holds a reference, that one a cache, and that one points, in levels or not.
_POINT_DEPTH_MAX = 4
_LONG_NUMBER_LENGTH_MIN, _NUMBER_LENGTH_MAX = 14, 40


def table_items(table: etree._Element) -> list[Item]:
    """Return the rows of a table; the first names the columns where the table says so."""
    has_header = value(child(table, "tblPr"), "firstRow") in ("1", "true")
    found: list[Item] = []
    context = ""
    for place, row in enumerate(element for element in table if local(element) == "tr"):
        cells = [cell for cell in row if local(cell) == "tc" and value(cell, "hMerge") not in ("1", "true")]
        if len(cells) == 1:  # a frame around text, or a line across the whole table
            found += items(child(cells[0], "txBody"))
            continue
        words = [folded(" ".join(paragraphs(child(cell, "txBody")))) for cell in cells]
        if any(words):
            is_joined = bool(found) and found[-1].kind is BlockKind.ROW
            found.append(Item(BlockKind.ROW, " | ".join(words), is_joined=is_joined, context=context))
        if has_header and place == 0:
            context = one_line(" | ".join(filter(None, words)), CONTEXT_CHARACTERS_MAX)
    return found


def chart_items(root: etree._Element) -> list[Item]:
    """Return the title of a chart, the names of its series, and a row of values for each category."""
    title = _words(child(child(root, "chart"), "title"), "t")
    found = [Item(BlockKind.PROSE, title)] if title else []
    series = list(root.iter("{*}ser"))
    names = " | ".join(filter(None, (_words(child(one, "tx"), "v") for one in series)))
    if names:
        found.append(Item(BlockKind.ROW, names))
    context = one_line(names, CONTEXT_CHARACTERS_MAX)
    labels: dict[int, str] = {}
    columns: list[dict[int, str]] = []
    for one in series:
        for point, label in _points(one, "cat", "xVal"):
            labels.setdefault(point, label)  # of several levels, the first is the one that stands below the axis
        columns.append({point: _number(words) for point, words in _points(one, "val", "yVal")})
    points = sorted({*labels, *(point for column in columns for point in column)})
    if len(points) * (len(columns) + 1) <= CHART_CELLS_MAX:
        for point in points:
            cells = [labels.get(point, ""), *(column.get(point, "") for column in columns)]
            is_joined = bool(found) and found[-1].kind is BlockKind.ROW
            found.append(Item(BlockKind.ROW, " | ".join(cells), is_joined=is_joined, context=context))
    return found


def _words(element: etree._Element | None, name: str) -> str:
    texts = element.iter("{*}" + name) if element is not None else ()
    return folded(" ".join(text.text or "" for text in texts))


def _points(series: etree._Element, *names: str) -> Iterator[tuple[int, str]]:
    stack = [(axis, _POINT_DEPTH_MAX) for axis in reversed(series) if local(axis) in names]
    while stack:
        element, depth = stack.pop()
        if local(element) == "pt":
            held = child(element, "v")
            yield whole_number(value(element, "idx")), folded((held.text or "") if held is not None else "")
        elif depth:
            stack.extend((inner, depth - 1) for inner in reversed(element))


def _number(words: str) -> str:
    """Return a number as a person would write it: programs store 0.30000000000000004."""
    if not _LONG_NUMBER_LENGTH_MIN <= len(words) <= _NUMBER_LENGTH_MAX:
        return words
    try:
        return f"{float(words):.12g}"
    except ValueError:
        return words


def diagram_items(root: etree._Element) -> list[Item]:
    """Return what stands in the boxes of a diagram."""
    points = child(root, "ptLst")
    texts = [text for point in (points if points is not None else ()) for text in paragraphs(child(point, "t"))]
    return [Item(BlockKind.PROSE, text, is_joined=place > 0) for place, text in enumerate(texts)]
