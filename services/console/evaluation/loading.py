"""Documents into a collection of the evaluated askbox: sent as files, waited for, and counted."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

import services
import shared
from services.console.evaluation.corpus import Corpus, file_name, index_of
from services.console.evaluation.http import request
from services.console.evaluation.progress import Progress
from services.console.evaluation.scratch import EvaluationFailed, Scratch
from services.console.evaluation.settings import EvaluationSettings
from shared.migrations import migrations_folder

FILES_A_REQUEST = 100
BYTES_A_REQUEST = 4 * 1024**2
PAGE_SIZE = 200
LOOK_SECONDS = 0.5
# A machine that also does other things may take its time over one batch; this long without any progress, it hangs.
STALLED_SECONDS_MAX = 900.0
FAILURES_SHOWN_MAX = 5
_STARTED_STATES = ("queued", "parsing", "embedding")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a collection holds: ids of documents by their index, how many chunks they have, and why some could not be read."""

    name: str
    documents: dict[int, int]
    chunks: int
    failures: Sequence[str]
    is_reused: bool = False


def fingerprint(corpus: Corpus, settings: EvaluationSettings) -> str:
    """Sum up what decides about the chunks of a corpus: its bytes, the settings, and the code that reads and cuts."""
    digest = hashlib.sha256(f"{corpus.fingerprint} {settings.embedding_model} {settings.chunk_tokens}".encode())
    (base,) = services.__path__
    for folder in (Path(base) / "ingester", Path(shared.__path__[0]), migrations_folder()):
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.sql")]):
            digest.update(path.name.encode() + b"\x00" + path.read_bytes())
    return digest.hexdigest()


def load(scratch: Scratch, name: str, corpus: Corpus, indices: Sequence[int], progress: Progress) -> Loaded:
    """Make a collection hold the documents of `indices`, and wait until they can be found.

    Documents that it holds already are not read again.

    Raises: EvaluationFailed when nothing happens any more.
    """
    client = scratch.client
    names, _ = request(client, "GET", "/collections")
    if any(row["name"] == name for row in names["data"]):
        loaded = _listed(client, name)
        if not loaded.failures and loaded.documents.keys() == set(indices):
            progress.say(f"{name}: {len(indices)} documents are there from before")
            return Loaded(name, loaded.documents, loaded.chunks, (), is_reused=True)
    sent = 0
    for batch in _batches(corpus, indices):
        files = [("file", (path, content, "text/markdown")) for path, content in batch]
        request(client, "POST", "/ingest/files", params={"collection": name}, files=files)
        sent += len(batch)
        progress.show(f"{name}: documents sent", sent, len(indices))
    _wait_ready(scratch, name, len(indices), progress)
    return _listed(client, name)


def _batches(corpus: Corpus, indices: Iterable[int]) -> Iterable[list[tuple[str, bytes]]]:
    """Return files of a size to be sent at once; a corpus is never held as a whole."""
    batch: list[tuple[str, bytes]] = []
    batch_bytes = 0
    for index in indices:
        content = corpus.text(index).encode("utf-8")
        if batch and (len(batch) == FILES_A_REQUEST or batch_bytes + len(content) > BYTES_A_REQUEST):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((file_name(index), content))
        batch_bytes += len(content)
    if batch:
        yield batch


def _wait_ready(scratch: Scratch, name: str, total: int, progress: Progress) -> None:
    def state() -> tuple[int, int]:
        stats, _ = request(scratch.client, "GET", "/ingest/stats")
        waiting = sum(stats["documents"].get(state, 0) for state in _STARTED_STATES)
        progress.show(f"{name}: documents ready", max(0, total - waiting), total)
        return waiting, stats["pending_embeddings"]

    _wait(state, lambda seen: seen[0] == 0)
    _wait(scratch.are_statistics_fresh, lambda is_fresh: is_fresh)


def _wait(look: Callable[[], Any], is_done: Callable[[Any], bool]) -> None:
    """Look until it is done.

    Raises: EvaluationFailed when it looks the same for too long.
    """
    before: Any = None
    changed_at = time.monotonic()
    while not is_done(seen := look()):
        now = time.monotonic()
        if seen != before:
            before, changed_at = seen, now
        elif now - changed_at > STALLED_SECONDS_MAX:
            raise EvaluationFailed(f"nothing has happened for {STALLED_SECONDS_MAX:.0f} s: see up.log with --home")
        time.sleep(LOOK_SECONDS)


def _listed(client: httpx2.Client, name: str) -> Loaded:
    """Count what a collection holds; a document that is not searchable is a failure."""
    documents: dict[int, int] = {}
    failures: list[str] = []
    chunks = after = 0
    while True:
        params = {"collection": name, "limit": PAGE_SIZE, "after": after}
        page, _ = request(client, "GET", "/documents", params=params)
        for row in page["data"]:
            index = index_of(row["file_path"])
            if index is None or not row["searchable"]:
                failures.append(f"{row['file_path']}: {row['error'] or row['state']}")
            else:
                documents[index] = row["id"]
                chunks += row["chunks"] or 0
        if not page["has_more"]:
            return Loaded(name, documents, chunks, failures)
        after = page["data"][-1]["id"]
