"""Clear the home of an evaluation when all who hold it are gone: `python -m services.console.evaluation.guardian MARK`."""

import contextlib
import sys
from pathlib import Path

from services.console.evaluation.home import clear

if __name__ == "__main__":
    with contextlib.suppress(FileNotFoundError):  # cleared already
        clear(Path(sys.argv[1]), waits=True)
