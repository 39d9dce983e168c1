"""JSON and JSON lines: every value with the names that lead to it, and with the line where it stands in the file.

The file is scanned and not loaded: nesting costs no recursion, numbers stay as they are written, names that come twice
come twice. What is no JSON is read as the text that it is.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from services.ingester.parsing.blocks import BlockKind, ParsedDocument
from services.ingester.parsing.fields import FieldWriter, path_of
from services.ingester.parsing.plain import parse_plain
from services.ingester.parsing.titles import meaningful_title

NESTING_MAX = 10_000
_TOKEN = re.compile(
    r"""[ \t\r\n]*+(?:
        (?P<string>"(?:[^"\\]++|\\.)*+")
      | (?P<mark>[\[\]{},:])
      | (?P<literal>-?(?:[0-9][0-9.eE+-]*+|Infinity)|NaN|true|false|null)
    )""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\r\n]*+")
_STRINGS = json.JSONDecoder(strict=False)
# Numbers stay as they are written, and names that come twice come twice.
_FLAT = json.JSONDecoder(strict=False, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=str)
_PLAIN = frozenset([str, bool, type(None)])
_WORDS = {True: "true", False: "false", None: "null"}
_TITLE_NAMES = ("title", "name")


class _NoJson(Exception):
    """The text is no JSON."""


class _Expected(Enum):
    VALUE = auto()
    NAME = auto()
    COLON = auto()
    COMMA = auto()


@dataclass(slots=True)
class _Container:
    """An object or array that is open. `record` numbers the values that belong together."""

    closing: str
    record: int
    is_empty: bool = True


class _Value(NamedTuple):
    record: int
    name: str
    text: str
    line: int
    depth: int  # of arrays and objects around it
    place: int  # counted from 0, of the outermost value that it belongs to


def parse_json(text: str, replaced: int) -> ParsedDocument:
    """Read one JSON value, or several that stand one behind the other. Raises: ParserLimit."""
    fields = FieldWriter(has_lines="\n" in text.strip())
    title: dict[str, str] = {}
    place = 0
    try:
        for value in _values(text):
            place = value.place
            fields.add(value.record, value.name, value.text, value.line)
            if value.depth == 1 and value.name in _TITLE_NAMES:
                title.setdefault(value.name, value.text)
    except _NoJson:
        return parse_json_lines(text, replaced) if _is_lines(text) else parse_plain(text, replaced)
    fields.flush()
    named = next((title[name] for name in _TITLE_NAMES if name in title), None) if place == 0 else None
    return fields.writer.document(meaningful_title(named), {}, replaced_before=replaced)


def parse_json_lines(text: str, replaced: int) -> ParsedDocument:
    """Read a file with one JSON value a line; a line that is none stays as it is. Raises: ParserLimit."""
    fields = FieldWriter()
    record = 0
    for number, line in enumerate(text.split("\n"), start=1):
        record += 1
        try:
            values = _flat_values(line) or list(_values(line))
        except _NoJson:
            fields.flush()
            fields.writer.add(BlockKind.LINES, line, line=number, is_joined=True)
            continue
        for value in values:
            fields.add(record + value.record, value.name, value.text, number)
        record += max((value.record for value in values), default=0)
    fields.flush()
    return fields.writer.document(None, {}, replaced_before=replaced)


def _flat_values(line: str) -> list[_Value] | None:
    """Return the values of an object that holds no other, or None: the json module reads it ten times as fast."""
    if not line.startswith("{"):
        return None
    try:
        pairs = _FLAT.decode(line)
    except (ValueError, RecursionError):
        return None
    if not pairs or any(type(value) not in _PLAIN for _, value in pairs):
        return None
    return [_Value(1, path_of([name]), _WORDS.get(value, value), 1, 1, 0) for name, value in pairs]


