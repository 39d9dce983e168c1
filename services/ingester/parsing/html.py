"""HTML and XHTML: the main content of a page with its headings, paragraphs, items, rows and code lines."""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.html_reader import PageReader
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import TextWriter
from shared.errors import CorruptFile

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


def parse_html(content: bytes) -> ParsedDocument:
    """Read a page.

    Raises: CorruptFile when its elements are nested without end.
    """
    text, replaced = decode(content, declared_encoding(content))
    _refuse_endless_nesting(text)
    if text[:200].lstrip().lower().startswith("<?xml") or "//DTD XHTML" in text[:_HEAD_CHARACTERS]:
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)  # read as HTML, `<title/>` would swallow the page
    page = LexborHTMLParser(text)
    reader = PageReader()
    if page.root is not None:
        _walk(page.root, reader)
    writer = TextWriter()
    previous = 0
    for piece in reader.main_pieces():
        is_joined = piece.group != 0 and piece.group == previous
        writer.add(piece.kind, piece.text, level=piece.level, is_joined=is_joined)
        previous = piece.group
    return writer.document(_title(page) or writer.main_heading, _metadata(page), replaced_before=replaced)


def _refuse_endless_nesting(text: str) -> None:
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


def _walk(root: LexborNode, reader: PageReader) -> None:
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
