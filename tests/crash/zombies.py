"""Zombies: whoever wakes after its lease was swept writes nothing, whatever it was about to write.

Most of it runs here, over a real database: a claimed batch is held before its write, its lease expires and is swept, another
worker takes the jobs and is at work, or done; then the first one goes on. The rest is real processes, stopped by SIGSTOP.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import asyncpg

from services.console.check import check
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.documents import newest_state
from tests.crash.late_writes import KINDS, race_one, rigged, wake_one
from tests.crash.report import Report
from tests.crash.system import Member, System, running_system
from tests.openai_server import serving
from tests.waiting import until

LATE, LATE_OF_PROCESSES = 184, 16
RACES = 60
PATIENCE_SECONDS = 120.0
# How often a process is stopped anew when it was faster than the signal.
STOPS_MAX = 20
# For the answer to a claim to come through, so that the process knows what it holds when it stands still.
CLAIMED_SECONDS = 0.25
LONG_SENTENCES = 20_000


async def run(report: Report, options: Options) -> None:
    """Let 200 late writers wake."""
    async with running_cluster() as cluster:
        url = await cluster.create_database()
        await wake_here(report, options, url, options.sized(LATE, len(KINDS)), options.sized(RACES))
        with serving() as provider:
            async with running_system(options.folder, cluster, provider) as system:
                await _wake_processes(report, options, system, options.sized(LATE_OF_PROCESSES, 2))


async def wake_here(report: Report, options: Options, url: str, late: int, races: int) -> None:
    """Let zombies of every kind wake in this process."""
    async with rigged(url, options.folder / "scanned") as rig:
        woken: Counter[str] = Counter()
        failed: list[str] = []
        for number in range(late):
            name = list(KINDS)[number % len(KINDS)]
            complaint = await wake_one(rig, name, is_finished=number // len(KINDS) % 2 == 0)
            woken[name] += 1
            if complaint is not None:
                failed.append(complaint)
        completed = 0
        for number in range(races):
            was_completed, complaint = await race_one(rig, sweepers=1 + number % 3)
            completed += was_completed
            if complaint is not None:
                failed.append(complaint)
        dead = await rig.owner.fetchval("SELECT count(*) FROM dead_letter")
        reopened = await rig.owner.fetchval("SELECT count(*) FROM document_version WHERE state <> 'ready'")
        doubles = await rig.owner.fetchval(_PUBLISHED_TWICE)
    report.say(f"{late - len(failed)} of {late} late writes here were rejected; {races} races")
    report.figures |= {
        "late writes of handlers and verbs": late,
        "of these rejected": late - len([complaint for complaint in failed if not complaint.startswith("race")]),
        "kinds of late writes": len(woken),
        "races of sweepers with a completion": races,
        "of these won by the completion": completed,
        "versions not ready, or ready twice": reopened + doubles,
    }
    for complaint in sorted(set(failed)):
        report.expect(False, complaint)
    report.expect(dead == 0, f"{dead} dead letters were written by zombies")
    report.expect(reopened == 0, f"{reopened} completed versions were opened again")
    report.expect(doubles == 0, f"{doubles} versions were published twice")
    findings = await check(url)
    report.expect(not findings, f"invariants: {findings}")


_PUBLISHED_TWICE = """
SELECT count(*) FROM (
  SELECT version_id FROM document_event WHERE stage = 'publish' AND outcome = 'ready' GROUP BY version_id HAVING count(*) > 1
) AS twice
"""


# -- real processes --------------------------------------------------------------------------------------------------


async def _wake_processes(report: Report, options: Options, system: System, times: int) -> None:
    """Stop a worker that holds a lease for longer than the lease lasts; it goes on when another one is done."""
    for kind in ("ingester", "embedder", "query"):
        await system.add(kind)
    await system.wait_ready()
    connection = await system.connect()
    rejected = 0
    for number in range(times):
        stage = ("embed", "ingest")[number % 2]
        complaint = await _stop_one(system, connection, stage, number)
        rejected += complaint is None
        report.expect(complaint is None, f"process: {complaint}")
    await connection.close()
    picture = await system.wait_quiet(lambda seen: len(seen.documents) >= times)
    report.expect(not picture.remains, f"left over: {picture.remains}")
    doubles = await system.fetchval(_PUBLISHED_TWICE)
    report.expect(doubles == 0, f"{doubles} versions were published twice")
    findings = await system.check()
    report.expect(not findings, f"invariants: {findings}")
    report.say(f"{rejected} of {times} processes that were stopped beyond their lease wrote nothing")
    report.figures |= {"late processes": times, "of these rejected ": rejected}
    total = int(report.figures["of these rejected"]) + rejected
    report.figures["late writes rejected"] = (
        f"{total} of {int(report.figures['late writes of handlers and verbs']) + times}"
    )


async def _stop_one(system: System, connection: asyncpg.Connection, stage: str, number: int) -> str | None:
    kind = "embedder" if stage == "embed" else "ingester"
    zombie = system.members[kind]
    for attempt in range(STOPS_MAX):
        name = f"{stage}-{number}-{attempt}.md"
        # Long to parse and quick to embed: its chunks are all the same.
        sentence = f"The zombie number {number} of {attempt} reads the same line again and again.\n"
        held = _hold_provider(system) if stage == "embed" else None
        (system.inbox / name).write_text("# Late\n\n" + sentence * (LONG_SENTENCES if stage == "ingest" else 1))
        lease_id = await _stop_in_lease(system, connection, zombie, stage)
        if held is not None:
            held()
        if lease_id is not None:
            break
    else:
        return f"{kind} was never stopped within a lease"
    other = await system.add(kind, f"other-{kind}")
    try:
        await system.wait(
            lambda: _is(connection, f"inbox:{name}", "ready"),
            PATIENCE_SECONDS,
            f"{name} is not ready without its zombie",
        )
        before = (await system.picture()).documents
        lost = _lost_leases(system, zombie)
        zombie.signal(signal.SIGCONT)
        await system.wait(lambda: _has_lost(system, zombie, lost), PATIENCE_SECONDS, f"{kind} never missed its lease")
        after = (await system.picture()).documents
    finally:
        zombie.signal(signal.SIGCONT)
        await system.remove(other.name)
    return None if before == after else f"{kind} changed {name} after its lease was lost"


def _hold_provider(system: System) -> Callable[[], None]:
    """Let the model take its time; nobody else asks it meanwhile."""
    system.provider_proxy.stall()
    return system.provider_proxy.heal


async def _stop_in_lease(system: System, connection: asyncpg.Connection, member: Member, stage: str) -> int | None:
    """Stop a process while it holds a lease of a stage; None, and it goes on, when it was faster."""
    held = "SELECT lease_id FROM job WHERE stage = $1 AND lease_id IS NOT NULL LIMIT 1"
    lease_id = await until(lambda: connection.fetchval(held, stage), PATIENCE_SECONDS)
    await asyncio.sleep(CLAIMED_SECONDS)
    member.signal(signal.SIGSTOP)
    # What it had sent before it stood still is done by now, since the server answers each of us in turn and at once.
    await asyncio.sleep(0.3)
    if await connection.fetchval(held, stage) == lease_id:
        return int(str(lease_id))
    member.signal(signal.SIGCONT)
    with suppress(TimeoutError):
        await until(
            lambda: connection.fetchval("SELECT count(*) = 0 FROM job WHERE stage <> 'index'"), PATIENCE_SECONDS
        )
    return None


async def _is(connection: asyncpg.Connection, source_uri: str, state: str) -> bool:
    return await newest_state(connection, source_uri) == state


def _lost_leases(system: System, member: Member) -> int:
    text = (system.folder / f"{member.name}.log").read_text(encoding="utf-8", errors="replace")
    return text.count('"event": "lease_lost"')


async def _has_lost(system: System, member: Member, before: int) -> bool:
    return _lost_leases(system, member) > before
