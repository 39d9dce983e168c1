"""What a check says, and running checks side by side, each within its time."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.console.doctor.settings import DoctorSettings
from shared.errors import AskboxError


class Level(StrEnum):
    """Whether askbox works with what was found. Only `FAIL` stops it."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report; `advice` says what to do, where there is something to do."""

    check: str
    level: Level
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A check and how long it may take."""

    name: str
    look: Callable[[DoctorSettings], list[Finding]]
    seconds_max: float = 10.0


def ok(check: str, found: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """Say that something makes askbox worse."""
    return Finding(check, Level.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """Say that something stops askbox."""
    return Finding(check, Level.FAIL, found, advice)


def run_checks(checks: Sequence[Check], settings: DoctorSettings) -> list[Finding]:
    """Run all checks side by side and return their findings.

    Order: that of the checks.
    """
    # Threads that nobody waits for: one that hangs in a dead network mount must not keep the command from ending.
    results: dict[str, list[Finding]] = {}
    threads = [
        threading.Thread(target=_run, args=(check, settings, results), name=check.name, daemon=True) for check in checks
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread, check in zip(threads, checks, strict=True):
        thread.join(max(0.0, started + check.seconds_max - time.monotonic()))
    return [finding for check in checks for finding in results.get(check.name, [_too_slow(check)])]


def _run(check: Check, settings: DoctorSettings, results: dict[str, list[Finding]]) -> None:
    try:
        results[check.name] = check.look(settings)
    except AskboxError as error:
        results[check.name] = [Finding(check.name, Level.FAIL, str(error))]
    except Exception as error:
        found = f"could not be looked at: {type(error).__name__}: {error}"
        results[check.name] = [warn(check.name, found, "look at it yourself; askbox may work all the same")]


def _too_slow(check: Check) -> Finding:
    found = f"no answer within {check.seconds_max:g} s"
    return fail(check.name, found, "what it asks hangs, or this machine is overloaded: look there first")


def size(count: float) -> str:
    """Show a number of bytes to a person."""
    gib = count / 1024**3
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count / 1024**2:.0f} MiB"


def user_name() -> str:
    """Name the user that this process runs as, whether the system knows a name or not."""
    return f"user {os.geteuid()}"
