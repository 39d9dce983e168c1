"""Run the Procfile on one machine: print what processes say, start again what dies, stop everything together."""

import contextlib
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from honcho.printer import Message
from honcho.process import Process

from services.console.speech import Speech
from shared.exit_codes import EXIT_CONFIG, EXIT_UNAVAILABLE
from shared.process import die_with_parent

# Longer than a process takes to finish or give back its work.
STOP_SECONDS_MAX = 20.0
RESTARTS_MAX = 10
RESTART_WINDOW_SECONDS = 300.0
RESTART_PAUSE_SECONDS_MAX = 15.0
_COLOURS = ("36", "33", "32", "35", "34", "31")


@dataclass
class _Child:
    command: str
    colour: str
    runner: multiprocessing.Process | None = None
    pid: int | None = None
    is_running: bool = False
    exits: list[float] = field(default_factory=list)
    start_at: float | None = None


def _run(process: Process, events: Any) -> None:
    """Run one command in a process that forwards what it prints, and dies with the supervisor."""
    die_with_parent(signal.SIGKILL)
    process.run(events, ignore_signals=True)


class Supervisor:
    """Keeps named commands running until one is told to stop, or one cannot be helped."""

    def __init__(self, commands: Mapping[str, str], environment: Mapping[str, str], speech: Speech) -> None:
        self._children = {
            name: _Child(command, _COLOURS[i % len(_COLOURS)]) for i, (name, command) in enumerate(commands.items())
        }
        self._environment = dict(environment)
        self._events: Any = multiprocessing.Queue()
        self._speech = speech
        self._stopping_since: float | None = None
        self._is_told_to_stop = False
        self.exit_code = 0

    def run(self) -> int:
        """Run until stopped and return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        for name in self._children:
            self._start(name)
        while any(child.is_running or child.start_at is not None for child in self._children.values()):
            if self._is_told_to_stop and self._stopping_since is None:
                self._say("stopping …")
                self.stop()
            self._handle_one_event()
            self._start_due()
            self._enforce_stop()
        return self.exit_code

    def stop(self) -> None:
        """Ask every process to stop; what does not in time is killed."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._signal_all(signal.SIGTERM)
        for child in self._children.values():
            child.start_at = None

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._is_told_to_stop = True  # printing here could interrupt a print

    def _start(self, name: str) -> None:
        child = self._children[name]
        process = Process(child.command, name=name, colour=child.colour, env=self._environment)
        child.runner = multiprocessing.Process(name=name, target=_run, args=(process, self._events))
        child.start_at = None
        child.is_running = True
        child.runner.start()

    def _handle_one_event(self) -> None:
        try:
            message: Message = self._events.get(timeout=0.1)
        except queue.Empty:
            self._notice_lost_runners()
            return
        child = self._children[message.name]
        match message.type:
            case "line":
                self._speech.pass_on(message)
            case "start":
                child.pid = message.data["pid"]
                if self._stopping_since is not None:
                    self._signal(child, signal.SIGTERM)
            case "stop":
                self._on_exit(message.name, message.data["returncode"])

    def _notice_lost_runners(self) -> None:
        for name, child in self._children.items():
            if child.is_running and child.runner is not None and not child.runner.is_alive() and self._events.empty():
                self._on_exit(name, child.runner.exitcode or 0)

    def _on_exit(self, name: str, code: int) -> None:
        child = self._children[name]
        child.is_running = False
        child.pid = None
        if self._stopping_since is not None:
            return
        now = time.monotonic()
        child.exits = [at for at in child.exits if now - at < RESTART_WINDOW_SECONDS]
        if code != EXIT_UNAVAILABLE:  # the database comes back when it comes back
            child.exits.append(now)
        if code == EXIT_CONFIG:
            self._say(f"{name} cannot start with these settings; its reason stands above")
            self.exit_code = EXIT_CONFIG
            self.stop()
        elif len(child.exits) > RESTARTS_MAX:
            self._say(f"{name} ended {len(child.exits)} times within {RESTART_WINDOW_SECONDS:.0f} s; giving up")
            self.exit_code = 1
            self.stop()
        else:
            pause = 2.0 if code == EXIT_UNAVAILABLE else min(0.2 * 2 ** len(child.exits), RESTART_PAUSE_SECONDS_MAX)
            self._say(f"{name} ended (exit code {code}); starting it again in {pause:.1f} s")
            child.start_at = now + pause

    def _start_due(self) -> None:
        for name, child in self._children.items():
            if child.start_at is not None and time.monotonic() >= child.start_at:
                self._start(name)

    def _enforce_stop(self) -> None:
        if self._stopping_since is not None and time.monotonic() - self._stopping_since > STOP_SECONDS_MAX:
            self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children.values():
            self._signal(child, number)

    def _signal(self, child: _Child, number: signal.Signals) -> None:
        if child.is_running and child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)  # each process leads a session of its own

    def _say(self, line: str) -> None:
        self._speech.say(f"askbox: {line}")
