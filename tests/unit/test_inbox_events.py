"""What the kernel tells of a tree of folders, as signals."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.ingester import events
from services.ingester.events import InotifyWatch, watch_folder
from services.ingester.inbox import scan
from services.ingester.inotify import IN_CREATE, IN_MOVED_FROM, Happening, Inotify
from services.ingester.signals import Closed, FolderMoved, Lost, Moved, Opened, Removed, Signal, Touched
from tests.waiting import until

LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "inbox"
    (root / "team" / "deep").mkdir(parents=True)
    return root


@contextlib.asynccontextmanager
async def watched(root: Path) -> AsyncIterator[tuple[InotifyWatch, list[Signal]]]:
    """Watch a tree as a scan does."""
    heard: list[Signal] = []
    watch = InotifyWatch(root, heard.append)
    try:
        watch.begin()
        scan(root, watch.watch)
        yield watch, heard
    finally:
        watch.close()


async def until_heard(heard: list[Signal], signal: Signal) -> None:
    await until(lambda: asyncio.sleep(0, signal in heard), 10)


async def test_a_file_that_is_written_is_told_of_from_its_making_to_its_end(root: Path) -> None:
    async with watched(root) as (_, heard):
        (root / "team" / "deep" / "a.md").write_text("one")
        (root / "last.md").write_text("last")
        await until_heard(heard, Closed("last.md"))
    name = "team/deep/a.md"
    assert [signal for signal in heard if signal.path == name] == [Opened(name), Touched(name), Closed(name)]


async def test_a_change_of_times_or_modes_is_nobodys_writing(root: Path) -> None:
    (root / "a.md").write_text("one")
    async with watched(root) as (_, heard):
        os.utime(root / "a.md")
        (root / "a.md").chmod(0o600)
        (root / "b.md").write_text("two")
        await until_heard(heard, Closed("b.md"))
    assert {signal.path for signal in heard} == {"b.md"}


async def test_moves_within_into_and_out_of_the_inbox(root: Path, tmp_path: Path) -> None:
    for name in ("a.md", "out.md"):
        (root / name).write_text(name)
    (tmp_path / "in.md").write_text("in")
    async with watched(root) as (_, heard):
        (root / "a.md").rename(root / "team" / "b.md")
        (tmp_path / "in.md").rename(root / "in.md")
        (root / "out.md").rename(tmp_path / "out.md")
        (root / "team" / "b.md").unlink()
        await until_heard(heard, Removed("out.md"))
    assert heard == [Moved("a.md", "team/b.md"), Closed("in.md"), Removed("team/b.md"), Removed("out.md")]


async def test_folder_that_moved_is_watched_under_its_new_name_with_all_below_it(root: Path) -> None:
    async with watched(root) as (_, heard):
        (root / "team").rename(root / "crew")
        await until_heard(heard, FolderMoved("team", "crew"))
        assert heard[-1] == Lost()
        (root / "crew" / "deep" / "a.md").write_text("one")
        await until_heard(heard, Closed("crew/deep/a.md"))


async def test_folder_that_left_the_inbox_is_not_heard_of_again(root: Path, tmp_path: Path) -> None:
    async with watched(root) as (_, heard):
        (root / "team").rename(tmp_path / "away")
        await until_heard(heard, Lost())
        (tmp_path / "away" / "deep" / "a.md").write_text("one")
        (root / "b.md").write_text("two")
        await until_heard(heard, Closed("b.md"))
    assert [signal for signal in heard if not isinstance(signal, Lost)] == [
        Opened("b.md"),
        Touched("b.md"),
        Closed("b.md"),
    ]


async def test_new_folder_asks_for_a_scan_and_is_watched_from_then_on(root: Path) -> None:
    async with watched(root) as (watch, heard):
        (root / "new").mkdir()
        await until_heard(heard, Lost())
        scan(root, watch.watch)
        (root / "new" / "a.md").write_text("one")
        await until_heard(heard, Closed("new/a.md"))


async def test_events_that_the_kernel_drops_are_counted_and_told_of_as_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(events, "count_events_dropped", lambda: counted.append(1))
    before = LIMIT.read_text(encoding="ascii")
    try:
        LIMIT.write_text("16", encoding="ascii")
        watching = watched(root)
        watch, heard = await watching.__aenter__()
    except OSError:
        pytest.skip("the length of the queue is not ours to change")
    finally:
        with contextlib.suppress(OSError):
            LIMIT.write_text(before, encoding="ascii")
    try:
        for _ in range(2):
            heard.clear()
            for number in range(100):  # nobody reads meanwhile
                (root / f"{number}.md").write_text("x")
            await until_heard(heard, Lost())
            assert len(heard) <= 17
    finally:
        await watching.__aexit__(None, None, None)
    assert watch.note is None
    assert len(counted) == 2
    assert [record.getMessage() for record in caplog.records] == ["events_dropped"]


async def test_folders_beyond_the_limit_are_counted_until_there_is_room(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_watch = {"", "team/"}
    ask = Inotify.watch

    def within_the_limit(inotify: Inotify, folder: str) -> None:
        if folder not in may_watch:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ask(inotify, folder)

    monkeypatch.setattr(Inotify, "watch", within_the_limit)
    async with watched(root) as (watch, heard):
        for _ in range(2):
            watch.begin()
            scan(root, watch.watch)
        assert watch.note is not None
        assert watch.note.startswith("1 of 3 folders of the inbox are not watched")
        (root / "team" / "deep" / "unheard.md").write_text("x")
        (root / "team" / "heard.md").write_text("x")
        await until_heard(heard, Closed("team/heard.md"))
        assert not [signal for signal in heard if "unheard" in signal.path]
        may_watch.add("team/deep/")
        watch.begin()
        scan(root, watch.watch)
        assert watch.note is None
    assert [record.getMessage() for record in caplog.records] == ["folder_not_watched"]


async def test_folder_that_vanishes_while_it_is_asked_for_is_no_trouble(root: Path) -> None:
    async with watched(root) as (watch, _):
        watch.watch("gone/")
        assert watch.note is None


async def test_scan_of_the_inbox_before_watches_nothing_for_the_next_one(root: Path, tmp_path: Path) -> None:
    """It goes on in a thread, and the descriptor that it would ask belongs to another by then."""
    (tmp_path / "next").mkdir()
    async with watched(root) as (before, _):
        pass
    async with watched(tmp_path / "next") as (_, heard):
        before.watch("team/")
        assert before.note is None
        (root / "team" / "a.md").write_text("of the inbox before")
        (tmp_path / "next" / "b.md").write_text("of this one")
        await until_heard(heard, Closed("b.md"))
    assert heard == [Opened("b.md"), Touched("b.md"), Closed("b.md")]


async def test_what_happens_in_a_folder_that_has_no_name_yet_asks_for_a_scan(root: Path) -> None:
    async with watched(root) as (watch, heard):
        watch._tell(Happening(None, IN_CREATE, 0))
        assert heard == [Lost()]


async def test_half_moves_without_end_are_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HALF_MOVES_MAX", 3)
    async with watched(root) as (watch, heard):
        for cookie in range(5):
            watch._tell(Happening(f"{cookie}.md", IN_MOVED_FROM, cookie))
        assert heard == [Lost(), Lost()]


async def test_signals_that_nobody_takes_are_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SIGNALS_MAX", 5)
    signals: asyncio.Queue[Signal] = asyncio.Queue()
    sent: list[Callable[[Signal], None]] = []

    class Chatterbox:
        note = None

        def __init__(self, _: Path, send: Callable[[Signal], None]) -> None:
            sent.append(send)

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(events, "InotifyWatch", Chatterbox)
    with watch_folder(root, signals):
        for number in range(20):
            sent[0](Closed(f"{number}.md"))
    assert [signals.get_nowait() for _ in range(signals.qsize())] == [*(Closed(f"{n}.md") for n in range(5)), Lost()]


async def test_without_events_there_is_the_scan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(events, "InotifyWatch", none_left)
    with watch_folder(root, asyncio.Queue()) as watch:
        assert watch is None
