"""A suite that checks itself: remove each safeguard in turn, and at least one test must fail.

Each lane has a copy of the product and an environment that imports from that copy alone, also in child processes that
ignore variables. The tests are first run on the copy as it is: only a test that passes there can catch anything.
"""

import ast
import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
import uuid
import venv
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from xml.etree import ElementTree as ET

import asyncpg
import psutil

from shared.statements import load_statements
from tests.crash.__main__ import Options
from tests.crash.cluster import running_cluster
from tests.crash.report import Report
from tests.crash.safeguards import MUTANTS
from tests.crash.safeguards.mutant import Edit, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("services", "shared", "sql", "tests", "pyproject.toml", "README.md", "Procfile", "compose.yaml")
# Packages of the product, and one that only a parser's server imports.
OURS = ("services", "shared.queue", "services.ingester.parse_server")
# The tests mostly wait: two lanes kept two cores a third busy.
LANES_MAX = 3
# A fact that no test has seen by then does not come: nothing else runs beside these tests.
WAIT_SECONDS = 15
TEST_SECONDS_MAX = 60
RUN_SECONDS_MAX = 150.0
BASELINE_SECONDS_MAX, BASELINE_TEST_SECONDS_MAX = 900.0, 180
MARKER = "ASKBOX_MUTANT_LANE"
PROMISED_SECONDS = 40 * 60.0
# Whoever breaks the text of the program proves nothing about the safeguard.
_BROKEN_TEXT = re.compile(
    r"\b(NameError|UnboundLocalError|ImportError|ModuleNotFoundError|SyntaxError|IndentationError|PostgresSyntaxError|"
    r"IndeterminateDatatypeError|UndefinedColumnError|UndefinedFunctionError|UndefinedTableError)\b"
)
_TIME_IS_UP = re.compile(r"Timeout \(?>")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of tests came to. `failed` maps tests to their messages; `is_whole` is false when it broke off."""

    passed: int
    failed: dict[str, str]
    errors: dict[str, str]
    is_whole: bool
    output: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mutant was caught, and by what, or why it was not."""

    mutant: Mutant
    is_caught: bool
    reason: str
    seconds: float


class Lane:
    """A copy of the product in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self._folder = folder
        self._marker = uuid.uuid4().hex
        self._python = folder / "environment" / "bin" / "python"

    def prepare(self) -> None:
        """Copy the product, and make an environment with this one's packages but without its askbox.

        An environment is what `python -I` and an empty list of variables still obey, as a parser's child has them.
        """
        self.tree.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, self.tree / name)
        waiting = self.tree / "tests" / "waiting.py"
        waiting.write_text(replaced_once(waiting.read_text(), "SECONDS_MAX = 60", f"SECONDS_MAX = {WAIT_SECONDS}"))
        venv.create(self._folder / "environment", symlinks=True, with_pip=False)
        (site,) = (self._folder / "environment").glob("lib/python*/site-packages")
        packages = Path(asyncpg.__file__).parents[1]
        # A folder named in a .pth is searched, and the .pth files in it are not read: those would bring the original back.
        (site / "tree.pth").write_text(f"{self.tree}\n{packages}\n", encoding="utf-8")

    async def imports(self, modules: Sequence[str], *flags: str) -> dict[str, Path]:
        """Where a process of this lane takes modules from."""
        code = (
            f"import {', '.join(modules)}\nfor name in {list(modules)}: print(__import__('sys').modules[name].__file__)"
        )
        process = await asyncio.create_subprocess_exec(
            str(self._python), *flags, "-c", code, cwd="/", env={}, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return dict(zip(modules, map(Path, out.decode().splitlines()), strict=True))

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Hold the copy without the safeguard."""
        originals = {edit.path: (self.tree / edit.path).read_text(encoding="utf-8") for edit in mutant.edits}
        try:
            for path, text in apply(mutant, originals).items():
                self._write(path, text)
            yield
        finally:
            for path, text in originals.items():
                self._write(path, text)

    def _write(self, path: str, text: str) -> None:
        file = self.tree / path
        file.write_text(text, encoding="utf-8")
        if file.suffix == ".py":  # two texts of one length within one second look the same to what was compiled
            Path(cache_from_source(str(file))).unlink(missing_ok=True)

    async def test(
        self, tests: Sequence[str], *flags: str, seconds: float, each_seconds: int = TEST_SECONDS_MAX
    ) -> Outcome:
        """Run tests on the copy, and end whatever they leave behind."""
        results, output = self._folder / "results.xml", self._folder / "output.txt"
        results.unlink(missing_ok=True)
        with output.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                str(self._python), "-m", "pytest", *tests, *flags, f"--timeout={each_seconds}", "-p", "no:cacheprovider",
                f"--basetemp={self._folder / 'temporary'}", f"--junitxml={results}",
                cwd=self.tree, env=self._environment(), stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        is_whole = True
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            is_whole = False
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.to_thread(self._end_leftovers)
        text = output.read_text(encoding="utf-8", errors="replace")
        return _outcome(results, text, is_whole=is_whole)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "PYTHON"))}
        return kept | {MARKER: self._marker}

    def _end_leftovers(self) -> None:
        """Kill what a run left behind, which carries the lane's mark, and remove the folders of servers among it."""
        left = [process for process in psutil.process_iter() if self._is_marked(process)]
        folders = [folder for process in left if (folder := _data_folder(process)) is not None]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        for folder in folders:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARKER) == self._marker
        except (psutil.Error, OSError):
            return False


