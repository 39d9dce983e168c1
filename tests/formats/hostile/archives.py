"""Zip containers that lie, expand, overlap, hold a million parts, or lead elsewhere."""

import struct
import zlib
from collections.abc import Iterator

from tests.formats.hostile.recipe import (
    MIB,
    Entry,
    Hostile,
    Recipe,
    deflated,
    ending,
    noise,
    record,
    repeated,
    stored,
    told,
    zipped,
)

_TYPES = b'<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_TEXT = (
    f'<w:document xmlns:w="{_WORD}"><w:body><w:p><w:r><w:t>A harbour.</w:t></w:r></w:p></w:body></w:document>'.encode()
)
_REFUSED = "failed"


def document(*more: Entry, text: bytes = _TEXT) -> list[Entry]:
    """The parts of a small word-processor document, and others."""
    return [deflated("[Content_Types].xml", _TYPES), deflated("word/document.xml", text), *more]


def _many(count: int) -> bytes:
    empty = b"\x03\x00"
    entries = (Entry(b"word/%07d" % number, empty, 0) for number in range(count))
    return zipped([*document(), *entries])


def _overlapping(count: int) -> bytes:
    """Every line of the directory names the same packed bytes."""
    kernel = repeated("word/document.xml", b"", b" " * MIB, 64, b"")
    local = (
        struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, *told(kernel), len(kernel.name), 0) + kernel.name + kernel.packed
    )
    types = zipped([deflated("[Content_Types].xml", _TYPES)])
    begin = types[: types.index(b"PK\x01\x02")]
    directory = record(deflated("[Content_Types].xml", _TYPES), 0) + record(kernel, len(begin)) * count
    return begin + local + directory + ending(count + 1, len(directory), len(begin) + len(local))


def _quoted(count: int) -> bytes:
    """Each part's packed bytes begin with the next part's header, as a stored block: the parts nest."""
    kernel = repeated("word/document.xml", b"", b" " * MIB, 16, b"")
    body = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, *told(kernel), len(kernel.name), 0) + kernel.name + kernel.packed
    entries = [(kernel, 0)]
    packed, size = kernel.packed, kernel.unpacked_bytes
    for number in range(count):
        header = body[: len(body) - len(packed)]
        quoted = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF) + header
        packed, size = quoted + packed, size + len(header)
        entry = Entry(b"word/part%06d" % number, packed, size)
        head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, *told(entry), len(entry.name), 0) + entry.name
        entries = [(old, at + len(head) + 5) for old, at in entries] + [(entry, 0)]
        body = head + quoted + body[len(header) :]
    lines = b"".join(record(entry, at) for entry, at in entries)
    return body + lines + ending(len(entries), len(lines), len(body))


def _within(depth: int) -> bytes:
    inner = zipped(document())
    for _ in range(depth):
        inner = zipped([*document(), *(deflated(f"word/{number}.docx", inner) for number in range(10))])
    return inner


def _renamed(*names: bytes) -> bytes:
    return zipped(document(*(Entry(name, b"\x03\x00", 0) for name in names)))


def _sized(size: int, *, flags: int = 0, method: int = zlib.DEFLATED) -> bytes:
    entry = deflated("word/document.xml", _TEXT)
    return zipped([document()[0], Entry(entry.name, entry.packed, size, entry.crc, method, flags)])


def _cut(percent: int) -> bytes:
    whole = zipped(document(stored("word/media/image1.png", noise(20_000))))
    return whole[: len(whole) * percent // 100]


def _shifted() -> bytes:
    whole = bytearray(zipped(document()))
    struct.pack_into("<I", whole, len(whole) - 6, 0xFFFFFFF0)  # where the directory begins
    return bytes(whole)


def _zip64() -> bytes:
    whole = zipped(document())
    at = len(whole)
    large = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**62, 2**62, 2**63, 2**63)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    return whole + large + locator + ending(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return containers that are hostile themselves, whatever they hold."""
    yield Hostile("zip/million.docx", lambda: _many(recipe.sized(1_000_000, 250_000)), _REFUSED)
    yield Hostile("zip/many.docx", lambda: _many(150_000), _REFUSED)
    yield Hostile("zip/overlapping.docx", lambda: _overlapping(10_000), _REFUSED)
    yield Hostile("zip/quoted.docx", lambda: _quoted(recipe.sized(1000)))
    yield Hostile("zip/nested.docx", lambda: _within(6))
    yield Hostile("zip/nested.zip", lambda: _within(3) + b"", "ready")
    yield Hostile(
        "zip/parents.docx", lambda: _renamed(b"../../../../tmp/askbox-escaped", b"..\\..\\escaped", b"word/../../x")
    )
    yield Hostile("zip/absolute.docx", lambda: _renamed(b"/tmp/askbox-escaped", b"C:\\escaped", b"//server/escaped"))
    yield Hostile("zip/names.docx", lambda: _renamed(b"word/\x00.xml", b"\xff\xfe", b"word/" + b"n" * 60_000, b""))
    yield Hostile("zip/twice.docx", lambda: zipped([*document(), *document(text=b"<no")]))
    yield Hostile(
        "zip/link.docx",
        lambda: zipped(document(Entry(b"word/link", b"/etc/passwd", 11, zlib.crc32(b"/etc/passwd"), 0, 0, 0xA1FF0000))),
    )
    yield Hostile("zip/huge.docx", lambda: _sized(0xFFFFFFFE), _REFUSED)
    yield Hostile("zip/small.docx", lambda: _sized(3), _REFUSED)
    yield Hostile("zip/locked.docx", lambda: _sized(len(_TEXT), flags=1), _REFUSED)
    for method in (9, 12, 14, 93, 99):
        yield Hostile(f"zip/method{method}.docx", lambda method=method: _sized(len(_TEXT), method=method), _REFUSED)
    yield Hostile("zip/shifted.docx", _shifted, _REFUSED)
    yield Hostile("zip/zip64.docx", _zip64, _REFUSED)
    yield Hostile("zip/behind.docx", lambda: zipped(document(), before=b"#!/bin/sh\n" + b"x" * 70_000))
    yield Hostile("zip/comment.docx", lambda: zipped(document(), comment=ending(1, 5, 5) * 2500))
    yield Hostile("zip/empty.docx", lambda: ending(0, 0, 0), _REFUSED)
    yield Hostile("zip/endless.docx", lambda: b"PK\x03\x04" * recipe.sized(2_000_000), _REFUSED)
    yield Hostile("zip/endings.docx", lambda: ending(1, 46, 0) * recipe.sized(500_000), _REFUSED)
    for percent in (1, 10, 50, 90, 99):
        yield Hostile(f"zip/cut{percent}.docx", lambda percent=percent: _cut(percent), _REFUSED)
    yield Hostile(
        "zip/all-kinds.docx",
        lambda: zipped(
            document(
                stored("mimetype", b"application/epub+zip"),
                deflated("xl/workbook.xml", b"<workbook/>"),
                deflated("ppt/presentation.xml", b"<p/>"),
                deflated("content.xml", b"<office/>"),
                deflated("META-INF/container.xml", b"<container/>"),
            )
        ),
    )
