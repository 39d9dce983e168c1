"""The inbox as a file system: what lies in it, and how one file is read whole. Knows no database."""

import errno
import fcntl
import functools
import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.ingester.paths import MARK_FILE, skip_reason
from shared.errors import AskboxError

DEPTH_MAX = 64
READ_BYTES = 1_048_576
MOUNTS = Path("/proc/self/mountinfo")
LOCAL_FILE_SYSTEMS = frozenset(["ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs"])


class FileUnreadable(AskboxError):
    """The file is not taken."""

    code = "file_unreadable"


class FileChanged(AskboxError):
    """The file changed while it was read: it is read again when it is whole."""

    code = "file_changed"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells that a file is as it was. Units: bytes, nanoseconds."""

    device: int
    inode: int
    file_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        """Take the fingerprint from a stat."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(slots=True)
class Listing:
    """What a scan saw: fingerprints of files to take, and reasons for the others, by relative path."""

    files: dict[str, Fingerprint] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True


def scan(root: Path, on_folder: Callable[[str], None] | None = None) -> Listing:
    """List the inbox, by stat only. `is_complete` is false when a folder could not be read.

    `on_folder` is called with each folder, with a slash behind it, before it is listed.
    """
    listing = Listing()
    pending = [("", 0)]
    while pending:
        folder, depth = pending.pop()
        if on_folder is not None:
            on_folder(folder)
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    relative = f"{folder}{entry.name}"
                    _list(entry, relative, depth, listing, pending)
        except OSError as error:
            if folder == "":
                raise
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                listing.is_complete = False
                listing.skipped[folder.rstrip("/")] = f"the folder cannot be read: {error.strerror}"
    return listing


def _list(
    entry: "os.DirEntry[str]", relative: str, depth: int, listing: Listing, pending: list[tuple[str, int]]
) -> None:
    if relative == MARK_FILE:
        return
    reason = skip_reason(relative)
    if reason is not None:
        listing.skipped[relative] = reason
        return
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        listing.is_complete = False
        listing.skipped[relative] = f"cannot be looked at: {error.strerror}"
        return
    if stat.S_ISDIR(status.st_mode):
        if depth < DEPTH_MAX:
            pending.append((f"{relative}/", depth + 1))
        else:
            listing.skipped[relative] = f"nested deeper than {DEPTH_MAX} folders"
        return
    refusal = refuse(status)
    if refusal is None:
        listing.files[relative] = Fingerprint.of(status)
    else:
        listing.skipped[relative] = refusal


def refuse(status: os.stat_result) -> str | None:
    """Return why an inode is not taken, or None."""
    if stat.S_ISLNK(status.st_mode):
        return "symbolic link: put a copy of the file itself in its place"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_nlink > 1:
        return "hard link to another file: put a copy in its place"
    return None


def fingerprint(root: Path, relative: str) -> Fingerprint | None:
    """Return a file's fingerprint, or None when there is no such regular file."""
    try:
        status = os.lstat(root / relative)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Fingerprint.of(status) if stat.S_ISREG(status.st_mode) else None


def read_mark(root: Path) -> uuid.UUID | None:
    """Return the mark that tells this inbox from other folders, or None when it has none."""
    try:
        return uuid.UUID((root / MARK_FILE).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def write_mark(root: Path, mark: uuid.UUID) -> bool:
    """Mark a folder as the inbox; False when it cannot be written."""
    try:
        (root / MARK_FILE).write_text(f"{mark}\n", encoding="ascii")
    except OSError:
        return False
    return True


def is_open_for_writing(root: Path, relative: str) -> bool | None:
    """Ask the kernel whether anybody has a file open for writing; None where it does not tell.

    Linux grants a read lease on a file only while it has no writer. The lease is given back at once; whoever opens the
    file in between waits for microseconds, and SIGIO, which tells us of that, is ignored by the watcher.
    """
    try:
        descriptor = _open_below(root, relative)
    except OSError:
        return None
    try:
        return _has_writer(descriptor)
    finally:
        os.close(descriptor)


def _has_writer(descriptor: int) -> bool | None:
    if not hasattr(fcntl, "F_SETLEASE") or not _tells_of_writers(os.fstat(descriptor).st_dev):
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False


@functools.lru_cache(maxsize=64)
def _tells_of_writers(device: int) -> bool:
    """Whether leases tell of writers on a file system; servers' refuse them for reasons of their own, with the same error."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = [
        after.split()[0]
        for before, _, after in (line.partition(" - ") for line in mounts)
        if before.split()[2] == number
    ]
    return bool(kinds) and kinds[0] in LOCAL_FILE_SYSTEMS


class WholeFile:
    """A file opened without following any link, read once, and found unchanged at its end."""

    def __init__(self, root: Path, relative: str, *, file_bytes_max: int) -> None:
        try:
            self._descriptor = _open_below(root, relative)
        except OSError as error:
            raise FileUnreadable(f"cannot be opened: {error.strerror}") from None
        status = os.fstat(self._descriptor)
        reason = refuse(status)
        if reason is None and status.st_size > file_bytes_max:
            reason = f"larger than ASKBOX_MAX_FILE_BYTES ({status.st_size} > {file_bytes_max} bytes): split it, or raise the setting"
        if reason is not None:
            os.close(self._descriptor)
            raise FileUnreadable(reason)
        self.fingerprint = Fingerprint.of(status)

    def has_writer(self) -> bool:
        """Whether the kernel says that somebody has the file open for writing."""
        return _has_writer(self._descriptor) is True

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def pieces(self) -> Iterator[bytes]:
        """Read the file from its start.

        Raises: FileChanged when it is not what it was when it was opened; FileUnreadable when the disk gives an error.
        """
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        left = self.fingerprint.file_bytes
        while left >= 0:
            try:
                piece = os.read(self._descriptor, READ_BYTES)
            except OSError as error:
                raise FileUnreadable(f"cannot be read: {error.strerror}") from None
            if not piece:
                break
            left -= len(piece)  # negative: it grew
            yield piece
        if left != 0 or Fingerprint.of(os.fstat(self._descriptor)) != self.fingerprint:
            raise FileChanged

    def sha256(self) -> bytes:
        """Sum the file.

        Raises: FileChanged as `pieces` does.
        """
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.digest()


def _open_below(root: Path, relative: str) -> int:
    """Open a file below a folder, one component at a time, so that no link leads out of it."""
    *folders, name = relative.split("/")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        # O_NONBLOCK: a FIFO without a writer would block for ever.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
    finally:
        os.close(here)
