"""T15: a provider that does everything wrong that providers do. No vector is wrong, and it is not pestered.

What a call is needed for: each batch once, and each call that the script spoiled once more. An embedder that asks a
server in trouble whether it is well, or sends a batch in halves, pays for it out of the 30 % over that.
"""

import asyncio
import math
import random
import time

import asyncpg

from shared import intake
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.notes import note, texts_sent, wrong_vectors
from tests.crash.report import Report
from tests.crash.system import MODEL, System, running_system
from tests.openai_server import DIMENSION, Fault, OpenAIServer, serving

EMBEDDERS = 2
BATCH = 8
SECTIONS = 40
NOTES = 75
FAULTS = 150
TIMEOUT_SECONDS = 2
DEAD_SECONDS = (30.0, 60.0)
BAD_NOTES = 12
CALLS_PER_NEEDED_MAX = 1.3
DRAIN_SECONDS_MAX = 900.0
SAY_SECONDS = 15.0
# An answer has to be read, and its pause to be committed, before another process can know of it.
TOLD_SECONDS = 0.2
REFUSED, BROKEN = "refusedword", "brokenword"
# What spoils no answer is in the script as well: it must cost nothing.
HARMLESS = ("shuffle", "no_usage")


def script(dice: random.Random, count: int) -> list[Fault | None]:
    """Faults of every kind, in an order that the dice decide; some come in twos and threes."""
    kinds: list[Fault] = [
        {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}},
        {"kind": "status", "status": 429, "headers": {"Retry-After": "2"}},
        {"kind": "status", "status": 429, "headers": {"retry-after-ms": "350"}},
        {"kind": "status", "status": 429, "retry_after_date": 1},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 502},
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 503, "headers": {"Retry-After": "1"}},
        {"kind": "slow", "seconds": 2 * TIMEOUT_SECONDS},
        *(
            {"kind": kind}
            for kind in (
                "cut", "trickle", "garbage", "count", "dimension", "nan", "null", "zeros", "duplicate", "text", *HARMLESS,
            )
        ),
    ]  # fmt: skip
    chosen = [kinds[place % len(kinds)] for place in range(count)]
    dice.shuffle(chosen)
    played: list[Fault | None] = []
    for fault in chosen:
        played.append(fault)
        played += [None] * dice.choice((0, 1, 1, 2))
    return played


async def stage_all(system: System, notes: dict[str, str], *, collection: str = "") -> None:
    """Let an ingester stage notes while no embedder runs, so that later every batch is full."""
    connection = await system.connect()
    try:
        await intake.ensure_model(connection, MODEL, DIMENSION)
        folder = system.inbox / collection
        folder.mkdir(exist_ok=True)
        for name, text in notes.items():
            (folder / name).write_text(text)
        await system.add("ingester")
        wanted = len(notes)
        await system.wait(
            lambda: connection.fetchval("SELECT count(*) = $1 FROM document_version WHERE state = 'embedding'", wanted),
            DRAIN_SECONDS_MAX,
            f"not all of {wanted} notes are staged",
        )
    finally:
        await connection.close()


async def drained(system: System, report: Report) -> None:
    """Wait until every version has ended."""
    connection = await system.connect()
    said_at = -SAY_SECONDS

    async def is_drained() -> bool:
        nonlocal said_at
        if time.monotonic() - said_at >= SAY_SECONDS:
            said_at = time.monotonic()
            left = await connection.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'")
            report.say(f"{left} texts to embed, {len(system.provider.faults)} answers of the script to come")
        return not await connection.fetchval(
            "SELECT count(*) FROM document_version WHERE state NOT IN ('ready', 'failed', 'superseded')"
        )

    try:
        await system.wait(is_drained, DRAIN_SECONDS_MAX, "texts are left")
    finally:
        await connection.close()


def calls_too_early(provider: OpenAIServer) -> tuple[int, int, int]:
    """Count calls within the Retry-After of their own process, of another one that had told, and of one that could not yet."""
    closed = [call for call in provider.called() if call.closed_seconds]
    own = others = untold = 0
    for call in provider.called():
        inside = [before for before in closed if before.at < call.at < before.at + before.closed_seconds]
        own += any(before.key == call.key for before in inside)
        of_others = [before for before in inside if before.key != call.key]
        was_told = any(call.at - before.at > TOLD_SECONDS for before in of_others)
        others += was_told
        untold += bool(of_others) and not was_told
    return own, others, untold


async def run(report: Report, options: Options) -> None:
    """Embed thousands of texts through a provider that fails at every third call, and dies twice."""
    async with running_cluster() as cluster:
        with serving() as provider:
            async with running_system(
                options.folder, cluster, provider, ASKBOX_PROVIDER_SECONDS=str(TIMEOUT_SECONDS)
            ) as system:
                played = script(options.dice("script"), options.sized(FAULTS, least=21))
                await under_faults(report, options, system, played)
                await beside_bad_texts(report, options, system)


