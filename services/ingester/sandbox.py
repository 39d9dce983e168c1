"""The ingester's side of the parser children: start the fork server, hand it a file, read what comes back, bounded."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from typing import IO

from services.ingester.chunking import Chunk
from services.ingester.parsing.ocr import PAGE_SECONDS_ADDED, OcrStatus, Tesseract, no_tesseract
from services.ingester.plugins import Plugin
from services.ingester.replies import CHUNK, HEAD, built, is_name, read_line, read_piece, refuse
from shared.errors import (
    CorruptFile,
    EmptyDocument,
    EncryptedFile,
    FileTooLarge,
    NeedsOcr,
    ParserLimit,
    PermanentError,
    RetryableError,
    UnsupportedFormat,
)

LINE_BYTES_MAX = 4 * 1024 * 1024
OUTPUT_BYTES_FLOOR = 64 * 1024 * 1024
OUTPUT_RATIO_MAX = 20
# A file has its seconds for each part of this size: what takes the time is counting tokens, about 1.5 MB a second.
TIMED_BYTES = 24 * 1024 * 1024
# What the pages that go to OCR add to it, in all: some 440 of them at 2.7 s each, whatever a child says.
OCR_SECONDS_ADDED_MAX = 1200.0
START_SECONDS_MAX = 60.0
HELLO_BYTES_MAX = 131_072
# The server names a child as soon as it has forked it.
NAME_SECONDS_MAX = 5.0
# A child that has written its last line leaves at once.
END_SECONDS_MAX = 5.0
_REST_BYTES = 65_536
_ERRORS: dict[str, type[PermanentError]] = {
    error.code: error
    for error in (UnsupportedFormat, CorruptFile, EncryptedFile, NeedsOcr, EmptyDocument, ParserLimit, FileTooLarge)
}


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What one child may use. Units: seconds for each part of the file, bytes, tokens.

    Pages that go to OCR add to the seconds, until there are `ocr_seconds_max` of both.
    """

    seconds: float
    memory_bytes: int
    tokens_target: int
    ocr_seconds_max: float = 0.0

    def seconds_for(self, file_bytes: int) -> float:
        """How long a file of this size may take."""
        return self.seconds * max(1.0, file_bytes / TIMED_BYTES)

    def ocr_seconds_added_max_for(self, file_bytes: int) -> float:
        """How much the pages of a file of this size that go to OCR may add to that."""
        return max(0.0, min(OCR_SECONDS_ADDED_MAX, self.ocr_seconds_max - self.seconds_for(file_bytes)))


@dataclass(frozen=True, slots=True)
class ParsedHead:
    """What is known of a document before its chunks come."""

    media_type: str
    title: str | None
    metadata: dict[str, str]
    replaced_character_count: int
    page_unit: str = "page"
    line_unit: str = "line"
    page_count: int | None = None
    character_count: int | None = None


@dataclass(frozen=True, slots=True)
class AttachmentBegan:
    """A file that lies within the file; its bytes follow. The name is what its author wrote."""

    name: str


@dataclass(frozen=True, slots=True)
class AttachmentEnded:
    """The file within the file is whole."""


Parsed = ParsedHead | Chunk | AttachmentBegan | bytes | AttachmentEnded


