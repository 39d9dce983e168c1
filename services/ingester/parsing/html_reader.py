"""What the nodes of a page say, collected while they are visited."""

import re
from dataclasses import dataclass
from itertools import groupby

from selectolax.lexbor import LexborNode

from services.ingester.parsing.blocks import Block, BlockKind
from services.ingester.parsing.office import CONTEXT_CHARACTERS_MAX
from services.ingester.parsing.plain import plain_blocks
from services.ingester.parsing.writer import folded, without_invisible
from shared.text import one_line

# fmt: off
_SKIPPED = frozenset(
    [
        "head", "script", "style", "template", "noscript", "nav", "aside", "svg", "math", "iframe", "object", "embed",
        "canvas", "audio", "video", "map", "dialog", "button", "input", "select", "option", "datalist", "textarea",
        "meter", "progress", "frameset",
    ]
)
_BLOCKS = frozenset(
    [
        "address", "article", "blockquote", "body", "caption", "center", "dd", "details", "dir", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "label", "legend",
        "main", "p", "section", "summary", "table", "tbody", "tfoot", "thead", "ul", "ol", "li",
    ]
)
# fmt: on
_CHROME = frozenset(["header", "footer"])
# In a book a header holds the name of its chapter, and an aside is a note.
_FRAME = frozenset(["aside"])
_CHROME_ROLES = frozenset(
    ["navigation", "banner", "contentinfo", "search", "menu", "menubar", "toolbar", "complementary"]
)
_LINE_NUMBERS = frozenset(["linenos", "lineno", "gutter"])
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HIDING_STYLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_PERMALINKS = frozenset(["", "#", "¶", "§", "🔗"])
# A page whose `main` or `article` holds less than this has its text elsewhere: a teaser, a shell that a script fills.
MAIN_SHARE_MIN = 0.2
# A longer `pre` is a whole text file in a page, with paragraphs of its own.
CODE_CHARACTERS_MAX = 10_000
# Books say where the pages of the printed one begin, in one of these ways.
PAGE_BREAKS_MAX = 100_000
_PAGE_CLASSES = frozenset(["pagenum", "pageno", "x-ebookmaker-pageno"])
_PAGE_NAME = re.compile(r"(?:(?<!\d)(\d{1,5})|(?<![a-z])([ivxlcdm]{1,9}))\W{0,3}$", re.IGNORECASE)
_PAGE_ID = re.compile(r"(?:page|pg|p)[-_.]?(\d{1,5}|[ivxlcdm]{1,9})", re.IGNORECASE)
_PAGE_NAME_LENGTH_MAX = 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A block before it has its place; those of one list or table share a group. `context` names a row's columns.

    `page` counts the page breaks before it.
    """

    kind: BlockKind
    text: str
    level: int
    group: int
    is_main: bool
    context: str = ""
    page: int = 0


class _Names:
    """The names of a table's columns: the last row of nothing but header cells."""

    def __init__(self) -> None:
        self.context = ""
        self._names = ""
        self._is_header = True

    def begin_row(self) -> None:
        """A row begins: what is known so far are its columns."""
        self.context = self._names
        self._is_header = True

    def begin_cell(self, *, is_header: bool) -> None:
        """One data cell makes a row of data."""
        self._is_header &= is_header

    def end_row(self, filled: list[str]) -> None:
        """A row of header cells names the columns of those below it, and has no names itself."""
        if self._is_header:
            self.context = ""
            self._names = one_line(" | ".join(map(folded, filled)), CONTEXT_CHARACTERS_MAX)


