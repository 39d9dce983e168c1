"""Writes named values as lines "name: value", for formats that hold records: JSON and XML; pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from services.ingester.parsing.blocks import BlockKind
from services.ingester.parsing.html import read_page
from services.ingester.parsing.html_reader import Piece
from services.ingester.parsing.writer import TextWriter, folded
from shared.errors import PermanentError
from shared.text import storable

NAME_CHARACTERS_MAX = 100
# Of a deeper value the innermost names stay.
NAMES_MAX = 8
# A longer value is a text of its own, read as sentences; a longer record on one line is divided between its fields.
VALUE_CHARACTERS_MAX = 300
ROW_CHARACTERS_MAX = 1000
FIELDS_MAX = 2000
_GAP_LINES_MAX = 8
_MARKUP = re.compile(
    r"</(?:p|div|span|a|b|i|em|strong|h[1-6]|ul|ol|li|table|tr|td|pre|code|blockquote|body|html)>|<br ?/?>",
    re.IGNORECASE,
)
_DATA_ADDRESS = "data:"
_DATA_CHARACTERS_MIN = 200


class _Field(NamedTuple):
    name: str
    value: str
    line: int


def path_of(names: Sequence[str]) -> str:
    """Join the names that lead to a value. Not with dots: PostgreSQL takes `a.b` for a host and finds neither word."""
    inner = [_short(name) for name in names[-NAMES_MAX:]]
    return " > ".join(["…", *inner] if len(names) > NAMES_MAX else inner)


@lru_cache(maxsize=1024)  # records repeat their names
def _short(name: str) -> str:
    return folded(name[:NAME_CHARACTERS_MAX])


def pieces_of(value: str) -> list[Piece]:
    """Return a value as it is, or what a part of a page says that somebody put into it."""
    plain = [Piece(BlockKind.PROSE, value.strip(), 0, 0, is_main=True)]
    if not _has_markup(value):
        return plain
    try:
        pieces = read_page(storable(value)[0].encode(), is_whole=True).pieces  # JSON may spell half a pair
    except PermanentError:
        return plain
    shown = [
        replace(piece, kind=BlockKind.PROSE, level=0) if piece.kind is BlockKind.HEADING else piece for piece in pieces
    ]
    return shown or plain


def _has_markup(value: str) -> bool:
    return ("</" in value or "<br" in value) and _MARKUP.search(value) is not None


class FieldWriter:
    """Collects the fields of one record after the other.

    A record on one line of the file becomes a row. One on several lines keeps them, with empty lines where the file has
    lines without a value, so that the lines of the text are those of the file.
    """

    def __init__(self, *, has_lines: bool = True) -> None:
        """Write without lines where the file has only one: nobody finds anything by that."""
        self._has_lines = has_lines
        self.writer = TextWriter()
        self._fields: list[_Field] = []
        self._group = 0

    def add(self, group: int, name: str, value: str, line: int) -> None:
        """Write a value of the record `group`. Raises: ParserLimit."""
        if group != self._group or len(self._fields) >= FIELDS_MAX:
            self.flush()
            self._group = group
        if value.startswith(_DATA_ADDRESS) and len(value) >= _DATA_CHARACTERS_MIN:
            value = value[: value.find(",", 0, _DATA_CHARACTERS_MIN)]  # a picture or font, not words
        if len(value) <= VALUE_CHARACTERS_MAX and "\n" not in value and not _has_markup(value):
            self._fields.append(_Field(name, value.strip(), line))
            return
        pieces = pieces_of(value)
        if len(pieces) == 1 and "\n" not in pieces[0].text and len(pieces[0].text) <= VALUE_CHARACTERS_MAX:
            self._fields.append(_Field(name, pieces[0].text, line))
            return
        self.flush()
        for piece in pieces:
            for part in piece.text.split("\n"):
                if part.strip():
                    self.write(piece.kind, _named(name, part.strip()), line, context=piece.context)
                    name = ""

    def flush(self) -> None:
        """Write what is left of the record."""
        fields, self._fields = [field for field in self._fields if field.value], []
        lines: list[str] = []
        first = 0
        for line, group in groupby(fields, key=lambda field: field.line):
            texts = list(_texts(list(group)))
            row = " | ".join(texts)
            if lines and (len(row) > ROW_CHARACTERS_MAX or line - first - len(lines) > _GAP_LINES_MAX):
                self._write(lines, first)
                lines = []
            if len(row) > ROW_CHARACTERS_MAX:
                for text in texts:
                    self._write([text], line)
                continue
            first = first if lines else line
            lines += [""] * (line - first - len(lines)) + [row]
        self._write(lines, first)

    def _write(self, lines: list[str], first: int) -> None:
        kind = BlockKind.LINES if len(lines) > 1 else BlockKind.ROW
        self.write(kind, "\n".join(lines), first)

    def write(self, kind: BlockKind, text: str, line: int, *, context: str = "") -> None:
        """Write something that is no field. Raises: ParserLimit."""
        self.writer.add(kind, text, line=line if self._has_lines else None, context=context, is_joined=True)


def _texts(fields: list[_Field]) -> Iterator[str]:
    """Return "name: value" for each field of a line, and "name: value, value" for neighbours of one name."""
    for name, group in groupby(fields, key=lambda field: field.name):
        values: list[str] = []
        length = 0
        for field in group:
            if values and length + len(field.value) > ROW_CHARACTERS_MAX:
                yield _named(name, ", ".join(values))
                values, length = [], 0
            values.append(field.value)
            length += len(field.value) + 2
        yield _named(name, ", ".join(values))


def _named(name: str, value: str) -> str:
    return f"{name}: {value}" if name else value
