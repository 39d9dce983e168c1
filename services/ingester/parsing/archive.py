"""Parts of a zip container, read into bounded memory; nothing is written to disk."""

import io
import zipfile
import zlib
from collections.abc import Sequence

from shared.errors import CorruptFile, EncryptedFile, ParserLimit

ENTRIES_MAX = 20_000
# The library reads a whole directory before it can be asked how long it is: a million entries took 5 s and 285 MiB.
# Each has this mark. Parts that are containers themselves have their own, and are not what is counted here.
_DIRECTORY_MARK = b"PK\x01\x02"
MARKS_MAX = 200_000
# What all entries hold together when unpacked, whether they are read or not.
UNPACKED_BYTES_MAX = 1024 * 1024 * 1024
PART_BYTES_MAX = 128 * 1024 * 1024
# Deflate cannot do better than 1,032; the XML of long tables was seen at 60.
RATIO_MAX = 250
RATIO_FLOOR_BYTES = 16 * 1024 * 1024
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_IS_ENCRYPTED = 0x1


class Archive:
    """A zip file in memory that was checked before anything of it is unpacked."""

    def __init__(self, content: bytes) -> None:
        """Read the directory.

        Raises: CorruptFile · ParserLimit when it promises to expand without end.
        """
        marked = content.count(_DIRECTORY_MARK)
        if marked > MARKS_MAX:
            raise ParserLimit(f"the file holds some {marked:,} parts; at most {ENTRIES_MAX:,} are read")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
            raise CorruptFile(
                f"the file begins as a zip container and is none ({error}): save or copy it again"
            ) from None
        entries = self._zip.infolist()
        if len(entries) > ENTRIES_MAX:
            raise ParserLimit(f"the file holds {len(entries):,} parts; at most {ENTRIES_MAX:,} are read")
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > UNPACKED_BYTES_MAX or unpacked > max(RATIO_FLOOR_BYTES, RATIO_MAX * len(content)):
            raise ParserLimit(
                f"the file of {len(content):,} bytes would unpack to {unpacked:,}: it expands without end"
            )
        # Some programs that write workbooks under Windows part folders so.
        self._entries = {entry.filename.replace("\\", "/"): entry for entry in entries}
        self._spelled = {name.lower(): name for name in self._entries}

    @property
    def names(self) -> Sequence[str]:
        """The names of its parts."""
        return tuple(self._entries)

    def has(self, name: str) -> bool:
        """Whether there is a part of that name."""
        return self._find(name) is not None

    def _find(self, name: str) -> zipfile.ZipInfo | None:
        """Return the entry of a part: office programs know it however it is spelled, and others spell it as they like."""
        return self._entries.get(name) or self._entries.get(self._spelled.get(name.lower(), name))

    def read(self, name: str, *, bytes_max: int = PART_BYTES_MAX) -> bytes | None:
        """Return a part, or None when there is none of that name.

        Raises: CorruptFile · EncryptedFile · ParserLimit when the part is larger than `bytes_max`.
        """
        entry = self._find(name)
        if entry is None:
            return None
        if entry.flag_bits & _IS_ENCRYPTED:
            raise EncryptedFile
        if entry.compress_type not in _METHODS:
            raise CorruptFile(f"its part {name} is packed in a way that no office program uses: save it again")
        if entry.file_size > bytes_max:
            raise ParserLimit(f"its part {name} unpacks to {entry.file_size:,} bytes; at most {bytes_max:,} are read")
        try:
            with self._zip.open(entry) as part:
                # A directory may lie: no more than it says is unpacked, and what was said is checked at the end.
                return part.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            # ValueError: its directory says that it begins before the file does.
            raise CorruptFile(f"its part {name} is damaged ({error}): open and save the file again") from None
