"""Multipart bodies in pieces, and the names that files are sent under."""

import contextlib
import itertools
import unicodedata
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query import upload
from services.query.original import disposition_of
from services.query.upload import (
    PACE_BYTES,
    PACE_SECONDS_MAX,
    UPLOAD_SECONDS_MAX,
    PartBegan,
    PartEnded,
    boundary_of,
    paced,
    read_parts,
    storable_name,
)
from shared.errors import BodyTooLarge, RequestError, UnsupportedBody, UploadStalled

BOUNDARY = b"x-border"


def body_of(*parts: tuple[str, bytes]) -> bytes:
    heads = [f'form-data; name="file"; filename="{name}"'.encode() for name, _ in parts]
    framed = [
        b"--" + BOUNDARY + b"\r\nContent-Disposition: " + head + b"\r\n\r\n" + content + b"\r\n"
        for head, (_, content) in zip(heads, parts, strict=True)
    ]
    return b"".join(framed) + b"--" + BOUNDARY + b"--\r\n"


async def cut(body: bytes, places: list[int]) -> AsyncIterator[bytes]:
    borders = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    for start, end in itertools.pairwise(borders):
        yield body[start:end]


async def files_of(body: bytes, places: list[int] | None = None) -> list[tuple[str | None, bytes]]:
    found: list[tuple[str | None, bytes]] = []
    ended = 0
    async for piece in read_parts(cut(body, places or []), BOUNDARY):
        if isinstance(piece, PartBegan):
            found.append((piece.file_name, b""))
        elif isinstance(piece, PartEnded):
            ended += 1
        else:
            found[-1] = (found[-1][0], found[-1][1] + piece)
    assert ended == len(found)
    return found


CONTENT = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", BOUNDARY, b"\r\n--x-", b"a"]), max_size=8).map(b"".join),
).filter(lambda content: b"\r\n--" + BOUNDARY not in b"\r\n" + content)


@given(st.lists(CONTENT, min_size=1, max_size=4), st.lists(st.integers(0, 2000), max_size=12))
async def test_body_reads_the_same_wherever_it_is_cut(contents: list[bytes], places: list[int]):
    parts = [(f"{number}.md", content) for number, content in enumerate(contents)]
    assert await files_of(body_of(*parts), places) == parts


@given(st.integers(0, 10**6))
async def test_body_that_ends_early_is_refused_wherever_it_ends(place: int):
    body = body_of(("a.md", b"one"), ("b.md", b"two"))
    whole = len(body) - len(b"\r\n")
    with pytest.raises(RequestError):
        await files_of(body[: place % (whole - 2)])


