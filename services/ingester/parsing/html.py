"""HTML and XHTML: the main content of a page with its headings, paragraphs, items, rows and code lines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.html_reader import PageReader, Piece
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter
from shared.errors import CorruptFile, ParserLimit

_HEAD_CHARACTERS = 4096
_START = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*+)*+<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL
)
_CHARSET = re.compile(rb"<(?:meta\b[^>]*?charset|\?xml\b[^>]*?encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
# What Western pages call Latin-1 is Windows-1252, and every browser reads it so.
_RENAMED = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252"}

# The tree builder looks through all open elements at each tag: 200,000 nested ones took 95 s, 50,000 take 6 s.
NESTING_MAX = 50_000
_CLOSED_BY_OTHERS = "p|li|dt|dd|tr|td|th|tbody|thead|tfoot|option|optgroup|colgroup|rt|rp|html|head|body"
_VOID = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_TAG = re.compile(rf"<(/?)(?!(?:{_CLOSED_BY_OTHERS}|{_VOID})\b)[a-zA-Z]", re.IGNORECASE)
_SELF_CLOSED = re.compile(rf"<(?!(?:{_VOID})\b)([a-zA-Z][\w:.-]*)((?:\s[^<>]*)?)/>", re.IGNORECASE)


def looks_like_html(head: str) -> bool:
    """Whether a text begins as a page does."""
    return _START.match(head[:_HEAD_CHARACTERS]) is not None


def declared_encoding(content: bytes) -> str | None:
    """Return the encoding that a page says it has."""
    found = _CHARSET.search(content[:_HEAD_CHARACTERS])
    name = found[1].decode("ascii").lower() if found else None
    return _RENAMED.get(name, name) if name else None


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says, before it has its place in a document."""

    pieces: list[Piece]
    title: str | None
    metadata: dict[str, str]
    replaced_character_count: int
    page_breaks: list[str]


def parse_html(content: bytes) -> ParsedDocument:
    """Read a page.

    Raises: CorruptFile when its elements are nested without end.
    """
    page = read_page(content)
    writer = TextWriter()
    write_pieces(writer, page.pieces)
    return writer.document(
        page.title or writer.main_heading, page.metadata, replaced_before=page.replaced_character_count
    )


def read_page(content: bytes, *, is_whole: bool = False) -> Page:
    """Read what a page is about; of a whole one, the chapter of a book, also its header, footer and asides.

    Raises: CorruptFile when its elements are nested without end.
    """
    page, replaced = parse_tree(content, is_xhtml=is_whole)
    reader = PageReader(is_whole=is_whole)
    if page.root is not None:
        walk(page.root, reader)
    return Page(reader.main_pieces(), _title(page), _metadata(page), replaced, reader.page_breaks)


def parse_tree(content: bytes, *, is_xhtml: bool = False) -> tuple[LexborHTMLParser, int]:
    """Return the elements of a page and how many of its characters were replaced.

    Raises: CorruptFile when its elements are nested without end · ParserLimit.
    """
    text, replaced = decode(content, declared_encoding(content))
    _refuse_endless_nesting(text)
    if is_xhtml or text[:200].lstrip().lower().startswith("<?xml") or "//DTD XHTML" in text[:_HEAD_CHARACTERS]:
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)  # read as HTML, `<title/>` would swallow the page
    try:
        return LexborHTMLParser(text), replaced
    except SelectolaxError:  # it takes every page, unless there is no memory left
        raise ParserLimit("the page needs more memory than the parser may have: split the file") from None


def write_pieces(writer: TextWriter, pieces: Sequence[Piece], *, pages_before: int = 0) -> None:
    """Write a page's pieces behind what a document holds already, and behind so many page breaks."""
    previous = 0
    for piece in pieces:
        is_joined = piece.group != 0 and piece.group == previous
        page = pages_before + piece.page or None
        writer.add(piece.kind, piece.text, level=piece.level, page=page, context=piece.context, is_joined=is_joined)
        previous = piece.group


def _refuse_endless_nesting(text: str) -> None:
    if text.count("<") <= NESTING_MAX:
        return
    depth = 0
    for tag in _TAG.finditer(text):
        depth = max(0, depth - 1) if tag[1] else depth + 1
        if depth > NESTING_MAX:
            raise CorruptFile(
                f"the page nests more than {NESTING_MAX:,} elements: close them, or save the page as text"
            )


def _title(page: LexborHTMLParser) -> str | None:
    for selector, attribute in (("head title", None), ('meta[property="og:title"]', "content"), ("h1", None)):
        node = page.css_first(selector)
        if node is not None:
            words = meaningful_title(node.text() if attribute is None else node.attributes.get(attribute))
            if words is not None:
                return words
    return None


def _metadata(page: LexborHTMLParser) -> dict[str, str]:
    metadata = {}
    html = page.css_first("html")
    if html is not None:
        metadata["language"] = html.attributes.get("lang") or html.attributes.get("xml:lang") or ""
    for name in ("author", "description"):
        node = page.css_first(f'meta[name="{name}" i]')
        if node is not None:
            metadata[name] = node.attributes.get("content") or ""
    return metadata


class Visitor(Protocol):
    """Who is told of the nodes of a page as they begin and end."""

    def enter(self, node: LexborNode) -> bool:
        """Begin a node and return whether its children matter."""

    def leave(self, node: LexborNode) -> None:
        """End a node that was entered."""


def walk(root: LexborNode, reader: Visitor) -> None:
    """Visit every node without recursion: an author decides how deep a page is."""
    node: LexborNode | None = root
    depth = 0
    while node is not None:
        if reader.enter(node):
            child = node.first_child
            if child is not None:
                node = child
                depth += 1
                continue
            reader.leave(node)
        while node is not None and node.next is None and depth > 0:
            node = node.parent
            depth -= 1
            if node is not None:
                reader.leave(node)
        node = node.next if node is not None and depth > 0 else None
