"""Names of files survive the way into the database and back."""

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.paths import (
    ATTACHMENT_NAME_BYTES_MAX,
    COLLECTION_NAME_LENGTH_MAX,
    attachment_names,
    collection_of,
    decode_path,
    display_path,
    encode_path,
    inbox_uri,
    skip_reason,
)
from shared.text import storable

_NAME = st.lists(
    st.binary(min_size=1, max_size=6)
    | st.text(min_size=1, max_size=6).map(str.encode)
    | st.sampled_from(
        [b"%", b"%41", b"%zz", b"\n", b"\x7f", "\x85".encode(), b"\xff", b"\xed\xa0\x80", "\u2028".encode()]
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: b"".join(parts).replace(b"\x00", b"").replace(b"/", b"") or b"a")
_RELATIVE = st.lists(_NAME, min_size=1, max_size=3).map(b"/".join).map(os.fsdecode)


@settings(max_examples=300)
@given(_RELATIVE)
def test_any_file_name_survives_the_round_trip(relative: str) -> None:
    assert decode_path(encode_path(relative)) == relative


@settings(max_examples=300)
@given(_RELATIVE)
def test_encoded_names_are_storable_and_hold_no_control_characters(relative: str) -> None:
    encoded = encode_path(relative)
    assert encoded.encode().decode() == encoded
    assert storable(encoded) == (encoded, 0)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in encoded)
    assert encoded.count("/") == relative.count("/")


@settings(max_examples=100)
@given(_RELATIVE, _RELATIVE)
def test_two_names_never_become_one(one: str, other: str) -> None:
    assert (inbox_uri(one) == inbox_uri(other)) == (one == other)


@settings(max_examples=100)
@given(_RELATIVE)
def test_uri_shows_the_encoded_path(relative: str) -> None:
    assert display_path(inbox_uri(relative)) == encode_path(relative)


@pytest.mark.parametrize(
    ("relative", "uri"),
    [
        ("notes/wal.md", "inbox:notes/wal.md"),
        ("100 %.md", "inbox:100 %25.md"),
        ("a\nb.md", "inbox:a%0Ab.md"),
        (os.fsdecode(b"caf\xe9.md"), "inbox:caf%E9.md"),
        ("café.md", "inbox:café.md"),
        ("a:b.md", "inbox:a:b.md"),
        ("next\x85line", "inbox:next%C2%85line"),
        ("a\u2028b/c\u2029.md", "inbox:a%E2%80%A8b/c%E2%80%A9.md"),
    ],
)
def test_uri_of_a_file_is_readable(relative: str, uri: str) -> None:
    assert inbox_uri(relative) == uri


@pytest.mark.parametrize(
    ("relative", "collection"),
    [("a.md", "default"), ("team/a.md", "team"), ("team/sub/a.md", "team"), ("50%/a.md", "50%25")],
)
def test_first_folder_names_the_collection(relative: str, collection: str) -> None:
    assert collection_of(relative) == collection


@pytest.mark.parametrize("relative", [".env", ".git/config", "a/.hidden/b.md", "a/.~lock.b.odt#", "..", "a/../b.md"])
def test_hidden_names_are_skipped(relative: str) -> None:
    assert skip_reason(relative) == "hidden"


@pytest.mark.parametrize(
    "relative",
    [
        "~$report.docx",
        "a.md~",
        "#a.md#",
        "a.md.part",
        "A.TMP",
        "b.crdownload",
        "c.swp",
        "x/4913",
        "y.tmp/a.md",
        "z.partial",
    ],
)
def test_temporary_names_of_other_programs_are_skipped(relative: str) -> None:
    assert skip_reason(relative) == "temporary file of another program"


@pytest.mark.parametrize(
    "relative",
    [
        "a.md",
        "team/a.md",
        "a.b.c/d e.txt",
        "tmp",
        "part.md",
        "14913",
        "a~b.md",
        "C# notes.md",
        "#5 ideas.md",
        "templates/x.md",
        "Ω/名前.md",
        f"{'a' * COLLECTION_NAME_LENGTH_MAX}/a.md",
        " a.md",
    ],
)
def test_ordinary_names_are_taken(relative: str) -> None:
    assert skip_reason(relative) is None


@pytest.mark.parametrize("folder", ["a" * (COLLECTION_NAME_LENGTH_MAX + 1), " team", "team ", "%" * 70])
def test_folder_that_cannot_name_a_collection_is_skipped(folder: str) -> None:
    reason = skip_reason(f"{folder}/a.md")
    assert reason is not None
    assert "cannot name a collection" in reason


@pytest.mark.parametrize("written", ["", ".", "..", " .. ", "../..", "a/", "C:\\files\\..", "\u202e.\x00."])
def test_attachment_without_a_name_of_its_own_is_given_one(written: str) -> None:
    assert attachment_names([written]) == ["attachment"]


@given(
    st.lists(st.text(max_size=9) | st.sampled_from(["a.txt", "a (2).txt", "é" * 200 + ".txt", "/", "//", "..", "."]))
)
def test_names_of_attachments_differ_and_are_one_part_of_a_path(written: list[str]) -> None:
    names = attachment_names(written)
    assert len(set(names)) == len(written)
    for name in names:
        assert "/" not in name
        assert name.strip(".")
        assert name == name.strip()
        assert storable(name) == (name, 0)
        assert len(name.encode()) <= ATTACHMENT_NAME_BYTES_MAX
