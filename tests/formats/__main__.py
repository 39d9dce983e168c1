"""`python -m tests.formats FOLDER [--json] [--keep]`: parse every file below a folder as the ingester does.

Exit code 1 when a file failed for a reason that nobody can act on. `--keep` writes the figures beside this file.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from services.ingester.sandbox import ParseLimits
from services.ingester.settings import IngesterSettings
from shared.tokens import prepare_tokenizer
from tests.formats.report import Outcome, parse_folder, rows_of

RESULTS = Path(__file__).parent / "results.json"
SLOWEST_SHOWN = 5
_COLUMNS = (
    ("files", "files"), ("ready", "ready"), ("without_text", "no text"), ("failed", "failed"), ("bugs", "bugs"),
    ("chunks", "chunks"), ("chunks_with_place", "placed"), ("megabytes", "MB"), ("megabytes_per_second", "MB/s"),
    ("memory_mib_max", "MiB"), ("seconds_max", "slowest s"),
)  # fmt: skip


def main() -> int:
    """Parse, print, and say whether every failure has a reason."""
    arguments = argparse.ArgumentParser(prog="python -m tests.formats", description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--keep", action="store_true", help=f"write {RESULTS.name}")
    chosen = arguments.parse_args()
    settings = IngesterSettings.read()
    limits = ParseLimits(settings.parse_seconds, settings.parse_memory_bytes, settings.chunk_tokens)
    outcomes = asyncio.run(parse_folder(chosen.folder, prepare_tokenizer(settings), limits))
    if not outcomes:
        print(f"no file lies below {chosen.folder}", file=sys.stderr)
        return 2
    figures = {suffix: row.figures() for suffix, row in rows_of(outcomes).items()}
    if chosen.json:
        reasons = dict(Counter(outcome.reason for outcome in outcomes if outcome.reason))
        print(json.dumps({"formats": figures, "reasons": reasons}, indent=2, ensure_ascii=False))
    else:
        _show(figures, outcomes)
    if chosen.keep:
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if any(outcome.is_bug for outcome in outcomes) else 0


def _show(figures: dict[str, dict[str, Any]], outcomes: list[Outcome]) -> None:
    print(f"{'format':<10}" + "".join(f"{title:>11}" for _, title in _COLUMNS))
    for suffix, row in figures.items():
        print(f"{suffix:<10}" + "".join(f"{row[name]:>11}" for name, _ in _COLUMNS))
    failed = [outcome for outcome in outcomes if outcome.reason]
    print(f"\n{len(outcomes)} files, {len(outcomes) - len(failed)} ready, {len(failed)} failed:")
    for (code, reason), count in Counter((outcome.code, outcome.reason) for outcome in failed).most_common():
        named = next(outcome.name for outcome in failed if outcome.reason == reason)
        print(f"{count:>5}  {code}: {reason}  ({named}{', …' if count > 1 else ''})")
    print("\nslowest:")
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.seconds)[:SLOWEST_SHOWN]:
        print(f"{outcome.seconds:>7.2f} s  {outcome.memory_bytes // 2**20:>5} MiB  {outcome.name}")


if __name__ == "__main__":
    sys.exit(main())
