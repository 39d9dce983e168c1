"""Real processes as `askbox up` runs them, on a database of the test's own."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.waiting import SUBPROCESS_SECONDS_MAX

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 180
STOP_SECONDS_MAX = 90
# For what a system does within seconds; generous, since a busy machine is no fault.
SECONDS_MAX = 180
# Below those that the kernel gives to whoever connects, so that only who asks for just this one can take it meanwhile.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free now."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are in use")


class Askbox:
    """`askbox up` in a folder of its own."""

    def __init__(self, folder: Path, url: str | None, *, embedders: int = 1, **settings: str) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "up.log"
        self.is_bundled = True
        self._embedders = embedders
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "OPENAI_"))
        } | {
            "ASKBOX_HTTP_PORT": str(self.port),
            "ASKBOX_URL": self.address,
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        if url is not None:
            self.environment["ASKBOX_DATABASE_URL"] = url
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "services.console", "up", "--embedders", str(self._embedders)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.wait_until(lambda: self.get("/health").status_code == 200, START_SECONDS_MAX, "not healthy")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    def get(self, path: str, **params: Any) -> httpx2.Response:
        return httpx2.get(self.address + path, params=params, timeout=120, trust_env=False)

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        return httpx2.post(self.address + path, json=body, timeout=120, trust_env=False)

    def ask(self, question: str, **body: Any) -> dict[str, Any]:
        response = self.post("/query", {"question": question, **body})
        assert response.status_code == 200, response.text
        return response.json()

    def documents(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        after = 0
        while True:
            page = self.get("/documents", limit=200, after=after).json()
            found |= {document["file_path"]: document for document in page["data"]}
            if not page["has_more"]:
                return found
            after = page["data"][-1]["id"]

    def pid_of(self, kind: str) -> int | None:
        """The process of a kind that was started last, or None while there is none."""
        processes = self.get("/health").json()["checks"][kind].get("processes")
        return int(processes[-1].partition("@")[0]) if processes else None

    def stats(self) -> dict[str, Any]:
        return self.get("/ingest/stats").json()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.console", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SUBPROCESS_SECONDS_MAX,
            check=False,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            start = line.find('{"at"')
            if start >= 0 and f'"event": "{name}"' in line:
                found.append(json.loads(line[start:]))
        return found

    def wait_until(self, is_so: Callable[[], bool], seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process is None or self.process.poll() is None, f"up ended:\n{self.tail()}"
            try:
                if is_so():
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{complaint} after {seconds} s:\n{self.tail()}")

    def wait_until_drained(self, seconds: float, *, documents: int) -> None:
        def is_drained() -> bool:
            stats = self.stats()
            return sum(stats["documents"].values()) >= documents and stats["pending_documents"] == 0

        self.wait_until(is_drained, seconds, f"not {documents} documents drained")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])
