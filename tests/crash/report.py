"""What a part of the harness found: figures that are printed and kept, and what failed."""

import fcntl
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

Figure = int | float | str


@dataclass
class Report:
    """The figures of one part. `failures` is what did not hold; a part without any has passed."""

    part: str
    seed: int
    figures: dict[str, Figure] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def expect(self, fact: object, complaint: str) -> None:
        """Note what does not hold and go on, so that one run shows all of it."""
        if not fact:
            self.failures.append(complaint)
            print(f"  FAILED {complaint}", flush=True)

    def say(self, line: str) -> None:
        print(f"  [{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def show(self) -> None:
        seconds = time.monotonic() - self.started
        self.figures["seconds"] = round(seconds, 1)
        print(f"{self.part}  seed={self.seed}  {'FAILED' if self.failures else 'passed'} in {seconds:.0f} s")
        for name, figure in self.figures.items():
            print(f"  {name:<44} {figure}")
        for failure in self.failures:
            print(f"  FAILED {failure}")
        sys.stdout.flush()

    def keep(self, path: Path) -> None:
        """Write the figures beside those of the other parts, which may end at the same moment."""
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            kept = json.loads(file.read() or "{}")
            kept[self.part] = {"seed": self.seed, "passed": not self.failures, "figures": self.figures}
            file.truncate(0)
            file.write(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
