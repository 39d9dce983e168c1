"""The frame of every long-running process: signals, exit codes, one clear sentence instead of a traceback."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from shared.errors import ConfigError, DatabaseUnavailable
from shared.exit_codes import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_UNAVAILABLE
from shared.export import stop_telemetry
from shared.telemetry import Event, log

_PR_SET_PDEATHSIG = 1


def run_process(main: Coroutine[Any, Any, None]) -> int:
    """Run a process to its end and return its exit code."""
    if os.environ.get("ASKBOX_SUPERVISED"):
        die_with_parent(signal.SIGTERM)
    try:
        asyncio.run(main)
    except ConfigError as error:
        print(f"askbox: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except DatabaseUnavailable as error:
        print(f"askbox: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        return EXIT_OK
    except Exception as error:
        log(Event.PROCESS_FAILED, logging.ERROR, error=error)
        return EXIT_FAILURE
    finally:
        stop_telemetry()
    return EXIT_OK


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to signal this process when its parent is gone, so that a killed supervisor leaves nothing behind."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextlib.contextmanager
def on_stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT while the context lasts."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
