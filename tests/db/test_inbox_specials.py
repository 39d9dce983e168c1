"""Everything that can lie in a folder: what is no ordinary file, and names that nobody expects."""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.ingester.inbox import DEPTH_MAX
from services.ingester.paths import inbox_uri
from tests.db.test_watch import inbox, until_documents, watching
from tests.waiting import until

__all__ = ["inbox"]

SECRET = b"canary-7f1d: it lies outside the inbox"
SCAN_SECONDS_MAX = 2.0
# What a pool and the second filling open.
CONNECTIONS_MAX = 12
_SET_FLAGS, _IMMUTABLE = 0x40086602, 0x10
_UMOUNT_LAZILY = 2

REFUSED, LINK, HARD_LINK = "not a regular file", "symbolic link", "hard link"
TOO_LARGE, NO_COLLECTION, TEMPORARY, HIDDEN = (
    "ASKBOX_MAX_FILE_BYTES",
    "cannot name a collection",
    "temporary file",
    "hidden",
)

TAKEN_NAMES = {
    "255 bytes": "n" * 252 + ".md",
    "255 bytes of long letters": "ÿ" * 126 + ".md",
    "no UTF-8": os.fsdecode(b"caf\xe9\xff\xfe.md"),
    "half a surrogate": os.fsdecode(b"\xed\xa0\x80.md"),
    "newline": "two\nlines.md",
    "tab": "a\tb.md",
    "escape": "\x1b]52;c;YQ==\x07.md",
    "carriage return": "a\rb.md",
    "leading dash": "-rf.md",
    "dash": "-",
    "option": "--help",
    "right to left": "gpj\u202edm.exe.md",
    "Hebrew": "שלום.md",
    "composed": unicodedata.normalize("NFC", "Ünïcode.md"),
    "decomposed": unicodedata.normalize("NFD", "Ünïcode.md"),
    "lower case": "case.md",
    "upper case": "CASE.md",
    "percent": "100%.md",
    "what looks encoded": "a%0Ab.md",
    "leading space": " leading.md",
    "trailing space": "trailing.md ",
    "backslash": "a\\..\\..\\etc\\passwd",
    "quotes": "'; DROP TABLE document; --.md",
    "line separator": "a\u2028b.md",
    "zero width": "a\u200bb.md",
    "emoji": "🧾.md",
    "no ending": "README",
    "device of another system": "con.md",
    "letters of a URI": "inbox:a.md",
    "query": "a?b=c#d.md",
    "glob": "*.md",
    "folder with a newline": "new\nline/a.md",
    "folder that is no UTF-8": os.fsdecode(b"f\xff/a.md"),
    "folder that is a number": "1/a.md",
    "folder with an ending": "a.pdf/a.md",
    "folder of dashes": "--/a.md",
    "folder with a line separator": "l\u2028s/a.md",
    "folder in other letters": "L\u2028S/a.md",
}
SKIPPED_NAMES = {
    "two dots and more": ("..notes.md", HIDDEN),
    "three dots": ("...", HIDDEN),
    "two dots and a path": ("..\\..\\etc\\passwd", HIDDEN),
    "office lock": ("~$report.docx", TEMPORARY),
    "long folder": ("c" * 255 + "/a.md", NO_COLLECTION),
    "folder that begins with a space": (" team/a.md", NO_COLLECTION),
    "folder that ends with a space": ("team\u3000/a.md", NO_COLLECTION),
    "folder whose name grows": ("\n" * 90 + "/a.md", NO_COLLECTION),
}


