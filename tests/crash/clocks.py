"""T29: a worker's clock is an hour ahead, behind, or jumps. Leases are the database's, and versions are ordered by arrival.

The clocks are shifted within real processes: `time.time` and what is made of it, for everything that is imported.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import asyncpg

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.notes import note, texts_sent, wrong_vectors
from tests.crash.report import Report, percentile
from tests.crash.system import System, running_system
from tests.openai_server import serving

CLAIMS = 200
SECTIONS = 3  # and the title: four texts
KILL_EVERY = 10
BATCH = 8
LEASE_SECONDS = 6.0
# Longer than a lease, so that every claim lives by its heartbeats.
ANSWER_SECONDS = 7.0
EMBEDDERS_EACH = 2
HOUR = 3600
# The pause of a sweep with its jitter, and a machine that is busy.
LATE_SECONDS_MAX = LEASE_SECONDS / 4 * 1.3 + 3.0
# What sweeps do, seen by the database itself: whatever a worker takes for the time, this is when it was.
_AUDIT = """
CREATE TABLE lease_taken (id bigint, worker_id bigint, expires_at timestamptz, at timestamptz DEFAULT now());
CREATE FUNCTION note_taken() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = askbox AS $$
BEGIN
  IF current_query() LIKE '%expired AS%' THEN
    INSERT INTO lease_taken (id, worker_id, expires_at) VALUES (OLD.id, OLD.worker_id, OLD.expires_at);
  END IF;
  RETURN OLD;
END $$;
CREATE TRIGGER note_taken BEFORE DELETE ON lease FOR EACH ROW EXECUTE FUNCTION note_taken();
"""
TAKEN_SECONDS_MAX = 10.0
DRAIN_SECONDS_MAX = 900.0
YEARS = (1970, 2100, 2026)
# Their clocks are put forward or back by another amount, at another time of the year, than UTC's, which never is.
ZONES = ("America/St_Johns", "Australia/Lord_Howe", "Europe/Dublin")
# What each embedder's clock does; the last one jumps an hour back and forth every second.
CLOCKS = {"ahead": f"{HOUR}", "behind": f"-{HOUR}", "jumping": f"{HOUR} jumping", "right": "0"}
FILE_SHIFTS = ("0", f"{HOUR}", f"-{HOUR}", f"{HOUR} jumping")
_SHIFT = '''"""Shift this process's clock as TEST_CLOCK says: so many seconds, or those back and forth."""

import datetime
import os
import time

seconds, _, manner = os.environ.get("TEST_CLOCK", "0").partition(" ")
seconds = float(seconds)
true_time, true_localtime, true_gmtime = time.time, time.localtime, time.gmtime


def shift():
    if manner == "jumping":
        return seconds * (int(time.monotonic()) % 3 - 1)
    return seconds


time.time = lambda: true_time() + shift()
time.time_ns = lambda: int(time.time() * 1_000_000_000)
time.localtime = lambda at=None: true_localtime(time.time() if at is None else at)
time.gmtime = lambda at=None: true_gmtime(time.time() if at is None else at)
true_datetime = datetime.datetime


class _Meta(type):
    def __instancecheck__(cls, value):
        return isinstance(value, true_datetime)


class Shifted(true_datetime, metaclass=_Meta):
    __slots__ = ()

    @classmethod
    def now(cls, tz=None):
        return true_datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return true_datetime.utcfromtimestamp(time.time())


