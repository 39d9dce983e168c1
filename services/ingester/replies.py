"""What a parser child wrote, read with suspicion: its file may have taken it over; pure.

Whatever is of another type, or cannot be stored, is refused here and at once: the statements behind would take its fault for
theirs, and have the file tried again.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from services.ingester.parsing import PageUnit
from services.ingester.parsing.blocks import LineUnit
from shared.errors import ParserLimit
from shared.text import storable

NUMBER_MAX = 2**31 - 1
NAME_CHARACTERS_MAX = 1000
LIE = "the parser wrote what it should not"
Check = Callable[[Any], bool]
T = TypeVar("T")


def refuse() -> ParserLimit:
    """Return what is told of a child that wrote what no parser writes."""
    return ParserLimit(LIE)


def read_line(line: bytes) -> dict[str, Any]:
    """Return the object that stands on one line.

    Raises: ParserLimit.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise refuse() from None
    if not isinstance(message, dict):
        raise refuse()
    return message


def read_piece(text: str) -> bytes:
    """Return a piece of an attachment.

    Raises: ParserLimit.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise refuse() from None


def built(kind: Callable[..., T], told: object, checks: Mapping[str, Check]) -> T:
    """Make one of `kind` of what was told, when it has all the fields and no others, each as it has to be.

    Raises: ParserLimit.
    """
    if not isinstance(told, dict) or told.keys() != checks.keys():
        raise refuse()
    if not all(is_right(told[name]) for name, is_right in checks.items()):
        raise refuse()
    return kind(**told)


def is_text(value: object) -> bool:
    """Whether it is a text that the database can hold."""
    return isinstance(value, str) and not storable(value)[1]


def is_name(value: object) -> bool:
    """Whether it is a text as long as a file's name may be; it need not be storable yet."""
    return isinstance(value, str) and len(value) <= NAME_CHARACTERS_MAX


def _number(least: int) -> Check:
    # `True` is an `int` to `isinstance`.
    return lambda value: type(value) is int and least <= value <= NUMBER_MAX


def _or_none(is_right: Check) -> Check:
    return lambda value: value is None or is_right(value)


def _list_of(is_right: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _one_of(names: type[PageUnit] | type[LineUnit]) -> Check:
    known = frozenset(map(str, names))
    return lambda value: isinstance(value, str) and value in known


def _is_metadata(value: object) -> bool:
    return isinstance(value, dict) and all(is_text(name) and is_text(text) for name, text in value.items())


def _is_turn(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _COUNT(value[0])
        and _PLACE(value[1])
        and _or_none(is_text)(value[2])
    )


_COUNT, _PLACE = _number(0), _number(1)
HEAD: Mapping[str, Check] = {
    "media_type": is_text,
    "title": _or_none(is_text),
    "metadata": _is_metadata,
    "replaced_character_count": _COUNT,
    "page_unit": _one_of(PageUnit),
    "line_unit": _one_of(LineUnit),
    "page_count": _or_none(_PLACE),
    "character_count": _or_none(_PLACE),
}
CHUNK: Mapping[str, Check] = {
    "ordinal": _COUNT,
    "text": is_text,
    "prefix": is_text,
    "heading": is_text,
    "page": _or_none(_PLACE),
    "char_start": _COUNT,
    "char_end": _COUNT,
    "token_count": _PLACE,
    "page_label": _or_none(is_text),
    "page_turns": _list_of(_is_turn),
    "lines": _list_of(_PLACE),
}
