"""What commands print of documents."""

import io
import json

import pytest
from rich.table import Table
from rich.text import Text

from services.console.commands.output import PlainConsole, place_of, print_json

HOSTILE = "a\x1b]52;c;b3duZWQ=\x07b\x9b31mc\nd\te"


def test_text_of_a_document_cannot_command_the_terminal():
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=False, width=80)
    table = Table(show_header=False)
    table.add_row(Text(HOSTILE))
    console.print(Text(HOSTILE), table, HOSTILE)
    printed = file.getvalue()
    assert printed.count("\N{REPLACEMENT CHARACTER}]52;c;b3duZWQ=") == 3
    assert not [character for character in printed if not character.isprintable() and character not in "\n\t"]


def test_colours_of_our_own_are_printed():
    file = io.StringIO()
    PlainConsole(file=file, force_terminal=True, color_system="standard").print(Text("well", style="green"))
    assert "\x1b[32mwell\x1b[0m" in file.getvalue()


def test_json_holds_the_same_text_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]):
    print_json({"text": HOSTILE})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"text": HOSTILE}
    assert not [character for character in printed if not character.isprintable() and character != "\n"]


@pytest.mark.parametrize(
    ("collection", "place", "shown"),
    [
        ("handbook", "lines 3–4", "handbook/backup.md › Backups, lines 3–4  (characters 11–70)"),
        ("other", None, "other/handbook/backup.md › Backups  (characters 11–70)"),
    ],
)
def test_source_is_shown_with_its_place(collection: str, place: str | None, shown: str) -> None:
    source = {"collection": collection, "file_path": "handbook/backup.md", "heading": "Backups", "place": place}
    assert place_of(source | {"char_start": 11, "char_end": 70}).plain == shown


@pytest.mark.parametrize(
    ("heading", "place", "shown"),
    [
        ("Q3", "sheet Q3, row 17", "a.xlsx, sheet Q3, row 17"),
        ("Q3", "sheet Q3", "a.xlsx, sheet Q3"),
        ("Q3", "sheet Q31, row 17", "a.xlsx › Q3, sheet Q31, row 17"),
        ("Q3", "sheets Q3–Q4", "a.xlsx › Q3, sheets Q3–Q4"),
        ("", "sheet Q3, row 17", "a.xlsx, sheet Q3, row 17"),
    ],
)
def test_sheet_is_named_once(heading: str, place: str, shown: str) -> None:
    source = {"collection": "default", "file_path": "a.xlsx", "heading": heading, "place": place}
    assert place_of(source | {"char_start": 0, "char_end": 7}).plain == f"{shown}  (characters 0–7)"
