"""The directory of the container that the older office programs use (Compound File Binary); pure, bounded."""

import struct

ENTRIES_MAX = 65_536
_HEADER_BYTES = 512
_ENTRY_BYTES = 128
_NAME_BYTES = 64
_SECTOR_MAX = 0xFFFFFFFA  # from here on numbers are marks: end of a chain, free
_NO_ENTRY = 0xFFFFFFFF


def root_names(content: bytes) -> frozenset[str] | None:
    """Return the names at the root of a container, or None when its directory cannot be read.

    Names below are left out: what is embedded in a document says nothing of it.
    """
    try:
        entries = _directory(content)
        return frozenset(_siblings(entries, struct.unpack_from("<I", entries, 76)[0]))
    except (struct.error, IndexError, UnicodeDecodeError):
        return None


def _directory(content: bytes) -> bytes:
    """Follow the chain of the directory's sectors through the table of chains."""
    sector_bytes = 1 << min(struct.unpack_from("<H", content, 30)[0], 16)
    if sector_bytes < _HEADER_BYTES:
        raise IndexError(sector_bytes)
    sector = struct.unpack_from("<I", content, 48)[0]
    found: list[bytes] = []
    seen: set[int] = set()
    while sector < _SECTOR_MAX and sector not in seen and len(found) * sector_bytes < ENTRIES_MAX * _ENTRY_BYTES:
        seen.add(sector)
        start = (sector + 1) * sector_bytes
        found.append(content[start : start + sector_bytes])
        sector = _next_sector(content, sector, sector_bytes)
    return b"".join(found)


def _next_sector(content: bytes, sector: int, sector_bytes: int) -> int:
    """Look up a chain's next sector; only tables that the header names are read, as those of all but huge files are."""
    per_table = sector_bytes // 4
    table = sector // per_table
    if table >= (_HEADER_BYTES - 76) // 4:
        return _NO_ENTRY
    table_sector = struct.unpack_from("<I", content, 76 + 4 * table)[0]
    return int(struct.unpack_from("<I", content, (table_sector + 1) * sector_bytes + 4 * (sector % per_table))[0])


def _siblings(entries: bytes, first: int) -> list[str]:
    """Return the names of an entry and its siblings, which stand in a tree whose shape an author decides."""
    names: list[str] = []
    stack = [first]
    seen: set[int] = set()
    while stack:
        number = stack.pop()
        if number >= _SECTOR_MAX or number in seen or len(seen) >= ENTRIES_MAX:
            continue
        seen.add(number)
        at = number * _ENTRY_BYTES
        name_bytes, left, right = struct.unpack_from(f"<{_NAME_BYTES}xHxxII", entries, at)
        name = entries[at : at + min(name_bytes, _NAME_BYTES)]
        names.append(name[: len(name) // 2 * 2].decode("utf-16-le", "replace").rstrip("\x00"))
        stack += [right, left]
    return names
