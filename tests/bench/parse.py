"""Megabytes a second of each parser beside the bare library it reads with, and of chunking, whose time is the tokenizer's.

The bare library does what nobody could go without: it unpacks the file and hands out every word once.
"""

import csv
import io
import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pypdfium2 as pdfium
from docx import Document
from lxml import etree
from markdown_it import MarkdownIt
from openpyxl import Workbook, load_workbook
from selectolax.lexbor import LexborHTMLParser

from services.ingester.chunking import Limits, chunk_document
from services.ingester.parsing import Registry
from services.ingester.parsing.archive import Archive
from shared.settings import BUNDLED_MODEL
from shared.tokens import open_tokenizer
from tests.bench.large_files import sentences, write_csv, write_pdf, write_text

ROUNDS = 3
PARAGRAPHS = 4000
CHUNKED_CHARACTERS_MAX = 2_000_000


def _paragraphs() -> list[str]:
    source = sentences(6)
    return [" ".join(islice(source, 5)) for _ in range(PARAGRAPHS)]


def _markdown() -> bytes:
    parts = [f"## Part {n}\n\n{text}" if n % 10 == 0 else text for n, text in enumerate(_paragraphs())]
    return "\n\n".join(parts).encode()


def _html() -> bytes:
    parts = [
        f"<h2>Part {n}</h2><p>{text}</p>" if n % 10 == 0 else f"<p>{text}</p>" for n, text in enumerate(_paragraphs())
    ]
    return f"<html><body>{''.join(parts)}</body></html>".encode()


def _docx() -> bytes:
    document = Document()
    for number, text in enumerate(_paragraphs()):
        if number % 10 == 0:
            document.add_heading(f"Part {number}", level=2)
        document.add_paragraph(text)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def _xlsx(rows: Path) -> bytes:
    book = Workbook(write_only=True)
    sheet = book.create_sheet("orders")
    with rows.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            sheet.append(row)
    written = io.BytesIO()
    book.save(written)
    return written.getvalue()


def _json_lines() -> bytes:
    return "\n".join(json.dumps({"number": n, "text": text}) for n, text in enumerate(_paragraphs())).encode()


def _bare_pdf(content: bytes) -> int:
    document = pdfium.PdfDocument(content)
    length = 0
    for page in document:
        text_page = page.get_textpage()
        length += len(text_page.get_text_range())
        text_page.close()
        page.close()
    document.close()
    return length


def _bare_html(content: bytes) -> int:
    return len(LexborHTMLParser(content).text())


def _bare_docx(content: bytes) -> int:
    part = Archive(content).read("word/document.xml", bytes_max=2**30)
    return sum(len(text) for text in etree.fromstring(part or b"").itertext())


def _bare_xlsx(content: bytes) -> int:
    book = load_workbook(io.BytesIO(content), read_only=True)
    return sum(len(row) for sheet in book for row in sheet.iter_rows(values_only=True))


BARE: dict[str, Callable[[bytes], int]] = {
    "text": lambda content: len(content.decode().replace("\r\n", "\n").split("\n\n")),
    "csv": lambda content: sum(map(len, csv.reader(io.StringIO(content.decode())))),
    "pdf": _bare_pdf,
    "md": lambda content: len(MarkdownIt("commonmark").enable("table").parse(content.decode())),
    "html": _bare_html,
    "docx": _bare_docx,
    "xlsx": _bare_xlsx,
    "jsonl": lambda content: sum(len(json.loads(line)) for line in content.splitlines()),
}


def measure(folder: Path) -> None:
    """Print the figures of one run; the least of some rounds each, in seconds of the processor."""
    text, rows, pages, sheet = (folder / name for name in ("a.txt", "a.csv", "a.pdf", "b.csv"))
    write_text(text, 5_000_000)
    write_csv(rows, 50_000)
    write_csv(sheet, 20_000)
    write_pdf(pages, 200)
    files = {"text": text.read_bytes(), "csv": rows.read_bytes(), "pdf": pages.read_bytes(), "md": _markdown()}
    files |= {"html": _html(), "docx": _docx(), "xlsx": _xlsx(sheet), "jsonl": _json_lines()}
    registry, tokenizer = Registry(), open_tokenizer(BUNDLED_MODEL)
    limits = Limits(128, tokenizer.tokens_max, tokenizer.special_count)
    print("parse: seconds of the processor for a MB of text; `bare`: the library alone; `share`: bare / parser")
    for kind, content in files.items():
        name = f"a.{'txt' if kind == 'text' else kind}"
        _, document = registry.parse(name, content)
        megabytes = len(document.text) / 1e6
        bare = _least(lambda kind=kind, content=content: BARE[kind](content)) / megabytes  # type: ignore[misc]
        parsed = _least(lambda name=name, content=content: registry.parse(name, content)) / megabytes  # type: ignore[misc]
        counting = 0.0

        def count(texts: "list[str] | tuple[str, ...]") -> list[int]:
            nonlocal counting
            started = time.process_time()
            counted = tokenizer.count(texts)
            counting += time.process_time() - started
            return counted

        started = time.process_time()
        seen = 0
        for chunk in chunk_document(document, count, limits):  # type: ignore[arg-type]
            seen = chunk.char_end
            if seen > CHUNKED_CHARACTERS_MAX:
                break
        chunked = (time.process_time() - started) / (seen / 1e6)
        tokens = counting / (seen / 1e6)
        print(
            f"  {kind:5} bare {bare:6.3f}  parser {parsed:6.3f}  share {bare / parsed:5.2f}   chunking {chunked:6.3f},"
            f" of it the tokenizer {tokens:6.3f};  both beside bare + tokenizer {(bare + tokens) / (parsed + chunked):5.2f}"
        )


def _least(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)