datetime.datetime = Shifted
'''


async def run(report: Report, options: Options) -> None:
    """Let four embedders share the work, of which one is right about the time, and drop files of every year."""
    skew = write_skew(options.folder)
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(
                options.folder / "system",
                cluster,
                provider,
                ASKBOX_LEASE_SECONDS=str(LEASE_SECONDS),
                ASKBOX_PROVIDER_SECONDS="60",
            ) as system:
                await leases(report, options, system, skew)
            provider.reset()
            async with running_system(options.folder / "files", cluster, provider) as system:
                await files(report, options, system, skew)


def write_skew(folder: Path) -> Path:
    """Write what shifts the clocks of processes that have the folder in their path."""
    skew = folder / "skew"
    skew.mkdir()
    (skew / "sitecustomize.py").write_text(_SHIFT)
    return skew


# -- leases -------------------------------------------------------------------------------------------------------------


async def leases(report: Report, options: Options, system: System, skew: Path) -> None:
    """Every claim outlives its lease by heartbeats; every tenth embedder is killed, and its lease must run its time."""
    names = []
    for place, (clock, shift) in enumerate(CLOCKS.items()):
        for number in range(EMBEDDERS_EACH if options.scale >= 0.5 else 1):
            names.append(name := f"{clock}{number}")
            await system.add(
                "embedder",
                name,
                PYTHONPATH=str(skew),
                TEST_CLOCK=shift,
                TZ=ZONES[place % len(ZONES)],
                OPENAI_API_KEY=name,
            )
    await system.add("ingester", PYTHONPATH=str(skew), TEST_CLOCK=str(-HOUR), TZ=ZONES[0])
    await system.wait_ready()
    shifts = _shifts(system)
    report.say(f"the processes' clocks are off by {shifts} s")
    is_shifted = shifts["ahead"] > HOUR / 2 and shifts["behind"] < -HOUR / 2
    report.expect(is_shifted, f"the clocks are not shifted: {shifts}")
    system.provider.calls.clear()
    system.provider.pace_seconds = ANSWER_SECONDS
    claims = options.sized(CLAIMS, least=8)
    connection = await system.connect()
    try:
        await connection.execute(_AUDIT)
        kills = await _claim_all(report, options, system, connection, names, claims)
        rows = await connection.fetch("SELECT extract(epoch FROM at - expires_at)::float AS seconds FROM lease_taken")
        sent = texts_sent(system.provider)
        _, wrong = await wrong_vectors(connection)
    finally:
        await connection.close()
    after = [row["seconds"] for row in rows]
    early, late = sum(seconds < 0 for seconds in after), sum(seconds > LATE_SECONDS_MAX for seconds in after)
    again = sum(count - 1 for count in sent.values())
    report.figures |= {
        "claims": len(system.provider.called()),
        "workers killed with a lease": kills,
        "leases taken from others": len(after),
        "leases taken early": early,
        "leases taken late": late,
        "taken after their end, p50 (s)": round(percentile(after, 0.5), 2),
        "taken after their end, longest (s)": round(max(after, default=0.0), 2),
        "texts sent again": again,
    }
    report.expect(early == 0, f"{early} leases were taken while they ran")
    report.expect(late == 0, f"{late} leases were taken more than {LATE_SECONDS_MAX:.1f} s after their end")
    report.expect(len(after) >= kills, f"{len(after)} leases were taken, and {kills} workers killed")
    report.expect(not wrong, f"{len(wrong)} vectors are wrong")
    # What the former owner of a lease had sent is sent once more, and nothing else is.
    report.expect(again <= len(after) * BATCH, f"{again} texts were sent again for {len(after)} leases that were taken")
    findings = await system.check()
    report.expect(not findings, f"invariants: {findings}")


async def _claim_all(
    report: Report, options: Options, system: System, connection: asyncpg.Connection, names: list[str], claims: int
) -> int:
    """Feed the embedders until so many claims are made, and kill one now and then; return how many held a lease."""
    dice = options.dice("kills")
    number = kills = 0
    next_kill = KILL_EVERY // 2
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while (made := len(system.provider.called())) < claims and time.monotonic() < deadline:
        waiting = number * (SECTIONS + 1) - int(await connection.fetchval("SELECT count(*) FROM embedding"))
        for _ in range(max(0, 2 * BATCH * len(names) - waiting) // (SECTIONS + 1)):
            (system.inbox / f"{number:04}.md").write_text(note(options.dice(f"note {number}"), f"n{number}", SECTIONS))
            number += 1
        if made >= next_kill:
            next_kill += KILL_EVERY
            kills += await _kill_with_a_lease(system, connection, dice.choice(names))
            report.say(f"{made} claims, {kills} killed")
        await asyncio.sleep(0.1)
    system.provider.pace_seconds = 0.0
    await system.wait_quiet(lambda seen: len(seen.documents) == number, DRAIN_SECONDS_MAX)
    return kills


async def _kill_with_a_lease(system: System, connection: asyncpg.Connection, name: str) -> bool:
    """Kill an embedder; say whether it held a lease."""
    pid = system.members[name].pid
    if pid is None:
        return False
    held = await connection.fetchval(
        "SELECT count(*) FROM lease l JOIN worker w ON w.id = l.worker_id JOIN job j ON j.lease_id = l.id"
        " WHERE w.pid = $1 AND j.stage = 'embed' AND l.expires_at < now() + $2 * interval '1 second'",
        pid,
        LEASE_SECONDS,
    )
    if held:
        await system.kill(name)
    return bool(held)


def _shifts(system: System) -> dict[str, float]:
    """How far each process's log is from the clock of the harness."""
    found = {}
    for name in CLOCKS:
        log = system.folder / f"{name}0.log"
        line = next(line for line in log.read_text(encoding="utf-8").splitlines() if '"process_started"' in line)
        at = datetime.fromisoformat(line.partition('"at": "')[2].partition('"')[0])
        found[name] = round(at.timestamp() - log.stat().st_mtime)
    return found


# -- files --------------------------------------------------------------------------------------------------------------


async def files(report: Report, options: Options, system: System, skew: Path) -> None:
    """Files of other years, of the same moment and of the same size are taken, each as the version that it arrived as."""
    await system.add("embedder")
    connection = await system.connect()
    taken: list[float] = []
    old_over_new = 0
    try:
        for shift in FILE_SHIFTS:
            if "ingester" in system.members:
                await system.remove("ingester")
            await system.add("ingester", PYTHONPATH=str(skew), TEST_CLOCK=shift, TZ=ZONES[2])
            await system.wait_ready()
            for year in YEARS:
                name = f"{shift.replace(' ', '-')}-{year}.md"
                # The newest bytes have the oldest date: first 2100 and then 1970, or twice the same.
                for place, (text, mtime) in enumerate(_versions(options, name, year)):
                    started = time.monotonic()
                    _write(system.inbox / name, text, mtime)
                    await _wait_for(connection, system, name, text)
                    taken.append(time.monotonic() - started)
                    report.expect(
                        taken[-1] <= TAKEN_SECONDS_MAX,
                        f"{name}, version {place + 1}: answerable after {taken[-1]:.1f} s (clock {shift})",
                    )
        rows = await connection.fetch(
            "SELECT d.source_uri, d.live_version_id = max(v.id) AS is_newest FROM document d"
            " JOIN document_version v ON v.document_id = d.id GROUP BY d.id, d.source_uri, d.live_version_id"
        )
        old_over_new = sum(not row["is_newest"] for row in rows)
    finally:
        await connection.close()
    report.figures |= {
        "file versions of odd dates": len(taken),
        "answerable after, p50 (s)": round(percentile(taken, 0.5), 2),
        "answerable after, longest (s)": round(max(taken), 2),
        "older over newer": old_over_new,
    }
    report.expect(old_over_new == 0, f"{old_over_new} documents show an older version")
    findings = await system.check()
    report.expect(not findings, f"invariants: {findings}")


def _versions(options: Options, name: str, year: int) -> list[tuple[str, float]]:
    """Three versions of one length: the second is older by its date, the third has the date of the second."""
    at = datetime(year, 3, 29, 1, 30).timestamp()  # an hour that does not exist in some zones
    texts = [
        note(options.dice("odd"), f"odd{version}", 1) + f"\n## Of {name}\n\nWhat {name} says.\n" for version in "abc"
    ]
    assert len({len(text) for text in texts}) == 1
    return list(zip(texts, (at, at - HOUR, at - HOUR), strict=True))


def _write(path: Path, text: str, mtime: float) -> None:
    """Put a file in its place as a copying program does, date and all."""
    made = path.with_name(f".{path.name}.part")
    made.write_text(text)
    os.utime(made, (mtime, mtime))
    made.rename(path)


async def _wait_for(connection: asyncpg.Connection, system: System, name: str, text: str) -> None:
    words = text.split("\n", 1)[0].removeprefix("# ")
    is_live: Callable[[], Awaitable[object]] = lambda: connection.fetchval(  # noqa: E731 (it is handed on)
        "SELECT count(*) > 0 FROM document d JOIN chunk_position p ON p.version_id = d.live_version_id"
        " JOIN chunk c ON c.id = p.chunk_id WHERE d.source_uri = $1 AND (c.prefix || c.text) LIKE '%' || $2 || '%'",
        f"inbox:{name}",
        words,
    )
    await system.wait(is_live, DRAIN_SECONDS_MAX, f"{name} is not answerable")