@dataclass
class Zoo:
    """What was put into an inbox: names that are to become documents, and reasons for those that are not."""

    inbox: Path
    outside: Path
    taken: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    cases: int = 0
    ends: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def put(self, name: str, content: bytes = b"an ordinary file\n") -> Path:
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.taken.add(name)
        return path

    def attempt(self, name: str, make: Callable[[Path], object], reason: str) -> None:
        """Make something that is not taken, where the system lets us."""
        try:
            make(self.inbox / name)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY):
                raise
            self.missing.add(name)
            return
        self.skipped[name] = reason
        self.cases += 1

    def fill(self, prefix: str) -> None:
        """Put in everything there is; the prefix keeps a second filling apart."""
        for name in TAKEN_NAMES.values():
            folder, _, last = name.rpartition("/")
            path = f"{prefix}{folder}/{last}" if folder else f"{prefix}/{name}"
            self.put(path, os.fsencode(f"{path}\n"))
            self.cases += 1
        for name, reason in SKIPPED_NAMES.values():
            path = self.inbox / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            self.skipped[name] = reason
            self.cases += 1
        self._put_inodes(prefix)
        self._put_deep(prefix)

    def _put_inodes(self, prefix: str) -> None:
        secret, home = self.outside / "secret.md", self.inbox
        self.attempt(f"{prefix}-file-link.md", lambda path: path.symlink_to(secret), LINK)
        self.attempt(f"{prefix}-folder-link", lambda path: path.symlink_to(self.outside), LINK)
        self.attempt(f"{prefix}-inbox-link", lambda path: path.symlink_to(home), LINK)
        self.attempt(f"{prefix}-loop-a.md", lambda path: path.symlink_to(f"{prefix}-loop-b.md"), LINK)
        self.attempt(f"{prefix}-loop-b.md", lambda path: path.symlink_to(f"{prefix}-loop-a.md"), LINK)
        self.attempt(f"{prefix}-nowhere.md", lambda path: path.symlink_to("/nowhere/at/all"), LINK)
        self.attempt(f"{prefix}-self.md", lambda path: path.symlink_to("/proc/self/environ"), LINK)
        self.attempt(f"{prefix}-hard.md", lambda path: path.hardlink_to(secret), HARD_LINK)
        self.attempt(f"{prefix}-pipe.md", os.mkfifo, REFUSED)
        self.attempt(f"{prefix}-socket.md", self._bind, REFUSED)
        self.attempt(f"{prefix}-zero.md", lambda path: os.mknod(path, 0o20644, os.makedev(1, 5)), REFUSED)
        self.attempt(f"{prefix}-disk.md", lambda path: os.mknod(path, 0o60644, os.makedev(7, 0)), REFUSED)
        self.attempt(f"{prefix}-sparse.md", _make_sparse, TOO_LARGE)
        self.put(f"{prefix}-folder.pdf/inner.md")
        self.put(f"{prefix}-empty.md", b"")
        self.put(f"{prefix}-mark.md", b"\xef\xbb\xbf")
        self.cases += 3
        self._put_locked(prefix)
        self._put_mount(prefix)

    def _bind(self, path: Path) -> None:
        """The name of a socket is short."""
        here = os.getcwd()  # noqa: PTH109 (as it is)
        os.chdir(path.parent)
        try:
            listening = self.ends.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(path.name)
        finally:
            os.chdir(here)

    def _put_locked(self, prefix: str) -> None:
        locked = self.put(f"{prefix}-locked.md")
        locked.chmod(0)
        if os.geteuid() != 0:
            self.taken.remove(f"{prefix}-locked.md")
            self.skipped[f"{prefix}-locked.md"] = "cannot be opened"
        immutable = self.put(f"{prefix}-immutable.md")
        with contextlib.suppress(OSError):
            _set_flags(immutable, _IMMUTABLE)
            self.ends.callback(_set_flags, immutable, 0)
        self.cases += 2

    def _put_mount(self, prefix: str) -> None:
        """Another file system in a folder of the inbox."""
        point = self.inbox / f"{prefix}-mount"
        point.mkdir()
        library = ctypes.CDLL(None, use_errno=True)
        if library.mount(b"none", os.fsencode(point), b"tmpfs", 0, b"size=1m") != 0:
            self.missing.add(point.name)
        else:
            self.ends.callback(library.umount2, os.fsencode(point), _UMOUNT_LAZILY)
            self.cases += 1
        self.put(f"{prefix}-mount/within.md")

    def _put_deep(self, prefix: str) -> None:
        deepest = f"{prefix}-deep/" + "d/" * (DEPTH_MAX - 1)
        self.put(f"{deepest}a.md")
        (self.inbox / deepest / "too").mkdir()
        self.skipped[f"{deepest}too"] = f"nested deeper than {DEPTH_MAX} folders"
        (self.inbox / deepest / "too" / "b.md").write_text("too deep")
        long = f"{prefix}-long/" + "/".join(["l" * 200] * 11)
        (self.inbox / long).mkdir(parents=True)
        (self.inbox / long / "a.md").write_text("far away")
        self.cases += 3

    def unexplained(self, reasons: dict[str, str]) -> dict[str, str | None]:
        """What is not listed with its reason, and the reason that it is listed with."""
        told = {name: reasons.get(inbox_uri(name)) for name in self.skipped}
        return {name: reason for name, reason in told.items() if self.skipped[name] not in (reason or "")}

    def end(self) -> None:
        self.ends.close()


def _make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 1024**3)


def _set_flags(path: Path, flags: int) -> None:
    with path.open("rb") as file:
        fcntl.ioctl(file, _SET_FLAGS, struct.pack("l", flags))


@pytest.fixture
def zoo(inbox: Path, tmp_path: Path) -> Iterator[Zoo]:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_bytes(SECRET)
    zoo = Zoo(inbox, outside)
    try:
        yield zoo
    finally:
        zoo.end()


async def test_whatever_lies_in_the_inbox_is_taken_or_named_and_nothing_else_is_read(pool, owner, zoo, record_property):
    zoo.fill("before")
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a listing of numbers)
    async with watching(pool, zoo.inbox, rescan_seconds=1.0) as watcher:
        await until_documents(owner, {uri_name(name) for name in zoo.taken})
        zoo.fill("while watched")
        await until_documents(owner, {uri_name(name) for name in zoo.taken})
        reasons: dict[str, str] = {}

        async def are_named() -> bool:
            reasons.clear()
            reasons.update(await owner.fetch("SELECT source_uri, reason FROM skipped_file"))
            return not zoo.unexplained(reasons)

        with contextlib.suppress(TimeoutError):
            await until(are_named)
        assert zoo.unexplained(reasons) == {}
        assert not [
            uri for uri in reasons if {unicodedata.category(letter) for letter in uri} & {"Cc", "Cs", "Zl", "Zp"}
        ]
        assert watcher._scan_seconds < SCAN_SECONDS_MAX
    assert await owner.fetchval("SELECT count(*) FROM blob_part WHERE position($1::bytea IN bytes) > 0", SECRET) == 0
    assert await owner.fetchval("SELECT count(*) FROM document_version") == len(zoo.taken)
    assert len(os.listdir("/proc/self/fd")) <= open_before + CONNECTIONS_MAX  # noqa: PTH208
    record_property("cases", zoo.cases)
    record_property("not to be made here", sorted(zoo.missing))


def uri_name(name: str) -> str:
    return inbox_uri(name).removeprefix("inbox:")
