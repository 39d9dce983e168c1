"""A stand-in for tesseract, which speaks its command line; what it does with a page is told by the grey in the middle of it.

`install` lays down this very file as a program, which runs alone: it imports nothing of the product.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

READS, DIES, HANGS, FLOODS, SEES_NOTHING, ATTACKS, FAILS, GUESSES = range(20, 260, 30)
HANGS_SECONDS = 120
HEADER = "level page_num block_num par_num line_num word_num left top width height conf text".replace(" ", "\t")
ENVIRONMENT = ("LC_ALL", "OMP_THREAD_LIMIT", "TESSDATA_PREFIX")


def install(folder: Path, *languages: str, port: int = 0) -> Path:
    """Lay it down as `bin/tesseract` with its data beside it, and return the folder for the PATH."""
    program, data = folder / "bin" / "tesseract", folder / "share" / "tessdata"
    program.parent.mkdir(parents=True)
    data.mkdir(parents=True)
    program.write_text(f"#!{sys.executable} -IS\n{Path(__file__).read_text(encoding='utf-8')}", encoding="utf-8")
    program.chmod(0o755)
    (data / "port").write_text(str(port))
    for language in languages:
        (data / f"{language}.traineddata").touch()
    return program.parent


def _data() -> Path:
    return Path(os.environ.get("TESSDATA_PREFIX") or Path(__file__).parents[1] / "share" / "tessdata")


def _tell(*lines: str, sure: float = 91.5) -> None:
    """Print a table of words, each line 60 pixels below the other."""
    print(HEADER)
    print("1\t1\t0\t0\t0\t0\t0\t0\t2480\t3508\t-1\t")
    for number, line in enumerate(lines, 1):
        top = 200 + 60 * number
        print(f"4\t1\t1\t1\t{number}\t0\t300\t{top}\t1900\t45\t-1\t")
        for place, word in enumerate(line.split(), 1):
            print(f"5\t1\t1\t1\t{number}\t{place}\t{200 + 100 * place}\t{top}\t90\t45\t{sure}\t{word}")


def _attack() -> list[str]:
    """Return what it can reach that it must not."""
    found = [f"variable-{name}" for name in os.environ if name not in ENVIRONMENT]
    port = int((_data() / "port").read_text())

    def attempt(name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError:
            return
        found.append(name)

    attempt("password-file", lambda: Path("/etc/passwd").read_text())
    attempt("parser", lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes())
    attempt("signal", lambda: os.kill(os.getppid(), 0))
    attempt("network", lambda: socket.create_connection(("127.0.0.1", port), timeout=5))
    attempt("write", lambda: (_data() / "written").write_text("x"))
    for number in range(3, 64):
        attempt(f"descriptor-{number}", lambda number=number: os.fstat(number))
    return found


def _shade() -> tuple[int, int, int]:
    """Read a whole picture, and return the grey in its middle, its width and its height."""
    kind, size, depth, pixels = sys.stdin.buffer.read().split(b"\n", 3)
    width, height = map(int, size.split())
    if (kind, depth, len(pixels)) != (b"P5", b"255", width * height):
        sys.exit(4)
    return pixels[height // 2 * width + width // 2], width, height


def main() -> None:
    """Do what the picture says."""
    if sys.argv[1:] == ["--list-langs"]:
        names = sorted(path.stem for path in _data().glob("*.traineddata"))
        print(f'List of available languages in "{_data()}/" ({len(names)}):', *names, sep="\n")
        return
    source, target, option, languages, dpi, dots, *rest = sys.argv[1:]
    rest_wanted = ["--psm", "1", "-c", "tessedit_create_tsv=1"]
    if (source, target, option, dpi, rest) != ("stdin", "stdout", "-l", "--dpi", rest_wanted):
        sys.exit(2)
    if os.environ.get("OMP_THREAD_LIMIT") != "1":
        sys.exit(3)
    shade, width, height = _shade()
    print("Estimating resolution", file=sys.stderr, flush=True)
    known = (READS, DIES, HANGS, FLOODS, SEES_NOTHING, ATTACKS, FAILS, GUESSES)
    near = min(known, key=lambda one: abs(one - shade))
    if near == READS:
        _tell(f"Harbour dues {width} by {height} at {dots} in {languages}", "are owed by every boat.")
    elif near == DIES:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif near == HANGS:
        signal.alarm(HANGS_SECONDS)  # whoever was to kill it may have forgotten
        signal.pause()
    elif near == FLOODS:
        while True:
            sys.stdout.buffer.write(b"words " * 200_000)
    elif near == SEES_NOTHING:
        print(HEADER)
    elif near == ATTACKS:
        _tell("open: " + " ".join(_attack() or ["nothing"]))
    elif near == GUESSES:
        _tell("BCeX CyHOB, y cyTok. pa3sMep, BpeMA", sure=56.0)
    else:
        _tell("Words that are not to be had.")
        sys.exit(1)


if __name__ == "__main__":
    main()
