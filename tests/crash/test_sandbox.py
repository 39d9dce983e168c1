"""Parser children: real processes, their walls and what is told when one ends badly."""

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import sys
import tempfile
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docx
import psutil
import pytest
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from services.ingester import sandbox
from services.ingester.__main__ import parse_limits
from services.ingester.chunking import Chunk
from services.ingester.parsing.ocr import OcrStatus
from services.ingester.parsing.registry import DOCX, ODT
from services.ingester.sandbox import TIMED_BYTES, ParsedHead, ParseLimits, ParserPool, _Child, _read
from services.ingester.settings import IngesterSettings
from shared.errors import CorruptFile, EncryptedFile, NeedsOcr, ParserLimit, PermanentError, UnsupportedFormat
from shared.settings import BUNDLED_MODEL
from tests.waiting import until

GIB = 1024**3


async def parse(parsers: ParserPool, content: bytes, name: str = "note.md") -> tuple[ParsedHead, list[Chunk]]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        head, *chunks = [item async for item in parsers.parse(name, file, len(content))]
    assert isinstance(head, ParsedHead)
    return head, [chunk for chunk in chunks if isinstance(chunk, Chunk)]


def written(name: str, *, picture: bool = False, encrypt: StandardEncryption | None = None) -> bytes:
    sentence = "One sentence about harbours."
    file = io.BytesIO()
    if name == "a.html":
        return f"<!doctype html><p>{sentence}</p>".encode()
    if name == "a.docx":
        document = docx.Document()
        document.add_paragraph(sentence)
        document.save(file)
        return file.getvalue()
    canvas = Canvas(file, encrypt=encrypt)
    if picture:
        canvas.drawInlineImage(Image.new("1", (8, 8)), 0, 0)
    else:
        canvas.drawString(72, 700, sentence)
    canvas.save()
    return file.getvalue()


def pdf_bomb() -> bytes:
    """Return a page whose drawing unpacks to 2 GiB, packed twice."""
    packer = zlib.compressobj(9)
    block = packer.compress(b" " * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself: it can be repeated
    repeated = block[2:]
    stream = zlib.compress(block + repeated * 127, 9)
    return (
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>endobj\n4 0 obj<</Length %d"
        b"/Filter[/FlateDecode/FlateDecode]>>stream\n%s\nendstream endobj\ntrailer<</Root 1 0 R>>\n%%%%EOF"
        % (len(stream), stream)
    )


@pytest.fixture
async def parsers() -> AsyncIterator[ParserPool]:
    pool = ParserPool(BUNDLED_MODEL, ParseLimits(60, 2 * GIB, 128))
    await pool.start()
    yield pool
    await pool.stop()


def server_pid(parsers: ParserPool) -> int:
    assert parsers._server is not None
    return parsers._server.pid


async def test_file_is_parsed_and_chunked_in_a_child(parsers):
    head, chunks = await parse(parsers, b"# Title\n\nA sentence. Another one.\n")
    assert (head.media_type, head.title) == ("text/markdown", "Title")
    assert [chunk.text for chunk in chunks] == ["A sentence. Another one."]
    assert (head.page_unit, head.line_unit) == ("page", "line")
    assert [chunk.lines for chunk in chunks] == [[3]]


async def test_pages_and_their_names_come_back_from_the_child(parsers):
    file = io.BytesIO()
    canvas = Canvas(file)
    for sentence in ("A preface thanks many people.", "It thanks some more."):
        canvas.drawString(72, 700, sentence)
        canvas.showPage()
    canvas.addPageLabel(0, style="ROMAN_LOWER")
    canvas.save()
    _, chunks = await parse(parsers, file.getvalue(), "a.pdf")
    assert [(chunk.page, chunk.page_label) for chunk in chunks] == [(1, "i")]
    assert [[tuple(turn) for turn in chunk.page_turns] for chunk in chunks] == [[(chunks[0].text.index("It"), 2, "ii")]]


async def test_many_files_are_parsed_at_once(parsers):
    results = await asyncio.gather(*[parse(parsers, f"# N{n}\n\nText {n}.\n".encode()) for n in range(12)])
    assert [head.title for head, _ in results] == [f"N{n}" for n in range(12)]


async def test_refusal_comes_back_as_its_own_error(parsers):
    with pytest.raises(UnsupportedFormat, match="an image"):
        await parse(parsers, b"\x89PNG and so on")


@pytest.mark.parametrize(
    ("name", "media_type", "page"),
    [("a.pdf", "application/pdf", 1), ("a.html", "text/html", None), ("a.docx", DOCX, None)],
)
async def test_every_format_is_read_within_the_limits(parsers, name, media_type, page):
    head, chunks = await parse(parsers, written(name), "renamed.txt" if name == "a.pdf" else name)
    assert head.media_type == media_type
    assert [(chunk.text, chunk.page) for chunk in chunks] == [("One sentence about harbours.", page)]


@pytest.mark.parametrize(
    ("options", "error"), [({"encrypt": StandardEncryption("secret")}, EncryptedFile), ({"picture": True}, NeedsOcr)]
)
async def test_reason_of_a_pdf_comes_back_as_its_own_error(parsers, options, error):
    with pytest.raises(error):
        await parse(parsers, written("a.pdf", **options), "a.pdf")


async def test_pdf_that_expands_without_end_fails_alone():
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(60, 512 * 1024**2, 128))
    try:
        refused, (_, chunks) = await asyncio.gather(
            parse(parsers, pdf_bomb(), "bomb.pdf"), parse(parsers, written("a.pdf"), "a.pdf"), return_exceptions=True
        )
        assert isinstance(refused, PermanentError)
        assert [chunk.text for chunk in chunks] == ["One sentence about harbours."]
    finally:
        await parsers.stop()