def _data_folder(process: psutil.Process) -> Path | None:
    """The data folder of a Postgres server that a test started for itself."""
    with contextlib.suppress(psutil.Error, ValueError, IndexError):
        line = process.cmdline()
        folder = Path(line[line.index("-D") + 1])
        if folder.parent.name.startswith(("askbox-test-", "askbox-crash-")):
            return folder
    return None


def _outcome(results: Path, text: str, *, is_whole: bool) -> Outcome:
    passed, failed, errors = 0, {}, {}
    if results.exists():
        for case in ET.parse(results).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            if (found := case.find("failure")) is not None:
                failed[name] = f"{found.get('message', '')}\n{found.text or ''}"
            elif (found := case.find("error")) is not None:
                errors[name] = f"{found.get('message', '')}\n{found.text or ''}"
            elif case.find("skipped") is None:
                passed += 1
    return Outcome(passed, failed, errors, is_whole and results.exists(), text)


def replaced_once(text: str, old: str, new: str) -> str:
    """Replace what stands in a text exactly once.

    Raises: ValueError when it does not.
    """
    if (count := text.count(old)) != 1:
        raise ValueError(f"stands {count} times, not once: {old!r}")
    return text.replace(old, new)


def apply(mutant: Mutant, texts: dict[str, str]) -> dict[str, str]:
    """Remove a safeguard from texts, by path.

    Raises: ValueError when the list names what is no longer there, or breaks the text of a program.
    """
    mutated = dict(texts)
    for edit in mutant.edits:
        mutated[edit.path] = replaced_once(mutated[edit.path], edit.old, edit.new)
    for path, text in mutated.items():
        if text == texts[path]:
            raise ValueError(f"{path} is the same as before")
        if path.endswith(".py"):
            ast.parse(text)
    return mutated


def missing(mutant: Mutant, root: Path = ROOT) -> str | None:
    """Why a mutant or its tests do not fit the product any more, or None."""
    try:
        apply(mutant, {edit.path: (root / edit.path).read_text(encoding="utf-8") for edit in mutant.edits})
        for test in mutant.tests:
            path, _, name = test.partition("::")
            if name and f"def {name.partition('[')[0]}(" not in (root / path).read_text(encoding="utf-8"):
                return f"there is no test {test}"
    except (OSError, ValueError, SyntaxError) as error:
        return str(error)
    return None


def judge(mutant: Mutant, outcome: Outcome, seconds: float) -> Verdict:
    """Tell whether the tests caught a mutant: one failed, and not because the program could not be read."""
    if not outcome.is_whole:
        return Verdict(mutant, mutant.hangs, "the tests hung", seconds)
    if outcome.errors or not outcome.failed:
        last = " | ".join(outcome.output.strip().splitlines()[-3:])
        reason = "survived" if outcome.passed and not outcome.errors else f"no test could be run: {last}"
        return Verdict(mutant, False, reason, seconds)
    name, message = next(iter(outcome.failed.items()))
    first = message.strip().partition("\n")[0][:160]
    if _BROKEN_TEXT.search(message):
        return Verdict(mutant, False, f"{name} failed since the text is broken: {first}", seconds)
    if _TIME_IS_UP.search(message):
        return Verdict(mutant, mutant.hangs, f"{name} hung", seconds)
    return Verdict(mutant, True, f"{name}: {first}", seconds)


async def unpreparable(mutants: Sequence[Mutant], url: str) -> dict[str, str]:
    """Which mutants leave a statement that the database cannot read, and why. A worker would retry it, and tests time out."""
    found: dict[str, str] = {}
    connection = await asyncpg.connect(url, server_settings={"search_path": "askbox, public"})
    try:
        for mutant in mutants:
            for edit in mutant.edits:
                if edit.path.startswith("sql/") or not edit.path.endswith(".sql"):
                    continue  # a migration that cannot be read fails every test before it begins
                for statement in _changed_statements(edit):
                    try:
                        await connection.prepare(statement)
                    except asyncpg.PostgresError as error:
                        found[mutant.name] = str(error)
    finally:
        await connection.close()
    return found


