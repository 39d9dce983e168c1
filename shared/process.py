"""The frame of every long-running process: signals, exit codes, one clear sentence instead of a traceback."""

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from shared.errors import ConfigError, DatabaseUnavailable
from shared.exit_codes import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_UNAVAILABLE
from shared.export import stop_telemetry
from shared.telemetry import Event, log

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORK_SECONDS = 4.0
# What may follow the work in hand: jobs are given back, totals written, connections closed. Supervisors kill after 10 s.
END_SECONDS_MAX = 5.0
# Nothing on an event loop of ours takes longer than moments: one that has not turned for so long hangs, on the folder of a
# server that is gone, say, and its process can do nothing about that but end.
TURN_SECONDS_MAX = 120
LOOK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def run_process(main: Coroutine[Any, Any, None]) -> int:
    """Run a process to its end and return its exit code."""
    if os.environ.get("ASKBOX_SUPERVISED"):
        die_with_parent(signal.SIGTERM)
    for number in STOP_SIGNALS:
        signal.signal(number, _quit)
    try:
        asyncio.run(_watched(main))
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


async def _watched(main: Coroutine[Any, Any, None]) -> None:
    """Run a process so that neither a loop that hangs nor a thread that outlives its error keeps it from ending."""
    threading.Thread(target=_watch, args=(asyncio.get_running_loop(),), name="watchdog", daemon=True).start()
    try:
        await main
    except Exception as error:
        _end_within(END_SECONDS_MAX, EXIT_UNAVAILABLE if isinstance(error, DatabaseUnavailable) else EXIT_FAILURE)
        raise


def _watch(loop: asyncio.AbstractEventLoop) -> None:
    """End this process when its event loop has not turned for too long.

    Counted in looks, not by a clock: a process that was frozen as a whole has not hung.
    """
    while True:
        turned = threading.Event()
        try:
            loop.call_soon_threadsafe(turned.set)
        except RuntimeError:
            return  # closed
        looks = 0
        while not turned.wait(LOOK_SECONDS):
            looks += 1
            if looks * LOOK_SECONDS >= TURN_SECONDS_MAX:
                faulthandler.dump_traceback()
                log(Event.PROCESS_FAILED, logging.ERROR, reason=f"its event loop hung for {TURN_SECONDS_MAX:g} s")
                os._exit(EXIT_FAILURE)
        time.sleep(LOOK_SECONDS)


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to signal this process when its parent is gone, so that a killed supervisor leaves nothing behind."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextlib.contextmanager
def on_stop_signals(stop: Callable[[], None], *, work_seconds: float = WORK_SECONDS) -> Iterator[None]:
    """Call `stop` at the first SIGTERM or SIGINT while the context lasts.

    Behind a stop further signals are ignored: what ends in order is not cut short by impatience. A stop that takes longer
    than `work_seconds` and `END_SECONDS_MAX` is cut short by the process itself. Otherwise the process quits at a signal.
    """
    loop = asyncio.get_running_loop()
    is_told = False

    def tell() -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            _end_within(work_seconds + END_SECONDS_MAX)
            stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, tell)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if is_told else _quit)


def _quit(_number: int, _frame: object) -> None:
    """End at once: a process that has only begun holds nothing, and what it waits for may never come."""
    os._exit(EXIT_OK)


def _end_within(seconds: float, code: int = EXIT_FAILURE) -> None:
    """End this process after so long, whatever it hangs on: a database that is silent, a thread that computes."""

    def end() -> None:
        log(Event.PROCESS_FAILED, logging.ERROR, reason=f"it could not stop within {seconds:g} s")
        os._exit(code)

    ending = threading.Timer(seconds, end)
    ending.daemon = True
    ending.start()
