"""`askbox eval` with real processes: a made collection, the same again from a kept home, one beside the checkout, and Ctrl-C."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import open_folder
from tests.e2e.harness import SECONDS_MAX
from tests.eval.floors import EVAL_DIR, violations
from tests.eval.made import write_collection

pytestmark = pytest.mark.timeout(900)
SECONDS_A_RUN_MAX = 800


def environment(folder: Path) -> dict[str, str]:
    """As of a newcomer, with temporary files in a folder of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ASKBOX_", "OPENAI_"))}
    return kept | {"TMPDIR": str(folder)}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "services.console", "eval", *words]


def evaluate(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        command(*words, "--home", str(folder / "home"), "--json"),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=SECONDS_A_RUN_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as made:
        write_collection(made / "made")
        yield made


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    return evaluate(folder, "made", "--per-query", "first.json")[0]


def test_made_collection_keeps_its_floors(figures: dict[str, Any]) -> None:
    assert list(violations("made", figures)) == []
    assert (figures["documents"], figures["questions"]) == (40, 40)
    assert figures["answers"]["asked"] == 40 + 5 + 20 + 20
    assert figures["answers"]["off_corpus"]["auroc"] > 0.8
    assert figures["findings"] == []


def test_second_run_from_a_kept_home_reads_nothing_again_and_differs_in_nothing(
    folder: Path, figures: dict[str, Any]
) -> None:
    again, said = evaluate(folder, "made", "--no-answers", "--compare", "first.json", "--limit", "30")
    assert "40 documents are there from before" in said
    assert "documents sent" not in said
    assert again["chunks"] == figures["chunks"]
    assert again["answers"] is None
    by_name = {row["figure"]: row for row in again["comparison"]}
    assert by_name["ndcg@10"]["questions"] == 30
    assert by_name["ndcg@10"]["difference"] == 0
    assert by_name["ndcg@10"]["p"] == 1


@pytest.mark.skipif(not (EVAL_DIR / "adi").is_dir(), reason=f"{EVAL_DIR / 'adi'} is not here")
def test_small_collection_beside_the_checkout_keeps_its_floors(folder: Path) -> None:
    found, _ = evaluate(folder, str(EVAL_DIR / "adi"))
    assert list(violations("adi", found)) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_end_of_any_kind_leaves_neither_process_nor_file(folder: Path, number: signal.Signals, code: int) -> None:
    with open_folder() as temporary:
        evaluation = subprocess.Popen(
            command(str(folder / "made")),
            cwd=folder,
            env=environment(temporary),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started: list[psutil.Process] = []
        try:
            assert evaluation.stderr is not None
            for line in evaluation.stderr:
                if "documents sent" in line:
                    break
            started = _processes_of(temporary, evaluation.pid)
            assert {"postgres", "services.ingester"} <= {_role(process) for process in started}
            evaluation.send_signal(number)
            evaluation.communicate(timeout=SECONDS_MAX)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(evaluation.pid, signal.SIGKILL)
        assert evaluation.returncode == code
        _, alive = psutil.wait_procs(started, timeout=SECONDS_MAX)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert list(temporary.glob("askbox-eval-*")) == []


def _processes_of(temporary: Path, pid: int) -> list[psutil.Process]:
    """The children of an evaluation, and the server, which is nobody's child."""
    (home,) = temporary.glob("askbox-eval-*")
    server = int((home / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    return [*psutil.Process(pid).children(recursive=True), psutil.Process(server)]


def _role(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return next((word for word in process.cmdline() if word.startswith("services.")), process.name())
    return ""
