"""Attachments on their way out of a parser child: whole, in bounded pieces, under its limits."""

import base64
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator

import pytest

from services.ingester.chunking import Chunk
from services.ingester.parse_server import PIECE_BYTES_MAX
from services.ingester.sandbox import AttachmentBegan, AttachmentEnded, Parsed, ParsedHead, ParseLimits, ParserPool
from shared.errors import ParserLimit
from shared.settings import BUNDLED_MODEL

GIB = 1024**3
HEAD = b"From: ada@example.org\nSubject: Offer\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nSee below.\n"


@pytest.fixture
async def parsers() -> AsyncIterator[ParserPool]:
    pool = ParserPool(BUNDLED_MODEL, ParseLimits(seconds=60.0, memory_bytes=GIB, tokens_target=128))
    yield pool
    await pool.stop()


def part(name: str, content: bytes) -> bytes:
    head = f"--b\nContent-Type: application/octet-stream\nContent-Disposition: attachment; filename={name}\n"
    return f"{head}Content-Transfer-Encoding: base64\n\n".encode() + base64.encodebytes(content)


async def parsed(parsers: ParserPool, content: bytes) -> AsyncIterator[Parsed]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        async for item in parsers.parse("offer.eml", file, len(content)):
            yield item


@pytest.mark.timeout(120)
async def test_attachments_follow_the_text_whole_and_in_bounded_pieces(parsers):
    files = {"a.bin": os.urandom(40_000_000), "b.bin": b"b" * 3}
    content = HEAD + b"".join(part(name, data) for name, data in files.items()) + b"--b--\n"
    found: list[tuple[str, bytes]] = []
    kinds = []
    digest = hashlib.sha256()
    async for item in parsed(parsers, content):
        match item:
            case bytes():
                assert len(item) <= PIECE_BYTES_MAX
                digest.update(item)
            case AttachmentBegan(name):
                digest = hashlib.sha256()
            case AttachmentEnded():
                found.append((name, digest.digest()))
            case ParsedHead() | Chunk():
                kinds.append(type(item))
    assert kinds == [ParsedHead, Chunk]
    assert found == [(name, hashlib.sha256(data).digest()) for name, data in files.items()]


@pytest.mark.timeout(120)
async def test_child_that_writes_more_than_the_file_can_hold_is_stopped(parsers, monkeypatch):
    monkeypatch.setattr("services.ingester.sandbox.OUTPUT_BYTES_FLOOR", 1000)
    monkeypatch.setattr("services.ingester.sandbox.OUTPUT_RATIO_MAX", 0)
    with pytest.raises(ParserLimit, match="more than the file can hold"):
        async for _ in parsed(parsers, HEAD + part("a.bin", b"a" * 5000) + b"--b--\n"):
            pass
