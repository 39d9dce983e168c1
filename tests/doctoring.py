"""What tests of `askbox doctor` share: settings, servers that misbehave, and looking without a superuser's rights."""

import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr

from services.console.doctor.findings import Finding, Level
from services.console.doctor.settings import DoctorSettings

NOBODY = 65534
KEY = "sk-canary-of-the-doctor"


def settings_of(**values: Any) -> DoctorSettings:
    if isinstance(url := values.get("database_url"), str):
        values["database_url"] = SecretStr(url)
    return DoctorSettings(**values)


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.found for finding in findings if finding.level is Level.FAIL}


def warned(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.found for finding in findings if finding.level is Level.WARN}


@contextmanager
def answering(status: int, body: Any = None) -> Iterator[str]:
    """An HTTP server that answers everything alike."""
    content = json.dumps(body).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 (its name says the method)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def listening() -> Iterator[int]:
    """A port on which somebody accepts and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent.getsockname()[1]


@contextmanager
def closed() -> Iterator[int]:
    """A port on which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield silent.getsockname()[1]


def as_nobody(look: Callable[[DoctorSettings], list[Finding]], user: int = NOBODY, **values: Any) -> list[Finding]:
    """Look without a superuser's rights; others have none to lose."""
    settings = settings_of(**values)
    if os.getuid() != 0:
        return look(settings)
    os.seteuid(user)
    try:
        return look(settings)
    finally:
        os.seteuid(0)
