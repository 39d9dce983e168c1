"""`make chaos`: break everything on purpose and count what is lost. Parts run alone; a seed replays a part.

python -m tests.crash                      # the parts that break the system, at their full size
python -m tests.crash storm --seed 7       # one part again
python -m tests.crash sweep --scale 0.1    # a tenth of it
"""

import argparse
import asyncio
import importlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.report import Report

# Each is a module with `async def run(report, options)`. First those that break processes, the database and the network,
# the longest ones before the others, so that what runs beside them ends with them.
FAULTS: tuple[str, ...] = (
    "mutants",
    "storm",
    "sweep",
    "flips",
    "listener",
    "provider",
    "clocks",
    "stops",
    "deletes",
    "zombies",
    "exhaustion",
    "disk",
    "poison",
    "duplicates",
)
# Then those of files that are in motion, too many, or of authors who mean harm: run when they are named.
FILES: tuple[str, ...] = ("uploads", "motion", "flood", "hostile")
# And those who ask.
QUESTIONS: tuple[str, ...] = ("leavers",)
PARTS = FAULTS + FILES + QUESTIONS
RESULTS = Path(__file__).with_name("results.json")
EXIT_TERMINATED = 128 + signal.SIGTERM
PART_SECONDS_MAX = 2400


@dataclass(frozen=True)
class Options:
    """How large a part is to be (1.0 = what is promised), where it may write, and its dice."""

    scale: float
    folder: Path
    seed: int

    def sized(self, full: int, least: int = 1) -> int:
        """A count at this scale."""
        return max(least, round(full * self.scale))

    def dice(self, name: str = "") -> random.Random:
        """A source of chance that the seed and the name decide."""
        return random.Random(f"{self.seed} {name}")


def run_part(part: str, seed: int, scale: float) -> Report:
    """Run one part; what it raises is one of its failures."""
    report = Report(part, seed)
    folder = Path(tempfile.mkdtemp(prefix=f"askbox-{part}-"))
    print(f"{part}  seed={seed}  scale={scale}", flush=True)

    async def bounded() -> None:
        async with asyncio.timeout(PART_SECONDS_MAX):
            await importlib.import_module(f"tests.crash.{part}").run(report, Options(scale, folder, seed))

    try:
        asyncio.run(bounded())
    except Exception as error:  # noqa: BLE001 (whatever breaks a part is what it found)
        traceback.print_exc()
        report.failures.append(f"{type(error).__name__}: {error}")
    if report.failures:
        print(f"  what the processes said is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    report.show()
    return report


async def run_beside(parts: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """Run each part in a process of its own, some at a time, for they mostly wait; return those that failed."""
    places = asyncio.Semaphore(arguments.jobs)
    options = [f"--seed={arguments.seed}", f"--scale={arguments.scale}", *(["--keep"] if arguments.keep else [])]
    failed = []

    async def run_alone(part: str) -> None:
        async with places:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.crash", part, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            assert process.stdout is not None
            try:
                async for line in process.stdout:
                    print(f"{part:<10} {line.decode(errors='replace')}", end="", flush=True)
                if await process.wait() != 0:
                    failed.append(part)
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()

    await asyncio.gather(*(run_alone(part) for part in parts))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--keep", action="store_true", help=f"write the figures to {RESULTS.name}")
    parser.add_argument("--jobs", type=int, default=1, help="how many parts run at a time")
    arguments = parser.parse_args()
    # Whoever bounds the time of a run ends it so; its processes and servers are to end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    parts = arguments.parts or FAULTS
    started = time.monotonic()
    if arguments.jobs > 1 and len(parts) > 1:
        failed = asyncio.run(run_beside(parts, arguments))
    else:
        reports = [run_part(part, arguments.seed, arguments.scale) for part in parts]
        if arguments.keep:
            for report in reports:
                report.keep(RESULTS)
        failed = [report.part for report in reports if report.failures]
    print(
        f"{len(parts) - len(failed)} of {len(parts)} parts passed in {(time.monotonic() - started) / 60:.0f} min"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
