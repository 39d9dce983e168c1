"""PDFs become paragraphs by page, under the headings of their outline or of their type."""

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable

import pypdfium2 as pdfium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from services.ingester.parsing import ParsedDocument, media_type_of, parse
from services.ingester.parsing import pdf as pdf_module
from services.ingester.parsing.ocr import Ocr
from services.ingester.parsing.pdf import parse_pdf
from services.ingester.parsing.pdf_headings import Entry, largest_words, with_outline, with_sizes
from services.ingester.parsing.pdf_layout import (
    PARAGRAPH_LINES_MAX,
    Line,
    PageLines,
    Words,
    paragraphs,
    seam,
    without_repeated,
)
from services.ingester.parsing.registry import PDF
from services.ingester.parsing.titles import meaningful_title
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, NeedsOcr, ParserLimit, PermanentError
from tests.unit.parsing_checks import HEADING, LINES, PROSE, blocks_of, check, headings_of

WIDTH, HEIGHT = A4
_STORY = (
    "The harbour was quiet when the first boats came home in the grey light",
    "of the morning and the men who had waited through the night stood up",
    "from their boxes and looked out. Nobody spoke until the nets were on",
    "land and counted.",
)


def drawn(draw: Callable[[Canvas], object], **options: object) -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, **options)
    draw(canvas)
    canvas.save()
    return file.getvalue()


def write(
    canvas: Canvas, *lines: str, x: float = 72, y: float = 720, size: float = 11, font: str = "Helvetica"
) -> None:
    for place, line in enumerate(lines):
        canvas.setFont(font, size)
        canvas.drawString(x, y - place * size * 1.2, line)


def read(draw: Callable[[Canvas], object], **options: object) -> ParsedDocument:
    document = parse_pdf(drawn(draw, **options))
    check(document)
    return document


def picture(canvas: Canvas) -> None:
    canvas.drawInlineImage(_image(), 0, 0, WIDTH, HEIGHT)


def _image():
    from PIL import Image

    return Image.new("1", (8, 8))


def test_lines_become_paragraphs_and_a_divided_word_one_word() -> None:
    def draw(canvas: Canvas) -> None:
        write(
            canvas,
            "The committee met in the large hall of the town, and an impor-",
            "tant question was raised at once.",
            y=720,
        )
        write(canvas, "Nobody had an answer, and so the meeting of that well-", "Known society ended.", y=660)

    document = read(draw)
    assert blocks_of(document) == [
        (PROSE, "The committee met in the large hall of the town, and an important question was raised at once."),
        (PROSE, "Nobody had an answer, and so the meeting of that well-Known society ended."),
    ]
    assert {block.page for block in document.blocks} == {1}


def test_columns_are_read_one_after_the_other() -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas, "Left column begins and", "goes on to its end", x=72)
        write(canvas, "and finds its rest here.", "Right column ends.", x=320)

    words = " ".join(text for _, text in blocks_of(read(draw)))
    assert words == "Left column begins and goes on to its end and finds its rest here. Right column ends."


def test_every_block_has_its_page_and_a_divided_sentence_is_whole() -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas, *_STORY[:3])
        canvas.showPage()
        write(canvas, _STORY[3] + " Then they went home.", "The town slept.")
        canvas.showPage()
        write(canvas, "A third page has its own words.")

    document = read(draw)
    assert [(block.page, document.text[block.start : block.end]) for block in document.blocks] == [
        (1, " ".join(_STORY)),
        (2, "Then they went home. The town slept."),
        (3, "A third page has its own words."),
    ]
    assert document.metadata["pages"] == "3"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([], {}),
        ([(0, "ROMAN_LOWER", 1, None), (2, "ARABIC", 1, None)], {1: "i", 2: "ii", 3: "1", 4: "2"}),
        ([(0, "ARABIC", 1, None), (3, "ARABIC", 1, "A-")], {4: "A-1"}),
        ([(0, "ARABIC", 1, "A" * 60)], {}),
    ],
)
def test_pages_have_the_names_that_a_reader_shows(labels: list[tuple], names: dict[int, str]) -> None:
    def draw(canvas: Canvas) -> None:
        for page in range(4):
            write(canvas, f"What stands on page {page}.")
            canvas.showPage()
        for page, style, start, prefix in labels:
            canvas.addPageLabel(page, style=style, start=start, prefix=prefix)

    document = read(draw)
    assert document.page_labels == names
    assert [block.page for block in document.blocks] == [1, 2, 3, 4]


