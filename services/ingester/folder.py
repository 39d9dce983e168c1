"""A folder below one of the roots, as a file system: what lies in it and may be taken. Knows no database.

Every folder is opened by its name in the one above it and never through a link, so that nothing leads out of the root. The
files are opened again, in the same way, when they are read.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from services.ingester.inbox import DEPTH_MAX, refuse
from services.ingester.paths import PATH_BYTES_MAX, encode_path, skip_reason
from shared.errors import PermanentError

FOLDER_SCHEME = "folder:"
FILES_MAX = 100_000
SKIPPED_LISTED_MAX = 1000
# Of all kinds, in all folders; they are looked at before it is known which are files.
ENTRIES_MAX = 1_000_000


class FolderRefused(PermanentError):
    """The folder may not be read."""

    code = "folder_refused"


@dataclass(slots=True)
class Contents:
    """What lies in a folder: paths of files, relative to the root, by name; and reasons why others are not taken."""

    files: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    skipped_count: int = 0
    seen_count: int = 0
    is_cut: bool = False

    def skip(self, relative: str, reason: str) -> None:
        """Say why something is not taken; the first are listed, all are counted."""
        self.skipped_count += 1
        if len(self.skipped) < SKIPPED_LISTED_MAX:
            self.skipped[_fitting(relative)] = reason


@dataclass(frozen=True, slots=True)
class Located:
    """A folder: the root it lies below, and its path from there (empty: the root itself)."""

    root: Path
    relative: str

    def name_of(self, relative: str) -> str:
        """Return the path by which people know a file: it begins with the root's own name, so that roots do not mix."""
        return encode_path(f"{self.root.name}/{relative}")


def locate(directory: str, roots: Sequence[Path]) -> Located:
    """Find the root that a folder lies below; of roots within one another the outermost, so that a file has one name.

    Raises: FolderRefused.
    """
    if not roots:
        raise FolderRefused("the ingester may read no folder: set ASKBOX_INGEST_ROOTS for it too, and start it again")
    folder = PurePosixPath(directory)
    for root in sorted(roots, key=lambda root: len(root.parts)):
        if folder.is_relative_to(root) and ".." not in folder.parts:
            relative = str(folder.relative_to(root))
            return Located(root, "" if relative == "." else relative)
    raise FolderRefused("the folder is not below any of the ingester's ASKBOX_INGEST_ROOTS")


def list_folder(located: Located, *, is_recursive: bool) -> Contents:
    """List what lies in a folder, by stat only.

    Raises: FolderRefused when the folder cannot be opened, or a part of its path is a link.
    """
    contents = Contents()
    pending = [(located.relative, 0)]
    while pending and not contents.is_cut:
        folder, depth = pending.pop()
        try:
            descriptor = _open_folder(located.root, folder)
        except OSError as error:
            if folder == located.relative:
                raise FolderRefused(_reason(error)) from None
            if error.errno != errno.ENOENT:
                contents.skip(located.name_of(folder), _reason(error))
            continue
        try:
            below = _list_one(located, descriptor, folder, contents)
        finally:
            os.close(descriptor)
        if is_recursive and depth < DEPTH_MAX:
            pending += [(path, depth + 1) for path in reversed(below)]
        elif is_recursive:
            for path in below:
                contents.skip(located.name_of(path), f"nested deeper than {DEPTH_MAX} folders")
    return contents


def _list_one(located: Located, descriptor: int, folder: str, contents: Contents) -> list[str]:
    """List one open folder and return the folders in it."""
    below = []
    with os.scandir(descriptor) as entries:
        seen = list(islice(entries, ENTRIES_MAX - contents.seen_count))
        contents.seen_count += len(seen)
        contents.is_cut = contents.seen_count >= ENTRIES_MAX
        for entry in sorted(seen, key=lambda entry: entry.name):
            relative = f"{folder}/{entry.name}" if folder else entry.name
            name = located.name_of(relative)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                contents.skip(name, f"cannot be looked at: {error.strerror}")
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            # The name alone: what makes it temporary, not whether its folder could be a collection.
            reason = skip_reason(entry.name) or (None if is_folder else refuse(status))
            if reason is None and len(name.encode()) > PATH_BYTES_MAX:
                reason = f"the path is too long: at most {PATH_BYTES_MAX} bytes are kept"
            if reason is not None:
                contents.skip(name, reason)
            elif is_folder:
                below.append(relative)
            elif len(contents.files) == FILES_MAX:
                contents.is_cut = True
                break
            else:
                contents.files.append(relative)
    return below


def _fitting(name: str) -> str:
    """Return a name that fits into the list of skipped files: the beginning of a longer one."""
    return name if len(name.encode()) <= PATH_BYTES_MAX else f"{name[: PATH_BYTES_MAX // 4]}…"


def _open_folder(root: Path, relative: str) -> int:
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in relative.split("/") if relative else ():
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
    except OSError:
        os.close(here)
        raise
    return here


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such folder where the ingester runs"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "it is no folder, or a link is part of its path: name the folder itself"
    return f"the folder cannot be read: {error.strerror}"
