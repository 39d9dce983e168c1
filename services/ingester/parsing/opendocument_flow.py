"""The text of an OpenDocument file in reading order: headings, paragraphs, items, rows, notes and frames; pure.

Nothing here recurs: what is inside something else waits on a stack.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lxml import etree

from services.ingester.parsing.blocks import BlockKind
from services.ingester.parsing.office import CONTEXT_CHARACTERS_MAX, local, value, whole_number
from services.ingester.parsing.opendocument_styles import ListLevel, Styles
from services.ingester.parsing.slides import Item
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import folded, without_invisible
from shared.text import one_line

# Empty cells keep the columns in their places, but nobody needs a thousand of them.
EMPTY_CELLS_MAX = 64
_SPACES_MAX = 200
# What was deleted, what others remarked, lists of pages, and what a program keeps for itself.
_SKIPPED = frozenset(
    [
        "tracked-changes",
        "annotation",
        "table-of-content",
        "illustration-index",
        "table-index",
        "object-index",
        "user-index",
        "alphabetical-index",
        "note-citation",
        "forms",
        "scripts",
        "notes",
        "ruby-text",
        "hidden-text",
    ]
)
_DRAWING = "urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_DESCRIPTIONS = frozenset(["title", "desc"])
_PARAGRAPHS = frozenset(["p", "h"])


@dataclass(slots=True)
class Paragraph:
    """What a paragraph says, what hangs on it, and how many pages begin within it."""

    text: str = ""
    attached: list[etree._Element] = field(default_factory=list)
    breaks_count: int = 0


@dataclass(slots=True)
class _List:
    style: str
    level: ListLevel
    count: int
    depth: int


@dataclass(slots=True)
class _Table:
    context: str = ""
    is_in_header: bool = False


class Flow:
    """Reads elements one after the other, and hands on what they say."""

    def __init__(self, styles: Styles, emit: Callable[[Item, int], None], *, page: int | None = None) -> None:
        """Begin. `emit` gets each item with its heading level; `page` is kept when the file says where pages end."""
        self.title: str | None = None
        self.page = page
        self._styles = styles
        self._emit = emit
        self._lists: list[_List] = []
        self._counts: dict[tuple[str, int], int] = {}
        self._tables: list[_Table] = []
        self._marker = ""
        self._last: _Table | _List | str | None = None  # what the item before belongs to
        self._is_started = False
        self._stack: list[tuple[Iterator[etree._Element], etree._Element | None]] = []

    def read(self, elements: Iterable[etree._Element]) -> None:
        """Read elements with all that they hold."""
        self._stack = [(iter(elements), None)]
        while self._stack:
            inside, holder = self._stack[-1]
            element = next(inside, None)
            if element is not None:
                self._enter(element)
                continue
            self._stack.pop()
            if holder is not None:
                self._leave(holder)

    def _enter(self, element: etree._Element) -> None:
        name = local(element)
        if name in _SKIPPED or (name == "section" and value(element, "display") == "none"):
            return
        match name:
            case "p" | "h":
                self._read_paragraph(element, is_heading=name == "h")
            case "list":
                self._open_list(element)
                self._descend(element)
            case "list-item":
                self._begin_item(element)
                self._descend(element)
            case "table":
                self._break_page(element)
                self._tables.append(_Table())
                self._descend(element)
            case "table-header-rows" if self._tables:
                self._tables[-1].is_in_header = True
                self._descend(element)
            case "table-row" if self._tables:
                self._read_row(element, self._tables[-1])
            case "soft-page-break":
                self._turn_pages(1)
            case "title" | "desc":
                self._describe(element)
            case _:
                self._follow(element)

    def _descend(self, element: etree._Element) -> None:
        """Read what an element holds, then leave it."""
        self._stack.append((iter(element), element))

    def _follow(self, elements: Iterable[etree._Element]) -> None:
        """Read elements before what comes next."""
        self._stack.append((iter(elements), None))

    def _leave(self, element: etree._Element) -> None:
        match local(element):
            case "list":
                ended = self._lists.pop()
                self._counts[ended.style, ended.depth] = ended.count
            case "list-item":
                self._marker = ""
            case "table":
                self._tables.pop()
            case "table-header-rows":
                self._tables[-1].is_in_header = False

    def _open_list(self, element: etree._Element) -> None:
        style = value(element, "style-name") or (self._lists[-1].style if self._lists else "")
        depth = len(self._lists) + 1
        level = self._styles.level(style, depth)
        goes_on = value(element, "continue-numbering") == "true" or value(element, "continue-list")
        count = self._counts.get((style, depth), level.start - 1) if goes_on else level.start - 1
        self._lists.append(_List(style, level, count, depth))

    def _begin_item(self, element: etree._Element) -> None:
        if not self._lists:
            return
        inside = self._lists[-1]
        inside.count = whole_number(value(element, "start-value"), inside.count + 1)
        if inside.level.is_marked:
            self._marker = f"{inside.count}. " if inside.level.is_numbered else "- "

    def _read_paragraph(self, element: etree._Element, *, is_heading: bool) -> None:
        style = self._styles.of(element)
        self._break_page(element)
        paragraph = read_paragraph(element, self._styles, is_code=style.is_code)
        words = folded(paragraph.text)
        if style.is_title:
            self.title = self.title or words or None
        if not words or style.is_hidden:
            pass
        elif is_heading or style.is_title:
            level = max(whole_number(value(element, "outline-level"), 1), 1)
            self._hand_on(Item(BlockKind.HEADING, words), None, level)
            self._marker = ""
        elif style.is_code:
            self._hand_on(Item(BlockKind.LINES, paragraph.text, is_joined=self._last == "code"), "code")
        else:
            belongs = self._lists[0] if self._lists else None
            is_joined = belongs is not None and self._last is belongs
            self._hand_on(Item(BlockKind.PROSE, self._marker + paragraph.text, is_joined=is_joined), belongs)
            self._marker = ""
        self._turn_pages(paragraph.breaks_count + style.breaks_after)
        self._follow(paragraph.attached)

    def _hand_on(self, item: Item, belongs: _Table | _List | str | None, level: int = 0) -> None:
        self._last = belongs
        self._emit(item, level)

    def _read_row(self, row: etree._Element, table: _Table) -> None:
        cells = _cells(row)
        if len(cells) == 1 and cells[0] is not None:  # a frame around text
            self._follow(cells[0])
            return
        read = [Paragraph() if cell is None else _read_cell(cell, self._styles) for cell in cells]
        words = [folded(cell.text) for cell in read]
        if any(words):
            context = "" if table.is_in_header else table.context
            item = Item(BlockKind.ROW, " | ".join(words), is_joined=self._last is table, context=context)
            self._hand_on(item, table)
        if table.is_in_header:
            table.context = one_line(" | ".join(filter(None, words)), CONTEXT_CHARACTERS_MAX) or table.context
        self._turn_pages(sum(cell.breaks_count for cell in read))
        self._follow([element for cell in read for element in cell.attached])

    def _describe(self, element: etree._Element) -> None:
        words = meaningful_title(element.text)
        if words is not None:
            self._hand_on(Item(BlockKind.PROSE, words), None)

    def _break_page(self, element: etree._Element) -> None:
        """Begin a page where a style says so; the first one has begun already."""
        self._turn_pages(self._is_started and self._styles.of(element).breaks_before)
        self._is_started = True

    def _turn_pages(self, count: int) -> None:
        if self.page is not None:
            self.page += count


def read_paragraph(element: etree._Element, styles: Styles, *, is_code: bool = False) -> Paragraph:
    """Collect the text of a paragraph; its notes and frames are attached, to be read behind it."""
    paragraph = Paragraph()
    parts: list[str] = []
    stack: list[etree._Element | str] = [element]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
            continue
        name = local(node)
        if name == "s":
            parts.append(" " * min(max(whole_number(value(node, "c"), 1), 1), _SPACES_MAX))
        elif name == "tab":
            parts.append("\t")
        elif name == "line-break":
            parts.append("\n")
        elif name == "soft-page-break":
            paragraph.breaks_count += 1
        elif name == "note" or _DRAWING in str(node.tag):
            paragraph.attached.append(node)
        elif name not in _SKIPPED and not (name == "span" and styles.of(node).is_hidden):
            for inner in reversed(node):
                if inner.tail:
                    stack.append(inner.tail)
                stack.append(inner)
            parts.append(node.text or "")
    text = without_invisible("".join(parts))
    paragraph.text = _code(text) if is_code else _lines(text)
    return paragraph


def _lines(text: str) -> str:
    """Fold white space, but for the line breaks that were set."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(line for line in lines if line)