def test_outline_names_the_headings() -> None:
    def draw(canvas: Canvas) -> None:
        for key, title, level, y in (("a", "First part", 0, 740), ("b", "Inner part", 1, 640)):
            canvas.bookmarkHorizontal(key, 0, y)
            canvas.addOutlineEntry(title, key, level)
        write(canvas, "1. First part", y=720)
        write(canvas, "Words of the first part stand here.", y=700)
        write(canvas, "Words of the inner part stand here.", y=600)
        canvas.showPage()
        canvas.bookmarkPage("c")
        canvas.addOutlineEntry("Second part", "c", 0)
        write(canvas, "Words of the second part.", "Second part", "More words of it, and an end.")

    document = read(draw)
    assert [(b.level, b.heading, b.page) for b in document.blocks if b.kind is HEADING] == [
        (1, "1. First part", 1),
        (2, "Inner part", 1),
        (1, "Second part", 2),
    ]
    texts = [text for _, text in blocks_of(document)]
    assert texts.index("Inner part") == texts.index("Words of the inner part stand here.") - 1


def test_larger_type_names_the_headings_where_there_is_no_outline() -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas, "A title on", "two lines", y=760, size=20)
        write(canvas, "1 Beginning", y=690, size=14)
        write(canvas, *_STORY, y=670)
        write(canvas, "2 Bold words", y=600, font="Helvetica-Bold")
        write(canvas, *_STORY, y=586)

    document = read(draw)
    assert document.title == "A title on two lines"
    assert headings_of(document) == [(1, "A title on two lines"), (2, "1 Beginning"), (3, "2 Bold words")]


def test_type_says_nothing_where_much_is_large_or_every_line_has_a_size_of_its_own() -> None:
    small = [Line(f"{_STORY[0]} {_STORY[1]}", 72, 500, 500.0 - 14 * place, 10) for place in range(20)]
    posters = [
        Line("Large words on a poster that says much", 72, 500, 700.0 - 30 * n, 24 - n % 2 * 4) for n in range(30)
    ]
    scanned = [Line("Some words of a scan", 72, 500, 700.0 - 20 * n, 11 + n * 0.5) for n in range(15)]
    few = [Line("A heading of words", 72, 500, 700, 14)]
    for lines, expected in (([*posters, *small], 0), ([*scanned, *small], 0), ([*few, *small], 1)):
        (page,) = with_sizes([_page(1, *lines)])
        assert sum(line.level > 0 for line in page.lines) == expected


@pytest.mark.parametrize(
    ("claimed", "title"),
    [
        ("A real title", "A real title"),
        ("Microsoft Word - draft.doc", None),
        ("untitled", None),
        ("C:\\Users\\a\\report.tex", None),
        ("report_2021-04.pdf", None),
    ],
)
def test_title_is_the_claimed_one_unless_a_program_wrote_it(claimed: str, title: str | None) -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setTitle(claimed)
        write(canvas, *_STORY)

    assert read(draw).title == title


def test_headers_footers_and_page_numbers_are_dropped() -> None:
    def draw(canvas: Canvas) -> None:
        for page in range(1, 9):
            write(canvas, "Annual report of the harbour", y=800)
            write(canvas, f"{page} Chapter {page // 3}" if page % 2 else f"Part {page // 3} {page}", y=30)
            write(canvas, f"Body of leaf {'abcdefgh'[page - 1]}: " + _STORY[0], *_STORY[1:], y=500 - 20 * page)
            canvas.showPage()

    assert [text for _, text in blocks_of(read(draw))] == [
        f"Body of leaf {letter}: {' '.join(_STORY)}" for letter in "abcdefgh"
    ]


def test_line_that_stands_on_few_pages_is_kept() -> None:
    def draw(canvas: Canvas) -> None:
        for page in range(6):
            write(canvas, "A motto" if page == 1 else f"Line of its own: {'abcdef'[page]}", y=800)
            write(canvas, f"Words of page {'abcdef'[page]}.", *_STORY)
            canvas.showPage()

    assert sum(text == "A motto" for _, text in blocks_of(read(draw))) == 1


def test_pages_that_are_all_the_same_are_kept() -> None:
    def draw(canvas: Canvas) -> None:
        for _ in range(4):
            write(canvas, "The same form, empty, over and over.", "", *_STORY)
            canvas.showPage()

    assert read(draw).text.count("The same form") == 4


def test_rows_keep_their_lines() -> None:
    document = read(lambda canvas: write(canvas, "Apples 12 340", "Pears 9 1200", "Plums 877 15"))
    assert blocks_of(document) == [(LINES, "Apples 12 340\nPears 9 1200\nPlums 877 15")]


def test_pdf_with_a_password_is_refused_with_what_to_do() -> None:
    with pytest.raises(EncryptedFile, match="save it without one"):
        read(lambda canvas: write(canvas, "secret"), encrypt=StandardEncryption("open", "owner"))


