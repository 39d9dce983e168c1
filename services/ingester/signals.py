"""What happens in the inbox as small facts, and who tells them. Each is a hint; which files there are the scan alone knows."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Opened:
    """A file was made; it will be closed."""

    path: str


@dataclass(frozen=True, slots=True)
class Touched:
    """A file that is open was written to."""

    path: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A file is whole: closed after writing, or it appeared whole."""

    path: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A file has another name now."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class FolderMoved:
    """A folder has another name now, and all that lies below it."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Removed:
    """A file is gone."""

    path: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Something happened that only a scan can tell: a folder came, went or moved, or events were dropped."""


Signal = Opened | Touched | Closed | Moved | FolderMoved | Removed | Lost


class Watch(Protocol):
    """What tells of a tree of folders."""

    @property
    def note(self) -> str | None:
        """What a person should know of it, or None."""

    def begin(self) -> None:
        """A scan begins, which will name every folder."""

    def watch(self, folder: str) -> None:
        """A folder, given with a slash behind it, is about to be listed. Called from the scan's thread."""

    def close(self) -> None:
        """Watch nothing any more."""
