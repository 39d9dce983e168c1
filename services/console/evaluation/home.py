"""The folder of one evaluation: made and thrown away, or kept; held by one at a time, and cleared whatever ends its evaluation.

**Invariants:** who holds the lock of a home's mark uses it: the evaluation, `askbox up` under it, or the guardian that clears it
when both are gone, killed or not. Nothing is removed but a folder with the mark of those that are thrown away, under that lock.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.embedded import stop_abandoned_server
from shared.errors import AskboxError, ConfigError

_PREFIX = "askbox-eval-"
_KEPT_MARK, _THROWN_MARK = "evaluation", "evaluation-to-throw-away"
# After an evaluation that has ended in order there is nothing to clear.
GUARDIAN_SECONDS_MAX = 10.0
ABANDONED_MAX = 100


class NoHome(AskboxError):
    """The home belongs to something else."""


@dataclass(frozen=True, slots=True)
class Home:
    """A folder that is ours as long as a process has the descriptor `lock`, which a child may inherit."""

    folder: Path
    lock: int


@contextlib.contextmanager
def opened_home(kept: Path | None) -> Iterator[Home]:
    """Make or take a home, and let it be cleared when this process ends, however it does.

    Raises: NoHome when the kept one is in use or no home of evaluations.
    """
    if kept is None:
        clear_abandoned()
        folder, mark = _made()
    else:
        folder, mark = _taken(kept)
    guardian = _guard(folder / (_KEPT_MARK if kept else _THROWN_MARK))
    try:
        yield Home(folder, mark.fileno())
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
        mark.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guardian.wait(GUARDIAN_SECONDS_MAX)


def clear_abandoned() -> None:
    """Clear homes that even their guardian could not, as when the machine stopped: those of this user that nobody holds."""
    marks = Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_THROWN_MARK}")
    for _, path in zip(range(ABANDONED_MAX), marks, strict=False):
        with contextlib.suppress(OSError, ConfigError):
            if not path.parent.is_symlink() and path.lstat().st_uid == path.parent.stat().st_uid == os.getuid():
                clear(path, waits=False)


def clear(path: Path, *, waits: bool) -> None:
    """Stop the server of the home that a mark stands in, and remove what is to be thrown away, once nobody holds it.

    Raises: BlockingIOError when somebody does and it `waits` for none; FileNotFoundError when there is nothing to clear.
    """
    with path.open("rb") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        is_thrown = path.name == _THROWN_MARK
        stop_abandoned_server(path.parent, has_no_user=is_thrown)  # in a kept home somebody may look around
        if is_thrown:
            shutil.rmtree(path.parent, ignore_errors=True)


def _made() -> tuple[Path, IO[str]]:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o755)  # as root the server runs as another user
    making = folder / "mark"
    mark = making.open("a")
    fcntl.flock(mark, fcntl.LOCK_EX)
    making.rename(folder / _THROWN_MARK)  # who sees it finds it locked
    return folder, mark


def _taken(kept: Path) -> tuple[Path, IO[str]]:
    folder = kept.expanduser().resolve()
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / _KEPT_MARK).is_file():
            raise NoHome(f"{folder} holds something else: name a new folder, or one that `askbox eval --home` made")
        folder.mkdir(parents=True, exist_ok=True)
        mark = (folder / _KEPT_MARK).open("a")
    except OSError as error:
        raise NoHome(f"{folder} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        mark.close()
        raise NoHome(f"another `askbox eval` uses {folder}: wait for it, or name another home") from None
    return folder, mark


def _guard(mark: Path) -> subprocess.Popen[bytes]:
    """Start who waits for the lock of a home, and clears it then."""
    return subprocess.Popen(  # noqa: S603 (it is this program)
        [sys.executable, "-m", "services.console.evaluation.guardian", str(mark)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what ends the command and its group is what it is there for
    )