class Clock:
    """A clock that only a test puts forward, in the place of the loop's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        loop = SimpleNamespace(time=lambda: self.now)
        stub = SimpleNamespace(get_running_loop=lambda: loop, timeout_at=self.timeout_at)
        monkeypatch.setattr(upload, "asyncio", stub)

    @contextlib.asynccontextmanager
    async def timeout_at(self, ends_at: float) -> AsyncIterator[None]:
        yield
        if self.now > ends_at:
            self.now = ends_at
            raise TimeoutError

    async def pieces(self, piece: bytes, pause_seconds: float) -> AsyncIterator[bytes]:
        """The same piece again and again, each after a pause."""
        while True:
            self.now += pause_seconds
            yield piece


async def sent_until_stalled(chunks: AsyncIterator[bytes]) -> int:
    sent = 0
    try:
        async for chunk in paced(chunks, bytes_max=2**40):
            sent += len(chunk)
    except UploadStalled:
        return sent
    raise AssertionError("the body came to its end")


@pytest.mark.parametrize("pause_seconds", [0.5, 5, 59, 61])
async def test_sender_of_one_byte_now_and_then_is_given_up_after_a_minute(
    monkeypatch: pytest.MonkeyPatch, pause_seconds: float
):
    clock = Clock(monkeypatch)
    await sent_until_stalled(clock.pieces(b"x", pause_seconds))
    assert clock.now == PACE_SECONDS_MAX


async def test_slow_sender_is_read_as_long_as_it_keeps_its_pace(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    sent = await sent_until_stalled(clock.pieces(b"x" * (PACE_BYTES // 4), PACE_SECONDS_MAX / 5))
    assert clock.now == UPLOAD_SECONDS_MAX
    assert sent > 60 * PACE_BYTES


async def test_time_that_is_taken_to_store_a_body_is_not_its_senders(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    body = paced(clock.pieces(b"x", 1), bytes_max=2**40)
    for _ in range(int(PACE_SECONDS_MAX)):
        await anext(body)
        clock.now += 20
    with pytest.raises(UploadStalled):
        await anext(body)


async def test_more_parts_than_allowed_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.query.upload.FILES_MAX", 2)
    assert len(await files_of(body_of(*[("a", b"")] * 2))) == 2
    with pytest.raises(BodyTooLarge, match="at most 2 files"):
        await files_of(body_of(*[("a", b"")] * 3))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--other\r\n\r\n",
        b"--x-border\r\nBad Header\r\n\r\n",
        b"--x-border\r\n" + b"A: b\r\n" * 20,
        b"--x-border\r\nContent-Disposition: " + b"a" * 20_000,
    ],
)
async def test_malformed_body_is_refused(body: bytes):
    with pytest.raises(RequestError):
        await files_of(body)


@pytest.mark.parametrize(
    ("content_type", "error", "reason"),
    [
        (None, UnsupportedBody, "multipart/form-data"),
        ("application/json", UnsupportedBody, "multipart/form-data"),
        ("multipart/mixed; boundary=x", UnsupportedBody, "multipart/form-data"),
        ("multipart/form-data", RequestError, "no boundary"),
        ("multipart/form-data; boundary=", RequestError, "no boundary"),
    ],
)
def test_body_of_another_kind_is_told_what_is_wanted(content_type: str | None, error: type[Exception], reason: str):
    with pytest.raises(error, match=reason):
        boundary_of(content_type)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.md", "a.md"),
        ("sub/b.md", "sub/b.md"),
        ("/etc/passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("a/../b.md", "b.md"),
        ("a/..", None),
        ("C:\\docs\\x.md", "docs/x.md"),
        ("..\\x.md", "x.md"),
        ("/C:/D:/x.md", "x.md"),
        ("a:b.md", "a:b.md"),
        ("./a//b.md", "a/b.md"),
        ("a\x00b\r\n.md", "ab.md"),
        ("in\u202egnp.md", "ingnp.md"),
        ("e\u0301.md", "\u00e9.md"),
        ("\ud800.md", ".md"),
        (" spaced .md ", "spaced .md"),
        (".env", ".env"),
        ("", None),
        ("///", None),
        ("x" * 2001, None),
    ],
)
def test_sent_name_is_kept_as_a_relative_path(sent: str, kept: str | None):
    assert storable_name(sent) == kept


@given(st.text(max_size=60))
def test_any_name_is_safe_and_stays_as_it_is_when_sent_again(name: str):
    kept = storable_name(name)
    if kept is not None:
        assert storable_name(kept) == kept
        assert not kept.startswith("/")
        assert not {"", ".", ".."} & set(kept.split("/"))
        assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in kept)


@pytest.mark.parametrize(
    ("source_uri", "header"),
    [
        ("inbox:team/a.md", "attachment; filename=\"a.md\"; filename*=UTF-8''a.md"),
        ('upload:a".md', "attachment; filename=\"a_.md\"; filename*=UTF-8''a%22.md"),
        (
            "upload:na\u00efve \u6f22.md",
            "attachment; filename=\"naive .md\"; filename*=UTF-8''na%C3%AFve%20%E6%BC%A2.md",
        ),
        ("upload:\u6f22", "attachment; filename=\"original\"; filename*=UTF-8''%E6%BC%A2"),
    ],
)
def test_download_is_named_for_old_and_new_programs(source_uri: str, header: str):
    assert disposition_of(source_uri) == header


@given(st.text(min_size=1, max_size=40).filter(lambda name: not any(0xD800 <= ord(c) < 0xE000 for c in name)))
def test_name_of_a_download_cannot_break_out_of_its_header(name: str):
    header = disposition_of(f"upload:{name}")
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
