"""inotify: what happens in folders, as Linux tells it.

**Invariants:** what the kernel dropped, and which folders could not be watched, is never a secret; nothing is kept but one name a
folder; it has no thread and never waits.
"""

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

IN_MODIFY, IN_CLOSE_WRITE = 0x2, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_Q_OVERFLOW, IN_IGNORED = 0x4000, 0x8000
IN_ONLYDIR, IN_DONT_FOLLOW, IN_ISDIR = 0x1000000, 0x2000000, 0x40000000

# A change of mode alone is left to the scan: a program that sets times or modes behind its close would look as if it wrote again.
_ASKED = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_DONT_FOLLOW
_HEAD = struct.Struct("iIII")
# About two thousand events: a few milliseconds of the event loop.
READ_BYTES = 65_536
# The folder came and went while it was asked for, or may not be read; the scan says so where it matters.
_HARMLESS_ERRORS = frozenset([errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP])


@dataclass(frozen=True, slots=True)
class Happening:
    """One event. `path` is relative to the root, None when it is not known where it was."""

    path: str | None
    mask: int
    cookie: int

    @property
    def is_folder(self) -> bool:
        """Whether it tells of a folder."""
        return bool(self.mask & IN_ISDIR)


class Inotify:
    """The watched folders of one tree. `watch` may be called from another thread than the rest."""

    def __init__(self, root: Path) -> None:
        """Begin to watch nothing.

        Raises: OSError when no more may be begun.
        """
        self._library = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._root = root
        # By watch descriptor: the folder's path with a slash behind it, or nothing for the root.
        self._folders: dict[int, str] = {}

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self.descriptor)

    def watch(self, folder: str) -> None:
        """Watch a folder, given with a slash behind it; one that is watched already gets this name.

        Raises: OSError when no more may be watched.
        """
        path = os.fsencode(self._root / folder)
        number: int = self._library.inotify_add_watch(self.descriptor, path, _ASKED)
        if number >= 0:
            self._folders[number] = folder
            return
        code = ctypes.get_errno()
        if code not in _HARMLESS_ERRORS:
            raise OSError(code, os.strerror(code))

    def rename(self, source: str, target: str) -> None:
        """A folder has another name; so have those below it, whose watches go with them."""
        for number, folder in list(self._folders.items()):
            if folder.startswith(f"{source}/"):
                self._folders[number] = target + folder[len(source) :]

    def forget(self, source: str) -> None:
        """A folder has left the tree, with those below it."""
        for number, folder in list(self._folders.items()):
            if folder.startswith(f"{source}/"):
                self._library.inotify_rm_watch(self.descriptor, number)

    def read(self) -> list[Happening]:
        """Return what is there to be read, up to a bound."""
        try:
            raw = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        happenings = []
        at = 0
        while at < len(raw):
            number, mask, cookie, length = _HEAD.unpack_from(raw, at)
            name = os.fsdecode(raw[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0"))
            at += _HEAD.size + length
            if mask & IN_IGNORED:  # the folder is gone
                self._folders.pop(number, None)
                continue
            folder = self._folders.get(number)
            path = None if folder is None or not name else folder + name
            happenings.append(Happening(path, mask, cookie))
        return happenings
