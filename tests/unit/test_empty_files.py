"""A file that holds nothing is an empty document in every format; one that holds pictures of a text needs OCR in every one."""

import io
import json
from collections.abc import Callable

import docx
import openpyxl
import pptx
import pytest
import xlwt
from openpyxl.drawing.image import Image as SheetImage
from PIL import Image
from reportlab.pdfgen.canvas import Canvas

from services.ingester.parsing import parse
from services.ingester.parsing.registry import FORMATS
from shared.errors import NeedsOcr
from tests.unit import test_parsing_epub as books
from tests.unit import test_parsing_opendocument as open_documents


def picture() -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    file.seek(0)
    return file


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def word_document(*, has_picture: bool) -> bytes:
    document = docx.Document()
    if has_picture:
        document.add_picture(picture())
    return saved(document.save)


def workbook(*, has_picture: bool) -> bytes:
    book = openpyxl.Workbook()
    if has_picture:
        book.active.add_image(SheetImage(picture()))
    return saved(book.save)


def old_workbook() -> bytes:
    book = xlwt.Workbook()
    book.add_sheet("Sheet1")
    return saved(book.save)


def slides(*, has_picture: bool) -> bytes:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    if has_picture:
        slide.shapes.add_picture(picture(), 0, 0)
    return saved(deck.save)


def form() -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file)
    canvas.acroForm.textfield(name="berth", value="Berth seven is paid until May.")
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def pdf(*, has_picture: bool) -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file)
    if has_picture:
        canvas.drawInlineImage(Image.new("1", (8, 8)), 0, 0)
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def table(**options: object) -> bytes:
    return open_documents.document('<table:table table:name="Sheet1"/>', kind="spreadsheet", **options)


EMPTY = {
    "a.pdf": pdf(has_picture=False),
    "a.docx": word_document(has_picture=False),
    "a.pptx": slides(has_picture=False),
    "a.odt": open_documents.document(""),
    "a.odp": open_documents.document("", kind="presentation"),
    "a.ods": table(),
    "a.xlsx": workbook(has_picture=False),
    "a.xls": old_workbook(),
    "a.epub": books.book({"a.xhtml": books.page("")}),
    "a.html": b"<!doctype html><html><head></head><body></body></html>",
    "a.rtf": b"{\\rtf1\\ansi }",
    "a.ipynb": json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode(),
    "a.xml": b"<?xml version='1.0'?><nothing/>",
    "a.csv": b"\r\n\r\n",
    "a.tsv": b"\t\t\n",
    "a.md": b"---\n---\n",
    "a.fodt": b" \n",
    "a.txt": b" \n\n\t\n",
}
PICTURES = {
    "a.pdf": pdf(has_picture=True),
    "a.docx": word_document(has_picture=True),
    "a.pptx": slides(has_picture=True),
    "a.odt": open_documents.document(open_documents.p("<draw:frame><draw:image/></draw:frame>")),
    "a.ods": table(extra={"Pictures/1.png": "picture"}),
    "a.xlsx": workbook(has_picture=True),
    "a.epub": books.book({"a.xhtml": books.page("<img src='1.jpg'/>")}),
}


@pytest.mark.parametrize("name", EMPTY)
def test_file_that_holds_nothing_is_an_empty_document(name: str) -> None:
    _, document = parse(name, EMPTY[name])
    assert document.blocks == []


@pytest.mark.parametrize("suffix", sorted({suffix for entry in FORMATS for suffix in entry.suffixes}))
def test_file_of_no_bytes_is_an_empty_document(suffix: str) -> None:
    _, document = parse(f"a{suffix}" if suffix.startswith(".") else suffix, b"")
    assert (document.text, document.blocks) == ("", [])


@pytest.mark.parametrize("name", PICTURES)
def test_file_that_holds_pictures_of_a_text_needs_ocr(name: str) -> None:
    with pytest.raises(NeedsOcr, match="ocrmypdf"):
        parse(name, PICTURES[name])


def test_form_whose_words_are_not_had_does_not_pass_for_nothing() -> None:
    with pytest.raises(NeedsOcr, match="form fields"):
        parse("a.pdf", form())
