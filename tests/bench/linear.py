"""Does twice the text take twice the time? Every stage that a file's text passes, on shapes that are hard for one of them.

Processor time of this process alone, the best of several runs where the first looks bad: a busy machine changes neither.
"""

import contextlib
import gc
import io
import itertools
import math
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from reportlab.pdfgen.canvas import Canvas

from services.ingester.chunking import Limits, chunk_document
from services.ingester.parsing import Block, BlockKind, ParsedDocument, parse
from services.ingester.parsing.decoding import decode
from services.query.markers import Draft
from shared.errors import PermanentError
from shared.sentences import sentence_spans
from shared.settings import BUNDLED_MODEL
from shared.text import storable
from shared.tokens import Tokenizer, open_tokenizer
from tests.formats.hostile.office import KINDS, file_of

KIB, MIB = 1024, 1024 * 1024
RATIO_MAX = 2.6
REPEATS = 5
# What takes less is lost in the noise, and harms nobody.
SECONDS_MIN = 0.02
# The units that are repeated; none is longer than a line.
SHAPES: Mapping[str, str] = {
    "words": "The harbour lies below the hill. Ships of copper wait there, ",
    "paragraphs": "One paragraph says the same again.\n\n",
    "lines": "a line of a log\n",
    "letter": "a",
    "spaces": " ",
    "line feeds": "\n",
    "full stops": ". ",
    "initials": "A.",
    "commas": "x,",
    "quotes": '"',
    "brackets": "[(",
    "braces": "{",
    "tags": "<b>",
    "elements": "<p>a</p>",
    "remarks": "<!--",
    "entities": "&amp;",
    "asterisks": "*a _b ",
    "backticks": "`a``",
    "pipes": "| a ",
    "marks": "[1] ",
    "headings": "# a\n",
    "indents": "  - a\n",
    "backslashes": "\\a{",
    "definitions": "def f(a):\n",
    "records": '{"a": [1, "b"]}\n',
    "headers": "X-A: b\n",
    "hangul": "\ud55c\uad6d\uc5b4",
    "marks above": "e\u0301\u0323",
    "pictures": "\U0001f469\u200d",
    "nothing": "\x00\x01\ufeff",
}  # fmt: skip
_TEXTS = (
    "md",
    "txt",
    "html",
    "xml",
    "json",
    "jsonl",
    "csv",
    "ipynb",
    "rtf",
    "rst",
    "org",
    "adoc",
    "tex",
    "py",
    "yaml",
    "eml",
)
_BEGINNINGS = {
    "html": "<html><body>", "xml": "<?xml version='1.0'?><a>", "rtf": "{\\rtf1 ", "eml": "From: a@b.c\nMessage-ID: <1>\nTo: b\n\n",
    "ipynb": '{"cells": [', "json": "[",
}  # fmt: skip
_FORBIDDEN = {number: " " for number in range(32) if number not in (9, 10, 13)} | {0xFFFE: " ", 0xFFFF: " "}
Stage = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Growth:
    """How long a stage takes for a text and for twice as much. Units: characters, seconds."""

    stage: str
    shape: str
    length: int
    once: float
    twice: float

    @property
    def ratio(self) -> float:
        """How much longer twice the text takes; 0 where both are too short to tell."""
        return self.twice / self.once if self.twice >= SECONDS_MIN and self.once > 0 else 0.0


@cache
def tokenizer() -> Tokenizer:
    return open_tokenizer(BUNDLED_MODEL)


def _chunk(kind: BlockKind, text: str) -> int:
    body = text.strip()
    document = ParsedDocument(body, [Block(kind, 0, len(body), line=1)] if body else [], title="A title")
    limits = Limits(128, tokenizer().tokens_max, tokenizer().special_count)
    return sum(1 for _ in chunk_document(document, tokenizer().count, limits))


def _parse(name: str, content: bytes) -> None:
    with contextlib.suppress(PermanentError):  # a reason is an end as well
        parse(name, content)


def _parse_text(suffix: str, text: str) -> None:
    _parse(f"a.{suffix}", (_BEGINNINGS.get(suffix, "") + text).encode(errors="replace"))


def _packed(suffix: str, text: str) -> bytes:
    """A file of a kind whose paragraphs are lines of the text, or parts of it."""
    lines = [line[at : at + 1000] for line in text.split("\n") for at in range(0, max(1, len(line)), 1000)]
    clean = (line.translate(_FORBIDDEN).replace("&", "&amp;").replace("<", "&lt;") for line in lines)
    content = file_of(
        KINDS[suffix], "".join(map(KINDS[suffix].paragraph.format, (line.replace("{", "(") for line in clean)))
    )
    stored = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as plain:
        for name in archive.namelist():  # or what is the same over and over would be refused for how well it packs
            plain.writestr(name, archive.read(name))
    return stored.getvalue()


