"""OCR of pages without text by the system's tesseract: a page is drawn in one process, read in another, and either may die.

What is relied on, from version 4 on: tesseract(1) has `stdin` and `stdout` in place of files, `-l` with languages joined by
`+`, `--dpi`, `--psm 1` (without it a page that lies on its side or its head is read as letters that are not there; where
the data `osd` is missing it warns and takes every page to be upright), `-c` (here `tessedit_create_tsv=1`, which is all that its
configuration `tsv` says: words with their places and how sure it is of each), `--list-langs` and TESSDATA_PREFIX; with
OMP_THREAD_LIMIT=1 it takes one core, not four; and its status is not 0 when it fails.
"""

import math
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pypdfium2 as pdfium

from services.ingester.parsing.ocr_words import is_guessed, lines_of
from services.ingester.parsing.pdf_layout import Line
from shared.errors import NeedsOcr

OFF = "off"
DOTS_PER_INCH = 300
POINTS_PER_INCH = 72
# A4 at 300 dots per inch has 8.7 million, A3 twice that; a larger page is drawn with fewer dots.
PIXELS_MAX = 18_000_000
SIDE_PIXELS_MAX = 30_000
# Tesseract's own benchmark of one page took 2 to 38, by its data and the processor. None takes all the time of its file.
PAGE_SECONDS_MAX = 60.0
PAGE_SHARE_MAX = 1 / 3
# What each page adds to the time of its file: one took 2.7 on a core of its own, 7 on a busy one.
PAGE_SECONDS_ADDED = 10.0
START_SECONDS_MAX = 10.0
# How much more time is advised than pages took: others hold more, and other work may run beside.
SPARE = 1.3
# A page of 1,000 words takes 60 KB.
OUTPUT_BYTES_MAX = 2 * 1024 * 1024
# Each takes its time on every page.
LANGUAGES_MAX = 4
ENGLISH = "eng"
_NO_LANGUAGES = ("osd", "equ")
_PIECE_BYTES = 65_536


class _Lost(Exception):
    """The page is not read: the process that draws or reads it died, took too long or wrote too much."""


class _NotUsable(Exception):
    """Tesseract is there and cannot be used; the message says what to do."""


# The last is what becomes of an error between fork and exec, such as too little memory left.
_FAILURES = (_Lost, OSError, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True)
class Tesseract:
    """The program as it was found; `languages` are those that were asked for, joined by `+`."""

    path: str
    data_folder: str = ""
    languages: str = ""

    @classmethod
    def find(cls, languages: str | None, environment: Mapping[str, str]) -> "Tesseract | None":
        """Look for it on the PATH, unless nobody wants it."""
        found = None if languages == OFF else shutil.which("tesseract", path=environment.get("PATH"))
        if found is None:
            return None
        return cls(str(Path(found).resolve()), environment.get("TESSDATA_PREFIX", ""), languages or "")

    def files(self) -> list[Path]:
        """Name what it has to read besides what lies in `/usr`: itself, the libraries and the data beside it."""
        path = Path(self.path)
        beside = ("lib", "lib64", "share/tessdata", "share/tesseract-ocr") if path.parent.name == "bin" else ()
        folders = [path.parent.parent / name for name in beside]
        data = [Path(self.data_folder)] if self.data_folder else []
        return [path, *folders, *data, Path("/etc/ld.so.cache")]

    def environment(self) -> dict[str, str]:
        """Return all that it is told of its surroundings."""
        data = {"TESSDATA_PREFIX": self.data_folder} if self.data_folder else {}
        return {"LC_ALL": "C", "OMP_THREAD_LIMIT": "1", **data}


@dataclass(frozen=True, slots=True)
class OcrStatus:
    """Whether pages without text are read here, in which languages, and else why not."""

    languages: tuple[str, ...] = ()
    problem: str | None = None


def no_tesseract(languages: str | None) -> str:
    """Say why it was not found."""
    return "it is turned off" if languages == OFF else "tesseract is not installed"


