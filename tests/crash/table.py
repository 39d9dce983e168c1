"""README's table of what survived: written from the figures of the last full run, so that it cannot say anything else.

`python -m tests.crash.table` prints it; a test compares README with it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.crash.__main__ import RESULTS
from tests.crash.report import Figure

Figures = Mapping[str, Figure]
OTHERS_PAUSE = "calls inside another process's Retry-After"
BEGIN, END = "<!-- figures of faults -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: the part it is from, what was done, what had to hold, and what was seen."""

    part: str
    done: Callable[[Figures], str]
    promised: str
    seen: Callable[[Figures], str]


ROWS = (
    Row(
        "sweep",
        lambda f: f"{f['points']} kills, breaks and hangs: every failpoint, and SQL statements",
        "0 lost, 0 stored twice, 0 stuck",
        lambda f: f"{f['lost']} lost, {f['stored_twice']} stored twice, {f['stuck']} stuck",
    ),
    Row(
        "storm",
        lambda f: f"{f['faults that took effect']} random faults, of these {f['restarts of Postgres']} restarts of Postgres",
        "as a fresh ingest; recovery p99 ≤ 45 s",
        lambda f: (
            f"{f['lost, stored twice or different']} differences in {f['documents compared with a fresh ingest']} documents, "
            f"{f['stuck']} stuck; p99 {f['recovery p99 (s)']} s"
        ),
    ),
    Row(
        "listener",
        lambda f: (
            f"no trigger {f['ready without triggers: times']} times, deaf listeners {f['ready with deaf listeners: times']} times"
        ),
        "ready within the poll + 2 s; shown in 15 s",
        lambda f: (
            f"≤ {max(float(f['ready without triggers: max s']), float(f['ready with deaf listeners: max s']))} s; "
            f"shown after ≤ {f['deafness shown in health: max s']} s"
        ),
    ),
    Row("zombies", lambda _: "writes after the lease is lost", "all rejected", lambda f: f"{f['late writes rejected']} rejected"),
    Row(
        "flips",
        lambda f: f"{f['versions sent again']} versions replaced under four readers, {f['answers looked at']} answers",
        "0 mixed, 0 empty, 0 older after newer",
        lambda f: f"{f['of mixed versions']} mixed, {f['empty']} empty, {f['older after newer']} older",
    ),
    Row(
        "exhaustion",
        lambda _: "no connections, locks, deadlocks, Postgres paused for 20 s; answers streamed over a pool of 5",
        "recovery ≤ 10 s; 300 of 300 streams; 0 wedged",
        lambda f: (
            f"≤ {max(float(seconds) for name, seconds in f.items() if name.startswith('recovery'))} s; "
            f"{f['streams answered over a pool of 5']}; {f['wedged']} wedged"
        ),
    ),
    Row(
        "provider",
        lambda f: f"{f['answers spoiled']} answers of the model's server spoiled, {f['vectors recomputed']} vectors recomputed",
        "0 wrong; calls ≤ 1.3 × needed; 0 inside a `Retry-After`",
        lambda f: (
            f"{f['vectors wrong']} wrong; {f['calls / needed']} ×; "
            f"{f['calls inside a Retry-After']}, and {f[OTHERS_PAUSE]} inside that of another embedder"
        ),
    ),
    Row(
        "poison",
        lambda f: f"{f['texts buried with a reason']} of {f['texts']} texts kill their embedder",
        "the others ready, these buried with a reason",
        lambda f: f"{f['texts ready']} ready, {f['texts buried with a reason']} buried",
    ),
    Row(
        "disk",
        lambda _: "Postgres' disk full five times, the parsers' disk full, the inbox read-only",
        "nothing half ready; resumed ≤ 30 s after there is room",
        lambda f: f"≤ {max(float(seconds) for name, seconds in f.items() if 'resumed' in name)} s",
    ),
    Row(
        "deletes",
        lambda f: f"{f['deleted']} documents deleted, collections dropped under questions",
        "not retrievable p99 ≤ 5 s; 0 resurrected",
        lambda f: f"p99 {f['unretrievable after: p99 s']} s; {f['resurrected']}",
    ),
    Row(
        "stops",
        lambda f: f"{f['stops']} stops: under load, twice, while starting, the database silent",
        "≤ 10 s, then the next claim ≤ 1 s",
        lambda f: f"≤ {f['slowest stop (s)']} s, {f['slowest next claim (s)']} s",
    ),
    Row(
        "duplicates",
        lambda f: (
            f"{f['notifications replayed']} notifications, {f['files seen by two ingesters']} files seen by two ingesters, "
            f"{f['same upload at once']} equal uploads at once"
        ),
        "0 documents twice, each text embedded once",
        lambda f: f"{f['documents twice']} twice, {f['texts sent more than once']} texts sent again",
    ),
    Row(
        "clocks",
        lambda f: f"{f['claims']} claims by processes whose clocks are an hour off, {f['workers killed with a lease']} of them killed",
        "0 early, 0 late",
        lambda f: f"{f['leases taken early']} leases taken early, {f['leases taken late']} late",
    ),
    Row(
        "uploads",
        lambda f: (
            f"uploads too large, without a key, slow, and {f['uploads broken off at 50 %']} broken off at their half; "
            f"one of {f['large file (MiB)']} MiB"
        ),
        "refused unread; nothing left behind; p99 of others ≤ 2 ×",
        lambda f: (
            f"≤ {f['bodies without a key: most read of one (KiB)']} KiB read of a body without a key; "
            f"{f['temporary files at any time']} temporary files; {f['small file: p99 beside ÷ idle']} ×"
        ),
    ),
    Row(
        "motion",
        lambda f: f"{f['traces']} traces of {f['steps']} writes, moves, swaps and deletions",
        "the documents are the files at rest",
        lambda f: f"{f['mismatches']} mismatches",
    ),
    Row(
        "flood",
        lambda f: (
            f"{f['files dropped at once']} files at once, {f['files dropped while no ingester ran']} before the start, events dropped "
            f"{f['times that events were dropped']} times"
        ),
        "every file taken once",
        lambda f: (
            f"{f['files that arrived as they are']} of {f['files']}, {f['files taken twice']} twice; "
            f"{f['files taken a second']} a second"
        ),
    ),
    Row(
        "hostile",
        lambda f: f"{f['files']} hostile files of every format: bombs, loops, lies, lures, nonsense",
        "each ends with a reason or ready; ≤ 1 GiB; 0 connections; a good file ≤ 5 s later",
        lambda f: (
            f"{f['failed with a reason']} failed with a reason, {f['ready']} ready, {f['restarts of processes']} restarts; "
            f"≤ {f['child memory max (MiB)']} MiB; {f['connections to the canary']} connections; ≤ {f['good file: max s']} s"
        ),
    ),
    Row(
        "mutants",
        lambda f: f"{f['safeguards removed']} safeguards removed in turn",
        "a test turns red each time",
        lambda f: f"{f['caught by a failing test']} caught",
    ),
)  # fmt: skip


def render() -> str:
    """Write the table from the committed figures."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["| part | done | to hold | seen | seed, seconds |", "|---|---|---|---|---|"]
    for row in ROWS:
        if row.part not in kept:
            continue
        result = kept[row.part]
        figures = result["figures"]
        seen = row.seen(figures) if result["passed"] else f"{row.seen(figures)} (failed)"
        lines.append(
            f"| `{row.part}` | {row.done(figures)} | {row.promised} | {seen} | {result['seed']}, {round(figures['seconds'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(render())
