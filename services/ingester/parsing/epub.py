"""EPUB: the chapters of a book in the order in which they are read.

Each chapter is a page and is read as one, with its header and its notes. A chapter without a heading gets the one that
the table of contents has for it. Pages are those of the printed book, where the file marks them. What a reading program
shows by itself (covers, tables of contents) is left out, and a part that is missing or damaged takes no other with it.
"""

import re
from dataclasses import dataclass, replace

from lxml import etree

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.epub_contents import NO_TITLES, Entry, is_of_links, read_navigation, read_ncx, resolved
from services.ingester.parsing.html import Page, read_page, write_pieces
from services.ingester.parsing.html_reader import PAGE_BREAKS_MAX, Piece
from services.ingester.parsing.office import child, local, read_part, value
from services.ingester.parsing.writer import TextWriter, folded
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, NeedsOcr, ParserLimit

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
# Fonts are made useless outside of their book in one of these ways; they are not read, and nothing else uses them.
_FONT_METHODS = frozenset(["http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"])
_PAGES = frozenset(["application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"])
_PAGE_NAMES = (".xhtml", ".html", ".htm", ".xht", ".xml")
_PICTURE = re.compile(rb"<(?:\w+:)?(?:img|image|svg)\b", re.IGNORECASE)
_COVERS = frozenset(["cover", "cover image", "cover page", "front cover", "book cover"])
AUTHORS_MAX = 20
# A chapter's heading stands among its first pieces, behind a number or a motto at most.
_FIRST_PIECES = 3


@dataclass(frozen=True, slots=True)
class _Book:
    """What the package says of the parts of a book."""

    names: list[str]
    title: str
    metadata: dict[str, str]
    entries: dict[str, Entry]
    contents: frozenset[str]


def parse_epub(content: bytes) -> ParsedDocument:
    """Read a book.

    Raises: CorruptFile · EncryptedFile · NeedsOcr · EmptyDocument · ParserLimit.
    """
    archive = Archive(content)
    book = _read_package(archive)
    if not _encrypted_parts(archive).isdisjoint(book.names):
        raise EncryptedFile(
            "the book is locked by who sold it (DRM), and only their own programs can open it: "
            "get it without such protection, then drop it again"
        )
    writer = TextWriter()
    replaced = lost = pictures = 0
    breaks: list[str] = []
    for name in book.names:
        raw = None
        try:
            raw = archive.read(name)
            page = None if raw is None else read_page(raw, is_whole=True)
        except CorruptFile:
            page = None
        if raw is None or page is None:
            lost += 1
            continue
        pictures += _PICTURE.search(raw) is not None
        replaced += page.replaced_character_count
        if not _is_apparatus(book, name, page, raw):
            write_pieces(writer, _with_heading(page.pieces, book.entries.get(name)), pages_before=len(breaks))
        breaks += page.page_breaks
        if len(breaks) >= PAGE_BREAKS_MAX:
            raise ParserLimit(f"the book marks more than {PAGE_BREAKS_MAX - 1:,} pages: split it")
    if not writer.blocks:
        raise _refusal(len(book.names), lost, pictures)
    metadata = book.metadata | ({"chapters_unreadable": str(lost)} if lost else {})
    labels = {place: name for place, name in enumerate(breaks, start=1) if name != str(place)}
    return writer.document(book.title or writer.main_heading, metadata, replaced_before=replaced, page_labels=labels)


def _refusal(count: int, lost: int, pictures: int) -> CorruptFile | NeedsOcr | EmptyDocument:
    if lost == count:
        return CorruptFile(f"none of the {count} chapters of the book can be read: download or export it again")
    if pictures:
        return NeedsOcr(
            "the book holds pictures of pages and no text: save it as PDF and run OCR on that "
            "(for example `ocrmypdf IN OUT`), then drop the result"
        )
    return EmptyDocument("the book has no text in its chapters: nothing was stored")