async def under_faults(report: Report, options: Options, system: System, played: list[Fault | None]) -> None:
    """Embed everything while the provider plays a script, and is dead for a while in a large run."""
    provider, dice = system.provider, options.dice("deaths")
    names = [f"{number:03}.md" for number in range(options.sized(NOTES))]
    await stage_all(system, {name: note(options.dice(name), name[:3], SECTIONS) for name in names})
    connection = await system.connect()
    try:
        texts = int(await connection.fetchval("SELECT count(*) FROM job WHERE stage = 'embed'"))
        spoiled = sum(fault is not None and fault["kind"] not in HARMLESS for fault in played)
        report.say(f"{texts} texts are staged; the script spoils {spoiled} of its {len(played)} answers")
        provider.calls.clear()
        for number in range(EMBEDDERS):
            await system.add("embedder", f"embedder{number}", OPENAI_API_KEY=f"sk-{number}")
        provider.faults.extend(played)
        draining = asyncio.create_task(drained(system, report))
        dead = 0
        if options.scale >= 0.5:  # half a minute of death cannot be made smaller
            deaths = len(DEAD_SECONDS)
            for seconds in DEAD_SECONDS:
                await system.wait(
                    lambda share=(dead + 1) / (deaths + 1): is_embedded(connection, texts, share),
                    DRAIN_SECONDS_MAX,
                    "the provider is never in use",
                )
                await die(system, seconds, dice)
                dead += 1
                report.say(f"the provider was dead for {seconds:.0f} s")
        await draining
    finally:
        await connection.close()
    await judge(report, system, texts, spoiled)
    report.figures["provider deaths"] = dead


async def is_embedded(connection: asyncpg.Connection, texts: int, share: float) -> bool:
    return int(await connection.fetchval("SELECT count(*) FROM embedding")) >= share * texts


async def die(system: System, seconds: float, dice: random.Random) -> None:
    """Nobody answers: new connections are refused, or nothing comes back from any."""
    proxy = system.provider_proxy
    if dice.random() < 0.5:
        proxy.is_refusing = True
        proxy.reset()
    else:
        proxy.stall()
    await asyncio.sleep(seconds)  # how long it is dead is the fault itself
    proxy.reset()
    proxy.heal()


async def judge(report: Report, system: System, texts: int, spoiled: int) -> None:
    provider = system.provider
    connection = await system.connect()
    try:
        stored = int(await connection.fetchval("SELECT count(*) FROM embedding"))
        states = dict(await connection.fetch("SELECT state, count(*) FROM document_version GROUP BY state"))
        recomputed, wrong = await wrong_vectors(connection)
        letters = int(await connection.fetchval("SELECT count(*) FROM dead_letter"))
    finally:
        await connection.close()
    batches = math.ceil(texts / BATCH)
    calls = len(provider.called())
    own, others, untold = calls_too_early(provider)
    needed = batches + spoiled
    report.figures |= {
        "texts": texts,
        "vectors recomputed": recomputed,
        "vectors wrong": len(wrong),
        "answers spoiled": spoiled,
        "calls needed (batches + spoiled)": needed,
        "calls": calls,
        "calls / needed": round(calls / needed, 3),
        "calls inside a Retry-After": own,
        "calls inside another process's Retry-After": others,
        f"calls within {TOLD_SECONDS:g} s of another's": untold,
        "texts sent more than once": sum(count > 1 for count in texts_sent(provider).values()),
    }
    report.expect(not provider.faults, f"{len(provider.faults)} answers of the script were never asked for")
    report.expect(recomputed == stored == texts, f"{texts} texts, {stored} vectors, {recomputed} recomputed")
    report.expect(not wrong, f"{len(wrong)} vectors are wrong: {wrong[:3]}")
    report.expect(set(states) == {"ready"}, f"versions by state: {states}")
    report.expect(letters == 0, f"{letters} texts were charged with the provider's faults")
    report.expect(calls <= CALLS_PER_NEEDED_MAX * needed, f"{calls} calls where {needed} are needed")
    report.expect(own == 0, f"{own} calls inside a Retry-After")
    report.expect(others == 0, f"{others} calls inside a Retry-After that another process was told")


async def beside_bad_texts(report: Report, options: Options, system: System) -> None:
    """Texts that the provider refuses, or fails on each time, end alone; every other one beside them succeeds."""
    provider = system.provider
    provider.poison = {REFUSED: 400, BROKEN: 500}
    bad = options.sized(BAD_NOTES, least=2)
    words = [REFUSED if number % 2 == 0 else BROKEN for number in range(bad)]
    folder = system.inbox / "bad"
    folder.mkdir()
    for number, word in enumerate(words):
        # Nothing beside it: a document with a bad text is not published, and what else it holds is not wanted.
        (folder / f"{number}.md").write_text(f"In note {number} there is nothing but {word}.\n")
        (folder / f"good{number}.md").write_text(note(options.dice(f"good {number}"), f"good{number}", SECTIONS))
    connection = await system.connect()
    try:
        await system.wait(
            lambda: connection.fetchval("SELECT count(*) = $1 FROM document WHERE source_uri ~ '^inbox:bad/'", 2 * bad),
            DRAIN_SECONDS_MAX,
            "files are not taken",
        )
        await drained(system, report)
        rows = await connection.fetch(
            "SELECT d.source_uri, v.state, v.error FROM document d JOIN document_version v ON v.document_id = d.id"
            " WHERE d.source_uri ~ '^inbox:bad/'"
        )
        letters = await connection.fetch("SELECT attempt, error FROM dead_letter")
        _, wrong = await wrong_vectors(connection)
    finally:
        await connection.close()
    failed = [row for row in rows if row["state"] == "failed"]
    ready = [row for row in rows if row["state"] == "ready"]
    report.figures |= {
        "bad texts": bad,
        "bad texts buried alone": len(letters),
        "documents beside them ready": len(ready),
    }
    report.expect(len(failed) == bad, f"{len(failed)} documents failed, of {bad} with a bad text")
    report.expect(len(ready) == bad, f"{len(ready)} documents are ready, of {bad} without a bad text")
    report.expect(all(row["error"] for row in failed), "a document failed without a reason")
    report.expect(len(letters) == bad, f"{len(letters)} texts were buried, of {bad} bad ones")
    report.expect(not wrong, f"{len(wrong)} vectors are wrong: {wrong[:3]}")
