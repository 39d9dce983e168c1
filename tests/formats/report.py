"""Every file of a folder through real parser children, and what became of it, by the ending of its name."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from services.ingester.chunking import Chunk
from services.ingester.paths import ATTACHMENT_DEPTH_MAX
from services.ingester.sandbox import AttachmentBegan, AttachmentEnded, ParsedHead, ParseLimits, ParserPool
from shared.errors import PermanentError

SAMPLE_SECONDS = 0.002
# A reason that begins so is no reason that a person can act on: the parser is wrong, not the file.
BUGS = ("the parser failed", "the parser was stopped", "the parser wrote", "the parser said nothing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file. Units: bytes, seconds."""

    name: str
    suffix: str
    file_bytes: int
    seconds: float
    memory_bytes: int
    media_type: str | None = None
    chunk_count: int = 0
    placed_count: int = 0
    reason: str | None = None
    code: str | None = None

    @property
    def is_bug(self) -> bool:
        """Whether it failed for a reason that is none."""
        return self.reason is not None and self.reason.startswith(BUGS)


@dataclass(slots=True)
class Row:
    """The files with one ending."""

    outcomes: list[Outcome] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Sum them up. Units: MB/s of the time from handing a file over to its last chunk, MiB, seconds."""
        seconds = sum(outcome.seconds for outcome in self.outcomes)
        failed = [outcome for outcome in self.outcomes if outcome.reason is not None]
        ready = [outcome for outcome in self.outcomes if outcome.reason is None]
        return {
            "files": len(self.outcomes),
            "ready": len(ready),
            "without_text": sum(outcome.chunk_count == 0 for outcome in ready),
            "failed": len(failed),
            "failed_by_kind": dict(sorted(Counter(outcome.code for outcome in failed).items())),
            "bugs": sum(outcome.is_bug for outcome in failed),
            "media_types": dict(sorted(Counter(outcome.media_type for outcome in ready).items())),
            "chunks": sum(outcome.chunk_count for outcome in ready),
            "chunks_with_place": sum(outcome.placed_count for outcome in ready),
            "megabytes": round(sum(outcome.file_bytes for outcome in self.outcomes) / 1e6, 3),
            "megabytes_per_second": round(sum(outcome.file_bytes for outcome in self.outcomes) / 1e6 / seconds, 2),
            "memory_mib_max": max(outcome.memory_bytes for outcome in self.outcomes) // 2**20,
            "seconds_max": round(max(outcome.seconds for outcome in self.outcomes), 3),
        }


def rows_of(outcomes: Iterable[Outcome]) -> dict[str, Row]:
    """Group outcomes by the ending of their name.

    Order: by that ending.
    """
    rows: dict[str, Row] = defaultdict(Row)
    for outcome in outcomes:
        rows[outcome.suffix].outcomes.append(outcome)
    return dict(sorted(rows.items()))


async def parse_folder(folder: Path, model_name: str, limits: ParseLimits) -> list[Outcome]:
    """Parse every file below a folder, one after the other, and what is attached to it.

    Order: by path.
    """
    parsers = ParserPool(model_name, limits)
    await parsers.start()
    try:
        outcomes: list[Outcome] = []
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    outcomes += await _parse_all(parsers, path.relative_to(folder).as_posix(), file)
        return outcomes
    finally:
        await parsers.stop()


async def _parse_all(parsers: ParserPool, name: str, file: IO[bytes]) -> list[Outcome]:
    """Parse a file, then what is attached to it, then what is attached to that."""
    outcomes: list[Outcome] = []
    waiting: list[tuple[str, IO[bytes]]] = [(name, file)]
    while waiting:
        name, file = waiting.pop()
        attached: list[tuple[str, IO[bytes]]] = []
        outcomes.append(await _parse(parsers, name, file, attached))
        file.close()
        waiting += reversed([entry for entry in attached if entry[0].count("//") <= ATTACHMENT_DEPTH_MAX])
    return outcomes


async def _parse(parsers: ParserPool, name: str, file: IO[bytes], attached: list[tuple[str, IO[bytes]]]) -> Outcome:
    file_bytes = os.fstat(file.fileno()).st_size
    head: ParsedHead | None = None
    chunks: list[Chunk] = []
    error: PermanentError | None = None
    watching = asyncio.create_task(_watch_memory(parsers))
    started = time.perf_counter()
    try:
        async for item in parsers.parse(name, file, file_bytes):
            match item:
                case ParsedHead():
                    head = item
                case Chunk():
                    chunks.append(item)
                case AttachmentBegan(inner):
                    attached.append((f"{name}//{inner}", tempfile.TemporaryFile()))  # noqa: SIM115 (closed when parsed)
                case bytes():
                    attached[-1][1].write(item)
                case AttachmentEnded():
                    attached[-1][1].seek(0)
    except PermanentError as refused:
        error = refused
    seconds = time.perf_counter() - started
    watching.cancel()
    return Outcome(
        name,
        PurePosixPath(name).suffix.lower().lstrip(".") or "(none)",
        file_bytes,
        seconds,
        await watching,
        media_type=head.media_type if head else None,
        chunk_count=len(chunks),
        placed_count=sum(_has_place(chunk) for chunk in chunks),
        reason=str(error) if error else None if head else "the parser said nothing of the file",
        code=error.code if error else None if head else "corrupt_file",
    )


def _has_place(chunk: Chunk) -> bool:
    return chunk.page is not None or bool(chunk.lines)


async def _watch_memory(parsers: ParserPool) -> int:
    """Return the most memory that a child held, as the kernel notes it; 0 when all ended before they were seen."""
    peak = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            peak = max(peak, _high_water_mark(parsers.server_pid))
            await asyncio.sleep(SAMPLE_SECONDS)
    return peak


def _high_water_mark(server: int) -> int:
    """Return the most memory that a living child of a process has held. Units: bytes. Linux only."""
    peak = 0
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)])
    return peak