class Ocr:
    """Reads the pages of one file after the other.

    `enclose` is called in each new process before it begins, and takes from it what it may not have. Of the
    pages, `read_count` gave text, `blank_count` none, `failed_count` were given up (`guessed_count` of them because what they
    show was guessed), and `late_count` came when the time was over. `added_seconds` is what they have added to it.
    """

    def __init__(self, tesseract: Tesseract, enclose: Callable[[], None]) -> None:
        self._command = tesseract.path
        self._environment = tesseract.environment()
        self._enclose = enclose
        self._silence = os.open(os.devnull, os.O_RDWR)  # out of reach once the walls stand
        self._wanted = tesseract.languages
        self._languages = ""
        self._seconds = self._until = self._page_seconds = 0.0
        self._tell_page: Callable[[], None] = lambda: None
        self.addable_seconds = self.added_seconds = 0.0
        self.read_count = self.blank_count = self.failed_count = self.guessed_count = 0
        self.late_count = self.character_count = 0

    def start(self) -> OcrStatus:
        """Ask for the languages, from behind whatever walls the caller stands."""
        try:
            languages = choose(self._list_languages(), self._wanted)
        except _NotUsable as error:
            return OcrStatus(problem=str(error))
        self._languages = "+".join(languages)
        return OcrStatus(tuple(languages))

    def begin(self, seconds: float, addable_seconds: float = 0.0, tell_page: Callable[[], None] = lambda: None) -> None:
        """Count anew, for a file that may take this long, and that much more when its pages add it.

        `tell_page` is called before each page that adds to the time.
        """
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._tell_page, self.addable_seconds, self.added_seconds = tell_page, addable_seconds, 0.0
        self._page_seconds = min(PAGE_SECONDS_MAX, PAGE_SHARE_MAX * seconds)
        self.read_count = self.blank_count = self.failed_count = self.guessed_count = 0
        self.late_count = self.character_count = 0

    @property
    def not_read_count(self) -> int:
        """Of how many pages nobody knows what they show."""
        return self.failed_count + self.late_count

    def read(self, page: pdfium.PdfPage) -> list[Line]:
        """Return the lines that a page shows; none where it shows none, or it cannot be told."""
        self._add_time()
        started = time.monotonic()
        if started >= self._until:
            self.late_count += 1
            return []
        try:
            width, height = (float(side) for side in page.get_size())
            scale = scale_of(width, height)
            table = self._recognise(page, scale, min(started + self._page_seconds, self._until))
        except _FAILURES:
            is_late = time.monotonic() >= self._until
            self.late_count += is_late
            self.failed_count += not is_late
            return []
        if is_guessed(table):
            self.guessed_count += 1
            self.failed_count += 1
            return []
        lines = list(lines_of(table, scale, width, height))
        self.read_count += bool(lines)
        self.blank_count += not lines
        self.character_count += sum(len(line.text) for line in lines)
        return lines

    def refusal(self) -> NeedsOcr | None:
        """Return why a file of nothing but pictures is not read: a part of it would pass for the whole."""
        advice = "(for example `ocrmypdf IN OUT`), then drop the result"
        tried_count = self.read_count + self.blank_count + self.failed_count
        if self.late_count:
            more = self._more_time(tried_count)
            return NeedsOcr(
                f"OCR came to {tried_count} of {tried_count + self.late_count} pages in the time that a file may take: "
                f"{more}split the file, or run OCR on it first {advice}"
            )
        if 2 * self.guessed_count > tried_count:
            return NeedsOcr(
                f"OCR guesses at {self.guessed_count} of {tried_count} pages: they are in another language than "
                f"{self._languages} (set ASKBOX_OCR_LANGUAGES), or have to be scanned again, larger or clearer"
            )
        if 2 * self.failed_count > tried_count:
            return NeedsOcr(
                f"OCR failed on {self.failed_count} of {tried_count} pages: run OCR on the file first {advice}"
            )
        return None

    def _add_time(self) -> None:
        seconds = min(PAGE_SECONDS_ADDED, self.addable_seconds)
        if seconds:
            self._tell_page()
            self.addable_seconds -= seconds
            self.added_seconds += seconds
            self._until += seconds

    def _more_time(self, tried_count: int) -> str:
        """Advise more time, unless pages have added all there is: some to spare, when all take as long as those tried."""
        if self.added_seconds and not self.addable_seconds:
            return ""
        if not tried_count:
            return "raise ASKBOX_PARSE_SECONDS, "
        share = SPARE * (1 + self.added_seconds / self._seconds) / tried_count
        return (
            f"raise ASKBOX_PARSE_SECONDS (about {math.ceil(share * (tried_count + self.late_count))} times as much), "
        )

    def _list_languages(self) -> list[str]:
        try:
            output = self._run(["--list-langs"], None, time.monotonic() + START_SECONDS_MAX)
        except _FAILURES as error:
            advice = "install it from the system's packages, below /usr, or set ASKBOX_OCR_LANGUAGES=off"
            raise _NotUsable(f"{self._command} does not run behind the parser's walls ({error}): {advice}") from None
        _, *names = output.splitlines() or [""]  # the first line says what follows
        return [name.strip() for name in names if name.strip()]

    def _recognise(self, page: pdfium.PdfPage, scale: float, until: float) -> str:
        reading, writing = os.pipe()
        try:
            painter = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if painter == 0:
            try:
                os.close(reading)
                self._enclose()
                _draw(page, scale, writing)
            finally:
                os._exit(0)
        try:
            os.close(writing)
            dots = str(max(1, round(scale * POINTS_PER_INCH)))
            wanted = ["-l", self._languages, "--dpi", dots, "--psm", "1", "-c", "tessedit_create_tsv=1"]
            return self._run(["stdin", "stdout", *wanted], reading, until)
        finally:
            os.close(reading)
            os.kill(painter, signal.SIGKILL)
            os.waitpid(painter, 0)

    def _run(self, arguments: Sequence[str], given: int | None, until: float) -> str:
        """Run it and return what it writes.

        Raises: _Lost · OSError or SubprocessError when it does not start.
        """
        process = subprocess.Popen(  # noqa: S603
            [self._command, *arguments],
            stdin=self._silence if given is None else given,
            stdout=subprocess.PIPE,
            stderr=self._silence,
            env=self._environment,
            cwd="/",
            preexec_fn=self._enclose,  # noqa: PLW1509 (a parser child has one thread)
        )
        assert process.stdout is not None
        try:
            output = _read_all(process.stdout.fileno(), until)
            status = process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise _Lost("it does not end") from None
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if status != 0:
            raise _Lost(f"it ends with status {status}")
        return output.decode(errors="replace")


