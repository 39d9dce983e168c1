"""README tells the truth about settings and commands."""

import itertools
import re
from pathlib import Path

import typer
from pydantic.fields import FieldInfo

from services.console.__main__ import app
from services.console.settings import ConsoleSettings
from services.embedder.settings import EmbedderSettings
from services.ingester.parsing.registry import FORMATS
from services.ingester.settings import IngesterSettings
from services.query.settings import QuerySettings
from shared.failpoints import Failpoint
from shared.settings import PREFIX, WorkerSettings
from tests.crash import table
from tests.crash.__main__ import PARTS
from tests.crash.safeguards import MUTANTS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SETTINGS = (ConsoleSettings, EmbedderSettings, IngesterSettings, QuerySettings, WorkerSettings)


def rows() -> dict[str, list[str]]:
    """Names and defaults of the settings table, by name."""
    found = {}
    for line in README.splitlines():
        if re.match(r"\| `(ASKBOX|OPENAI|TIKTOKEN)_", line):
            names, defaults, _ = line.strip("| ").split(" | ", 2)
            values = [part.strip(" `") for part in defaults.split(",")]
            found |= {name: values[place] for place, name in enumerate(re.findall(r"`(\w+)`", names))}
    return found


def variable(name: str, field: FieldInfo) -> str:
    """The variable of a field: those that other programs read too have no prefix."""
    return str(field.validation_alias or f"{PREFIX}{name.upper()}")


def test_every_setting_stands_in_the_table_and_no_other() -> None:
    fields = {variable(*item) for settings in SETTINGS for item in settings.model_fields.items()}
    assert set(rows()) == fields


def test_every_default_in_the_table_is_that_of_the_code() -> None:
    words = {"none": "None", "embedded": "None", "all cores": "None"}
    for settings in SETTINGS:
        for name, field in settings.model_fields.items():
            shown = rows()[variable(name, field)]
            default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            assert words.get(shown, shown) == default, name


def test_every_format_stands_in_the_table_and_no_other() -> None:
    table = README.partition("| format | endings")[2].partition("\n\n")[0]
    shown = set(re.findall(r"`(\.\w+)`", table))
    assert shown
    assert shown <= {suffix for entry in FORMATS for suffix in entry.suffixes}
    for entry in FORMATS:
        assert shown.intersection(entry.suffixes), entry.media_type


def leaves(command, path: tuple[str, ...] = ()) -> set[str]:
    """The full names of all commands below one."""
    if children := getattr(command, "commands", None):
        return set().union(*(leaves(child, (*path, name)) for name, child in children.items()))
    return {" ".join(path)}


def test_every_command_stands_in_the_table_and_no_other() -> None:
    commands = leaves(typer.main.get_command(app)) - {"version"}
    shown = set()
    for line in README.splitlines():
        if line.startswith("| `askbox "):
            for words in re.findall(r"`askbox ([^`]+)`", line.split(" | ")[0]):
                shown.add(" ".join(itertools.takewhile(lambda word: re.fullmatch(r"[a-z-]+", word), words.split())))
    assert shown == commands


def test_every_part_of_the_fault_harness_is_told_of_with_its_true_size() -> None:
    section = README.partition("## Broken on purpose")[2].partition("\n## ")[0]
    first_cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == set(PARTS)
    assert f"the {len(Failpoint)} failpoints" in section
    assert f"each of {len(MUTANTS)} safeguards" in section


def test_figures_of_faults_are_those_of_the_last_run() -> None:
    assert README.partition(table.BEGIN)[2].partition(table.END)[0].strip() == table.render()
