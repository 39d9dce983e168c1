"""Injects faults, one after another and on top of each other, and counts those that a probe has seen to take effect."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psutil

from tests.crash.system import Member, System
from tests.proxy import Proxy

LEASE_SECONDS = 3.0  # of tests.crash.system
PROBE_SECONDS_MAX = 10.0
AT_ONCE_MAX = 4
WEIGHTS = {
    "kill": 5,
    "freeze": 3,
    "freeze beyond the lease": 2,
    "terminate backend": 4,
    "kill backend": 2,
    "cut": 2,
    "reset": 2,
    "silence": 2,
    "stall": 2,
    "delay": 2,
    "slice": 2,
    "refuse": 2,
    "provider cut": 2,
    "provider reset": 1,
    "provider silence": 1,
    "provider stall": 1,
    "provider delay": 1,
    "provider slice": 1,
    "provider refuse": 1,
    "provider answer": 6,
}
ANSWERS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503},
    *(
        {"kind": kind}
        for kind in ("cut", "garbage", "count", "shuffle", "dimension", "nan", "zeros", "duplicate", "text")
    ),
    {"kind": "slow", "seconds": 2},
)
# Any of these may be the answer of a server that is being broken.
_GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, psutil.Error)
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^askbox [eiq]'"


@dataclass
class Nemesis:
    """Breaks a system. `on_outage` hears of every fault after which work has to begin again."""

    system: System
    dice: random.Random
    pause_seconds: tuple[float, float]
    restart_every: int
    on_outage: Callable[[str], None] = lambda _: None
    effective: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    _running: set["asyncio.Task[None]"] = field(default_factory=set)
    _postgres: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def count(self) -> int:
        return self.effective.total()

    async def run(self, faults: int, seconds_max: float) -> None:
        """Inject until so many faults took effect, then end what still lasts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                while self.count < faults:
                    await self._inject()
                    await asyncio.sleep(self.dice.uniform(*self.pause_seconds))
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._heal()

    async def _inject(self) -> None:
        number = self.tried.total() + 1
        name = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if number % self.restart_every == 0:
            name = "restart of Postgres"
        self.tried[name] += 1
        while len(self._running) >= AT_ONCE_MAX:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._carry_out(name))
        self._running.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(repr(error))

    async def _carry_out(self, name: str) -> None:
        with contextlib.suppress(*_GONE):
            if await self._fault(name):
                self.effective[name] += 1

    def _fault(self, name: str) -> Coroutine[Any, Any, bool]:
        member = self.dice.choice(list(self.system.members.values()))
        if name == "restart of Postgres":
            return self._restart()
        if name == "kill":
            return self._kill(member)
        if name.startswith("freeze"):
            is_long = "lease" in name
            seconds = self.dice.uniform(LEASE_SECONDS + 1, LEASE_SECONDS + 3) if is_long else self.dice.uniform(0.2, 2)
            return self._freeze(member, seconds)
        if name in {"terminate backend", "kill backend"}:
            return self._strike_backend(name)
        if name == "provider answer":
            return self._answer()
        is_provider = name.startswith("provider ")
        return self._disturb(
            self.system.provider_proxy if is_provider else member.proxy, name.removeprefix("provider ")
        )

    # -- processes --------------------------------------------------------------------------------------------------

    async def _kill(self, member: Member) -> bool:
        ended = len(member.exits)
        if not member.signal(signal.SIGKILL):
            return False
        self.on_outage("process")
        return await _soon(lambda: asyncio.sleep(0, len(member.exits) > ended))

    async def _freeze(self, member: Member, seconds: float) -> bool:
        pid = member.pid
        if pid is None or not member.signal(signal.SIGSTOP):
            return False
        try:
            await asyncio.sleep(0.05)
            is_stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
            await asyncio.sleep(seconds)
            return is_stopped
        finally:
            member.signal(signal.SIGCONT)

    # -- Postgres ---------------------------------------------------------------------------------------------------

    async def _restart(self) -> bool:
        async with self._postgres:
            self.on_outage("Postgres")
            await self.system.cluster.stop_hard()
            await asyncio.sleep(self.dice.uniform(0, 2))
            await self.system.cluster.start()
            return True

    async def _strike_backend(self, name: str) -> bool:
        async with self._postgres:
            connection = await self.system.connect()
            try:
                pids = [row["pid"] for row in await connection.fetch(_BACKENDS)]
                if not pids:
                    return False
                pid = self.dice.choice(pids)
                if name == "kill backend":
                    self.on_outage("Postgres")
                    await self.system.cluster.kill_backend(pid)
                elif not await connection.fetchval("SELECT pg_terminate_backend($1)", pid):
                    return False
            finally:
                connection.terminate()
            return await _soon(lambda: asyncio.sleep(0, not psutil.pid_exists(pid)))

    # -- the network ------------------------------------------------------------------------------------------------

    async def _disturb(self, proxy: Proxy, kind: str) -> bool:
        hits = proxy.hits
        match kind:
            case "cut":
                proxy.cut()
            case "reset":
                proxy.reset()
            case "silence":
                proxy.silence()
            case "stall":
                proxy.stall()
            case "delay":
                proxy.delay_seconds = self.dice.uniform(0.01, 0.3)
            case "slice":
                proxy.is_slicing = True
            case "refuse":
                proxy.is_refusing = True
                proxy.cut()
                hits = proxy.hits  # that somebody was turned away is what counts
        if kind in {"stall", "delay", "slice", "refuse", "silence"}:
            await asyncio.sleep(self.dice.uniform(0.5, 4))
        if kind != "silence":
            proxy.heal()
        return proxy.hits > hits

    # -- the provider -----------------------------------------------------------------------------------------------

    async def _answer(self) -> bool:
        provider = self.system.provider
        answer = dict(self.dice.choice(ANSWERS))
        provider.faults.append(answer)

        async def is_taken() -> bool:
            return not any(waiting is answer for waiting in provider.faults.copy())  # another thread takes them

        return await _soon(is_taken)

    async def _heal(self) -> None:
        for member in self.system.members.values():
            member.signal(signal.SIGCONT)
            member.proxy.heal()
        self.system.provider_proxy.heal()
        self.system.provider.faults.clear()


async def _soon(is_so: Callable[[], Awaitable[bool]]) -> bool:
    """Whether something is seen within a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            while not await is_so():  # noqa: ASYNC110 (it happens in another process)
                await asyncio.sleep(0.02)
            return True
    return False