async def test_page_that_is_nested_without_end_fails_alone(parsers):
    refused, (_, chunks) = await asyncio.gather(
        parse(parsers, b"<html>" + b"<div>" * 200_000 + b"x", "deep.html"),
        parse(parsers, written("a.html"), "a.html"),
        return_exceptions=True,
    )
    assert isinstance(refused, CorruptFile)
    assert chunks


async def test_child_that_takes_too_long_is_stopped_and_the_next_file_passes():
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(1, 2 * GIB, 128))
    try:
        # Its processor time ends when the second does, and either may be noticed first.
        with pytest.raises(ParserLimit, match=r"split the file|more memory or time"):
            await parse(parsers, b"word and more words of a text that is long. " * 1_000_000, "long.txt")
        parsers._limits = dataclasses.replace(parsers._limits, seconds=60)  # the machine may be slow itself
        assert (await parse(parsers, b"short"))[1][0].text == "short"
    finally:
        await parsers.stop()


def test_large_file_has_its_seconds_for_each_part_and_a_small_one_no_fewer():
    limits = ParseLimits(120, GIB, 128)
    assert limits.seconds_for(0) == limits.seconds_for(TIMED_BYTES) == 120
    assert limits.seconds_for(100_000_000) == pytest.approx(120 * 100_000_000 / TIMED_BYTES)


def test_pages_that_go_to_ocr_add_no_more_than_a_lease_has_left():
    assert ParseLimits(120, GIB, 128).ocr_seconds_added_max_for(0) == 0
    limits = ParseLimits(120, GIB, 128, ocr_seconds_max=1350)
    assert limits.ocr_seconds_added_max_for(0) == 1200
    assert limits.ocr_seconds_added_max_for(10 * TIMED_BYTES) == 150
    assert limits.ocr_seconds_added_max_for(100 * TIMED_BYTES) == 0


def test_ingester_lets_pages_add_to_the_time_unless_leases_are_short():
    usual, short = IngesterSettings(_env_file=None), IngesterSettings(_env_file=None, lease_deadline_seconds=200)
    assert parse_limits(usual).ocr_seconds_added_max_for(0) == 1200
    assert parse_limits(short).ocr_seconds_added_max_for(0) == 30


async def seconds_of_child_that_tells(page_count: int, addable_seconds: float) -> str:
    """Return what is told of a child that names pages, and then says nothing."""
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"pid": 4000001}\n' + b'{"page_to_ocr": true}\n' * page_count)
    with pytest.raises(ParserLimit) as refused:
        async for _ in _read(reader, _Child(), 1000, 0.5, addable_seconds):
            pass
    return str(refused.value)


async def test_only_pages_that_a_child_tells_of_add_to_its_time(monkeypatch):
    monkeypatch.setattr(sandbox, "PAGE_SECONDS_ADDED", 0.25)
    for page_count, seconds in enumerate(("0.5", "0.75", "1", "1.125")):
        assert f"took longer than {seconds} s" in await seconds_of_child_that_tells(page_count, 0.625)