class PageReader:
    """Turns the visits of nodes into pieces; of a whole page, nothing is taken for a frame around the text."""

    def __init__(self, *, is_whole: bool = False) -> None:
        self._skipped = _SKIPPED - _FRAME if is_whole else _SKIPPED | _CHROME
        self._is_whole = is_whole
        self._pieces: list[Piece] = []
        self._inline: list[str] = []
        self._main_depth = 0
        self._pre_depth = 0
        self._heading = 0
        self._group = 0
        self._lists: list[int | None] = []  # the number of the next item; None where items have a dash
        self._list_group = 0
        self._marker = ""
        self._row: list[str] | None = None
        self._has_header = False
        self._names = _Names()
        self.page_breaks: list[str] = []  # the names of the pages that begin there
        self._page = 0  # on which the piece that is being read began

    def main_pieces(self) -> list[Piece]:
        """Return what the page is about, or all of it when nothing says what that is."""
        self._flush()
        total = sum(len(piece.text) for piece in self._pieces)
        main = [] if self._is_whole else [piece for piece in self._pieces if piece.is_main]
        return main if main and sum(len(piece.text) for piece in main) >= MAIN_SHARE_MIN * total else self._pieces

    def enter(self, node: LexborNode) -> bool:
        """Begin a node and return whether its children matter."""
        if node.is_text_node:
            self._add_text(node.text_content or "")
            return False
        tag = node.tag if node.is_element_node else None
        if tag is None or (tag in self._skipped and not (tag in _CHROME and self._main_depth)):
            return False
        attributes = node.attributes
        if self._is_whole and self._turns_page(node, attributes):
            return False
        if _is_hidden(attributes) or (self._heading and tag == "a" and node.text().strip() in _PERMALINKS):
            return False
        if tag in ("br", "img"):
            self._inline.append("\n" if tag == "br" else f" {folded(attributes.get('alt') or '')} ")
            return False
        self._open(tag, attributes)
        return True

    def _turns_page(self, node: LexborNode, attributes: dict[str, str | None]) -> bool:
        """Whether a node says which page of the printed book begins, and nothing else."""
        if not attributes or len(self.page_breaks) >= PAGE_BREAKS_MAX or not _is_page_break(attributes):
            return False
        name = _page_name(node, attributes)
        if name is None:
            return False
        self.page_breaks.append(name)
        if not self._inline and self._row is None:
            self._page = len(self.page_breaks)
        return True

    def _open(self, tag: str, attributes: dict[str, str | None]) -> None:
        if _is_main(tag, attributes):
            self._flush()
            self._main_depth += 1
        if tag in _HEADINGS and not self._heading:
            self._leave_row()
            self._heading = _HEADINGS[tag]
        elif tag == "pre":
            self._leave_row()
            self._pre_depth += 1
        elif tag == "table":
            self._leave_row()
            self._group += 1
            self._has_header = False
            self._names = _Names()
        elif tag == "tr" and not self._heading:
            self._leave_row()
            self._row = []
            self._names.begin_row()
        elif tag in ("td", "th"):
            self._has_header |= tag == "th"
            self._names.begin_cell(is_header=tag == "th")
            if self._row is None:
                self._boundary()
        elif tag in _BLOCKS:
            self._boundary()
            self._open_list(tag, attributes)

    def _open_list(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in ("ul", "ol"):
            if not self._lists:
                self._group += 1
                self._list_group = self._group
            start = attributes.get("start") or "1"
            number = int(start) if start.isdecimal() and len(start) < 10 else 1
            self._lists.append(number if tag == "ol" else None)
        elif tag == "li" and self._row is None:
            number_of_item = self._lists[-1] if self._lists else None
            self._marker = "- " if number_of_item is None else f"{number_of_item}. "
            if self._lists and number_of_item is not None:
                self._lists[-1] = number_of_item + 1

    def leave(self, node: LexborNode) -> None:
        """End a node that was entered."""
        tag = node.tag or ""
        if tag in _HEADINGS and self._heading == _HEADINGS[tag]:
            self._flush(BlockKind.HEADING, self._heading)
            self._heading = 0
        elif tag == "pre":
            self._end_pre()
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("".join(self._inline).strip())
            self._inline.clear()
        elif tag == "tr" and self._row is not None:
            self._end_row(self._row)
        elif tag in _BLOCKS or tag in ("td", "th"):
            self._boundary()
            if tag in ("ul", "ol") and self._lists:
                self._lists.pop()
            elif tag == "li":
                self._marker = ""
        if self._main_depth and _is_main(tag, node.attributes):
            self._flush()
            self._main_depth -= 1

    def _add_text(self, text: str) -> None:
        if self._pre_depth:
            self._inline.append(text)
        elif not text.isspace():
            self._inline.append(_with_blanks(text))
        elif self._inline:
            self._inline.append(" ")

    def _boundary(self) -> None:
        """End a paragraph; within a heading or a cell it only parts words, within code it parts lines."""
        if self._heading or self._row is not None:
            self._inline.append(" ")
        elif self._pre_depth:
            if self._inline and not self._inline[-1].endswith("\n"):
                self._inline.append("\n")
        else:
            self._flush()

    def _flush(self, kind: BlockKind = BlockKind.PROSE, level: int = 0) -> None:
        if not self._inline:
            return
        text = without_invisible("".join(self._inline))
        self._inline.clear()
        if kind is BlockKind.HEADING:
            self._add(kind, folded(text), level)
            return
        if "\n" not in text:
            self._add(kind, folded(text))
            return
        lines = [" ".join(line.split()) for line in text.split("\n")]
        for is_filled, group in groupby(lines, key=bool):
            if is_filled:
                self._add(kind, "\n".join(group))

    def _add(self, kind: BlockKind, text: str, level: int = 0) -> None:
        if not text.strip():
            return
        group = 0
        context = ""
        if kind is BlockKind.ROW:
            group = self._group
            context = self._names.context
        elif self._lists and kind is BlockKind.PROSE:
            text = self._marker + text
            self._marker = ""
            group = self._list_group
        self._pieces.append(Piece(kind, text, level, group, self._main_depth > 0, context, self._page))
        self._page = len(self.page_breaks)

    def _end_pre(self) -> None:
        self._pre_depth -= 1
        if self._pre_depth or self._heading:
            return
        text = "\n".join(line.rstrip() for line in without_invisible("".join(self._inline)).split("\n")).strip("\n")
        self._inline.clear()
        blocks = plain_blocks(text) if len(text) > CODE_CHARACTERS_MAX else [Block(BlockKind.LINES, 0, len(text))]
        for block in blocks:
            self._add(block.kind, text[block.start : block.end])

    def _leave_row(self) -> None:
        """Read a row as paragraphs from here on: its table arranges the page, or a cell holds what no row can."""
        cells, self._row = self._row, None
        open_cell, self._inline = self._inline, []
        for cell in cells or []:
            self._inline.append(cell)
            self._flush()
        self._inline = open_cell
        self._boundary()

    def _end_row(self, cells: list[str]) -> None:
        self._row = None
        self._inline.clear()
        filled = [cell for cell in cells if cell]
        if len(filled) == 1 and not (self._has_header and len(cells) > 1):
            self._inline.append(filled[0])
            self._flush()
        elif filled:  # without a header, empty cells are there for the looks
            self._names.end_row(filled)
            self._add(BlockKind.ROW, " | ".join(folded(cell) for cell in (cells if self._has_header else filled)))


def _with_blanks(text: str) -> str:
    """Make one blank of all white space between two words, and of what stands at either end."""
    if text.isprintable() and "  " not in text:
        return text
    words = text.split()
    if text[:1].isspace():
        words.insert(0, "")
    if text[-1:].isspace():
        words.append("")
    return " ".join(words)


def _is_main(tag: str, attributes: dict[str, str | None]) -> bool:
    return tag in ("main", "article") or attributes.get("role") == "main"


def _is_page_break(attributes: dict[str, str | None]) -> bool:
    classes = (attributes.get("class") or "").split()
    kinds = (attributes.get("epub:type") or "").split()
    return "pagebreak" in kinds or attributes.get("role") == "doc-pagebreak" or not _PAGE_CLASSES.isdisjoint(classes)


def _page_name(node: LexborNode, attributes: dict[str, str | None]) -> str | None:
    inside = node.first_child
    words = inside.text_content if inside is not None and inside.is_text_node else None
    for claimed in (attributes.get("title"), attributes.get("aria-label"), words):
        found = _PAGE_NAME.search((claimed or "")[-_PAGE_NAME_LENGTH_MAX:])
        if found is not None:
            return found[1] or found[2]
    named = _PAGE_ID.fullmatch(attributes.get("id") or "")
    return named[1] if named is not None else None


def _is_hidden(attributes: dict[str, str | None]) -> bool:
    if not attributes:
        return False
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if attributes.get("aria-hidden") == "true" or attributes.get("role") in _CHROME_ROLES:
        return True
    if not _LINE_NUMBERS.isdisjoint((attributes.get("class") or "").split()):
        return True
    return _HIDING_STYLE.search(attributes.get("style") or "") is not None
