"""What lies in the inbox, and how one file is read whole."""

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.inbox import (
    DEPTH_MAX,
    READ_BYTES,
    FileChanged,
    FileUnreadable,
    Fingerprint,
    WholeFile,
    _tells_of_writers,
    fingerprint,
    refuse,
    scan,
)

_BYTES_MAX = 4 * READ_BYTES


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    root = tmp_path / "inbox"
    root.mkdir()
    return root


@pytest.fixture
def note(inbox: Path) -> Iterator[tuple[Path, WholeFile]]:
    """A file that is open to be read."""
    path = inbox / "note.md"
    path.write_bytes(b"first words of a note")
    whole = WholeFile(inbox, "note.md", file_bytes_max=_BYTES_MAX)
    yield path, whole
    whole.close()


def _open_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _refusal(root: Path, relative: str, *, file_bytes_max: int = _BYTES_MAX) -> str:
    """Return why a file is not taken, and see that nothing stays open."""
    before = _open_count()
    with pytest.raises(FileUnreadable) as caught:
        WholeFile(root, relative, file_bytes_max=file_bytes_max)
    assert _open_count() == before
    return str(caught.value)


def test_scan_lists_nested_files_and_says_why_it_skips_others(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a" / "b").mkdir(parents=True)
    (inbox / "empty").mkdir()
    (inbox / ".git").mkdir()
    for relative in ("top.md", "a/one.md", "a/b/two.txt", ".hidden", ".git/config", "a/draft.md~"):
        (inbox / relative).write_text(relative)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    (inbox / "a" / "link.md").symlink_to(outside / "secret.md")
    (inbox / "folder-link").symlink_to(outside)
    os.link(outside / "secret.md", inbox / "hard.md")
    os.mkfifo(inbox / "pipe")

    listing = scan(inbox)

    assert listing.is_complete
    assert set(listing.files) == {"top.md", "a/one.md", "a/b/two.txt"}
    assert listing.files["a/one.md"] == Fingerprint.of((inbox / "a" / "one.md").stat())
    assert {relative: reason.split(":")[0] for relative, reason in listing.skipped.items()} == {
        ".hidden": "hidden",
        ".git": "hidden",
        "a/draft.md~": "temporary file of another program",
        "a/link.md": "symbolic link",
        "folder-link": "symbolic link",
        "hard.md": "hard link to another file",
        "pipe": "not a regular file",
    }


def test_scan_of_an_inbox_that_is_gone_fails(inbox: Path) -> None:
    inbox.rmdir()
    with pytest.raises(FileNotFoundError):
        scan(inbox)


def test_scan_goes_no_deeper_than_its_bound(inbox: Path) -> None:
    folder = inbox
    for _ in range(DEPTH_MAX + 1):
        folder /= "d"
        folder.mkdir()
        (folder / "f.md").write_text("x")
    listing = scan(inbox)
    assert len(listing.files) == DEPTH_MAX
    assert list(listing.skipped.values()) == [f"nested deeper than {DEPTH_MAX} folders"]


def test_scan_takes_names_that_are_no_utf_8(inbox: Path) -> None:
    (inbox / os.fsdecode(b"caf\xe9.md")).write_text("x")
    assert list(scan(inbox).files) == [os.fsdecode(b"caf\xe9.md")]


@settings(max_examples=25)
@given(content=st.binary(max_size=200), repeats=st.sampled_from([0, 1, 20_000]))
def test_file_is_read_whole(content: bytes, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "f.bin").write_bytes(content * repeats)
        whole = WholeFile(Path(folder), "f.bin", file_bytes_max=_BYTES_MAX)
        try:
            assert b"".join(whole.pieces()) == content * repeats
            assert whole.sha256() == hashlib.sha256(content * repeats).digest()
        finally:
            whole.close()


def test_file_is_read_in_bounded_pieces(inbox: Path) -> None:
    (inbox / "large.txt").write_bytes(b"x" * (2 * READ_BYTES + 1))
    whole = WholeFile(inbox, "large.txt", file_bytes_max=_BYTES_MAX)
    assert [len(piece) for piece in whole.pieces()] == [READ_BYTES, READ_BYTES, 1]
    whole.close()


def test_file_in_a_folder_is_read_and_nothing_stays_open(inbox: Path) -> None:
    (inbox / "a" / "b").mkdir(parents=True)
    (inbox / "a" / "b" / "deep.md").write_text("deep")
    before = _open_count()
    whole = WholeFile(inbox, "a/b/deep.md", file_bytes_max=_BYTES_MAX)
    assert b"".join(whole.pieces()) == b"deep"
    whole.close()
    assert _open_count() == before


def test_reason_of_a_refused_file_fits_other_folders_than_the_inbox(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    for name in ("link", "hard"):
        reason = refuse(os.lstat(tmp_path / name))
        assert reason is not None
        assert "in its place" in reason
        assert "inbox" not in reason


def test_symbolic_link_is_not_followed(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (inbox / "link.md").symlink_to(tmp_path / "secret")
    assert "cannot be opened" in _refusal(inbox, "link.md")


def test_folder_that_is_a_symbolic_link_is_not_entered(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    (tmp_path / "outside" / "sub" / "secret.md").write_text("secret")
    (inbox / "link").symlink_to(tmp_path / "outside")
    (inbox / "real").mkdir()
    (inbox / "real" / "link").symlink_to(tmp_path / "outside" / "sub")
    assert "cannot be opened" in _refusal(inbox, "link/sub/secret.md")
    assert "cannot be opened" in _refusal(inbox, "real/link/secret.md")


def test_hard_link_is_refused(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.link(tmp_path / "secret", inbox / "hard.md")
    assert "hard link" in _refusal(inbox, "hard.md")


def test_fifo_without_a_writer_is_refused_at_once(inbox: Path) -> None:
    os.mkfifo(inbox / "pipe.md")
    assert _refusal(inbox, "pipe.md") == "not a regular file"


def test_socket_is_refused(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inbox)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.md")
        assert "cannot be opened" in _refusal(inbox, "s.md")


def test_folder_is_refused(inbox: Path) -> None:
    (inbox / "folder.md").mkdir()
    assert _refusal(inbox, "folder.md") == "not a regular file"


def test_file_that_is_gone_is_refused(inbox: Path) -> None:
    assert "No such file" in _refusal(inbox, "gone.md")
    assert "No such file" in _refusal(inbox, "gone/a.md")


def test_absolute_path_does_not_leave_the_inbox(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    assert "cannot be opened" in _refusal(inbox, str(tmp_path / "secret"))


def test_file_over_the_limit_is_refused_and_one_at_the_limit_is_not(inbox: Path) -> None:
    (inbox / "f.md").write_bytes(b"12345")
    assert "ASKBOX_MAX_FILE_BYTES (5 > 4 bytes)" in _refusal(inbox, "f.md", file_bytes_max=4)
    whole = WholeFile(inbox, "f.md", file_bytes_max=5)
    assert b"".join(whole.pieces()) == b"12345"
    whole.close()


def test_writer_is_known_only_where_the_file_system_tells(
    note: tuple[Path, WholeFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = note
    assert not whole.has_writer()
    device = path.stat().st_dev
    with path.open("ab"):
        for kind, is_told in (("ext4", True), ("nfs4", False), ("cifs", False), ("fuse.sshfs", False)):
            mounts = tmp_path / kind
            mounts.write_text(
                "22 1 0:0 / /elsewhere rw - proc proc rw\n"
                f"23 1 {os.major(device)}:{os.minor(device)} / /in\\040box rw,relatime shared:1 - {kind} server:/x rw\n"
            )
            monkeypatch.setattr("services.ingester.inbox.MOUNTS", mounts)
            _tells_of_writers.cache_clear()
            assert whole.has_writer() is is_told
    _tells_of_writers.cache_clear()


def test_file_that_grew_has_changed(note: tuple[Path, WholeFile]) -> None:
    path, whole = note
    with path.open("ab") as file:
        file.write(b" and more")
    with pytest.raises(FileChanged):
        whole.sha256()


def test_file_that_grows_while_it_is_read_has_changed(inbox: Path) -> None:
    path = inbox / "log.txt"
    path.write_bytes(b"x" * (READ_BYTES + 5))
    whole = WholeFile(inbox, "log.txt", file_bytes_max=_BYTES_MAX)
    pieces = whole.pieces()
    next(pieces)
    with path.open("ab") as file:
        file.write(b"y" * 3 * READ_BYTES)
    assert len(next(pieces)) == READ_BYTES  # where 5 bytes were left
    with pytest.raises(FileChanged):  # and it is not read after a writer for ever
        next(pieces)
    whole.close()


def test_file_that_shrank_has_changed(note: tuple[Path, WholeFile]) -> None:
    path, whole = note
    os.truncate(path, 5)
    with pytest.raises(FileChanged):
        whole.sha256()


def test_file_whose_words_were_changed_has_changed(note: tuple[Path, WholeFile]) -> None:
    path, whole = note
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileChanged):
        whole.sha256()


def test_file_that_is_written_anew_under_its_name_has_another_fingerprint(note: tuple[Path, WholeFile]) -> None:
    path, whole = note
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)
    assert fingerprint(path.parent, "note.md") not in (None, whole.fingerprint)


def test_only_regular_files_have_a_fingerprint(inbox: Path) -> None:
    (inbox / "f.md").write_text("x")
    (inbox / "link.md").symlink_to("f.md")
    assert fingerprint(inbox, "f.md") == scan(inbox).files["f.md"]
    assert fingerprint(inbox, "link.md") is None
    assert fingerprint(inbox, "gone.md") is None
    assert fingerprint(inbox, "f.md/below") is None