def _read_package(archive: Archive) -> _Book:
    name = _package_name(archive)
    package = read_part(archive, name, may_declare_type=True)
    if package is None:
        raise CorruptFile("the book has no list of its chapters: download or export it again")
    manifest = {
        value(item, "id"): item
        for item in package.iter("{*}item")
        if value(item, "media-type") in _PAGES or value(item, "href").lower().endswith(_PAGE_NAMES)
    }
    spine = child(package, "spine")
    items = [manifest.get(value(entry, "idref")) for entry in (spine if spine is not None else ())]
    # However often an author lists a chapter, it is read once.
    names = list(dict.fromkeys(resolved(name, value(item, "href")) for item in items if item is not None))
    if not names:
        raise CorruptFile("the book lists no chapters: download or export it again")
    metadata = child(package, "metadata")
    navigation = next((item for item in manifest.values() if "nav" in value(item, "properties").split()), None)
    contents = {
        resolved(name, value(entry, "href"))
        for entry in package.iter("{*}reference")
        if value(entry, "type") == "toc" and "#" not in value(entry, "href")
    }
    if navigation is not None:
        place = resolved(name, value(navigation, "href"))
        return _book(names, metadata, read_navigation(archive, place), contents | {place})
    listed = next((item for item in package.iter("{*}item") if "dtbncx" in value(item, "media-type")), None)
    entries = {} if listed is None else read_ncx(archive, resolved(name, value(listed, "href")))
    return _book(names, metadata, entries, contents)


def _book(names: list[str], metadata: etree._Element | None, entries: dict[str, Entry], contents: set[str]) -> _Book:
    texts: dict[str, list[str]] = {"title": [], "creator": [], "language": []}
    for element in metadata.iter() if metadata is not None else ():
        if local(element) in texts and folded(element.text or ""):
            texts[local(element)].append(folded(element.text or ""))
    # Unlike those of other documents, somebody gave it: "1984" and "Catch-22" are titles.
    title = next((text for text in texts["title"] if text.lower() not in NO_TITLES), "")
    kept = {"author": ", ".join(texts["creator"][:AUTHORS_MAX]), "language": "".join(texts["language"][:1])}
    return _Book(names, title, {key: text for key, text in kept.items() if text}, entries, frozenset(contents))


def _package_name(archive: Archive) -> str:
    try:
        container = read_part(archive, _CONTAINER, may_declare_type=True)
    except CorruptFile:
        container = None
    named = [value(root, "full-path") for root in (container.iter("{*}rootfile") if container is not None else ())]
    found = (name for name in archive.names if name.lower().endswith(".opf"))
    return next(filter(None, named), None) or next(found, "")


def _encrypted_parts(archive: Archive) -> set[str]:
    """Return the parts that cannot be read without the key of whoever sold the book."""
    try:
        root = read_part(archive, _ENCRYPTION, may_declare_type=True)
    except CorruptFile:
        return set()
    parts: set[str] = set()
    for data in root.iter("{*}EncryptedData") if root is not None else ():
        method = next((value(found, "Algorithm") for found in data.iter("{*}EncryptionMethod")), "")
        if method not in _FONT_METHODS:
            parts.update(resolved("", value(found, "URI")) for found in data.iter("{*}CipherReference"))
    return parts


def _is_apparatus(book: _Book, name: str, page: Page, raw: bytes) -> bool:
    """Whether a page is a cover or a table of contents, and nothing else."""
    if name in book.contents:
        return all(piece.kind is BlockKind.HEADING for piece in page.pieces) or is_of_links(raw)
    text = folded(" ".join(piece.text for piece in page.pieces[:2])).lower() if len(page.pieces) < 3 else ""
    return text != "" and (text in _COVERS or text == book.title.lower())


def _with_heading(pieces: list[Piece], entry: Entry | None) -> list[Piece]:
    """Give a chapter the heading that the table of contents has for it, unless it has one itself."""
    has_one = [piece.kind is BlockKind.HEADING for piece in pieces]
    if entry is None or not pieces or any(has_one[:_FIRST_PIECES]):
        return pieces
    for place, piece in enumerate(pieces[:_FIRST_PIECES]):
        if folded(piece.text).lower() == entry.label.lower():  # it stands there, but only looks like a heading
            return [*pieces[:place], replace(piece, kind=BlockKind.HEADING, level=1), *pieces[place + 1 :]]
    if any(has_one) and not entry.is_whole:  # the label is that of a place further down
        return pieces
    return [Piece(BlockKind.HEADING, entry.label, 1, 0, is_main=True, page=pieces[0].page), *pieces]
