"""`ingest`: send files of this machine to the server, and wait until they answer."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from services.console.client import call, upload
from services.console.commands.output import AsJson, PlainConsole, console, print_json
from services.console.commands.work import progress_in_words, share_done
from services.console.settings import ConsoleSettings
from shared.errors import RequestError
from shared.exit_codes import EXIT_FAILURE

app = typer.Typer()
FILES_MAX = 100_000
BATCH_FILES_MAX = 50
BATCH_BYTES_MAX = 64 * 1024**2
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send, and the name it gets."""

    path: Path
    name: str
    file_bytes: int


@app.command("ingest")
def ingest_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a folder with everything below it.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Where to put it: else `default`, or the only one of your key."),
    ] = None,
    is_waiting: Annotated[bool, typer.Option("--wait", help="Wait until everything is ready or failed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a file or a folder to the server; hidden files and links are left out."""
    settings = ConsoleSettings.read()
    files = find_files(path)
    progress = _progress(is_shown=not as_json)
    documents: list[dict[str, Any]] = []
    with progress:
        sending = progress.add_task("sent", total=len(files), now="")
        jobs = []
        for batch in batches(files):
            answer = _send(settings, batch, collection)
            jobs.append(answer["job_id"])
            documents += answer["documents"]
            progress.advance(sending, len(batch))
        if is_waiting:
            documents = _wait(settings, jobs, progress, len(documents))
    failed = [document for document in documents if document.get("error")]
    if as_json:
        print_json({"jobs": jobs, "documents": documents})
    else:
        _report(documents, failed, is_waiting=is_waiting)
    if failed:
        raise typer.Exit(EXIT_FAILURE)


def find_files(path: Path) -> list[LocalFile]:
    """Return the file, or the files below a folder, by name.

    Raises: RequestError when there is nothing to send or too much.
    """
    if path.is_file():
        return [LocalFile(path, path.name, path.stat().st_size)]
    if not path.is_dir():
        raise RequestError(f"{path} is no file and no folder")
    found: list[LocalFile] = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            if name.startswith(".") or file.is_symlink() or not file.is_file():
                continue
            found.append(LocalFile(file, file.relative_to(path).as_posix(), file.stat().st_size))
            if len(found) > FILES_MAX:
                raise RequestError(f"{path} holds more than {FILES_MAX} files: send its folders one by one")
    if not found:
        raise RequestError(f"{path} holds no file that can be sent: hidden files and links are left out")
    return found


def batches(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    """Yield files for one request each: few, or few bytes; a large file goes alone."""
    batch: list[LocalFile] = []
    file_bytes = 0
    for file in files:
        if batch and (len(batch) == BATCH_FILES_MAX or file_bytes + file.file_bytes > BATCH_BYTES_MAX):
            yield batch
            batch, file_bytes = [], 0
        batch.append(file)
        file_bytes += file.file_bytes
    if batch:
        yield batch


def _send(settings: ConsoleSettings, batch: Sequence[LocalFile], collection: str | None) -> dict[str, Any]:
    with ExitStack() as opened:
        parts = [(file.name, opened.enter_context(file.path.open("rb"))) for file in batch]
        answer: dict[str, Any] = upload(settings, "/ingest/files", parts, params={"collection": collection})
    return answer


def _wait(settings: ConsoleSettings, jobs: Sequence[str], progress: Progress, count: int) -> list[dict[str, Any]]:
    """Return the documents of all jobs when each has ended; Ctrl-C stops the waiting, not the work."""
    documents: list[dict[str, Any]] = []
    reading = progress.add_task("read", total=count, now="")
    for job_id in jobs:
        while True:
            job = call(settings, "GET", f"/ingest/jobs/{job_id}")
            found, done = _counts(job)
            total = max(count, len(documents) + found)
            progress.update(reading, total=total, completed=len(documents) + done, now=_now(job["documents"]))
            if job["status"] != "processing":
                break
            time.sleep(POLL_SECONDS)
        documents += _all_documents(settings, job)
    progress.update(reading, total=len(documents), completed=len(documents), now="")
    return documents


def _counts(job: dict[str, Any]) -> tuple[int, float]:
    """Count the documents of a job and those that have ended: what is attached to mails are documents too."""
    states = job["states"]
    moving = sum(share_done(document) for document in job["documents"] if document.get("progress"))
    return sum(states.values()), states.get("ready", 0) + states.get("failed", 0) + moving


def _all_documents(settings: ConsoleSettings, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the documents of a job that has ended, page by page."""
    documents: list[dict[str, Any]] = job["documents"]
    while job["has_more"]:
        job = call(settings, "GET", f"/ingest/jobs/{job['job_id']}", params={"after": job["next_after"]})
        documents += job["documents"]
    return documents


def _now(documents: Sequence[dict[str, Any]]) -> str:
    """Tell of the first document that is being worked on."""
    moving = [document for document in documents if document.get("progress")]
    return f"{moving[0]['file_path']}: {progress_in_words(moving[0])}" if moving else ""


def _progress(*, is_shown: bool) -> Progress:
    now = TextColumn("{task.fields[now]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), now)
    return Progress(*columns, console=PlainConsole(stderr=True), disable=not is_shown or not console.is_terminal)


def _report(documents: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]], *, is_waiting: bool) -> None:
    for document in failed:
        console.print(Text(f"failed {document['file_path']}: {document['error']}", style="yellow"))
    good = len(documents) - len(failed)
    print(f"{good} of {len(documents)} documents are {'ready' if is_waiting else 'taken'}")
    if not is_waiting:
        console.print(Text("they are being read now: `askbox status --watch`", style="dim"))
