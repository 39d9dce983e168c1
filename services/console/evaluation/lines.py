"""JSON objects, one a line, each with where it stands."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import AskboxError

# A document that is longer is no line of a collection.
LINE_BYTES_MAX = 64 * 1024**2
SHOWN_CHARACTERS_MAX = 60


class BadCollection(AskboxError):
    """The collection cannot be read: correct it."""


@dataclass(frozen=True, slots=True)
class Line:
    """An object, its number from 1, and the byte at which it begins."""

    path: Path
    number: int
    offset: int
    raw: bytes
    row: dict[str, Any]

    def wrong(self, reason: str) -> BadCollection:
        """Say what is wrong with it."""
        return BadCollection(f"{self.path}, line {self.number}: {reason}")

    def identifier(self, name: str = "_id") -> str:
        """Return a name, which may be a number.

        Raises: BadCollection.
        """
        value = self.row.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        """Return a text.

        Raises: BadCollection.
        """
        value = self.row.get(name)
        if not isinstance(value, str) or not (value.strip() or may_be_empty):
            raise self.wrong(f"`{name}` has to be a text, and is {_shown(value)}")
        return value

    def optional_text(self, name: str) -> str:
        """Return a text, or an empty one where there is none.

        Raises: BadCollection.
        """
        return "" if self.row.get(name) is None else self.text(name, may_be_empty=True)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty where there is none.

        Raises: BadCollection.
        """
        value = self.row.get(name)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            if value is None:
                return ()
            raise self.wrong(f"`{name}` has to be a list of texts, and is {_shown(value)}")
        return tuple(value)


def read_lines(path: Path) -> Iterator[Line]:
    """Read the objects of a file, one at a time; empty lines are passed over.

    Raises: BadCollection naming file and line.
    """
    try:
        with path.open("rb") as file:
            offset, number = 0, 0
            while raw := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if raw.strip():
                    yield Line(path, number, offset, raw, parse_object(path, number, raw))
                offset += len(raw)
    except OSError as error:
        raise BadCollection(f"{path} cannot be read: {error.strerror}") from None


def parse_object(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    """Parse one line.

    Raises: BadCollection.
    """
    if len(raw) > LINE_BYTES_MAX:
        raise BadCollection(f"{path}, line {number}: longer than {LINE_BYTES_MAX} bytes")
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadCollection(f"{path}, line {number}: this is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadCollection(f"{path}, line {number}: an object is wanted, and this is {_shown(row)}")
    return row


def _shown(value: object) -> str:
    return repr(value)[:SHOWN_CHARACTERS_MAX] if value is not None else "missing"