def _code(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.expandtabs(4).split("\n")).strip("\n")


def _cells(row: etree._Element) -> list[etree._Element | None]:
    """Return the cells of a row; None stands for an empty one."""
    cells: list[etree._Element | None] = []
    covered = empty = 0
    for cell in row:
        name = local(cell)
        repeated = max(whole_number(value(cell, "number-columns-repeated"), 1), 1)
        if name == "covered-table-cell" and covered > 0:  # the rest of a wide cell
            covered -= repeated
        elif name == "table-cell" and len(cell):
            cells.append(cell)
            covered = whole_number(value(cell, "number-columns-spanned"), 1) - 1
        elif name in ("table-cell", "covered-table-cell"):
            count = min(repeated, EMPTY_CELLS_MAX - empty)
            empty += count
            cells.extend([None] * count)
    return cells


def _read_cell(cell: etree._Element, styles: Styles) -> Paragraph:
    """Collect the text of a cell; tables within it are attached."""
    whole = Paragraph()
    texts: list[str] = []
    stack = list(reversed(cell))
    while stack:
        element = stack.pop()
        name = local(element)
        if name in _PARAGRAPHS:
            paragraph = read_paragraph(element, styles)
            texts.append(paragraph.text)
            whole.attached += paragraph.attached
            whole.breaks_count += paragraph.breaks_count
        elif name == "table" or _DRAWING in str(element.tag):
            whole.attached.append(element)
        elif name not in _SKIPPED:
            stack.extend(reversed(element))
    whole.text = " ".join(texts)
    return whole
