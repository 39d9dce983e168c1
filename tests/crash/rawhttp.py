"""Requests over bare sockets: sent as fast as they are taken, or a few bytes at a time; and what the server took of them."""

import asyncio
import contextlib
import fcntl
import re
import socket
import struct
import termios
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
PIECE = bytes(65_536)
BOUNDARY = b"xx"
END = b"--xx--\r\n"
ANSWER_SECONDS_MAX = 900.0  # a gibibyte on a machine that is busy
# Until what is on its way has arrived, also where acknowledgements are delayed.
SETTLE_SECONDS = 0.1
_STATUS = re.compile(rb"HTTP/1\.\d (\d{3})")


@dataclass(frozen=True)
class Exchange:
    """What came back (0 = nothing), how many bytes the socket had accepted by then, and how many the process had read."""

    status: int
    answer: bytes
    accepted_bytes: int
    read_bytes: int
    seconds: float


def head_of(target: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", f"Host: {HOST}", *headers, "", ""]).encode()


def part_head(name: bytes) -> bytes:
    return b'--xx\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'


def zeros(count: int) -> Iterable[bytes]:
    """So many bytes, in pieces."""
    for _ in range(count // len(PIECE)):
        yield PIECE
    if count % len(PIECE):
        yield PIECE[: count % len(PIECE)]


def chunked(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """A body that does not announce its length."""
    for piece in pieces:
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    yield b"0\r\n\r\n"


async def opened(port: int) -> socket.socket:
    peer = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    peer.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(peer, (HOST, port))
    except BaseException:
        peer.close()
        raise
    return peer


class Sender:
    """Sends and counts what the socket accepts."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.accepted_bytes = 0

    async def send(self, pieces: Iterable[bytes]) -> None:
        loop = asyncio.get_running_loop()
        for piece in pieces:
            view = memoryview(piece)
            while view:
                try:
                    sent = self.peer.send(view)
                except BlockingIOError:
                    writable = loop.create_future()
                    loop.add_writer(self.peer, writable.set_result, None)
                    try:
                        await writable
                    finally:
                        loop.remove_writer(self.peer)
                    continue
                self.accepted_bytes += sent
                view = view[sent:]
            await asyncio.sleep(0)

    def read_bytes(self) -> int:
        """How many of them the process at the other end has taken: neither side's kernel holds them."""
        return self.accepted_bytes - _unacknowledged(self.peer) - _unread(self.peer)


def _unacknowledged(peer: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, b"\0\0\0\0"))
    return int(count)


def _unread(peer: socket.socket) -> int:
    """What lies in the other end's queue."""
    with contextlib.suppress(OSError):
        ours, theirs = peer.getsockname()[1], peer.getpeername()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = line.split()
            if int(local.partition(":")[2], 16) == theirs and int(remote.partition(":")[2], 16) == ours:
                return int(queues.partition(":")[2], 16)
    return 0


async def exchange(port: int, head: bytes, body: Iterable[bytes] = (), *, at_once: bool = True) -> Exchange:
    """Send a request until it is answered, or the connection ends; without `at_once` the head goes first and alone."""
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    with contextlib.closing(await opened(port)) as peer:
        sender = Sender(peer)
        if not at_once:
            await sender.send([head])
            head = b""
        sending = asyncio.create_task(sender.send(_joined(head, body)))
        answer = b""
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                with contextlib.suppress(ConnectionError):
                    while b"\r\n\r\n" not in answer and (received := await loop.sock_recv(peer, 65_536)):
                        answer += received
        finally:
            seconds = time.monotonic() - started
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await asyncio.sleep(SETTLE_SECONDS)
        read_bytes = sender.read_bytes()
        with contextlib.suppress(ConnectionError, BlockingIOError):
            answer += peer.recv(65_536)  # the body of a short answer has come with its head, or just behind it
    found = _STATUS.match(answer)
    return Exchange(int(found[1]) if found else 0, answer, sender.accepted_bytes, read_bytes, seconds)


def _joined(head: bytes, body: Iterable[bytes]) -> Iterable[bytes]:
    """A small body comes with its head, as most do."""
    pieces = iter(body)
    yield head + next(pieces, b"")
    yield from pieces


async def trickle(port: int, begin: bytes, drop: bytes, pause_seconds: float, seconds: float) -> tuple[int, float]:
    """Send the beginning, then a drop every now and then; return the answer's status and when the connection ended.

    The time is infinite when it had not ended after `seconds`.
    """
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    answer = b""
    with contextlib.closing(await opened(port)) as peer:

        async def drip() -> None:
            await loop.sock_sendall(peer, begin)
            while True:
                await asyncio.sleep(pause_seconds)
                await loop.sock_sendall(peer, drop)

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(seconds):
                while received := await loop.sock_recv(peer, 4096):
                    answer += received
        except ConnectionError:
            pass
        except TimeoutError:
            return 0, float("inf")
        finally:
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
    found = _STATUS.match(answer)
    return int(found[1]) if found else 0, time.monotonic() - started


@dataclass
class Usage:
    """What a process uses: memory at its most, and files it writes for a while."""

    peak_bytes: int = 0
    scratch_files: int = 0


@contextlib.asynccontextmanager
async def watching(pid: int, scratch: Path) -> AsyncIterator[Usage]:
    """Look at a process all the time: its resident memory, the folder of temporary files, and files without a name."""
    usage = Usage()

    def look() -> None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            usage.peak_bytes = max(usage.peak_bytes, pages * 4096)
            nameless = sum("(deleted)" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
            usage.scratch_files = max(usage.scratch_files, nameless + len(list(scratch.iterdir())))

    async def go_on() -> None:
        while True:
            look()
            await asyncio.sleep(0.05)

    look()
    task = asyncio.create_task(go_on())
    try:
        yield usage
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        look()