def _is_lines(text: str) -> bool:
    """Whether the first line is an object or array of its own: one line further down is broken, not the file."""
    first_line = text.lstrip().partition("\n")[0]
    if not first_line.startswith(("{", "[")):
        return False
    try:
        for _ in _values(first_line):
            pass
    except _NoJson:
        return False
    return True


def _values(text: str) -> Iterator[_Value]:
    """Scan a text and return its strings, numbers and words, in order. Raises: _NoJson."""
    scan = _Scan()
    line, at, length = 1, 0, len(text)
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            break
        kind = found.lastgroup or ""
        token, end = found[kind], found.end()
        start = end - len(token)
        if start > at:
            line += text.count("\n", at, start)
        if kind == "mark":
            scan.take_mark(token)
        elif scan.expected is _Expected.NAME and kind == "string":
            scan.take_name(_string(token))
        else:
            scan.begin_value()
            yield scan.value(_string(token) if kind == "string" else token, line)
        if kind == "string":
            line += token.count("\n")
        at = end
    if _SPACE.fullmatch(text, at, length) is None or scan.containers or scan.expected is not _Expected.VALUE:
        raise _NoJson
    if scan.place < 0:
        raise _NoJson


def _string(token: str) -> str:
    try:
        return str(_STRINGS.decode(token)) if "\\" in token else token[1:-1]
    except ValueError:
        raise _NoJson from None


class _Scan:
    """What is open at a place of the file, and what may come next there."""

    def __init__(self) -> None:
        self.containers: list[_Container] = []
        self.names: list[str] = []
        self.expected = _Expected.VALUE
        self.place = -1
        self._record_count = 0

    def begin_value(self) -> None:
        """See that a value may stand here."""
        if self.expected is not _Expected.VALUE:
            raise _NoJson
        if not self.containers:
            self.place += 1
            self._record_count += 1
        else:
            self.containers[-1].is_empty = False

    def value(self, text: str, line: int) -> _Value:
        """Return a value with the names that lead to it."""
        record = self.containers[-1].record if self.containers else self._record_count
        name = path_of(self.names)
        depth = len(self.containers)
        self._end_value()
        return _Value(record, name, text, line, depth, self.place)

    def take_name(self, name: str) -> None:
        """Begin a member of an object."""
        self.names.append(name)
        self.containers[-1].is_empty = False
        self.expected = _Expected.COLON

    def take_mark(self, mark: str) -> None:
        """Open, close or go on."""
        if mark in "{[":
            self._open(mark)
        elif mark in "}]":
            self._close(mark)
        elif mark == ":" and self.expected is _Expected.COLON:
            self.expected = _Expected.VALUE
        elif mark == "," and self.expected is _Expected.COMMA:
            self.expected = _Expected.NAME if self.containers[-1].closing == "}" else _Expected.VALUE
        else:
            raise _NoJson

    def _open(self, mark: str) -> None:
        self.begin_value()
        if len(self.containers) >= NESTING_MAX:
            raise _NoJson
        record = self.containers[-1].record if self.containers else self._record_count
        # An object in an array is a record of its own, and so is each part of the outermost object.
        if mark == "{" and self.containers and (self.containers[-1].closing == "]" or len(self.containers) == 1):
            self._record_count += 1
            record = self._record_count
        self.containers.append(_Container("}" if mark == "{" else "]", record))
        self.expected = _Expected.NAME if mark == "{" else _Expected.VALUE

    def _close(self, mark: str) -> None:
        if not self.containers or self.containers[-1].closing != mark:
            raise _NoJson
        may_close = _Expected.COMMA if not self.containers[-1].is_empty else None
        opening = _Expected.NAME if mark == "}" else _Expected.VALUE
        if self.expected is not may_close and not (self.containers[-1].is_empty and self.expected is opening):
            raise _NoJson
        self.containers.pop()
        self._end_value()

    def _end_value(self) -> None:
        if not self.containers:
            self.expected = _Expected.VALUE
            self.names.clear()
            return
        self.expected = _Expected.COMMA
        if self.containers[-1].closing == "}":
            self.names.pop()
