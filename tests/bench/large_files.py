"""Files as large as people have them, with text that reads as if somebody had written it; each is the same at every call."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

PDF_LINES_PER_PAGE = 44
_SENTENCES = 20_000


def _listed(names: str) -> list[str]:
    return names.split(",")


_SUBJECTS = _listed(
    "the harbour master,a worker,the ledger,the second ferry,our supplier,the archive,a buyer from the north,the winter "
    "crew,the old crane,every inspector,the night shift,the council,a pilot,the quarry,the orchard,its owner"
)
_VERBS = _listed(
    "records,repairs,inspects,delays,measures,returns,approves,divides,unloads,compares,replaces,describes,postpones,"
    "confirms,rejects,collects"
)
_OBJECTS = _listed(
    "the copper lanterns,two crates of granite,the tide tables,a contract of nine pages,the missing invoices,the eastern "
    "quay,the spare anchors,a map of the meadow,the signal lamps,the barley of last year,the drawings of the bridge,the "
    "weekly totals,a letter from the insurer,the timber in the yard,the keel of the boat,the rates for storage"
)
_ENDS = _listed(
    "before noon,without a word,at the usual price,after the storm,in spite of the frost,for the third time,under the new "
    "rules,as agreed in spring,on behalf of the owners,until the water falls,near the lower gate,with some delay"
)
_CITIES = _listed("Bergen,Trieste,Porto,Gdansk,Valencia,Rotterdam,Aarhus,Marseille,Izmir,Riga")


def sentences(seed: int) -> Iterator[str]:
    """Return sentences without end; each has a number, so that no two paragraphs are the same."""
    chance = random.Random(seed)
    stock = [
        f"{chance.choice(_SUBJECTS)} {chance.choice(_VERBS)} {chance.choice(_OBJECTS)} {chance.choice(_ENDS)}"
        for _ in range(_SENTENCES)
    ]
    number = 0
    while True:
        number += 1
        begin = chance.choice(stock)
        yield f"{begin[0].upper()}{begin[1:]}, and {chance.choice(stock)} (entry {number})."


def write_text(path: Path, size_bytes: int) -> None:
    """Write paragraphs of some sentences until the file is so large."""
    chance = random.Random(1)
    source = sentences(2)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size_bytes:
            written += file.write(" ".join(next(source) for _ in range(chance.randint(3, 9))) + "\n\n")


def write_csv(path: Path, row_count: int) -> None:
    """Write rows of eight columns, some 60 characters each."""
    chance = random.Random(3)
    source = sentences(4)
    remarks = [" ".join(next(source).split()[:3]) for _ in range(5000)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["order", "day", "city", "article", "pieces", "price", "is_paid", "remark"])
        for row in range(1, row_count + 1):
            day = f"20{20 + row % 6}-{1 + row % 12:02d}-{1 + row % 28:02d}"
            article = f"A{chance.randrange(100_000):05d}"
            price = f"{chance.randrange(100, 99_999) / 100:.2f}"
            cells = [row, day, chance.choice(_CITIES), article, chance.randrange(500), price, row % 3 != 0]
            writer.writerow([*cells, chance.choice(remarks)])


def write_pdf(path: Path, page_count: int) -> None:
    """Write pages full of paragraphs, with a heading at the top of every tenth and a running header."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    source = sentences(5)
    canvas = Canvas(str(path), pagesize=A4, invariant=True)
    canvas.setTitle("The ledger of the harbour")
    _, height = A4
    for page in range(1, page_count + 1):
        canvas.setFont("Helvetica", 8)
        canvas.drawString(72, height - 36, f"The ledger of the harbour, page {page}")
        top = height - 72
        if page % 10 == 1:
            canvas.setFont("Helvetica-Bold", 16)
            canvas.drawString(72, top, f"Chapter {page // 10 + 1} of the harbour")
            top -= 28
        canvas.setFont("Helvetica", 10)
        lines = list(_lines(source, PDF_LINES_PER_PAGE))
        for place, line in enumerate(lines):
            canvas.drawString(72, top - 15 * place, line)
        canvas.showPage()
    canvas.save()


def _lines(source: Iterator[str], count: int) -> Iterator[str]:
    """Return so many lines of at most 88 characters."""
    line = ""
    while count:
        for word in next(source).split():
            if len(line) + len(word) > 88:
                yield line
                line, count = "", count - 1
                if not count:
                    return
            line = f"{line} {word}".strip()