class ParserPool:
    """Runs each file in a child process of its own, forked from a server that is started again when it dies."""

    def __init__(self, model_name: str, limits: ParseLimits, ocr_languages: str | None = None) -> None:
        self._model_name = model_name
        self._ocr_languages = ocr_languages
        self._limits = limits
        self._server: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()
        self.walls: dict[str, bool] = {}
        self.plugins: list[Plugin] = []
        self.ocr = OcrStatus()

    @property
    def server_pid(self) -> int:
        """The process that forks the children, once it was started."""
        assert self._server is not None
        return self._server.pid

    async def start(self) -> None:
        """Start the server unless it runs.

        Raises: RetryableError when it does not come up.
        """
        async with self._starting:
            if self._server is not None and self._server.returncode is None:
                return
            await self.stop()
            ours, theirs = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
            )
            tesseract = Tesseract.find(self._ocr_languages, os.environ)
            with theirs:
                self._server = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-I",
                    "-m",
                    "services.ingester.parse_server",
                    str(theirs.fileno()),
                    self._model_name,
                    *([] if tesseract is None else [json.dumps(asdict(tesseract))]),
                    pass_fds=[theirs.fileno()],
                    env={"LANG": "C.UTF-8", "TOKENIZERS_PARALLELISM": "false"},
                    stdin=asyncio.subprocess.DEVNULL,
                )
            ours.setblocking(False)
            self._control = ours
            try:
                async with asyncio.timeout(START_SECONDS_MAX):
                    hello = await asyncio.get_running_loop().sock_recv(ours, HELLO_BYTES_MAX)
            except TimeoutError:
                hello = b""
            if not hello:
                await self.stop()
                raise RetryableError("the parser process did not start; its error stands above in the log")
            told = json.loads(hello)
            self.walls = told["walls"]
            self.plugins = [Plugin(**plugin) for plugin in told["plugins"]]
            if tesseract is None:
                self.ocr = OcrStatus(problem=no_tesseract(self._ocr_languages))
            else:
                self.ocr = OcrStatus(tuple(told["ocr"]["languages"]), told["ocr"]["problem"])

    async def stop(self) -> None:
        """Stop the server; its children die with it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None and self._server.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._server.kill()
            await self._server.wait()
        self._server = None

    async def parse(self, name: str, file: IO[bytes], file_bytes: int) -> AsyncGenerator[Parsed, None]:
        """Parse an open file: first its head, then its chunks, then what is attached to it, one after the other.

        Raises: PermanentError of the kind the parser names, or ParserLimit when the child was stopped or died.
        """
        await self.start()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        seconds = self._limits.seconds_for(file_bytes)
        addable_seconds = self._limits.ocr_seconds_added_max_for(file_bytes) if self.ocr.languages else 0.0
        request = {
            "name": name,
            "tokens_target": self._limits.tokens_target,
            "cpu_seconds": seconds,  # the pages that go to OCR are drawn and read by other processes
            "ocr_seconds_added_max": addable_seconds,
            "memory_bytes": self._limits.memory_bytes,
        }
        with theirs:
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [file.fileno(), theirs.fileno()])
            except OSError as error:
                ours.close()
                raise RetryableError(f"the parser process is gone ({error})") from None
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        child = _Child()
        try:
            output_bytes_max = max(OUTPUT_BYTES_FLOOR, OUTPUT_RATIO_MAX * file_bytes)
            async for item in _read(reader, child, output_bytes_max, seconds, addable_seconds):
                yield item
        finally:
            await child.kill(reader)
            writer.close()


class _Child:
    """The process that parses one file: named by the server's line, which comes before any of its own.

    `has_ended` is what it says itself, and no reason to believe it.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self.has_ended = False
        self._process: int | None = None

    def name(self, pid: int) -> None:
        """Note which process it is, so that no other is ever taken for it, where the system has a handle for that."""
        self.pid = pid
        with contextlib.suppress(AttributeError, OSError):  # not Linux, too old, or gone already
            self._process = os.pidfd_open(pid)

    async def kill(self, reader: asyncio.StreamReader) -> None:
        """Kill it, also when it says that it has ended, or the line that names it has not been read yet."""
        # Without the line its server is dead, and it with that.
        with contextlib.suppress(TimeoutError, ValueError, OSError):
            if self.pid is None:
                async with asyncio.timeout(NAME_SECONDS_MAX):
                    self.name(int(json.loads(await reader.readline())["pid"]))
            assert self.pid is not None
            if self._process is not None:
                try:
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)
                finally:
                    os.close(self._process)
            elif not (self.has_ended and await _has_closed(reader)):
                os.kill(self.pid, signal.SIGKILL)


async def _has_closed(reader: asyncio.StreamReader) -> bool:
    """Wait for the end of what a child writes. Until then its number is its own; then it may be another's."""
    try:
        async with asyncio.timeout(END_SECONDS_MAX):
            while await reader.read(_REST_BYTES):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def _read(
    reader: asyncio.StreamReader, child: _Child, output_bytes_max: int, seconds: float, addable_seconds: float = 0.0
) -> AsyncGenerator[Parsed, None]:
    seen = 0
    left = seconds  # only waiting for the child counts, not what is done with its chunks
    while True:
        started = time.monotonic()
        try:
            async with asyncio.timeout(left):  # `wait_for` of Python 3.11 loses a cancellation that comes with the line
                line = await reader.readline()
        except TimeoutError:
            raise ParserLimit(f"parsing took longer than {seconds:g} s: split the file") from None
        except ValueError:
            raise ParserLimit("the parser wrote a line that is too long") from None
        except ConnectionError:
            line = b""
        left -= time.monotonic() - started
        seen += len(line)
        if seen > output_bytes_max:
            raise ParserLimit("the parser wrote more than the file can hold: it expands without end")
        if not line.endswith(b"\n"):
            raise ParserLimit(
                "the parser was stopped: the file needs more memory or time than it may have, or crashes it"
            )
        message = read_line(line)
        match message:
            case {"pid": int(pid)} if child.pid is None:  # the server's line, before any of the child's
                child.name(pid)
            case {"page_to_ocr": True} if addable_seconds > 0:  # so this ends, whatever it says
                added = min(PAGE_SECONDS_ADDED, addable_seconds)
                addable_seconds -= added
                seconds += added
                left += added
            case {"document": head}:
                yield built(ParsedHead, head, HEAD)
            case {"chunk": chunk}:
                yield built(Chunk, chunk, CHUNK)
            case {"attachment": str(name)} if is_name(name):
                yield AttachmentBegan(name)
            case {"piece": str(piece)}:
                yield read_piece(piece)
            case {"attachment": None}:
                yield AttachmentEnded()
            case {"end": True}:
                child.has_ended = True
                return
            case {"error": str(reason), "code": str(code)}:
                child.has_ended = True
                raise _ERRORS.get(code, CorruptFile)(reason)
            case _:
                raise refuse()
