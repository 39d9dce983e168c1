"""The report on a folder: what it counts, and when it finds fault."""

import json
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.formats import __main__ as command
from tests.formats.report import Outcome, rows_of


def outcome(**values) -> Outcome:
    return Outcome(**{"name": "a.md", "suffix": "md", "file_bytes": 10, "seconds": 0.5, "memory_bytes": 0} | values)


def test_failure_that_nobody_can_act_on_is_a_bug() -> None:
    assert outcome(reason="the parser failed: KeyError: 'x'", code="corrupt_file").is_bug
    assert not outcome(reason="the file is an image: run OCR on it", code="unsupported_format").is_bug
    assert not outcome().is_bug


def test_figures_are_summed_by_ending() -> None:
    found = [
        outcome(media_type="text/markdown", chunk_count=3, placed_count=2, memory_bytes=5 * 2**20),
        outcome(media_type="text/markdown"),
        outcome(reason="the file is an image", code="unsupported_format", seconds=1.0),
        outcome(suffix="csv", media_type="text/csv", chunk_count=1),
    ]
    rows = rows_of(found)
    assert list(rows) == ["csv", "md"]
    figures = rows["md"].figures()
    assert (figures["files"], figures["ready"], figures["without_text"], figures["failed"]) == (3, 2, 1, 1)
    assert figures["failed_by_kind"] == {"unsupported_format": 1}
    assert (figures["chunks"], figures["chunks_with_place"], figures["memory_mib_max"]) == (3, 2, 5)
    assert figures["seconds_max"] == 1.0


def test_folder_is_parsed_by_real_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "note.md").write_text("# Title\n\nA sentence.\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    message = EmailMessage()
    message["Subject"], message["From"] = "Berths", "ada@example.org"
    message.set_content("See the table.")
    message.add_attachment("a,b\n1,2\n", subtype="csv", filename="table.csv")
    (tmp_path / "letter.eml").write_bytes(message.as_bytes())
    monkeypatch.setattr(sys, "argv", ["formats", str(tmp_path), "--json"])
    monkeypatch.chdir(tmp_path)
    assert command.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["formats"]["md"]["media_types"] == {"text/markdown": 1}
    assert (told["formats"]["md"]["chunks"], told["formats"]["png"]["failed"]) == (1, 1)
    assert told["formats"]["csv"]["media_types"] == {"text/csv": 1}  # what is attached is parsed by itself
    assert list(told["reasons"].values()) == [1]
    monkeypatch.setattr(sys, "argv", ["formats", str(tmp_path)])
    assert command.main() == 0
    assert "4 files, 3 ready, 1 failed" in capsys.readouterr().out


def test_bug_makes_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def parse_folder(*_: object) -> list[Outcome]:
        return [outcome(reason="the parser failed: KeyError: 'x'", code="corrupt_file")]

    monkeypatch.setattr(command, "parse_folder", parse_folder)
    monkeypatch.setattr(sys, "argv", ["formats", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    assert command.main() == 1
    assert "the parser failed: KeyError: 'x'" in capsys.readouterr().out
