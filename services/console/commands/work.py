"""How work in hand is shown: as a table with bars, or in words."""

from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

ROWS_MAX = 15
NAMED_MAX = 3
BAR_WIDTH = 10
MINUTE, HOUR, DAY = 60, 3600, 86_400


def work_table(work: dict[str, Any]) -> Table | None:
    """Show the documents in work, or None when there are none."""
    if not work["documents"]:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("in work", overflow="fold")
    for column in ("stage", "", "done", "pace", "left"):
        table.add_column(column, no_wrap=True)
    for document in work["documents"][:ROWS_MAX]:
        progress = document["progress"]
        table.add_row(
            Text(_name(document)),
            document["state"],
            _bar(progress),
            _count(progress),
            _pace(progress),
            _left(progress),
        )
    more = sum(work["states"].values()) - min(len(work["documents"]), ROWS_MAX)
    if more > 0:
        table.add_row(Text(f"and {more:,} more", style="dim"))
    return table


def work_in_words(work: dict[str, Any]) -> str:
    """Tell in one line what is in work: how many documents, and how far the first of them are."""
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(work["states"].items())) or "nothing in work"
    moving = [document for document in work["documents"] if document["progress"]][:NAMED_MAX]
    return "; ".join([states, *(f"{_name(document)} {progress_in_words(document)}" for document in moving)])


def progress_in_words(document: dict[str, Any]) -> str:
    """Tell how far one document is."""
    progress = document.get("progress")
    parts = [
        f"{document['state']} {_count(progress)}".strip(),
        _pace(progress),
        _left(progress) and f"{_left(progress)} left",
    ]
    return ", ".join(part for part in parts if part)


def share_done(document: dict[str, Any]) -> float:
    """Return how much of the work on one document is done, from 0 to 1: what is embedded, since parsing is the small part."""
    progress = document.get("progress")
    if document["state"] in ("ready", "failed"):
        return 1.0
    if document["state"] != "embedding" or not progress or not progress["total"]:
        return 0.0
    return float(progress["done"] / progress["total"])


def duration(seconds: float) -> str:
    """Say how long something takes, as exactly as anybody wants to know."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < DAY:
        return f"{seconds // HOUR:.0f} h {seconds % HOUR // MINUTE:.0f} min"
    return f"{seconds // DAY:.0f} d {seconds % DAY // HOUR:.0f} h"


def _name(document: dict[str, Any]) -> str:
    """Name a document in one line: a file's name may hold any character."""
    return " ".join(document["file_path"].split())


def _bar(progress: dict[str, Any] | None) -> ProgressBar | str:
    if not progress or not progress["total"]:
        return ""
    return ProgressBar(total=progress["total"], completed=progress["done"], width=BAR_WIDTH)


def _count(progress: dict[str, Any] | None) -> str:
    if not progress:
        return ""
    of = f" of {progress['total']:,}" if progress["total"] is not None else ""
    return f"{progress['done']:,}{of} {progress['unit']}"


def _pace(progress: dict[str, Any] | None) -> str:
    return f"{progress['per_second']:,g}/s" if progress and progress["per_second"] is not None else ""


def _left(progress: dict[str, Any] | None) -> str:
    return duration(progress["seconds_left"]) if progress and progress["seconds_left"] is not None else ""
