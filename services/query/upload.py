"""A multipart body as it comes: parts, names, bounds. Keeps nothing but the piece in hand; knows no database."""

import asyncio
import logging
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from shared.errors import BodyTooLarge, RequestError, UnsupportedBody, UploadStalled

FILES_MAX = 1000
# Text fields beside the files; one of them is read.
FIELDS_MAX = 20
HEADERS_MAX = 8
HEADER_BYTES_MAX = 8192
NAME_BYTES_MAX = 2000
# What is waited for so many bytes, else whoever sends one a minute keeps a place for an hour; and for the whole body.
# Bytes that belong to no document are swept after an hour.
PACE_BYTES = 65_536
PACE_SECONDS_MAX = 60.0
UPLOAD_SECONDS_MAX = 3000.0

_DRIVE = re.compile(r"[A-Za-z]:")
# They reorder the text around them, so that a name looks like another one.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# It warns about every malformed body, quoting it.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class PartBegan:
    """A part begins: a file when it has a file name, which may be empty, else a text field."""

    field: str
    file_name: str | None


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is whole."""


Piece = PartBegan | bytes | PartEnded


def boundary_of(content_type: str | None) -> bytes:
    """Return what separates the parts of a body.

    Raises: UnsupportedBody when it has no parts; RequestError when it does not say what separates them.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedBody(
            "send the files as multipart/form-data, each part with a filename: "
            "curl -F file=@notes.md URL, or files=[…] of an HTTP library"
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise RequestError("the Content-Type has no boundary: let the HTTP library set this header")
    return boundary


async def paced(chunks: AsyncIterator[bytes], *, bytes_max: int) -> AsyncIterator[bytes]:
    """Yield a body's bytes.

    Raises: BodyTooLarge, UploadStalled, or RequestError when it breaks off.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + UPLOAD_SECONDS_MAX
    body_bytes = paced_bytes = 0
    patience_seconds = PACE_SECONDS_MAX
    while True:
        began_at = loop.time()
        try:
            # Around this wait alone: whoever stores the bytes has time-outs of their own.
            async with asyncio.timeout_at(min(ends_at, began_at + patience_seconds)):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise UploadStalled from None
        except ClientDisconnect:
            raise RequestError("the body broke off: send it again") from None
        if chunk is None:
            return
        body_bytes += len(chunk)
        patience_seconds -= loop.time() - began_at
        if body_bytes - paced_bytes >= PACE_BYTES:
            paced_bytes, patience_seconds = body_bytes, PACE_SECONDS_MAX
        if body_bytes > bytes_max:
            raise BodyTooLarge(
                f"one upload may have at most {bytes_max} bytes (ASKBOX_MAX_UPLOAD_BYTES): send fewer files at a time"
            )
        yield chunk


async def read_parts(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncGenerator[Piece, None]:
    """Yield the parts of a body in pieces.

    Raises: RequestError when it is no such body, has too many parts, or ends early.
    """
    parser = _Parser(boundary)
    async for chunk in chunks:
        for piece in parser.feed(chunk):
            yield piece
    parser.finish()


def storable_name(file_name: str) -> str | None:
    """Return a sent file name as a relative path, or None when nothing is left of it.

    Folders stay (`a/b.md`); what leads out of them, drives, control characters and characters that reorder text do not.
    """
    name = visible(unicodedata.normalize("NFC", file_name).replace("\\", "/"))
    parts = [part.strip() for part in name.split("/")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    kept = "/".join(part for part in parts if part not in {"", "."} and not _DRIVE.fullmatch(part))
    return kept if kept and len(kept.encode()) <= NAME_BYTES_MAX else None


def visible(name: str) -> str:
    """Return a name without what a terminal would obey: control characters, and those that reorder the text around them."""
    return "".join(c for c in name if unicodedata.category(c) not in {"Cc", "Cs", "Zl", "Zp"} and c not in _REORDERING)


class _Parser:
    """Turns the parser's callbacks into pieces."""

    def __init__(self, boundary: bytes) -> None:
        self._pieces: list[Piece] = []
        self._headers: dict[str, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._counts = {"file": 0, "field": 0}
        self._is_whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": lambda data, start, end: _extend(self._field, data[start:end]),
                    "on_header_value": lambda data, start, end: _extend(self._value, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": lambda data, start, end: self._pieces.append(data[start:end]),
                    "on_part_end": lambda: self._pieces.append(PartEnded()),
                    "on_end": self._end,
                },
                max_header_count=HEADERS_MAX,
                max_header_size=2**31,  # `_extend` bounds it, and says so
            )
        except FormParserError:
            raise RequestError("the boundary of the Content-Type is too long") from None

    def feed(self, chunk: bytes) -> list[Piece]:
        """Return the pieces that end in this chunk of the body."""
        self._pieces = []
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise RequestError(
                "the body is not what its Content-Type says, parts of multipart/form-data: let the HTTP library make it"
            ) from None
        return self._pieces

    def finish(self) -> None:
        """See that the last boundary has come."""
        if not self._is_whole:
            raise RequestError("the body ends before its last boundary: send it again")

    def _end(self) -> None:
        self._is_whole = True

    def _end_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        file_name = options.get(b"filename")
        self._count("field" if file_name is None else "file", FIELDS_MAX if file_name is None else FILES_MAX)
        name = None if file_name is None else _decode(file_name)
        self._pieces.append(PartBegan(_decode(options.get(b"name", b"")), name))

    def _count(self, kind: Literal["file", "field"], most: int) -> None:
        self._counts[kind] += 1
        if self._counts[kind] > most:
            raise BodyTooLarge(f"one upload may have at most {most} {kind}s: send the others in another one")


def _extend(kept: bytearray, more: bytes) -> None:
    kept += more
    if len(kept) > HEADER_BYTES_MAX:
        raise BodyTooLarge(f"the headers of a part are too long: a file's name may have at most {NAME_BYTES_MAX} bytes")


def _decode(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