async def test_child_that_tells_of_pages_without_end_has_what_all_may_add(monkeypatch):
    monkeypatch.setattr(sandbox, "PAGE_SECONDS_ADDED", 0.25)
    assert "should not" in await seconds_of_child_that_tells(4, 0.625)
    assert "should not" in await seconds_of_child_that_tells(1, 0)


async def test_pages_add_no_time_where_there_is_no_ocr(parsers, monkeypatch):
    asked: list[float] = []

    async def read(*told: Any) -> AsyncIterator[ParsedHead]:
        asked.append(told[4])
        async for item in _read(*told):
            yield item

    monkeypatch.setattr(sandbox, "_read", read)
    parsers._limits = dataclasses.replace(parsers._limits, ocr_seconds_max=100)
    for languages in ((), ("eng",)):
        parsers.ocr = OcrStatus(languages)
        await parse(parsers, b"short")
    assert asked == [0, 40]


async def test_child_that_needs_too_much_memory_fails_alone():
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(60, 512 * 1024**2, 128))
    try:
        with pytest.raises(PermanentError):
            await parse(parsers, b"x y " * 100_000_000, "large.txt")
        assert (await parse(parsers, b"short"))[1][0].text == "short"
    finally:
        await parsers.stop()


async def test_document_whose_elements_need_too_much_memory_says_so():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", ODT)
        archive.writestr("padding", os.urandom(512 * 1024))  # or it would be refused for what it unpacks to
        archive.writestr("content.xml", b"<d>" + b"<e/>" * 12_000_000 + b"</d>")
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(60, 512 * 1024**2, 128))
    try:
        with pytest.raises(ParserLimit, match="split the file"):
            await parse(parsers, file.getvalue(), "dense.odt")
    finally:
        await parsers.stop()


async def test_killed_server_is_started_again(parsers):
    before = server_pid(parsers)
    os.kill(before, signal.SIGKILL)
    await parsers._server.wait()
    assert (await parse(parsers, b"after the kill"))[1][0].text == "after the kill"
    assert server_pid(parsers) != before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
