"""What a format is, and a file as the tests of its content see it; pure."""

import codecs
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import PurePosixPath

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.decoding import decode, looks_binary
from services.ingester.parsing.ole import root_names
from shared.errors import PermanentError

HEAD_BYTES = 8192
DECLARED_BYTES_MAX = 200
MANIFEST_BYTES_MAX = 1024 * 1024
_OPEN_DOCUMENT = re.compile(rb"media-type=[\"'](application/vnd\.oasis\.opendocument\.[a-z-]{1,40})[\"']")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Container(StrEnum):
    """What a file is made of: text, a zip, the container of the older office programs, or bytes of its own kind."""

    TEXT = "text"
    ZIP = "zip"
    OLE = "ole"
    BYTES = "bytes"


class Sample:
    """A file that nobody has read yet. Each view of it is made when a test first asks for it."""

    def __init__(self, name: str, content: bytes) -> None:
        path = PurePosixPath(name)
        self.file_name = path.name.lower()
        self.suffix = path.suffix.lower()
        self.content = content
        self.head = content[:HEAD_BYTES]

    @cached_property
    def container(self) -> Container:
        """What the file is made of, by its first bytes."""
        if self.head.startswith(_ZIP):
            return Container.ZIP
        if self.head.startswith(_OLE):
            return Container.OLE
        return Container.BYTES if looks_binary(self.head) else Container.TEXT

    @cached_property
    def text(self) -> str:
        """The beginning of a text."""
        head = self.head
        with contextlib.suppress(UnicodeDecodeError):
            # It may end within a character, which is no reason to guess at another encoding.
            head = codecs.getincrementaldecoder("utf-8")().decode(head).encode()
        return decode(head)[0]

    @cached_property
    def archive(self) -> Archive:
        """A zip container.

        Raises: CorruptFile · ParserLimit.
        """
        return Archive(self.content)

    @cached_property
    def parts(self) -> frozenset[str]:
        """The names of the parts of a zip container."""
        return frozenset(self.archive.names)

    def has_part(self, name: str) -> bool:
        """Whether a zip container has a part of that name, however it is spelled."""
        return self.archive.has(name)

    def has_part_below(self, folder: str) -> bool:
        """Whether a zip container has something in a folder."""
        return any(name.startswith(folder) for name in self.parts)

    @cached_property
    def declared_type(self) -> str:
        """What a book or an OpenDocument file says it is, in a part of its own; "" for other zip containers."""
        try:
            declared = self.archive.read("mimetype", bytes_max=DECLARED_BYTES_MAX)
            manifest = None if declared else self.archive.read("META-INF/manifest.xml", bytes_max=MANIFEST_BYTES_MAX)
        except PermanentError:  # a file of somebody's that happens to have this name
            return ""
        if manifest is not None:  # some programs leave the part out, and name the kind here alone
            found = _OPEN_DOCUMENT.search(manifest)
            declared = found[1] if found is not None else b""
        return (declared or b"").decode("ascii", errors="replace").strip()

    @cached_property
    def streams(self) -> frozenset[str] | None:
        """The names at the root of an older container; None when its directory cannot be read."""
        return root_names(self.content)

    def has_stream(self, start: str) -> bool:
        """Whether an older container has a stream at its root whose name begins so."""
        if self.streams is None:  # damaged: what its bytes show has to do
            return start.encode("utf-16-le") in self.content
        return any(name.startswith(start) for name in self.streams)


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file and its parser.

    `parse` takes the file's bytes, is pure, and raises PermanentError when it cannot. `suffixes` are endings of names
    with their dot, or whole names without one (`makefile`), in lower case. `is_it` tells by content, and only when it
    is certain: it wins over every name. A test sees files of its own `container` alone; one of BYTES sees every file.
    """

    media_type: str
    suffixes: tuple[str, ...]
    parse: Callable[[bytes], ParsedDocument]
    is_it: Callable[[Sample], bool] | None = None
    container: Container = Container.TEXT

    def holds(self, sample: Sample) -> bool:
        """Whether the content of a file is certainly of this format."""
        return (
            self.is_it is not None
            and self.container in (Container.BYTES, sample.container)
            and bool(self.is_it(sample))
        )

    def is_named(self, sample: Sample) -> bool:
        """Whether a file has a name of this format."""
        return sample.suffix in self.suffixes or sample.file_name in self.suffixes
