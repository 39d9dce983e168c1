"""`python -m tests.eval [NAME…]`: run `askbox eval` on the collections beside the checkout, and note what came of it.

Writes `tests/eval/results.json`, one entry a collection; exit code 1 when a floor is not kept. `ASKBOX_EVAL_DIR` is where the
collections lie, and ASKBOX_EVAL_HOME a home to be kept between runs.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.eval.floors import EVAL_DIR, ROOT, violations

RESULTS = Path(__file__).with_name("results.json")
# More questions of a kind tell no more than the third digit.
LIMITS = {"squad2.0": 1500}
NAMES = ("adi", "contextual_docs", "cisi", "scifact", "squad2.0", "chroma_chunking_eval")


def measure(name: str) -> dict[str, Any]:
    """Evaluate one collection with the default settings."""
    command = [sys.executable, "-m", "services.console", "eval", str(EVAL_DIR / name), "--json"]
    if name in LIMITS:
        command += ["--limit", str(LIMITS[name])]
    if home := os.environ.get("ASKBOX_EVAL_HOME"):
        command += ["--home", home]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        sys.exit(done.returncode)
    figures: dict[str, Any] = json.loads(done.stdout)
    return {"measured_on": datetime.now(UTC).date().isoformat(), **figures}


def main() -> int:
    """Measure the named collections, or all that are there."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    missed: list[str] = []
    for name in sys.argv[1:] or NAMES:
        if not (EVAL_DIR / name).is_dir():
            print(f"{name}: skipped, {EVAL_DIR / name} is not here")
            continue
        results[name] = measure(name)
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        missed += violations(name, results[name])
    print("\n".join(missed) or "every floor is kept")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
