"""Files of 1,000 pages, 100 MB and 1,000,000 rows through the real processes, with small notes dropped behind them.

The vectors come from a server that computes them from the words, so that it is the pipeline that is measured.
"""

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil

from tests.bench.large_files import write_csv, write_pdf, write_text
from tests.e2e.harness import Askbox, free_port

READY_SECONDS_MAX = 3600
NOTE_SECONDS_MAX = 120
NOTES_PAUSE_SECONDS = 2.0
SAMPLE_SECONDS = 0.2
SERVER_SECONDS_MAX = 60


class Memory(threading.Thread):
    """Looks again and again at what processes hold, and keeps the most of each kind. Units: MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, int] = {}
        self._root = psutil.Process(pid)
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(SAMPLE_SECONDS):
            for process in self._root.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    kind = _kind(process)
                    if kind is not None:
                        size = process.memory_info().rss // 2**20
                        self.peaks[kind] = max(self.peaks.get(kind, 0), size)

    def stop(self) -> None:
        self._ending.set()
        self.join()


def _kind(process: psutil.Process) -> str | None:
    words = " ".join(process.cmdline())
    if "parse_server" in words:
        parent = process.parent()
        return "parser" if parent is not None and "parse_server" in " ".join(parent.cmdline()) else None
    return next((kind for kind in ("ingester", "embedder") if f"services.{kind}" in words), None)


@contextlib.contextmanager
def vectors() -> Iterator[str]:
    """Serve the vectors from a process of its own."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "tests.openai_server", str(port)], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + SERVER_SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(f"{url}/models", trust_env=False)
                break
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def measure(folder: Path, scale: float = 1.0, names: tuple[str, ...] = ("pdf", "text", "csv")) -> None:
    """Drop each file, then notes until it is ready; print what that took."""
    makers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "pdf": ("book.pdf", lambda path: write_pdf(path, max(1, int(1000 * scale)))),
        "text": ("prose.txt", lambda path: write_text(path, int(100_000_000 * scale))),
        "csv": ("rows.csv", lambda path: write_csv(path, int(1_000_000 * scale))),
    }
    for name in names:
        file_name, make = makers[name]
        place = folder / name
        place.mkdir()
        make(place / file_name)
        with vectors() as url:
            box = Askbox(place, None, ASKBOX_EMBEDDING_MODEL="openai:test-embedding", ASKBOX_EMBEDDING_BASE_URL=url)
            box.start()
            try:
                _measure_one(box, place / file_name)
            finally:
                box.stop()


def _measure_one(box: Askbox, file: Path) -> None:
    size = file.stat().st_size
    assert box.process is not None
    memory = Memory(box.process.pid)
    memory.start()
    started = time.monotonic()
    file.rename(box.inbox / file.name)
    notes: list[float] = []
    state = ""
    while time.monotonic() - started < READY_SECONDS_MAX:
        notes.append(_drop_note(box, len(notes)))
        found = box.documents().get(file.name)
        state = "" if found is None else str(found["state"])
        if state in ("ready", "failed"):
            break
        time.sleep(NOTES_PAUSE_SECONDS)
    seconds = time.monotonic() - started
    memory.stop()
    published = [event for event in box.events("document_published") if event["chunks"] > 1]
    staged = [event for event in box.events("document_staged") if event["chunks"] > 1]
    print(f"large: {file.name}, {size / 1e6:.1f} MB: {state} after {seconds:.0f} s")
    for event in staged:
        print(f"  parsed, chunked and staged  {event['duration_ms'] / 1000:7.1f} s, {event['chunks']} chunks")
    for event in published:
        print(f"  published                   {event['duration_ms'] / 1000:7.1f} s")
    print(f"  most memory, MiB            {', '.join(f'{kind} {peak}' for kind, peak in sorted(memory.peaks.items()))}")
    print(
        f"  note until answerable       first {notes[0]:.2f} s, p50 {statistics.median(notes):.2f} s, max {max(notes):.2f} s of {len(notes)}"
    )
    sys.stdout.flush()


def _drop_note(box: Askbox, number: int) -> float:
    """Return the seconds from the note's drop until a search finds it."""
    word = f"quixotry{number}"
    started = time.monotonic()
    (box.inbox / f"note-{number}.md").write_text(f"# Note {number}\n\nThe password is {word}.\n", encoding="utf-8")
    while time.monotonic() - started < NOTE_SECONDS_MAX:
        hits = box.post("/search", {"question": word}).json()["data"]
        if any(word in hit["text"] for hit in hits):
            break
        time.sleep(0.02)
    return time.monotonic() - started