def choose(installed: Sequence[str], wanted: str) -> list[str]:
    """Return the languages to read in.

    Order: as asked for, or English first.
    Raises: _NotUsable naming what is missing.
    """
    if wanted:
        languages = list(dict.fromkeys(filter(None, wanted.split("+"))))
        missing = [language for language in languages if language not in installed]
        if missing or not languages:
            told = ", ".join(missing) or wanted
            raise _NotUsable(f"tesseract has no language {told}: install its data, or change ASKBOX_OCR_LANGUAGES")
        return languages
    languages = sorted(
        (language for language in installed if language not in _NO_LANGUAGES and "/" not in language),
        key=lambda language: (language != ENGLISH, language),
    )
    if not languages:
        raise _NotUsable("tesseract has no languages: install the data of one")
    if len(languages) <= LANGUAGES_MAX:
        return languages
    if languages[0] != ENGLISH:
        raise _NotUsable(f"tesseract has {len(languages)} languages: choose some with ASKBOX_OCR_LANGUAGES")
    return [ENGLISH]


def scale_of(width: float, height: float) -> float:
    """Return how many pixels a point becomes.

    Raises: _Lost for a page without a size.
    """
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise _Lost("it has no size")
    return min(
        DOTS_PER_INCH / POINTS_PER_INCH,
        SIDE_PIXELS_MAX / max(width, height),
        math.sqrt(PIXELS_MAX / width / height),
    )


def _draw(page: pdfium.PdfPage, scale: float, writing: int) -> None:
    """Write a page as a grey picture (PGM)."""
    bitmap = page.render(scale=scale, grayscale=True)
    with open(writing, "wb") as picture:
        picture.write(b"P5\n%d %d\n255\n" % (bitmap.width, bitmap.height))
        pixels = memoryview(bitmap.buffer).cast("B")
        starts = range(0, bitmap.height * bitmap.stride, bitmap.stride)
        picture.writelines(pixels[start : start + bitmap.width] for start in starts)


def _read_all(descriptor: int, until: float) -> bytes:
    pieces: list[bytes] = []
    left = OUTPUT_BYTES_MAX
    while select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(descriptor, _PIECE_BYTES)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise _Lost("it writes without end")
    raise _Lost("it takes too long")