def _drawn(text: str) -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file)
    lines = [line[at : at + 100] for line in text.split("\n") for at in range(0, max(1, len(line)), 100)]
    for place, line in enumerate(lines):
        if place % 60 == 0 and place:
            canvas.showPage()
        canvas.drawString(50, 800 - 12 * (place % 60), line.encode("latin-1", "replace").decode("latin-1"))
    canvas.save()
    return file.getvalue()


def _answer(text: str) -> str:
    draft = Draft(9)
    shown = [draft.feed(text[at : at + 64]) for at in range(0, len(text), 64)]
    return "".join([*shown, draft.finish()])


# Those that are given what was made of the text before the clock runs.
PREPARED: Mapping[str, Callable[[str], Callable[[], object]]] = {
    "decode": lambda text: partial(decode, text.encode(errors="surrogatepass")),
    "decode utf-16": lambda text: partial(decode, text.encode("utf-16", errors="surrogatepass")),
    "decode 8-bit": lambda text: partial(decode, b"\xe9" + text.encode("cp1252", errors="replace")),
    "storable": lambda text: partial(storable, text),
    "sentences": lambda text: lambda: sum(1 for _ in sentence_spans(text)),
    "chunk prose": lambda text: partial(_chunk, BlockKind.PROSE, text),
    "chunk lines": lambda text: partial(_chunk, BlockKind.LINES, text),
    "chunk rows": lambda text: partial(_chunk, BlockKind.ROW, text),
    "answer": lambda text: partial(_answer, text),
    **{f"parse {suffix}": lambda text, suffix=suffix: partial(_parse_text, suffix, text) for suffix in _TEXTS},
    **{f"parse {suffix}": lambda text, suffix=suffix: partial(_parse, f"a.{suffix}", _packed(suffix, text)) for suffix in KINDS},
    "parse pdf": lambda text: partial(_parse, "a.pdf", _drawn(text)),
}  # fmt: skip


def text_of(shape: str, length: int) -> str:
    unit = SHAPES[shape]
    return (unit * (length // len(unit) + 1))[:length]


def seconds_of(run: Callable[[], object]) -> float:
    """Return the processor time of one run, without a collector that comes when it likes."""
    gc.disable()
    started = time.process_time()
    try:
        run()
    finally:
        taken = time.process_time() - started
        gc.enable()
    return taken


def growth(stage: str, shape: str, length: int, *, repeats: int = REPEATS) -> Growth:
    """Measure a stage on a text and on twice as much, again while it looks bad."""
    once, twice = (PREPARED[stage](text_of(shape, size)) for size in (length, 2 * length))
    found = Growth(stage, shape, length, seconds_of(once), seconds_of(twice))
    for _ in range(repeats - 1):
        if found.ratio <= RATIO_MAX:
            break
        found = Growth(stage, shape, length, min(found.once, seconds_of(once)), min(found.twice, seconds_of(twice)))
    return found


def sustained(doublings: Sequence[Growth]) -> float:
    """Return the worst ratio of two doublings in a row: a text that outgrows a cache takes three times as long, but once."""
    ratios = [one.ratio for one in doublings]
    if len(ratios) < 2:
        return max(ratios, default=0.0)
    return max(math.sqrt(before * after) for before, after in itertools.pairwise(ratios))


def measure(*, length_min: int = 256 * KIB, length_max: int = 8 * MIB, seconds_max: float = 2.0) -> float:
    """Double each text until a run takes longer than it may; print the worst ratio of each stage, and return that of all."""
    worst_of_all, count = 0.0, 0
    for stage in PREPARED:
        ratios: dict[str, float] = {}
        own: list[Growth] = []
        for shape in SHAPES:
            doublings: list[Growth] = []
            length = length_min
            while length <= length_max and not (doublings and doublings[-1].twice > seconds_max):
                doublings.append(growth(stage, shape, length))
                length *= 2
            ratios[shape] = sustained(doublings)
            own += doublings
        worst = max(ratios, key=lambda shape: ratios[shape])
        speed = sum(one.length for one in own) / max(1e-9, sum(one.once for one in own)) / 1e6
        print(
            f"  {stage:<16} worst ratio {ratios[worst]:4.2f} ({worst})   "
            f"up to {2 * max(one.length for one in own) // KIB} KiB   {speed:7.1f} M characters/s",
            flush=True,
        )
        worst_of_all, count = max(worst_of_all, ratios[worst]), count + len(own)
    print(f"linear: {len(PREPARED)} stages × {len(SHAPES)} shapes, {count} doublings; worst ratio {worst_of_all:.2f}")
    return worst_of_all