def test_pdf_that_only_forbids_copying_is_read() -> None:
    protection = StandardEncryption("", "owner", canCopy=0)
    assert blocks_of(read(lambda canvas: write(canvas, "Open to all who read."), encrypt=protection)) == [
        (PROSE, "Open to all who read.")
    ]


def test_scan_is_refused_with_what_to_do() -> None:
    def draw(canvas: Canvas) -> None:
        for _ in range(3):
            picture(canvas)
            write(canvas, "stamp", y=20)
            canvas.showPage()

    with pytest.raises(NeedsOcr, match=r"3 of 3 pages .* run OCR"):
        read(draw)


def test_pages_without_text_among_others_are_counted() -> None:
    def draw(canvas: Canvas) -> None:
        write(canvas, *_STORY)
        canvas.showPage()
        picture(canvas)
        canvas.showPage()

    document = read(draw)
    assert document.metadata == {"pages": "2", "pages_without_text": "1", "author": "anonymous"}


def test_short_text_without_pictures_is_no_scan() -> None:
    assert blocks_of(read(lambda canvas: write(canvas, "Hello"))) == [(PROSE, "Hello")]


def test_empty_pages_are_told_as_such() -> None:
    with pytest.raises(EmptyDocument, match="no text on its 1 page"):
        read(lambda canvas: canvas.showPage())


def field(canvas: Canvas) -> None:
    canvas.acroForm.textfield(name="berth", value="Berth seven is paid until May.", x=72, y=700, width=300)


def note(canvas: Canvas) -> None:
    canvas.textAnnotation("Berth seven is paid until May.", (72, 700, 90, 720))


def stroke(canvas: Canvas) -> None:
    canvas.line(72, 700, 300, 720)


@pytest.mark.parametrize("draw", [field, note, stroke])
def test_pages_of_form_fields_or_strokes_alone_are_not_empty(draw: Callable[[Canvas], object]) -> None:
    def draw_all(canvas: Canvas) -> None:
        canvas.showPage()
        draw(canvas)
        canvas.showPage()

    with pytest.raises(NeedsOcr, match=r"1 of 2 pages hold drawings or form fields only.*print the file to a new PDF"):
        read(draw_all)


def test_empty_pages_beside_one_that_cannot_be_read_are_not_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    read_page = pdf_module._read_page

    def read_but_the_second(document: pdfium.PdfDocument, index: int, ocr: Ocr | None) -> object:
        if index == 1:
            raise pdfium.PdfiumError("damaged")
        return read_page(document, index, ocr)

    monkeypatch.setattr(pdf_module, "_read_page", read_but_the_second)
    with pytest.raises(CorruptFile, match="1 of 2 pages of the PDF cannot be read"):
        read(lambda canvas: [canvas.showPage() for _ in range(2)])


def test_too_many_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "PAGES_MAX", 2)
    with pytest.raises(ParserLimit, match="split it"):
        read(lambda canvas: [canvas.showPage() for _ in range(3)])


def test_too_much_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "CHARACTERS_MAX", 100)
    with pytest.raises(ParserLimit, match="split it"):
        read(lambda canvas: write(canvas, *_STORY))


def test_kind_is_known_by_content_whatever_the_name() -> None:
    content = drawn(lambda canvas: write(canvas, "Words of a PDF."))
    assert parse("notes.txt", content)[0] == PDF
    assert media_type_of("a.pdf", b"\r\n\x00junk" + content) == PDF


@pytest.mark.parametrize("content", [b"plain words", b"<!doctype html><p>Not found"])
def test_text_that_is_named_pdf_is_told_as_such(content: bytes) -> None:
    with pytest.raises(CorruptFile, match=r"ends in \.pdf, but the file is text"):
        parse("report.pdf", content)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.binary(max_size=60), st.sampled_from(["cut", "overwritten"]))
def test_damaged_pdf_is_read_or_refused(place: int, junk: bytes, how: str) -> None:
    at = place % len(_SAMPLE)
    content = _SAMPLE[:at] + junk + (b"" if how == "cut" else _SAMPLE[at + len(junk) :])
    with contextlib.suppress(PermanentError):
        check(parse_pdf(content))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_noise_that_claims_to_be_pdf_is_refused(noise: bytes) -> None:
    with pytest.raises(PermanentError):
        parse("a.pdf", b"%PDF-1.7\n" + noise)


def _page(number: int, *lines: Line) -> PageLines:
    return PageLines(number, HEIGHT, list(lines))


