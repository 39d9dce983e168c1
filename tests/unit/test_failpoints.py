"""Failpoints do nothing unless they are armed, and then what they are told to; none stands in the list alone."""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.failpoints import Failpoint, FailpointReached, Trap, arm, parse_trap, reach
from shared.settings import Settings
from tests.crash.sweep_points import SWEPT

ROOT = Path(__file__).resolve().parents[2]
POINT = Failpoint.FILE_READ


@pytest.fixture(autouse=True)
def disarmed():
    yield
    arm(())


def test_every_failpoint_is_reached_somewhere_and_no_other():
    sources = [path.read_text() for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py")]
    called = Counter(name for text in sources for name in re.findall(r"\bawait reach\(Failpoint\.(\w+)\)", text))
    assert set(called) == set(Failpoint.__members__)


def test_every_failpoint_is_swept():
    assert set(Failpoint) == SWEPT


def test_names_and_meanings_are_told_apart():
    assert len({point.label for point in Failpoint}) == len({point.meaning for point in Failpoint}) == len(Failpoint)


@pytest.mark.parametrize(
    ("text", "trap"),
    [
        ("inbox.file_read", Trap(POINT, 1, "kill")),
        (" inbox.file_read:3 ", Trap(POINT, 3, "kill")),
        ("inbox.file_read:raise", Trap(POINT, 1, "raise")),
        ("inbox.file_read:2:hang", Trap(POINT, 2, "hang")),
    ],
)
def test_trap_is_a_name_a_number_and_an_action(text, trap):
    assert parse_trap(text) == trap


@pytest.mark.parametrize("text", ["", ":1", "inbox.file_read:0", "inbox.file_read:explode", "inbox.file_read:raise:1"])
def test_what_is_no_trap_is_told(text):
    with pytest.raises(ValueError, match="NAME"):
        parse_trap(text)


def test_wrong_name_stops_the_start_and_lists_the_right_ones(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASKBOX_FAILPOINTS", "inbox.file_read,inbox.file_eaten")
    with pytest.raises(ConfigError, match=r"^ASKBOX_FAILPOINTS: .*'inbox\.file_eaten', but: inbox\.listed, "):
        Settings.read()
    monkeypatch.setenv("ASKBOX_FAILPOINTS", "inbox.file_read,embed.texts_found:2:hang")
    assert Settings.read().failpoints == (Trap(POINT), Trap(Failpoint.TEXTS_FOUND, 2, "hang"))


async def test_failpoint_that_is_not_armed_does_nothing():
    await reach(POINT)
    arm([Trap(Failpoint.TEXTS_FOUND, 1, "raise")])
    await reach(POINT)


async def test_failpoint_strikes_once_at_its_nth_reach(caplog):
    with caplog.at_level("WARNING", "askbox"):
        arm([Trap(POINT, 3, "raise")])
    assert "failpoints_armed" in caplog.messages
    await reach(POINT)
    await reach(POINT)
    with pytest.raises(FailpointReached, match=POINT.label):
        await reach(POINT)
    await reach(POINT)


async def test_hang_holds_its_caller_and_nobody_else():
    arm([Trap(POINT, 1, "hang")])
    hanging = asyncio.create_task(reach(POINT))
    for _ in range(5):
        await asyncio.sleep(0)  # the loop goes on
    assert not hanging.done()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging


def test_kill_is_a_sigkill_which_leaves_its_line_in_the_log():
    code = f"""
import asyncio
from shared.failpoints import Failpoint, arm, parse_trap, reach
from shared.telemetry import start_logging
start_logging("test", "INFO")
arm([parse_trap("{POINT.label}")])
try:
    asyncio.run(reach(Failpoint.{POINT.name}))
finally:
    print("not killed")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == -9
    assert "not killed" not in ended.stdout
    assert '"event": "failpoint_reached"' in ended.stderr
