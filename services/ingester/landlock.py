"""Landlock: a process gives up files, TCP and signals for itself and its children, also when it runs as root. Linux only."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

# Numbers of the kernel's interface; the calls have the same on every architecture that wheels are made for.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# How many rights to files each version knows; from some version on also TCP (bind, connect), and the scope of abstract
# sockets and of signals.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_SINCE, _SCOPES_SINCE = 4, 6


def open_ruleset(readable: Iterable[Path]) -> int | None:
    """Make a rule that forbids every file but `readable` and what lies below, and return its descriptor; None where it cannot be."""
    version = _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return None
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    tcp, scopes = (3 if version >= since else None for since in (_TCP_SINCE, _SCOPES_SINCE))
    fields = [rights, *(field for field in (tcp, scopes) if field is not None)]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return None
    for path in readable:
        with contextlib.suppress(OSError):  # what is not there needs no rule
            _allow(ruleset, path)
    return ruleset


def enter(ruleset: int | None) -> bool:
    """Put this process under a rule for ever, each time behind one more wall that those outside cannot be reached through.

    It must have given up new privileges before. Returns whether the wall stands.
    """
    return ruleset is not None and _call(_RESTRICT_SELF, ruleset, 0) == 0


def _allow(ruleset: int, path: Path) -> None:
    rights = (
        _EXECUTE | _READ_FILE | (_READ_DIR if path.is_dir() else 0)
    )  # a right to list makes the rule of a file void
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    try:
        system_call = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return -1
    system_call.restype = ctypes.c_long
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return int(system_call(ctypes.c_long(number), *words))
