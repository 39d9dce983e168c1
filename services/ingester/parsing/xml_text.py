"""XML of any kind: the text of its elements in order, each with the line where it stands in the file.

A short text has the names of its elements before it (`country > capital: Ottawa`), as a value in JSON has; a longer one
is a paragraph. Nothing is fetched, and no entity is expanded but short ones that hold plain text. From the first error
on, the file is read as the text that it is.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.fields import VALUE_CHARACTERS_MAX, FieldWriter, path_of, pieces_of
from services.ingester.parsing.html import declared_encoding
from services.ingester.parsing.plain import plain_blocks
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import folded

NESTING_MAX = 50_000
_START = re.compile(r"\s*<\?xml\s")
_SLICE_CHARACTERS = 1024 * 1024
_TAG_CHARACTERS_MAX = 1000
_FORBIDDEN = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_ENTITIES_MAX = 1000
_ENTITY_CHARACTERS_MAX = 200
_EXPANDED_CHARACTERS_MAX = 4 * 1024 * 1024
# The parser adds all of them to each element, wanted or not: 2,000 of them made a day's work of 200 KB.
_DEFAULTS_MAX = 100
# Whoever writes so many neighbours writes a list, not a sentence with marked words.
_NEIGHBOURS_MAX = 32
_MIXED_CHARACTERS_MAX = 4000
_HEADINGS = frozenset(["title", "head", "heading"])
# Elements whose names say nothing of their text. In kinds that draw, attributes are not words.
_RUNNING_NAMES = (
    "p para simpara text t content paragraph li item listitem entry td th cell line l quote note tspan seg s w body"
)
_RUNNING = frozenset(_RUNNING_NAMES.split())
_DRAWN = frozenset(["svg"])
_SILENT_ATTRIBUTES = frozenset(["xmlns", "style", "class", "href", "src", "width", "height"])


def looks_like_xml(head: str) -> bool:
    """Whether a text begins as XML that says what it is."""
    return _START.match(head) is not None


def parse_xml(content: bytes) -> ParsedDocument:
    """Read an XML file. Raises: ParserLimit."""
    text, replaced = decode(content, declared_encoding(content))
    reader = _Reader()
    error_at = reader.read(text)
    writer = reader.fields.writer
    title = meaningful_title(writer.main_heading)
    if error_at is not None:
        rest = text[error_at:]
        line = text.count("\n", 0, error_at)
        for block in plain_blocks(rest):
            writer.add(block.kind, rest[block.start : block.end], line=line + (block.line or 1))
    return writer.document(title, {}, replaced_before=replaced)


class _Endless(Exception):
    """An author nests elements, or adds attributes to them, without end."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """The text of an element or attribute that nobody has written yet."""

    name: str
    text: str
    line: int
    is_attribute: bool = False


@dataclass(slots=True)
class _Element:
    """An element that is open."""

    name: str
    number: int
    heading_level: int  # of a title that stands in it
    is_inline: bool
    attributes: list[_Piece]
    parts: list[str]  # an inline element writes into those of the element that it is in
    length: int = 0
    text_line: int = 0
    has_text: bool = False
    has_children: bool = False
    has_title: bool = False
    pieces: list[_Piece] = field(default_factory=list)


class _Reader:
    """Writes what the elements hold, while they are visited; only the innermost two have anything waiting."""

    def __init__(self) -> None:
        self.fields = FieldWriter()
        self._elements: list[_Element] = []
        self._names: list[str] = []
        self._count = 0
        self._entities: dict[str, str] = {}
        self._expanded_characters = 0
        self._stopped_at = 0
        self._defaults_count = 0
        self._is_drawn = False
        self._parser = expat.ParserCreate("utf-8")
        self._parser.specified_attributes = True  # what is declared once is not said by each element
        self._parser.UseForeignDTD(True)  # a name such as `nbsp` that nothing declares is then no error
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text
        self._parser.EntityDeclHandler = self._declare
        self._parser.AttlistDeclHandler = self._count_default
        self._parser.DefaultHandler = self._take_other  # its presence keeps entities from being expanded

    def read(self, text: str) -> int | None:
        """Read all of it and return the character at which it stops being XML, if it does."""
        error_at = None
        try:
            for part in _slices(text):
                self._parser.Parse(_FORBIDDEN.sub(" ", part).encode(), False)
            self._parser.Parse(b"", True)
        except expat.ExpatError:
            error_at = _tag_at(text, _character_at(text, self._parser.ErrorByteIndex))
        except _Endless:
            error_at = _character_at(text, self._stopped_at)
        while self._elements:  # there are none, unless there was an error
            self._end("")
        self.fields.flush()
        return error_at

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._elements) >= NESTING_MAX:
            self._stopped_at = self._parser.CurrentByteIndex
            raise _Endless
        name = tag.rpartition(":")[2]
        line = self._parser.CurrentLineNumber
        parent = self._elements[-1] if self._elements else None
        if parent is None:
            self._is_drawn = name in _DRAWN
        else:
            self._enter(parent)
        is_inline = parent is not None and (parent.has_text or parent.is_inline)
        level = 1 if parent is None else parent.heading_level + parent.has_title
        self._count += 1
        self._names.append(name)
        kept = [] if is_inline or self._is_drawn or name in _RUNNING else list(self._attributes(attributes, line))
        parts = parent.parts if is_inline and parent is not None else []
        self._elements.append(_Element(name, self._count, level, is_inline, kept, parts))

    def _enter(self, parent: _Element) -> None:
        """Prepare an element for a child: what waits around it cannot be part of one sentence any more."""
        parent.has_children = True
        if len(self._elements) > 1:
            self._write_pieces(self._elements[-2])
        if not parent.is_inline:
            self._write(parent, parent.attributes)
            parent.attributes = []
            if parent.length > _MIXED_CHARACTERS_MAX:
                self._write_own(parent)

    def _attributes(self, attributes: dict[str, str], line: int) -> Iterator[_Piece]:
        for name, text in attributes.items():
            if ":" not in name and name not in _SILENT_ATTRIBUTES and text.strip():
                yield _Piece(self._path(name), text, line, is_attribute=True)

    def _path(self, *more: str) -> str:
        """Return the names that lead to a text, without that of the root, which holds everything."""
        return path_of([*self._names[1:][-10:], *more] if len(self._names) > 1 else [*self._names, *more])

    def _add_text(self, text: str) -> None:
        if not self._elements:
            return
        element = self._elements[-1]
        element.parts.append(text)
        element.length += len(text)
        if element.has_text or text.isspace():
            return
        element.has_text = True
        if element.pieces:  # the elements before were marked words of this sentence
            element.text_line = element.pieces[0].line
            element.parts.insert(0, " ".join(piece.text for piece in element.pieces))
            element.pieces = []
        else:
            element.text_line = self._parser.CurrentLineNumber

    def _end(self, _: str) -> None:
        element = self._elements.pop()
        parent = self._elements[-1] if self._elements else None
        if element.is_inline:
            pass
        elif parent is None or element.has_children or element.name in _HEADINGS:
            self._write_own(element)
        else:
            self._hand_on(element, parent)
        self._names.pop()

    def _hand_on(self, element: _Element, parent: _Element) -> None:
        """Let an element without children wait until it is known whether its parent is a sentence or a record."""
        if not element.has_text:
            self._write_pieces(parent)
            self._write(element, element.attributes)
            return
        if len(parent.pieces) >= _NEIGHBOURS_MAX:
            self._write_pieces(parent)
        parent.pieces += [*element.attributes, self._own_piece(element)]

    def _own_piece(self, element: _Element) -> _Piece:
        text = "\n".join(line.strip() for line in "".join(element.parts).split("\n")).strip()
        return _Piece("" if element.name in _RUNNING else self._path(), text, element.text_line)

    def _write_own(self, element: _Element) -> None:
        """Write what an element holds itself."""
        self._write(element, element.attributes)
        self._write_pieces(element)
        if not element.has_text:
            return
        piece = self._own_piece(element)
        parent = self._elements[-1] if self._elements else None
        if element.name in _HEADINGS and parent is not None and parent is not element and not element.is_inline:
            self._write_pieces(parent)
            self._write_heading(piece, parent)
        else:
            self._write(element, [piece])
        element.parts, element.length, element.has_text = [], 0, False

    def _write_heading(self, piece: _Piece, parent: _Element) -> None:
        self.fields.flush()
        self.fields.writer.add(BlockKind.HEADING, folded(piece.text), level=parent.heading_level, line=piece.line)
        parent.has_title = True
        if parent.name == "info" and len(self._elements) > 1:
            self._elements[-2].has_title = True

    def _write_pieces(self, element: _Element) -> None:
        self._write(element, element.pieces)
        element.pieces = []

    def _write(self, element: _Element, pieces: list[_Piece]) -> None:
        for piece in pieces:
            if piece.name and "\n" not in piece.text and len(piece.text) <= VALUE_CHARACTERS_MAX:
                self.fields.add(element.number, piece.name, piece.text, piece.line)
            else:
                self._write_text(piece)

    def _write_text(self, piece: _Piece) -> None:
        self.fields.flush()
        parts = pieces_of(piece.text)
        if len(parts) == 1:
            self.fields.writer.add(BlockKind.PROSE, parts[0].text, line=piece.line)
            return
        for part in parts:  # of a page in an element, as feeds hold them
            for text in part.text.split("\n"):
                self.fields.write(part.kind, text, piece.line, context=part.context)

    def _declare(
        self, name: str, is_parameter: int, value: str | None, _base: str | None, _system: str | None, *_: str | None
    ) -> None:
        """Remember an entity that is a short plain text."""
        is_plain = value is not None and len(value) <= _ENTITY_CHARACTERS_MAX and not set("&<%") & set(value)
        if is_plain and value is not None and not is_parameter and len(self._entities) < _ENTITIES_MAX:
            self._entities.setdefault(name, value)

    def _count_default(self, _element: str, _name: str, _kind: str, default: str | None, *_: object) -> None:
        self._defaults_count += default is not None
        if self._defaults_count > _DEFAULTS_MAX:
            raise _Endless

    def _take_other(self, data: str) -> None:
        """Read the name of an entity; declarations and remarks come here too."""
        if not (data.startswith("&") and data.endswith(";") and self._elements):
            return
        text = self._entities.get(data[1:-1]) or html.unescape(data)
        self._expanded_characters += len(text)
        self._add_text(text if self._expanded_characters <= _EXPANDED_CHARACTERS_MAX else data)


def _slices(text: str) -> Iterator[str]:
    for at in range(0, len(text), _SLICE_CHARACTERS):
        yield text[at : at + _SLICE_CHARACTERS]


def _tag_at(text: str, at: int) -> int:
    """Return where the tag begins in which a place stands, or that place."""
    begin = text.rfind("<", max(0, at - _TAG_CHARACTERS_MAX), at)
    return at if begin < 0 or ">" in text[begin:at] else begin


def _character_at(text: str, byte_index: int) -> int:
    """Return the place of a byte of the text's UTF-8, counted in characters."""
    at = 0
    for part in _slices(text):
        encoded = part.encode()
        if byte_index <= len(encoded):
            return at + len(encoded[: max(0, byte_index)].decode(errors="ignore"))
        byte_index -= len(encoded)
        at += len(part)
    return at
