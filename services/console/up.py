"""`askbox up`: database, migrations and all processes on one machine, until Ctrl-C."""

import contextlib
import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import httpx2
from honcho.environ import parse_procfile

import services
from services.console.settings import ConsoleSettings
from services.console.speech import JsonSpeech, PlainSpeech, Speech
from services.console.supervisor import Supervisor
from shared.embedded import kept_running, start_embedded_server
from shared.errors import ConfigError
from shared.migrations import migrate

READY_SECONDS_MAX = 120.0


@contextlib.contextmanager
def database(settings: ConsoleSettings, say: Callable[[str], None] | None = None) -> Iterator[str]:
    """Name the database: the one of the settings, or the embedded one, which runs while the context lasts.

    With `say` it is started again whenever it ends by itself, and that is said.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server, url = start_embedded_server(settings.home)
    try:
        with kept_running(server, say) if say is not None else contextlib.nullcontext():
            yield url
    finally:
        server.cleanup()


def up(settings: ConsoleSettings, *, as_json: bool = False) -> int:
    """Run everything until stopped and return the exit code.

    Raises: ConfigError before anything is started when the port is taken or the inbox cannot be made.
    """
    _refuse_taken_port(settings)
    try:
        settings.inbox.mkdir(parents=True, exist_ok=True)
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"ASKBOX_INBOX, ASKBOX_HOME: {error.filename} cannot be made: {error.strerror}") from None
    commands = _commands(settings.embedders)
    speech: Speech = JsonSpeech() if as_json else PlainSpeech(max(map(len, commands)))
    with database(settings, lambda line: speech.say(f"askbox: {line}")) as url:
        applied = migrate(url)
        _introduce(settings, applied, speech)
        environment = os.environ | {
            "ASKBOX_DATABASE_URL": url,
            "PYTHONUNBUFFERED": "1",
            "ASKBOX_SUPERVISED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        supervisor = Supervisor(commands, environment, speech)
        threading.Thread(target=_announce_ready, args=(settings, speech), daemon=True).start()
        return supervisor.run()


def _procfile() -> Path:
    """Return the Procfile of the checkout, or the one that an installation without a checkout carries."""
    beside = Path(services.__path__[0]).parent / "Procfile"
    return beside if beside.exists() else Path(sysconfig.get_path("data")) / "share" / "askbox" / "Procfile"


def _commands(embedders: int) -> dict[str, str]:
    commands: dict[str, str] = {}
    for name, command in parse_procfile(_procfile().read_text(encoding="utf-8")).processes.items():
        copies = embedders if name == "embedder" else 1
        for number in range(1, copies + 1):
            commands[name if copies == 1 else f"{name}.{number}"] = command
    return commands


def _refuse_taken_port(settings: ConsoleSettings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            raise ConfigError(
                f"ASKBOX_HTTP_PORT: {settings.http_host}:{settings.http_port} cannot be used ({error.strerror}): "
                "stop what listens there (another `askbox up`?), or choose another port"
            ) from None


def _address(settings: ConsoleSettings) -> str:
    return f"http://{settings.http_host}:{settings.http_port}"


def _introduce(settings: ConsoleSettings, applied: list[str], speech: Speech) -> None:
    where = (
        "ASKBOX_DATABASE_URL" if settings.database_url else f"embedded, under {settings.home.resolve() / 'postgres'}"
    )
    command = Path(sys.argv[0]).resolve()
    lines = [
        f"askbox {version('askbox')}",
        f"  inbox      {settings.inbox.resolve()}   drop documents here; a sub-folder is a collection",
        f"  questions  {_address(settings)}/query   API pages: {_address(settings)}/docs",
        f"  database   {where}" + (f" ({len(applied)} migrations applied)" if applied else ""),
        f"  model      {settings.embedding_model}, {settings.embedders} embedder{'s' if settings.embedders > 1 else ''}",
        f'  command    {command} ask "…"',
        "  stop       Ctrl-C",
    ]
    facts = {
        "version": version("askbox"),
        "inbox": str(settings.inbox.resolve()),
        "url": _address(settings),
        "applied": applied,
        "model": settings.embedding_model,
        "embedders": settings.embedders,
    }
    speech.say("\n".join(lines), **facts)


def _announce_ready(settings: ConsoleSettings, speech: Speech) -> None:
    """Say once that everything answers; loading the models takes some seconds."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{_address(settings)}/health", timeout=2, trust_env=False).status_code == 200:
                speech.say("askbox: ready", ready=True)
                return
        time.sleep(0.3)
