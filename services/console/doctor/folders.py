"""The folders: may they be written to, and does the system tell of changes in the inbox?"""

import ctypes
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from services.console.doctor.findings import Finding, fail, ok, user_name, warn
from services.console.doctor.machine import nearest
from services.console.doctor.settings import DoctorSettings

MARK_FILE = ".askbox-inbox"  # how the ingester tells the inbox from other folders
MOUNTS = Path("/proc/self/mountinfo")
INOTIFY = Path("/proc/sys/fs/inotify")
# Changes made by another machine, or by the host of a virtual one, cause no events here.
SILENT_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "virtiofs",
    "vboxsf",
    "prl_fs",
    "fuse.",
    "fakeowner",
    "drvfs",
    "afs",
    "ceph",
    "lustre",
)
FOLDERS_COUNTED_MAX = 200_000
COUNT_SECONDS_MAX = 5.0
WATCHES_SHARE_MAX = 0.8
_ESCAPED = re.compile(r"\\(\d{3})")  # mountinfo writes a space as \040


def look_at_home(settings: DoctorSettings) -> list[Finding]:
    """May askbox write to its own folder?"""
    return [_judge_folder("home", "ASKBOX_HOME", settings.home)]


def _judge_folder(check: str, variable: str, folder: Path) -> Finding:
    """Try to write to a folder, or see whether it can be made."""
    where = folder.absolute()
    if not folder.exists():
        above = nearest(folder)
        if above.is_dir() and _may(above, os.W_OK | os.X_OK):
            return ok(check, f"{where} is not there yet: `askbox up` makes it")
        return fail(
            check, f"{where} cannot be made: {above} is not writable for {user_name()}", _advice(variable, above)
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return fail(check, f"{where} cannot be written to: {error.strerror}", _advice(variable, folder))
    return ok(check, f"{where} is writable")


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _advice(variable: str, folder: Path) -> str:
    return f"make {folder.absolute()} writable for {user_name()}, or set {variable} to a folder that is"


def look_at_inbox(settings: DoctorSettings) -> list[Finding]:
    """Can files be read there, and can the inbox be told from another folder?"""
    inbox = settings.inbox
    if not inbox.exists():
        return [_judge_folder("inbox", "ASKBOX_INBOX", inbox)]
    if not inbox.is_dir():
        return [fail("inbox", f"{inbox.absolute()} is no folder", "set ASKBOX_INBOX to a folder")]
    try:
        with os.scandir(inbox) as entries:
            next(entries, None)
    except OSError as error:
        found = f"{inbox.absolute()} cannot be read: {error.strerror}"
        return [fail("inbox", found, f"let {user_name()} read it (its owner is user {inbox.stat().st_uid})")]
    return [_judge_mark(inbox)]


def _judge_mark(inbox: Path) -> Finding:
    mark = inbox / MARK_FILE
    if _may(mark if mark.exists() else inbox, os.R_OK | os.W_OK):
        return ok("inbox", f"{inbox.absolute()}, owned by user {inbox.stat().st_uid}")
    found = f"{mark.absolute()} cannot be written by {user_name()}: an empty folder in the inbox's place would not be noticed"
    return warn(
        "inbox", found, f"make the folder writable, or make the file {MARK_FILE} in it and give it to {user_name()}"
    )


def look_at_file_events(settings: DoctorSettings) -> list[Finding]:
    """Does the system tell of new files at once?"""
    slow = f"files are found all the same, by the scan every {settings.rescan_seconds:g} s (ASKBOX_RESCAN_SECONDS)"
    if sys.platform != "linux":
        return [ok("file events", f"{sys.platform} tells of changes")]
    kind = file_system_of(nearest(settings.inbox), MOUNTS.read_text())
    if kind.startswith(SILENT_FILE_SYSTEMS):
        return [warn("file events", f"the inbox lies on {kind}, which does not tell of changes made elsewhere", slow)]
    folders = _count_folders(settings.inbox)
    watches = int((INOTIFY / "max_user_watches").read_text())
    if folders > watches * WATCHES_SHARE_MAX:
        found = f"{folders} folders in the inbox, and {watches} may be watched"
        return [warn("file events", found, f"raise fs.inotify.max_user_watches; until then {slow}")]
    if (problem := _try_inotify()) is not None:
        return [warn("file events", problem, f"raise fs.inotify.max_user_instances; until then {slow}")]
    return [ok("file events", f"{kind}; {folders} of {watches} folders that may be watched")]


def file_system_of(path: Path, mounts: str) -> str:
    """Return the kind of file system that a path lies on, from the text of mountinfo."""
    best = ("", "unknown")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), before.split()[4])
        if path.resolve().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, after.split()[0])
    return best[1]


def _count_folders(root: Path) -> int:
    deadline = time.monotonic() + COUNT_SECONDS_MAX
    count = 0
    for _ in os.walk(root):
        count += 1
        if count >= FOLDERS_COUNTED_MAX or time.monotonic() > deadline:
            break
    return count


def _try_inotify() -> str | None:
    """Open one more inotify instance and give it back; return what is wrong."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init()
    if descriptor < 0:
        return f"no file events can be asked for: {os.strerror(ctypes.get_errno())}"
    os.close(descriptor)
    return None