async def test_child_sees_no_environment_and_no_network(parsers, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    await parsers.stop()
    await parsers.start()
    environment = Path(f"/proc/{server_pid(parsers)}/environ").read_bytes()
    assert b"canary" not in environment
    assert b"ASKBOX" not in environment
    if not parsers.walls["network"]:
        pytest.skip("this system gives no network namespace to an ordinary user")
    assert Path(f"/proc/{server_pid(parsers)}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


async def test_server_dies_with_its_ingester():
    code = (
        "import asyncio, os, sys\n"
        "from services.ingester.sandbox import *\n"
        f"pool = ParserPool({BUNDLED_MODEL!r}, ParseLimits(10, {2 * GIB}, 128))\n"
        "asyncio.run(pool.start())\n"
        "print(pool._server.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    pid = int(output)

    async def is_gone() -> bool:
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    await until(is_gone)


_ATTACK = """
import os, pathlib, signal, socket, sys
from services.ingester import landlock
from services.ingester.parse_server import PR_SET_NO_NEW_PRIVS, _own_files, _prctl

def attempt(name, act):
    try:
        act()
        print(name, flush=True)
    except PermissionError:
        pass

outside = os.getppid()
_prctl(PR_SET_NO_NEW_PRIVS, 1)
ruleset = landlock.open_ruleset(_own_files())
if not landlock.enter(ruleset):
    print("no landlock")
    sys.exit()
server = os.getpid()
if os.fork():
    os.wait()
    sys.exit()
landlock.enter(ruleset)
import colorsys  # Python's own files can be loaded still
for process in (outside, server):
    attempt(f"environment of {process}", lambda: open(f"/proc/{process}/environ", "rb").read())
attempt("password file", lambda: open("/etc/passwd").read())
attempt("folder", lambda: os.listdir("/"))
attempt("settings", lambda: open(sys.argv[1]).read())
attempt("write", lambda: open(sys.argv[1], "w"))
version = landlock._call(landlock._CREATE_RULESET, None, 0, landlock._ASK_VERSION)
if version >= 6:
    attempt("signal", lambda: os.kill(outside, 0))
if version >= 4:
    attempt("tcp", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5))
print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock is of Linux")
async def test_child_that_was_taken_over_reaches_neither_files_nor_its_ingester(tmp_path):
    settings = tmp_path / ".env"
    settings.write_text("ASKBOX_DATABASE_URL=secret")
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _ATTACK, str(settings), str(port), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    succeeded = output.decode().splitlines()
    if succeeded == ["no landlock"]:
        pytest.skip("this kernel has no Landlock")
    assert succeeded == ["done"]
    assert settings.read_text() == "ASKBOX_DATABASE_URL=secret"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
async def test_server_says_whether_the_ingesters_environment_is_out_of_reach(parsers):
    if not parsers.walls["files"]:
        pytest.skip("this kernel has no Landlock")
    assert parsers.walls["environment"]


async def test_child_cannot_have_another_process_killed():
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"pid": 4000001}\n{"pid": 4000002}\n')
    child = _Child()
    with pytest.raises(ParserLimit, match="should not"):
        async for _ in _read(reader, child, 1000, 20):
            pass
    assert child.pid == 4000001


@pytest.mark.parametrize("cut", ["", '{"chunk": {"ordinal": 1, "te'])
async def test_what_a_child_wrote_before_it_died_is_no_whole_document(cut):
    reader = asyncio.StreamReader()
    chunk = dataclasses.asdict(Chunk(0, "the first of many", "", "", None, 0, 17, 6))
    reader.feed_data(f'{{"pid": 4000001}}\n{json.dumps({"chunk": chunk})}\n{cut}'.encode())
    reader.feed_eof()
    items = _read(reader, _Child(), 1000, 20)
    assert isinstance(await anext(items), Chunk)
    with pytest.raises(ParserLimit, match="was stopped"):
        await anext(items)


async def test_cancellation_that_comes_with_a_line_is_not_lost():
    reader = asyncio.StreamReader()

    async def read() -> None:
        async for _ in _read(reader, _Child(), 1000, 60):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    reader.feed_data(b'{"pid": 4000001}\n')
    reading.cancel()
    done, _ = await asyncio.wait({reading}, timeout=50)
    assert reading in done
    assert reading.cancelled()


async def test_child_is_killed_though_the_line_that_names_it_was_not_read():
    process = await asyncio.create_subprocess_exec("sleep", "300")
    reader = asyncio.StreamReader()
    reader.feed_data(f'{{"pid": {process.pid}}}\n'.encode())
    await _Child().kill(reader)
    assert await process.wait() == -signal.SIGKILL


async def parse_with_child_that_stays(last: dict[str, object], *, is_closed: bool) -> int:
    """Let a process that stays write its last line, and perhaps close its socket; return what ended it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = await asyncio.create_subprocess_exec("sleep", "300")
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(60, GIB, 128))
    parsers._server, parsers._control = child, ours

    def serve() -> list[int]:
        _, descriptors, _, _ = socket.recv_fds(theirs, 65_536, 2)
        for line in ({"pid": child.pid}, last):
            os.write(descriptors[1], json.dumps(line).encode() + b"\n")
        if is_closed:
            os.close(descriptors.pop())
        return descriptors

    with ours, theirs, tempfile.TemporaryFile() as file:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        try:
            async for _ in parsers.parse("note.md", file, 0):
                pass
        except CorruptFile:
            pass
        for descriptor in await serving:
            os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):
        child.terminate()  # of two that end a process the first is told
    return await child.wait()


LAST_LINES = [{"end": True}, {"error": "a reason", "code": "corrupt_file"}]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process has a handle")
@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("last", LAST_LINES, ids=str)
async def test_child_that_says_that_it_has_ended_and_stays_is_killed(last, is_closed):
    assert await parse_with_child_that_stays(last, is_closed=is_closed) == -signal.SIGKILL


@pytest.mark.parametrize("last", LAST_LINES, ids=str)
async def test_child_without_a_handle_is_killed_unless_its_number_may_be_anothers(last, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(sandbox, "END_SECONDS_MAX", 0.05)
    assert await parse_with_child_that_stays(last, is_closed=False) == -signal.SIGKILL
    assert await parse_with_child_that_stays(last, is_closed=True) == -signal.SIGTERM


async def test_child_whose_parse_is_given_up_is_killed(parsers):
    reading, writing = os.pipe()  # whose end never comes as long as the child is there
    file = os.fdopen(reading, "rb")

    async def parse_for_ever() -> None:
        async for _ in parsers.parse("endless.txt", file, 0):
            pass

    async def children() -> list[psutil.Process]:
        return psutil.Process(server_pid(parsers)).children()

    async def has_none() -> bool:
        return not await children()

    with file, os.fdopen(writing, "wb"):
        parsing = asyncio.create_task(parse_for_ever())
        await until(children)
        parsing.cancel()
        await asyncio.gather(parsing, return_exceptions=True)
        await until(has_none)
