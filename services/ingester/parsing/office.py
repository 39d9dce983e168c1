"""Parts of office documents and books: XML that fetches nothing, the relations between parts, their properties; pure."""

import posixpath
from dataclasses import dataclass

from lxml import etree

from services.ingester.parsing.archive import Archive
from shared.errors import CorruptFile, ParserLimit

RELATIONS_MAX = 100_000
# What office programs read over: a prefix that was not declared, a name of a place that is none.
_HARMLESS = frozenset([etree.ErrorTypes.NS_ERR_UNDEFINED_NAMESPACE, etree.ErrorTypes.DTD_XMLID_VALUE])
CONTEXT_CHARACTERS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Relation:
    """What one part has to do with another."""

    kind: str
    target: str


def local(element: etree._Element) -> str:
    """Return a tag without its namespace: strict and transitional documents use different ones."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def child(element: etree._Element | None, name: str) -> etree._Element | None:
    """Return the first child of that name."""
    if element is not None:
        for inner in element:
            if local(inner) == name:
                return inner
    return None


def value(element: etree._Element | None, name: str) -> str:
    """Return an attribute by its name without namespace, or an empty string."""
    if element is None:
        return ""
    return next((str(held) for key, held in element.attrib.items() if key.rpartition("}")[2] == name), "")


def relation_id(element: etree._Element | None, name: str = "id") -> str:
    """Return an attribute that has a namespace, as names of relations have: `r:id` beside `id`."""
    if element is None:
        return ""
    return next((str(held) for key, held in element.attrib.items() if key.endswith("}" + name)), "")


def whole_number(text: str, default: int = 0) -> int:
    """Return a count of at most nine digits; an author's other numbers are none."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else default


def read_part(archive: Archive, name: str, *, may_declare_type: bool = False) -> etree._Element | None:
    """Parse one part, or return None when there is none of that name.

    Raises: CorruptFile · EncryptedFile · ParserLimit.
    """
    content = archive.read(name)
    return None if content is None else parse_xml(content, f"its part {name}", may_declare_type=may_declare_type)


def parse_xml(content: bytes, what: str, *, may_declare_type: bool = False) -> etree._Element:
    """Parse XML; entities stay as they are, nothing is fetched, and depth and length have the library's limits.

    Raises: CorruptFile · ParserLimit.
    """
    parser = _parser()
    try:
        try:
            root = etree.fromstring(content, parser)
        except etree.XMLSyntaxError:
            found = {entry.type for entry in parser.error_log}
            if not found or not found <= _HARMLESS:
                raise
            root = etree.fromstring(content, _parser(recover=True))
    except (etree.XMLSyntaxError, ValueError) as error:
        if getattr(error, "code", None) == etree.ErrorTypes.ERR_NO_MEMORY:
            raise ParserLimit(f"{what} needs more memory than the parser may have: split the file") from None
        raise CorruptFile(f"{what} is no proper XML ({error}): open and save the file again") from None
    if root.getroottree().docinfo.doctype and not may_declare_type:
        raise CorruptFile(f"{what} declares a document type, which no office program writes: save it again")
    return root


def _parser(*, recover: bool = False) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        recover=recover,
    )


def relations(archive: Archive, source: str) -> dict[str, Relation]:
    """Return the parts that another one refers to, by the names that it has for them; "" is the whole file."""
    folder, name = posixpath.split(source)
    root = read_part(archive, posixpath.join(folder, "_rels", f"{name}.rels"))
    return {
        relation.get("Id", str(place)): Relation(
            relation.get("Type", "").rpartition("/")[2],
            posixpath.normpath(posixpath.join("/", folder, relation.get("Target", ""))).lstrip("/"),
        )
        for place, relation in enumerate(root[:RELATIONS_MAX] if root is not None else ())
        if relation.get("TargetMode") != "External"
    }


def target(archive: Archive, source: str, kind: str) -> str | None:
    """Return the first part that another one names as its `kind`."""
    return next((found.target for found in relations(archive, source).values() if found.kind == kind), None)


def related(archive: Archive, source: str, kind: str) -> etree._Element | None:
    """Parse the part that another one names as its `kind`."""
    name = target(archive, source, kind)
    return None if name is None else read_part(archive, name)


def properties(archive: Archive) -> dict[str, str]:
    """Return the title, author and language that a document says it has."""
    return named_texts(
        related(archive, "", "core-properties"), {"title": "title", "creator": "author", "language": "language"}
    )


def named_texts(root: etree._Element | None, names: dict[str, str]) -> dict[str, str]:
    """Return the texts of an element's children by the names that are given for theirs; the first of each counts."""
    found: dict[str, str] = {}
    for entry in root if root is not None else ():
        if local(entry) in names and (entry.text or "").strip():
            found.setdefault(names[local(entry)], entry.text or "")
    return found
