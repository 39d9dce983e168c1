"""What a parser child wrote, read with suspicion: its file may have taken it over; pure.

Whatever is of another type, or cannot be stored, is refused here and at once: the statements behind would take its fault for
theirs, and have the file tried again.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from services.ingester.chunking import CHARACTERS_PER_TOKEN_MAX, CONTEXT_TOKENS_MAX, PREFIX_TOKENS_MAX
from services.ingester.parsing import PageUnit
from services.ingester.parsing.blocks import LineUnit
from services.ingester.parsing.writer import (
    HEADING_CHARACTERS_MAX,
    LEVEL_MAX,
    MEDIA_TYPE_CHARACTERS_MAX,
    METADATA_CHARACTERS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_NAME_CHARACTERS_MAX,
    TITLE_CHARACTERS_MAX,
)
from shared.errors import ParserLimit
from shared.text import storable

NUMBER_MAX = 2**31 - 1
NAME_CHARACTERS_MAX = 1000
# Title and headings on one line, the context on the next.
PREFIX_CHARACTERS_MAX = (PREFIX_TOKENS_MAX + CONTEXT_TOKENS_MAX) * CHARACTERS_PER_TOKEN_MAX + 1
# One heading of each level, those of none included, with what stands between them.
PATH_CHARACTERS_MAX = (LEVEL_MAX + 1) * (HEADING_CHARACTERS_MAX + len(" > "))
# Each place of a chunk is a piece of at least a token, or a line of its own; no model reads so many.
PLACES_MAX = 65_536
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


def _text(length_max: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= length_max and is_text(value)


def is_name(value: object) -> bool:
    """Whether it is a text as long as a file's name may be; it need not be storable yet."""
    return isinstance(value, str) and len(value) <= NAME_CHARACTERS_MAX


def _number(least: int) -> Check:
    # `True` is an `int` to `isinstance`.
    return lambda value: type(value) is int and least <= value <= NUMBER_MAX


def _or_none(is_right: Check) -> Check:
    return lambda value: value is None or is_right(value)


def _list_of(is_right: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= PLACES_MAX and all(map(is_right, value))


def _one_of(names: type[PageUnit] | type[LineUnit]) -> Check:
    known = frozenset(map(str, names))
    return lambda value: isinstance(value, str) and value in known


def _is_metadata(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= METADATA_ENTRIES_MAX
        and all(_METADATA_NAME(name) and _METADATA_TEXT(text) for name, text in value.items())
    )


def _is_turn(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and _COUNT(value[0]) and _PLACE(value[1]) and _LABEL(value[2])


_COUNT, _PLACE = _number(0), _number(1)
_METADATA_NAME, _METADATA_TEXT = _text(METADATA_NAME_CHARACTERS_MAX), _text(METADATA_CHARACTERS_MAX)
_LABEL = _or_none(_text(TITLE_CHARACTERS_MAX))
HEAD: Mapping[str, Check] = {
    "media_type": _text(MEDIA_TYPE_CHARACTERS_MAX),
    "title": _or_none(_text(TITLE_CHARACTERS_MAX)),
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
    "prefix": _text(PREFIX_CHARACTERS_MAX),
    "heading": _text(PATH_CHARACTERS_MAX),
    "page": _or_none(_PLACE),
    "char_start": _COUNT,
    "char_end": _COUNT,
    "token_count": _PLACE,
    "page_label": _LABEL,
    "page_turns": _list_of(_is_turn),
    "lines": _list_of(_PLACE),
}