_LINE = st.builds(
    Line,
    st.sampled_from(["Words", "1. item", "ends.", "exam-", "ple", "12 34", "12", "• point", "-", "Title", "A … 3"]),
    *(st.sampled_from([0.0, 72.0, 90.0, 300.0, -5.0]) for _ in range(3)),
    st.sampled_from([0.0, 8.0, 11.0, 14.0]),
    st.booleans(),
    level=st.just(0),
    titles=st.just(()),
)
_PAGES = st.lists(st.lists(_LINE, max_size=8), max_size=6).map(
    lambda pages: [_page(number, *lines) for number, lines in enumerate(pages, start=1)]
)
_ENTRIES = st.lists(
    st.builds(
        Entry,
        st.integers(1, 6),
        st.sampled_from(["Title", "Words ends.", "Unprinted", "12", "Page 3"]),
        st.none() | st.integers(1, 8),
        st.none() | st.sampled_from([0.0, 80.0, 900.0]),
    ),
    max_size=6,
)


def _letters(text: str) -> Counter[str]:
    return Counter(character for character in text if character.isalnum())


@settings(max_examples=150, deadline=None)
@given(_PAGES, _ENTRIES)
def test_layout_loses_no_letter_of_any_pages(pages: list[PageLines], outline: list[Entry]) -> None:
    expected = _letters("".join(line.text for page in pages for line in page.lines))
    for marked in (pages, with_outline(pages, outline), with_sizes(pages)):
        found = paragraphs(marked)
        assert _letters("".join(paragraph.text for paragraph in found)) == expected
        assert all(paragraph.text.strip() for paragraph in found)
        assert [paragraph.page for paragraph in found] == sorted(paragraph.page for paragraph in found)
    kept = without_repeated(pages)
    assert [page.number for page in kept] == [page.number for page in pages]
    assert not expected or any(page.lines for page in kept)
    largest_words(pages)


@settings(max_examples=100, deadline=None)
@given(_PAGES, _ENTRIES)
def test_every_entry_that_has_a_place_becomes_one_heading(pages: list[PageLines], outline: list[Entry]) -> None:
    lines = [line for page in with_outline(pages, outline) for line in page.lines]
    made = sum(line.level > 0 for line in lines) + sum(len(line.titles) for line in lines)
    last = max((page.number for page in pages if page.lines), default=0)
    placed = [e for e in outline if e.title != "Page 3" and e.page is not None and e.page <= last]
    assert len(placed) <= made <= len(outline)


@pytest.mark.parametrize(
    "line",
    [
        Line("some words-", 72, 140, 0, 11),
        Line("a" * 2000 + "-", 72, 140, 0, 11),
        Line('.""' * 500, 72, 140, 0, 11),
        Line("1 " * 500),
    ],
    ids=["hyphens", "letters", "quotes", "numbers"],
)
def test_page_of_endless_lines_is_read_in_linear_time(line: Line) -> None:
    lines = [line._replace(bottom=-12.0 * place) for place in range(4000)]
    started = time.process_time()
    pages = with_outline([_page(1, *lines)], [Entry(1, line.text[:50], 1, None)] * 50)
    found = paragraphs(with_sizes(pages))
    assert 1 < max(len(paragraph.lines) for paragraph in found) <= PARAGRAPH_LINES_MAX
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("first", "second", "used", "whole"),
    [
        ("an impor-", "tant word", [], "an important word"),
        ("the open-", "domain", ["open-domain"], "the open-domain"),
        ("a dual-", "encoder", ["dual", "encoder"], "a dual-encoder"),
        ("with-", "out", ["with", "out"], "without"),
        ("an x-", "ray", [], "an x-ray"),
        ("Franco-", "German", [], "Franco-German"),
        ("soft\u00ad", "ware", ["soft", "ware"], "software"),
        ("1990-", "2000", [], "1990-2000"),
        ("this -", "that", [], "this - that"),
        ("one", "two", [], "one two"),
    ],
)
def test_hyphen_at_the_end_of_a_line_is_undone_where_it_divides_a_word(
    first: str, second: str, used: list[str], whole: str
) -> None:
    assert "".join(seam(first, second, Words([_page(1, Line(" ".join(used)))]))) == whole


@pytest.mark.parametrize(
    "title",
    [
        "Untitled",
        "Document1",
        "Slide 1",
        "Microsoft Word - a.doc",
        "a/b/c.pdf",
        "x.indd",
        "12.3.4",
        "glxz-10k_20211231",
        "  ",
    ],
)
def test_what_programs_write_is_no_title(title: str) -> None:
    assert meaningful_title(title) is None


@pytest.mark.parametrize(
    "title", ["Document management", "R2-D2", "Über uns", "C#", "白皮书", "Input/output, explained"]
)
def test_what_people_write_is_a_title(title: str) -> None:
    assert meaningful_title(title) == title


_SAMPLE = drawn(lambda canvas: write(canvas, *_STORY))
