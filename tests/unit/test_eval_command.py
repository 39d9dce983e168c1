"""`askbox eval` as it is called: wrong use, wrong input, and signals."""

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.console.__main__ import app
from services.console.evaluation.ending import in_order
from services.console.evaluation.home import NoHome, opened_home
from services.console.evaluation.lines import BadCollection
from services.console.evaluation.progress import Progress
from services.console.evaluation.settings import EvaluationSettings
from services.ingester.settings import IngesterSettings
from services.query.settings import QuerySettings
from shared.exit_codes import EXIT_USAGE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "a"}\n', encoding="utf-8")
    (made / "queries.jsonl").write_text("", encoding="utf-8")
    (made / "qrels.tsv").write_text("", encoding="utf-8")
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["missing"],
        ["."],
        ["made", "--split", "dev"],
        ["made", "--split", "train"],
        ["made", "--arm", "sparse"],
        ["made", "--limit", "0"],
        ["made", "--compare", "missing.json"],
        ["made", "--compare", "made/queries.jsonl"],
        ["made", "--per-query", "missing/file.json"],
        ["made/corpus.jsonl"],
    ],
)
def test_wrong_use_ends_with_2_before_anything_is_started(
    folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    done = CliRunner().invoke(app, ["eval", *words])
    assert done.exit_code == EXIT_USAGE, done.output


def test_wrong_collection_is_a_failure_that_names_file_and_line(folder: Path) -> None:
    with pytest.raises(BadCollection, match=r"corpus\.jsonl, line 2"):  # `main` prints it, exit code 1
        CliRunner().invoke(app, ["eval", str(folder)], catch_exceptions=False)


def test_home_that_holds_something_else_is_refused(folder: Path) -> None:
    with pytest.raises(NoHome, match="holds something else"), opened_home(folder):
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.jsonl", "qrels.tsv", "queries.jsonl"]


def test_home_is_used_by_one_at_a_time_and_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened_home(home), pytest.raises(NoHome, match="another"), opened_home(home):
        pass
    with opened_home(home) as again:
        assert again.folder == home


def test_defaults_are_those_of_the_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ASKBOX_CHUNK_TOKENS", "ASKBOX_LLM_MODEL", "ASKBOX_EMBEDDING_MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert EvaluationSettings.read().chunk_tokens == IngesterSettings.read().chunk_tokens
    assert EvaluationSettings.read().llm_model == QuerySettings.read().llm_model
    monkeypatch.setenv("ASKBOX_EMBEDDING_MODEL", "openai:text-embedding-3-small")
    assert EvaluationSettings.read().chunk_tokens == IngesterSettings.read().chunk_tokens


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_first_signal_ends_the_work_and_a_second_does_not_disturb_the_clearing_up(
    number: signal.Signals, ends: type[BaseException]
) -> None:
    cleared = []
    before = signal.getsignal(number)

    def work() -> None:
        with in_order():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                cleared.append(True)

    with pytest.raises(ends):
        work()
    assert cleared
    assert signal.getsignal(number) is before


def test_signal_waits_until_what_was_begun_can_be_ended() -> None:
    begun = []

    def work() -> None:
        with in_order() as ending, ending.held():
            os.kill(os.getpid(), signal.SIGTERM)
            begun.append(True)

    with pytest.raises(SystemExit) as raised:
        work()
    assert begun
    assert raised.value.code == 128 + signal.SIGTERM


def test_signal_counts_also_when_what_was_begun_failed_of_it() -> None:
    def work() -> None:
        with in_order() as ending, ending.held():
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError

    with pytest.raises(SystemExit):
        work()


def test_progress_says_the_last_step_and_not_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for number in range(1, 101):
        progress.show("documents ready", number, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "documents ready: 100 of 100"
    assert len(lines) <= 2
    assert json.dumps(lines).isascii()
