"""Real processes of askbox, each behind a proxy of its own, started again when they end."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx2

from services.console.check import check
from tests.crash.cluster import Cluster
from tests.crash.nursery import Nursery, Nursling
from tests.crash.picture import Picture, take_picture
from tests.e2e.harness import free_port
from tests.openai_server import OpenAIServer
from tests.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
MODEL = "openai:test-embedding"
RESTART_PAUSE_SECONDS = 0.1
QUIET_SECONDS_MAX = 90.0
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
# Short, so that a fault costs a second where it would cost half a minute; the proportions are those of the defaults.
SETTINGS = {
    "ASKBOX_LEASE_SECONDS": "3",
    "ASKBOX_POLL_SECONDS": "1",
    "ASKBOX_RESCAN_SECONDS": "1",
    "ASKBOX_SETTLE_SECONDS": "0.2",
    "ASKBOX_STOP_SECONDS": "3",
    "ASKBOX_CHUNK_TOKENS": "64",
    "ASKBOX_EMBED_BATCH": "8",
    "ASKBOX_PROVIDER_SECONDS": "5",
    "ASKBOX_LOG_LEVEL": "INFO",
    "PYTHONUNBUFFERED": "1",
    "NO_PROXY": "127.0.0.1",
}


@dataclass
class Member:
    """One process: what it is, how it was started, how it ended."""

    name: str
    kind: str
    proxy: Proxy
    environment: dict[str, str]
    port: int | None = None
    process: asyncio.subprocess.Process | Nursling | None = None
    is_wanted: bool = True
    exits: list[int] = field(default_factory=list)
    keeper: "asyncio.Task[None] | None" = None
    once: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def signal(self, number: signal.Signals) -> bool:
        """Signal the process and its children; False when it does not run."""
        if self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
            return True
        return False


class System:
    """An inbox, a database and the processes between them."""

    def __init__(self, folder: Path, cluster: Cluster, url: str, provider: OpenAIServer, **settings: str) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.url = url
        self.provider = provider
        self.members: dict[str, Member] = {}
        self.nursery: Nursery | None = None  # who starts processes, where it has to be fast
        self._settings = settings
        parts = urlsplit(provider.url)
        self.provider_proxy = Proxy(lambda: asyncio.open_connection(parts.hostname, parts.port), speaks_postgres=False)

    async def start_proxy(self) -> None:
        await self.provider_proxy.start()

    # -- processes --------------------------------------------------------------------------------------------------

    async def add(
        self,
        kind: str,
        name: str | None = None,
        *,
        once: dict[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
        **settings: str,
    ) -> Member:
        """Start a process that is started again whenever it ends; `once` is for its first start alone, `wrapper` a command before it."""
        name = name or kind
        path = self.cluster.socket_path
        proxy = Proxy(lambda: asyncio.open_unix_connection(path), speaks_postgres=True)
        await proxy.start()
        database = urlsplit(self.url)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("ASKBOX_", "OPENAI_"))}
        environment |= SETTINGS | {
            "ASKBOX_DATABASE_URL": f"postgresql://{database.username}@127.0.0.1:{proxy.port}{database.path}",
            "ASKBOX_EMBEDDING_MODEL": MODEL,
            "ASKBOX_EMBEDDING_BASE_URL": f"http://127.0.0.1:{self.provider_proxy.port}/v1",
            "ASKBOX_HOME": str(self.folder / "home"),
            "ASKBOX_INBOX": str(self.inbox),
        }  # fmt: skip
        port = free_port() if kind == "query" else None
        if port is not None:
            environment["ASKBOX_HTTP_PORT"] = str(port)
        environment |= self._settings | settings
        member = Member(name, kind, proxy, environment, port, once=dict(once or {}), wrapper=wrapper)
        self.members[name] = member
        await self._spawn(member)
        member.keeper = asyncio.create_task(self._keep(member))
        return member

    async def _spawn(self, member: Member) -> None:
        paths = os.pathsep.join(path for path in (member.environment.get("PYTHONPATH"), str(ROOT)) if path)
        environment = member.environment | member.once | {"PYTHONPATH": paths}
        with (self.folder / f"{member.name}.log").open("ab") as log:
            if self.nursery is not None:
                member.process = await self.nursery.spawn(member.kind, self.folder, environment, log.fileno())
                member.once = {}
                return
            member.process = await asyncio.create_subprocess_exec(
                *member.wrapper, sys.executable, "-m", f"services.{member.kind}",
                cwd=self.folder, env=environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        member.once = {}

    async def _keep(self, member: Member) -> None:
        """Do what a supervisor does."""
        while True:
            assert member.process is not None
            code = await member.process.wait()
            member.exits.append(code)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(member.process.pid, signal.SIGKILL)  # the children of what was killed
            if not member.is_wanted:
                return
            await asyncio.sleep(RESTART_PAUSE_SECONDS)
            if not member.is_wanted:
                return
            await self._spawn(member)
            if not member.is_wanted:  # whoever ended it meanwhile found no process to end
                member.signal(signal.SIGKILL)

    async def kill(self, name: str) -> None:
        """Kill a process and its children; it is started again."""
        self.members[name].signal(signal.SIGKILL)

    async def remove(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop a process for good and return its exit code."""
        member = self.members.pop(name)
        member.is_wanted = False
        member.signal(number)
        member.signal(signal.SIGCONT)
        assert member.keeper is not None
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await asyncio.shield(member.keeper)
        except TimeoutError:
            member.signal(signal.SIGKILL)
            await member.keeper
            raise AssertionError(f"{name} did not stop within {STOP_SECONDS_MAX} s") from None
        finally:
            await member.proxy.stop()
        return member.exits[-1]

    async def end(self) -> None:
        for name in list(self.members):
            member = self.members.pop(name)
            member.is_wanted = False
            member.signal(signal.SIGKILL)
            if member.keeper is not None:
                await member.keeper
            await member.proxy.stop()
        await self.provider_proxy.stop()

    # -- looking ----------------------------------------------------------------------------------------------------

    async def connect(self) -> asyncpg.Connection:
        """A superuser's connection of the harness's own, past all proxies."""
        return await asyncpg.connect(self.url, server_settings={"search_path": "askbox, public"}, timeout=10)

    async def fetchval(self, statement: str, *arguments: object) -> object:
        connection = await self.connect()
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    async def picture(self) -> Picture:
        connection = await self.connect()
        try:
            return await take_picture(connection)
        finally:
            await connection.close()

    async def check(self) -> list[str]:
        """Run every invariant."""
        return [f"{finding.invariant}: {finding.rows}" for finding in await check(self.url)]

    async def wait(self, is_so: Callable[[], Awaitable[object]], seconds: float, complaint: str) -> float:
        """Wait for a fact, over faults of the connection, and return after how many seconds it was there."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            with contextlib.suppress(
                OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, httpx2.HTTPError
            ):
                if await is_so():
                    return time.monotonic() - started
            await asyncio.sleep(0.05)
        raise AssertionError(f"{complaint} after {seconds:.0f} s\n{self.tail()}")

    async def wait_ready(self) -> None:
        """Wait until every process has announced itself and listens."""
        kinds = sorted(member.kind for member in self.members.values() if member.kind != "query")
        pids = [member.process.pid for member in self.members.values() if member.process and member.kind != "query"]
        await self.wait(
            lambda: self.fetchval(
                "SELECT count(*) = $2 FROM worker WHERE is_listening AND pid = ANY($1)", pids, len(pids)
            ),
            START_SECONDS_MAX,
            f"not every one of {kinds} listens",
        )
        for member in self.members.values():
            if member.port is not None:
                await self.wait(lambda m=member: self.is_ready(m), START_SECONDS_MAX, f"{member.name} is not ready")

    async def is_ready(self, member: Member) -> bool:
        return (await self.request(member, "GET", "/ready")).status_code == 200

    async def request(self, member: Member, method: str, path: str, **options: object) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.request(method, f"http://127.0.0.1:{member.port}{path}", **options)

    async def wait_quiet(self, expected: Callable[[Picture], bool], seconds: float = QUIET_SECONDS_MAX) -> Picture:
        """Wait until nothing is in work and the picture is as expected; return it either way, the caller compares."""
        deadline = time.monotonic() + seconds
        picture = Picture()
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                picture = await self.picture()
                if not picture.remains and expected(picture):
                    return picture
            await asyncio.sleep(0.05)
        return picture

    def tail(self, lines: int = 15) -> str:
        """The last words of every process."""
        parts = []
        for path in sorted(self.folder.glob("*.log")):
            last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(last))
        return "\n".join(parts)


@contextlib.asynccontextmanager
async def running_system(
    folder: Path, cluster: Cluster, provider: OpenAIServer, *, url: str | None = None, **settings: str
) -> AsyncIterator[System]:
    """A system without processes yet, on a new database; everything ends with the context."""
    is_own = url is None
    url = url or await cluster.create_database()
    system = System(folder, cluster, url, provider, **settings)
    await system.start_proxy()
    try:
        yield system
    finally:
        await system.end()
        if is_own:
            # It goes with its cluster at the latest; a server that a fault has left unwell may end itself over it.
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await cluster.drop_database(url)