def _changed_statements(edit: Edit) -> list[str]:
    folder, _, name = edit.path.rpartition("/")
    before = load_statements(folder.replace("/", "."), name)
    text = replaced_once((ROOT / edit.path).read_text(encoding="utf-8"), edit.old, edit.new)
    bodies = re.split(r"^-- name: [a-z_]+\n", text, flags=re.MULTILINE)[1:]
    return [body.strip() for body in bodies if body.strip() not in before.values()]


@contextlib.asynccontextmanager
async def open_lanes(folder: Path, count: int) -> AsyncIterator[list[Lane]]:
    """Hold lanes that import from their own copies alone."""
    lanes = [Lane(folder / f"lane{number}") for number in range(count)]
    try:
        for lane in lanes:
            await asyncio.to_thread(lane.prepare)
            for flags in ((), ("-I",)):
                for module, place in (await lane.imports(OURS, *flags)).items():
                    assert place.is_relative_to(lane.tree), f"{module} comes from {place}, not from {lane.tree}"
        yield lanes
    finally:
        for number in range(count):
            shutil.rmtree(folder / f"lane{number}", ignore_errors=True)


async def run(report: Report, options: Options) -> None:
    """Remove every safeguard, or a sample of them, and see what catches it."""
    mutants = list(MUTANTS)
    if options.scale < 1:
        mutants = options.dice("mutants").sample(mutants, options.sized(len(mutants)))
    stale = {mutant.name: reason for mutant in mutants if (reason := missing(mutant)) is not None}
    for name, reason in stale.items():
        report.expect(False, f"{name}: {reason}")
    mutants = [mutant for mutant in mutants if mutant.name not in stale]
    async with running_cluster() as cluster:
        for name, reason in (await unpreparable(mutants, await cluster.create_database())).items():
            report.expect(False, f"{name}: the database cannot read it: {reason}")
    async with open_lanes(options.folder, min(LANES_MAX, (os.cpu_count() or 1) + 1)) as lanes:
        report.say(f"{len(mutants)} safeguards, {len(lanes)} lanes; first the tests as they are")
        red = await _run_unmutated(report, lanes, mutants)
        verdicts = await _try_all(report, lanes, mutants)
    for verdict in verdicts:
        report.expect(verdict.is_caught, f"{verdict.mutant.name}: {verdict.reason}")
    caught = sum(verdict.is_caught for verdict in verdicts)
    survived = sorted(verdict.mutant.name for verdict in verdicts if not verdict.is_caught)
    report.figures |= {
        "safeguards removed": len(mutants) + len(stale),
        "caught by a failing test": caught,
        "survived": ", ".join(survived) or "none",
        "tests red without any removal": len(red),
        "tests that catch": len({test for mutant in mutants for test in mutant.tests}),
    }
    seconds = time.monotonic() - report.started
    report.expect(seconds <= PROMISED_SECONDS, f"took {seconds:.0f} s; promised are {PROMISED_SECONDS:.0f}")


async def _run_unmutated(report: Report, lanes: Sequence[Lane], mutants: Sequence[Mutant]) -> list[str]:
    """Run the tests of all mutants on the copies as they are, one share a lane; return those that fail."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    runs = [
        lane.test(share, seconds=BASELINE_SECONDS_MAX, each_seconds=BASELINE_TEST_SECONDS_MAX)
        for number, lane in enumerate(lanes)
        if (share := tests[number :: len(lanes)])
    ]
    outcomes = await asyncio.gather(*runs)
    red = [name for outcome in outcomes for name in (*outcome.failed, *outcome.errors)]
    for outcome in outcomes:
        report.expect(outcome.is_whole and outcome.passed, f"the tests did not run: {outcome.output[-500:]}")
        for name, message in (outcome.failed | outcome.errors).items():
            report.expect(False, f"{name} fails with every safeguard in place: {message[:300]}")
    report.say(f"{sum(outcome.passed for outcome in outcomes)} tests pass with every safeguard in place")
    return red


async def _try_all(report: Report, lanes: Sequence[Lane], mutants: Sequence[Mutant]) -> list[Verdict]:
    waiting = list(reversed(mutants))
    verdicts: list[Verdict] = []

    async def drive(lane: Lane) -> None:
        while waiting:
            verdict = await attempt(lane, waiting.pop())
            verdicts.append(verdict)
            word = "caught  " if verdict.is_caught else "SURVIVED"
            report.say(f"{word} {verdict.mutant.name} ({verdict.seconds:.0f} s) {verdict.reason}")

    await asyncio.gather(*(drive(lane) for lane in lanes))
    return verdicts


async def attempt(lane: Lane, mutant: Mutant) -> Verdict:
    """Try one mutant."""
    started = time.monotonic()
    with lane.mutated(mutant):
        outcome = await lane.test(mutant.tests, "-x", seconds=RUN_SECONDS_MAX)
    return judge(mutant, outcome, time.monotonic() - started)
