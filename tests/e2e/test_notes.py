"""`askbox up` with nothing set, as a newcomer runs it: embedded Postgres, a note, an answer, Ctrl-C, and on again."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.exit_codes import EXIT_CONFIG
from tests.conftest import open_folder
from tests.e2e.harness import SECONDS_MAX, Askbox

BACKUP = """# Backups

The nightly backup runs at 02:15 and is encrypted with age. The keys lie in the safe of the office.

## Restore

Run `restore.sh` with the date of the backup. It takes about ten minutes.
"""
GARDEN = "Tomatoes are watered every morning at seven.\n\nThe apple trees are cut in February, before they bud.\n"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def box() -> Iterator[Askbox]:
    with open_folder() as folder:
        askbox = Askbox(folder, None)
        askbox.start()
        yield askbox
        askbox.stop()


def wait_ready(box: Askbox, path: str) -> None:
    box.wait_until(lambda: box.documents().get(path, {}).get("state") == "ready", SECONDS_MAX, f"{path} is not ready")


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(box: Askbox) -> bytes:
    return subprocess.run(["pgrep", "-f", str(box.folder)], capture_output=True, check=False).stdout


def test_dropped_notes_are_answered_with_citations(box: Askbox) -> None:
    (box.inbox / "office").mkdir()
    (box.inbox / "office" / "backup.md").write_text(BACKUP, encoding="utf-8")
    (box.inbox / "garden.txt").write_text(GARDEN, encoding="utf-8")
    wait_ready(box, "office/backup.md")
    wait_ready(box, "garden.txt")
    answer = box.ask("When does the nightly backup run?")
    assert answer["answered"]
    (source, *_) = answer["sources"]
    assert source["file_path"] == "office/backup.md"
    assert source["collection"] == "office"
    assert BACKUP[source["char_start"] : source["char_end"]] == source["quote"]
    assert "02:15" in source["quote"]
    first, last = source["lines"]
    assert "\n".join(BACKUP.splitlines()[first - 1 : last]).count(source["quote"]) == 1
    assert source["place"] == (f"line {first}" if first == last else f"lines {first}–{last}")
    assert "[1]" in answer["answer"]


def test_question_is_confined_to_its_collection(box: Askbox) -> None:
    answer = box.ask("When does the nightly backup run?", collection="default")
    assert all(source["collection"] == "default" for source in answer["sources"])
    assert "office/backup.md" not in [source["file_path"] for source in answer["sources"]]


def test_command_line_asks_lists_searches_and_checks(box: Askbox) -> None:
    asked = box.command("ask", "When does the nightly backup run?").stdout
    assert "02:15" in asked
    assert re.search(r"office/backup\.md › .*, lines? \d", asked), asked
    assert "office/backup.md" in box.command("documents").stdout
    assert "garden.txt" in box.command("search", "apple trees").stdout
    assert '"status": "ok"' in box.command("status", "--json").stdout
    check = box.command("check")
    assert check.returncode == 0, check.stdout
    assert "invariants hold" in check.stdout


def test_file_that_is_not_text_fails_with_a_reason(box: Askbox) -> None:
    (box.inbox / "scan.md").write_bytes(b"%PDF-1.7 not markdown")
    box.wait_until(
        lambda: box.documents().get("scan.md", {}).get("state") == "failed", SECONDS_MAX, "scan.md did not fail"
    )
    assert "PDF" in box.documents()["scan.md"]["error"]
    (box.inbox / "scan.md").unlink()
    box.wait_until(lambda: "scan.md" not in box.documents(), SECONDS_MAX, "scan.md is still there")


def test_skipped_files_are_listed_with_their_reason(box: Askbox) -> None:
    (box.inbox / "link.md").symlink_to(box.inbox / "garden.txt")
    (box.inbox / ".hidden.md").write_text("hidden", encoding="utf-8")
    (box.inbox / "new").mkdir()  # a new folder is scanned at once

    def reasons() -> dict[str, str]:
        return {skipped["file_path"]: skipped["reason"] for skipped in box.get("/inbox").json()["skipped"]}

    box.wait_until(lambda: {"link.md", ".hidden.md"} <= set(reasons()), SECONDS_MAX, "nothing was listed")
    assert "symbolic link" in reasons()["link.md"]
    assert reasons()[".hidden.md"] == "hidden"


def test_killed_processes_are_started_again(box: Askbox) -> None:
    for kind in ("ingester", "embedder"):
        pid = box.pid_of(kind)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        box.wait_until(lambda k=kind, p=pid: box.pid_of(k) not in {p, None}, SECONDS_MAX, f"no new {kind}")
    (box.inbox / "after.md").write_text("# After\n\nWritten after the processes were killed.\n", encoding="utf-8")
    wait_ready(box, "after.md")


def test_interrupt_stops_everything_and_the_next_start_goes_on(box: Askbox) -> None:
    assert box.stop() == 0
    assert "Traceback" not in box.log.read_text(encoding="utf-8", errors="replace")
    box.process = None
    box.wait_until(lambda: not processes_of(box), SECONDS_MAX, "a process goes on")
    (box.inbox / "office" / "backup.md").write_text(BACKUP.replace("02:15", "03:45"), encoding="utf-8")
    (box.inbox / "garden.txt").unlink()
    box.start()
    box.wait_until(lambda: "03:45" in box.ask("When does the nightly backup run?")["answer"], SECONDS_MAX, "old answer")
    box.wait_until(lambda: "garden.txt" not in box.documents(), SECONDS_MAX, "deleted while stopped, and still there")


def test_killed_supervisor_leaves_nothing_behind_and_the_next_start_goes_on(box: Askbox) -> None:
    pids = [box.pid_of(kind) for kind in ("ingester", "embedder")]
    assert box.process is not None
    box.process.kill()
    box.process.wait()
    deadline = time.monotonic() + SECONDS_MAX
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process goes on without its supervisor"
        time.sleep(0.05)
    while is_served(box.port):
        assert time.monotonic() < deadline, "the port is still served"
        time.sleep(0.05)
    box.process = None
    box.start()
    assert "03:45" in box.ask("When does the nightly backup run?")["answer"]


def test_second_start_on_the_same_port_says_so_in_one_sentence(box: Askbox) -> None:
    refused = box.command("up")
    assert refused.returncode == EXIT_CONFIG
    assert "ASKBOX_HTTP_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ASKBOX_HTTP_PORT", "http", ["ASKBOX_HTTP_PORT", "integer"]),
        ("ASKBOX_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/x", ["cannot be reached"]),
        ("ASKBOX_DATABASE_URL", "not a url", ["ASKBOX_DATABASE_URL"]),
        ("ASKBOX_INBOX", "/proc/inbox", ["ASKBOX_INBOX"]),
        ("ASKBOX_HTTP_HOST", "0.0.0.0", ["ASKBOX_HTTP_HOST", "127.0.0.1"]),
        ("ASKBOX_EMBEDDING_MODEL", "/no/such/model", ["ASKBOX_EMBEDDING_MODEL"]),
    ],
)
def test_wrong_setting_is_named_without_a_traceback(name: str, value: str, words: list[str]) -> None:
    with open_folder() as folder:
        refused = Askbox(folder, None, **{name: value}).command("up")
    output = refused.stdout + refused.stderr
    assert refused.returncode == EXIT_CONFIG, output
    assert "Traceback" not in output
    for word in words:
        assert word in output


def test_client_without_a_server_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        box = Askbox(tmp_path, None, ASKBOX_URL=f"http://127.0.0.1:{closed.getsockname()[1]}")
        refused = box.command("ask", "anything")
    assert refused.returncode == 1
    assert "askbox up" in refused.stderr
