"""`askbox doctor` about machine, folders and peers: each check is shown a real cause, as far as a test can make one."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.console.doctor import folders, machine, peers
from services.console.doctor.findings import Check, Finding, Level, ok, run_checks
from services.ingester.paths import MARK_FILE
from tests.doctoring import KEY, answering, as_nobody, closed, failed, listening, settings_of, warned
from tests.e2e.harness import free_port

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without `.env`, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ASKBOX_", "OPENAI_", "OTEL_"))]:
        monkeypatch.delenv(name)
    return tmp_path


# -- the runner ---------------------------------------------------------------------------------------------------------


def test_check_that_hangs_does_not_keep_the_others_from_being_told() -> None:
    forever = threading.Event()
    checks = [
        Check("hangs", lambda _: [ok("hangs", str(forever.wait()))], 0.2),
        Check("fine", lambda _: [ok("fine", "it is")]),
        Check("nothing to say", lambda _: []),
    ]
    try:
        findings = run_checks(checks, settings_of())
    finally:
        forever.set()
    assert [(finding.check, finding.level) for finding in findings] == [("hangs", Level.FAIL), ("fine", Level.OK)]


def test_check_that_crashes_is_told_and_stops_nothing() -> None:
    findings = run_checks(
        [Check("crashes", lambda settings: [settings.no_such_setting]), Check("fine", lambda _: [ok("fine", "it is")])],
        settings_of(),
    )
    assert [finding.check for finding in findings] == ["crashes", "fine"]
    assert "AttributeError" in warned(findings)["crashes"]


# -- the machine --------------------------------------------------------------------------------------------------------


def test_taken_port_fails_and_a_free_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ANSWER_SECONDS", 0.3)
    with listening() as port:
        assert "cannot be used" in failed(machine.look_at_port(settings_of(http_port=port)))["port"]
    assert machine.look_at_port(settings_of(http_port=free_port()))[0].level is Level.OK


def test_port_used_by_another_program_that_speaks_http_fails() -> None:
    with answering(200, {"info": {"title": "something else"}}) as address:
        assert failed(machine.look_at_port(settings_of(http_port=int(address.rpartition(":")[2]))))


def test_port_used_by_askbox_itself_is_fine() -> None:
    with answering(200, {"info": {"title": "askbox"}}) as address:
        (finding,) = machine.look_at_port(settings_of(http_port=int(address.rpartition(":")[2])))
    assert (finding.level, "askbox answers" in finding.found) == (Level.OK, True)


def test_address_of_another_machine_fails() -> None:
    assert failed(machine.look_at_port(settings_of(http_host="192.0.2.1", http_port=free_port())))


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu sse sse2 cx16 ssse3 popcnt", Level.FAIL),
        ("cx16 popcnt sse4_1 sse4_2 ssse3", Level.WARN),
        ("cx16 popcnt sse4_1 sse4_2 ssse3 avx avx2 fma", Level.OK),
    ],
)
def test_processor_is_judged_by_its_flags(flags: str, level: Level) -> None:
    assert machine.judge_cpu("x86_64", f"processor : 0\nflags\t\t: {flags}\n").level is level
    assert machine.judge_cpu("aarch64", "Features : fp asimd\n").level is Level.OK


def test_little_room_is_told_and_too_little_fails(folder: Path) -> None:
    assert machine.judge_memory(1024**3, "it has").level is Level.WARN
    assert machine.judge_disk("disk", folder, 50 * 1024**2).level is Level.FAIL
    assert machine.judge_disk("disk", folder, 500 * 1024**2).level is Level.WARN
    assert machine.judge_shared_memory(0).level is Level.WARN


def test_limit_of_a_container_counts_before_the_memory_of_the_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = folder / "memory.max"
    limit.write_text(f"{1024**3}\n")
    monkeypatch.setattr(machine, "MEMORY_LIMIT", limit)
    assert "1.0 GiB" in warned(machine.look_at_memory(settings_of()))["memory"]
    limit.write_text("max\n")
    assert "this machine" in machine.look_at_memory(settings_of())[0].found


# -- folders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may be read and not written to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_home_that_cannot_be_written_to_fails(read_only: Path) -> None:
    assert "cannot be written to" in failed(as_nobody(folders.look_at_home, home=read_only))["home"]
    assert "cannot be made" in failed(as_nobody(folders.look_at_home, home=read_only / "askbox"))["home"]


def test_home_below_a_file_fails(folder: Path) -> None:
    (folder / "file").touch()
    assert failed(folders.look_at_home(settings_of(home=folder / "file" / "askbox")))


def test_home_is_looked_at_without_a_trace(folder: Path) -> None:
    (folder / "home").mkdir()
    assert folders.look_at_home(settings_of(home=folder / "home"))[0].level is Level.OK
    assert folders.look_at_home(settings_of(home=folder / "absent"))[0].level is Level.OK
    assert [path.name for path in folder.rglob("*")] == ["home"]


def test_inbox_whose_mark_cannot_be_written_is_told(read_only: Path) -> None:
    assert MARK_FILE in warned(as_nobody(folders.look_at_inbox, inbox=read_only))["inbox"]
    read_only.chmod(0o755)
    (read_only / MARK_FILE).touch()
    (read_only / MARK_FILE).chmod(0o666)
    read_only.chmod(0o555)
    assert as_nobody(folders.look_at_inbox, inbox=read_only)[0].level is Level.OK


def test_inbox_that_cannot_be_read_fails(read_only: Path) -> None:
    read_only.chmod(0o000)
    assert "cannot be read" in failed(as_nobody(folders.look_at_inbox, inbox=read_only))["inbox"]


def test_inbox_that_is_a_file_fails(folder: Path) -> None:
    (folder / "inbox").touch()
    assert failed(folders.look_at_inbox(settings_of()))


MOUNTS = """\
40 29 0:50 / {folder}/in\\040box rw,relatime shared:2 - nfs4 host:/share rw
41 29 0:51 / {folder}/in rw,relatime shared:2 - tmpfs tmpfs rw
29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
"""


@linux
def test_inbox_on_a_network_mount_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = folder / "mountinfo"
    mounts.write_text(MOUNTS.format(folder=folder.resolve()))
    monkeypatch.setattr(folders, "MOUNTS", mounts)
    (folder / "in box").mkdir()
    assert "nfs4" in warned(folders.look_at_file_events(settings_of(inbox=folder / "in box")))["file events"]
    assert folders.look_at_file_events(settings_of(inbox=folder / "elsewhere"))[0].level is Level.OK


@linux
def test_more_folders_than_may_be_watched_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "max_user_watches").write_text("5\n")
    monkeypatch.setattr(folders, "INOTIFY", folder)
    for number in range(5):
        (folder / "inbox" / str(number)).mkdir(parents=True)
    assert "6 folders" in warned(folders.look_at_file_events(settings_of()))["file events"]


# -- what it talks to ---------------------------------------------------------------------------------------------------


def test_model_that_is_not_whole_fails_and_one_to_fetch_is_told(folder: Path) -> None:
    assert peers.look_at_model(settings_of())[0].level is Level.OK
    (folder / "model").mkdir()
    assert "tokenizer.json" in failed(peers.look_at_model(settings_of(embedding_model="model")))["embedding model"]
    assert (
        "not on this machine"
        in warned(peers.look_at_model(settings_of(embedding_model="none/such")))["embedding model"]
    )


def ask_providers(address: str, **values: Any) -> list[Finding]:
    values = {"llm_model": "small-model", "llm_base_url": address, "openai_api_key": SecretStr(KEY)} | values
    findings = peers.look_at_providers(settings_of(**values))
    assert KEY not in str(findings)
    return findings


def test_provider_that_is_not_there_fails() -> None:
    with closed() as port:
        assert "does not answer" in failed(ask_providers(f"http://127.0.0.1:{port}/v1"))["LLM provider"]


def test_provider_that_hangs_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ANSWER_SECONDS", 0.3)
    with listening() as port:
        assert "does not answer" in failed(ask_providers(f"http://127.0.0.1:{port}/v1"))["LLM provider"]


def test_provider_that_refuses_the_key_fails() -> None:
    with answering(401, {"error": {"message": f"wrong key {KEY}"}}) as address:
        assert "refuses the key" in failed(ask_providers(f"{address}/v1"))["LLM provider"]
        assert "wants a key" in failed(ask_providers(f"{address}/v1", openai_api_key=None))["LLM provider"]


def test_model_that_the_provider_does_not_list_is_told() -> None:
    with answering(200, {"data": [{"id": "small-model"}]}) as address:
        (finding,) = ask_providers(f"{address}/v1")
        assert finding.level is Level.OK
        assert "misspelt" in str(ask_providers(f"{address}/v1", llm_model="smal-model")[0].advice)


def test_address_that_is_no_api_is_told() -> None:
    with answering(200, "welcome") as address:
        assert "no list of models" in warned(ask_providers(address))["LLM provider"]
    with answering(404) as address:
        assert "404" in warned(ask_providers(address))["LLM provider"]


def test_embedding_provider_is_asked_at_its_own_address() -> None:
    with answering(200, {"data": [{"id": "text-model"}]}) as address:
        values = {"embedding_model": "openai:text-model", "embedding_base_url": f"{address}/v1", "llm_model": None}
        (finding,) = ask_providers("http://127.0.0.1:9", **values)
    assert (finding.check, finding.level) == ("embedding provider", Level.OK)


def test_key_alone_asks_nobody() -> None:
    assert peers.look_at_providers(settings_of(openai_api_key=SecretStr(KEY))) == []
    assert peers.look_at_vocabulary(settings_of(openai_api_key=SecretStr(KEY))) == []


def test_vocabulary_that_is_not_there_is_told(folder: Path) -> None:
    known = {"embedding_model": "openai:text-embedding-3-small"}
    assert (
        str(folder) in warned(peers.look_at_vocabulary(settings_of(**known, tiktoken_cache_dir=folder)))["vocabulary"]
    )
    assert "estimated" in peers.look_at_vocabulary(settings_of(embedding_model="openai:of-my-own"))[0].found


def test_collector_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.look_at_traces(settings_of()) == []
    with closed() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        assert "does not answer" in warned(peers.look_at_traces(settings_of()))["traces"]
    with answering(404) as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        assert "404" in warned(peers.look_at_traces(settings_of()))["traces"]
    with answering(200) as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        assert peers.look_at_traces(settings_of())[0].level is Level.OK


def test_wall_that_does_not_hold_is_told() -> None:
    walls = [
        {"name": "network", "holds": False, "found": "its interfaces: eth0"},
        {"name": "memory", "holds": True, "found": ""},
    ]
    findings = peers.judge_walls(walls)
    assert warned(findings) == {"parser wall: network": "its interfaces: eth0"}
    assert "could reach the network" in str(findings[1].advice)
