"""What hostile files are made of."""

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Recipe:
    """What they try to reach, and how large they are: 1.0 is what an author would do."""

    file: Path
    url: str
    scale: float = 1.0

    def sized(self, count: int, least: int = 1) -> int:
        """A count at this scale."""
        return max(least, round(count * self.scale))


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file and how it has to end: `ready`, `failed`, or either where both are right."""

    name: str
    write: Callable[[], bytes]
    end: str = ""


def noise(count: int, seed: int = 7) -> bytes:
    """Bytes that cannot be packed."""
    return random.Random(seed).randbytes(count)


@dataclass(frozen=True, slots=True)
class Entry:
    """A part of a zip as its directory tells of it, whether that is true or not. Units: bytes."""

    name: bytes
    packed: bytes
    unpacked_bytes: int
    crc: int = 0
    method: int = zlib.DEFLATED
    flags: int = 0
    attributes: int = 0


def stored(name: str, content: bytes) -> Entry:
    return Entry(name.encode(), content, len(content), zlib.crc32(content), 0)


def deflated(name: str, content: bytes) -> Entry:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return Entry(name.encode(), packer.compress(content) + packer.flush(), len(content), zlib.crc32(content))


def repeated(name: str, head: bytes, block: bytes, count: int, tail: bytes, *, tells: int | None = None) -> Entry:
    """A part of one block many times over, made without unpacking it; `tells` is what it says of its size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    middle = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself: it can be repeated
    last = packer.compress(tail) + packer.flush()
    crc = zlib.crc32(head)
    for _ in range(count if tells is None else 0):
        crc = zlib.crc32(block, crc)
    size = len(head) + len(block) * count + len(tail)
    return Entry(name.encode(), first + middle * count + last, size if tells is None else tells, zlib.crc32(tail, crc))


def zipped(entries: Iterable[Entry], *, before: bytes = b"", comment: bytes = b"") -> bytes:
    """Write a zip as its entries say."""
    body = bytearray(before)
    directory = bytearray()
    count = 0
    for entry in entries:
        directory += record(entry, len(body))
        body += (
            struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, *told(entry), len(entry.name), 0) + entry.name + entry.packed
        )
        count += 1
    return bytes(body + directory + ending(count, len(directory), len(body), comment))


def told(entry: Entry) -> Sequence[int]:
    """What a local header and the directory both say of a part."""
    return (entry.flags, entry.method, 0, 0x21, entry.crc, len(entry.packed), entry.unpacked_bytes)


def record(entry: Entry, at: int) -> bytes:
    """Write a line of the directory."""
    fields = (20, 20, *told(entry), len(entry.name), 0, 0, 0, 0, entry.attributes, at)
    return struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fields) + entry.name


def ending(count: int, directory_bytes: int, at: int, comment: bytes = b"") -> bytes:
    """Write what stands behind the directory."""
    short = min(count, 0xFFFF)
    return struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, short, short, directory_bytes, at, len(comment)) + comment


LAUGHS = "".join(
    f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' if level else '<!ENTITY l0 "ha">' for level in range(10)
)


def entity_attacks(recipe: Recipe, root: str) -> dict[str, tuple[str, str]]:
    """Return document types with the text that refers to them, by what they try."""
    huge = "x" * recipe.sized(200_000)
    uri = recipe.file.as_uri()
    return {
        "laughs": (f"<!DOCTYPE {root} [{LAUGHS}]>", "&l9;"),
        "quadratic": (f'<!DOCTYPE {root} [<!ENTITY q "{huge}">]>', "&q;" * recipe.sized(50_000)),
        "xxe-file": (f'<!DOCTYPE {root} [<!ENTITY e SYSTEM "{uri}">]>', "&e;"),
        "xxe-http": (f'<!DOCTYPE {root} [<!ENTITY e SYSTEM "{recipe.url}entity">]>', "&e;"),
        "xxe-parameter": (
            f'<!DOCTYPE {root} [<!ENTITY % p SYSTEM "{recipe.url}dtd"> %p; <!ENTITY % f SYSTEM "{uri}"> %f;]>',
            "text",
        ),
        "xxe-type": (f'<!DOCTYPE {root} SYSTEM "{recipe.url}type">', "text"),
    }
