"""T16: one text among a thousand kills the process that embeds it; others fail or swell each time. The rest is ready.

The harness is the provider, so it sees the text arrive, and kills the embedder that sent it before it has its answer.
"""

import contextlib
import os
import resource
import signal
from collections import Counter

import asyncpg
import psutil

from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.notes import note, wrong_vectors
from tests.crash.provider import stage_all
from tests.crash.report import Report
from tests.crash.system import System, running_system
from tests.openai_server import Call, serving

SECTIONS = 49  # and the title: fifty texts
NOTES = 20
EMBEDDERS = 2
MEMORY_BYTES_MORE = 192 * 1024**2
SWOLLEN_BYTES = 128 * 1024**2
END_SECONDS_MAX = 600.0
KILLS, BREAKS, REFUSES, SWELLS = "killsword", "breaksword", "refusedword", "swellsword"
# Each is a document of its own, since a document with a bad text is not published and the rest of its texts are not
# wanted; in the embedders' batches they stand among the others all the same.
BAD = (KILLS, BREAKS, REFUSES, SWELLS)
MAX_ATTEMPTS = 5
_FAILED = """
SELECT d.source_uri, v.error, l.attempt, l.error_code
FROM document_version AS v
JOIN document AS d ON d.id = v.document_id
LEFT JOIN dead_letter AS l ON v.error LIKE '%' || l.error
WHERE v.state = 'failed'
"""


class Executioner:
    """Kills, at once and for certain, whoever asks for the text; told by the key which process that is."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.kills: Counter[str] = Counter()

    def __call__(self, call: Call) -> None:
        """Run in the provider's thread, before it answers."""
        texts = [call.body["input"]] if isinstance(call.body["input"], str) else call.body["input"]
        if any(KILLS in text for text in texts):
            member = self._system.members[str(call.key)]
            if member.pid is not None:
                os.killpg(member.pid, signal.SIGKILL)
                self.kills[member.name] += 1


async def run(report: Report, options: Options) -> None:
    """Embed a thousand texts of which four are bad, each in its own way."""
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(options.folder, cluster, provider) as system:
                await embed_all(report, options, system)


async def embed_all(report: Report, options: Options, system: System, *, attempts_max: int = MAX_ATTEMPTS) -> None:
    """Stage good and bad texts, embed them, and see what became of each."""
    provider = system.provider
    notes = {
        f"{number:02}.md": note(options.dice(f"note {number}"), f"{number:02}", SECTIONS)
        for number in range(options.sized(NOTES))
    }
    bad = {f"{number:02}-{word}.md": f"Nothing but {word} stands here.\n" for number, word in enumerate(BAD, start=1)}
    await stage_all(system, notes | bad)
    connection = await system.connect()
    try:
        texts = int(await connection.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'"))
        await connection.execute("UPDATE job SET max_attempts = $1", attempts_max)
        provider.poison = {BREAKS: 500, REFUSES: 400}
        provider.bloat = {SWELLS: SWOLLEN_BYTES}
        provider.watch = executioner = Executioner(system)
        limits = Limits(system)
        for number in range(EMBEDDERS):
            await system.add("embedder", f"embedder{number}", OPENAI_API_KEY=f"embedder{number}")
        report.say(f"{texts} texts, {len(BAD)} of them bad")

        async def is_over() -> bool:
            await limits.set(connection)
            return not await connection.fetchval(
                "SELECT count(*) FROM document_version WHERE state NOT IN ('ready', 'failed')"
            )

        await system.wait(is_over, END_SECONDS_MAX, "texts are still to be embedded")
        await judge(report, system, connection, executioner, texts=texts, attempts_max=attempts_max)
    finally:
        provider.watch = None
        await connection.close()


class Limits:
    """Gives each embedder that has started a little more address space than it has taken."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._limited: set[int] = set()

    async def set(self, connection: asyncpg.Connection) -> None:
        """Limit those that are not limited yet."""
        started = {row["pid"] for row in await connection.fetch("SELECT pid FROM worker WHERE is_listening")}
        for member in self._system.members.values():
            pid = member.pid
            if member.kind != "embedder" or pid not in started - self._limited:
                continue
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                taken = psutil.Process(pid).memory_info().vms
                resource.prlimit(pid, resource.RLIMIT_AS, (taken + MEMORY_BYTES_MORE, resource.RLIM_INFINITY))
                self._limited.add(pid)


async def judge(
    report: Report,
    system: System,
    connection: asyncpg.Connection,
    executioner: Executioner,
    *,
    texts: int,
    attempts_max: int,
) -> None:
    """Compare what became of every text with what should."""
    ready = int(await connection.fetchval("SELECT count(DISTINCT text_hash) FROM chunk"))
    failed = {row["source_uri"].partition("-")[2].removesuffix(".md"): row for row in await connection.fetch(_FAILED)}
    _, wrong = await wrong_vectors(connection)
    kills = sum(executioner.kills.values())
    restarts = sum(len(member.exits) for member in system.members.values())
    report.figures |= {
        "texts": texts,
        "texts ready": ready,
        "texts buried with a reason": len(failed),
        "kills by one text": kills,
        "restarts": restarts,
        "attempts": str({word: row["attempt"] for word, row in failed.items()}),
        "reasons": str({word: row["error_code"] for word, row in failed.items()}),
        "vectors wrong": len(wrong),
    }
    for word, row in failed.items():
        report.say(f"{word}: {row['error']}")
    report.expect(ready == texts - len(BAD), f"{ready} of {texts - len(BAD)} good texts are ready")
    report.expect(set(failed) == set(BAD), f"failed are {sorted(failed)}")
    report.expect(
        all(row["attempt"] and row["attempt"] <= attempts_max for row in failed.values()),
        f"not buried within {attempts_max} attempts: {failed}",
    )
    report.expect(
        KILLS in failed and failed[KILLS]["error_code"] == "worker_died", f"what killed is not told: {failed}"
    )
    report.expect(0 < kills <= attempts_max, f"one text killed {kills} times")
    report.expect(restarts <= attempts_max + 1, f"{restarts} restarts")
    report.expect(not wrong, f"{len(wrong)} vectors are wrong: {wrong[:3]}")
    findings = await system.check()
    report.expect(not findings, f"invariants: {findings}")
