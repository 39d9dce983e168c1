"""The tables of contents of a book: what they call its parts, and which of its pages are nothing else; pure."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from selectolax.lexbor import LexborNode

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.html import parse_tree, walk
from services.ingester.parsing.office import child, read_part, value
from services.ingester.parsing.writer import folded
from shared.errors import CorruptFile

NO_TITLES = frozenset(["", "untitled", "untitled document", "unknown", "no title", "title"])
_LINK_SHARE_MIN = 0.8
_HEADINGS = frozenset(["h1", "h2", "h3", "h4", "h5", "h6"])
_UNSEEN = frozenset(["head", "script", "style", "template"])


@dataclass(frozen=True, slots=True)
class Entry:
    """What the table of contents calls a part, or a place within it."""

    label: str
    is_whole: bool


def resolved(source: str, address: str) -> str:
    """Return the part that an address in another part means."""
    path = unquote(address.partition("#")[0])
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(source), path)).lstrip("/")


def read_navigation(archive: Archive, name: str) -> dict[str, Entry]:
    """Read the table of contents of a newer book, which is a page."""
    try:
        content = archive.read(name)
        found = None if content is None else _read_links(content)
    except CorruptFile:
        found = None
    return {} if found is None else _entries(name, found.of_contents or found.links)


def read_ncx(archive: Archive, name: str) -> dict[str, Entry]:
    """Read the table of contents of an older book."""
    try:
        root = read_part(archive, name, may_declare_type=True)
    except CorruptFile:
        root = None
    links = []
    for point in root.iter("{*}navPoint") if root is not None else ():
        label = child(child(point, "navLabel"), "text")
        links.append((value(child(point, "content"), "src"), (label.text or "") if label is not None else ""))
    return _entries(name, links)


def is_of_links(content: bytes) -> bool:
    """Whether a page holds links and, but for its headings, hardly any other words.

    Raises: CorruptFile when its elements are nested without end.
    """
    found = _read_links(content)
    return found.linked_length >= _LINK_SHARE_MIN * found.length


def _entries(source: str, links: Iterable[tuple[str, str]]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for address, label in links:
        words = folded(label)
        if words.lower() not in NO_TITLES:
            entries.setdefault(resolved(source, address), Entry(words, "#" not in address))
    return entries


def _read_links(content: bytes) -> "_LinkReader":
    tree, _ = parse_tree(content, is_xhtml=True)
    reader = _LinkReader()
    if tree.root is not None:
        walk(tree.root, reader)
    return reader


class _LinkReader:
    """Collects the links of a page while its nodes are visited; a link within another one belongs to that."""

    def __init__(self) -> None:
        self.links: list[tuple[str, str]] = []
        self.of_contents: list[tuple[str, str]] = []
        self.length = 0
        self.linked_length = 0
        self._open: int | None = None
        self._address = ""
        self._label: list[str] = []
        self._contents: int | None = None
        self._heading: int | None = None

    def enter(self, node: LexborNode) -> bool:
        """Begin a node and return whether its children matter."""
        if node.is_text_node:
            text = node.text_content or ""
            length = sum(map(len, text.split()))
            if self._open is not None:
                self.linked_length += length
                self._label.append(text)
            if self._open is not None or self._heading is None:
                self.length += length
            return False
        tag = node.tag if node.is_element_node else None
        if tag is None or tag in _UNSEEN:
            return False
        if tag == "nav" and self._contents is None and node.attributes.get("epub:type") == "toc":
            self._contents = node.mem_id
        if tag in _HEADINGS and self._heading is None:
            self._heading = node.mem_id
        if tag == "a" and self._open is None:
            self._open, self._address = node.mem_id, node.attributes.get("href") or ""
        return True

    def leave(self, node: LexborNode) -> None:
        """End a node that was entered."""
        if node.mem_id == self._open:
            link = (self._address, folded("".join(self._label)))
            self.links.append(link)
            if self._contents is not None:
                self.of_contents.append(link)
            self._open, self._label = None, []
        if node.mem_id == self._contents:
            self._contents = None
        if node.mem_id == self._heading:
            self._heading = None
