"""What is given to tesseract, and what is made of what it says."""

import io
import os

import pypdfium2 as pdfium
import pytest
from reportlab.pdfgen.canvas import Canvas

from services.ingester.parsing.ocr import (
    LANGUAGES_MAX,
    PAGE_SECONDS_ADDED,
    PIXELS_MAX,
    SIDE_PIXELS_MAX,
    Ocr,
    Tesseract,
    _Lost,
    _NotUsable,
    choose,
    scale_of,
)
from services.ingester.parsing.ocr_words import is_guessed, lines_of

_HEAD = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n"


def row(line: str, place: str, confidence: float | str, text: str, level: int = 5) -> str:
    return f"{level}\t1\t{line}\t1\t{place}\t{confidence}\t{text}\n"


def test_words_become_lines_where_they_stand_on_the_page():
    table = (
        _HEAD
        + row("1\t1\t1", "300\t400\t120\t50", 96.1, "Harbour")
        + row("1\t1\t1", "450\t412\t90\t38", 90, "dues")
        + row("1\t1\t2", "300\t470\t200\t30", 88.5, "are owed.")
        + row("2\t1\t1", "1300\t400\t200\t30", 88.5, "Notes")
    )
    lines = list(lines_of(table, 2.0, 600.0, 800.0))
    assert [line.text for line in lines] == ["Harbour dues", "are owed.", "Notes"]
    assert [(line.left, line.right, line.bottom) for line in lines] == [
        (150.0, 270.0, 575.0),
        (150.0, 250.0, 550.0),
        (650.0, 750.0, 585.0),
    ]
    assert [line.size for line in lines] == [25.0, 25.0, 15.0]  # a paragraph has one, whatever its letters reach up to


@pytest.mark.parametrize(
    "bad",
    [
        row("1\t1\t1", "0\t0\t9\t9", 29.9, "specks"),
        row("1\t1\t1", "0\t0\t9\t9", -1, "", level=4),
        row("1\t1\t1", "0\t0\t9\t9", 95, "  \N{ZERO WIDTH SPACE}"),
        row("1\t1\t1", "0\t0\tx\t9", 95, "odd"),
        row("1\t1\t1", "0\t0\t9\t9", "nan", "unsure"),
        "5\t1\t1\n",
        "5\n\n\t\t\n",
    ],
)
def test_what_is_no_word_is_left_out(bad):
    lines = lines_of(_HEAD + bad + row("1\t1\t2", "0\t0\t9\t9", 95, "word"), 1.0, 100.0, 100.0)
    assert [line.text for line in lines] == ["word"]
    assert list(lines_of("", 1.0, 100.0, 100.0)) == []


def test_word_between_words_is_kept_however_it_is_read():
    """A sentence without it would say something else; at the ends of a line such words are specks."""
    words = [("~", 4), ("The", 96), ("boat", 93), ("may", 0), ("pay.", 95), ("..", 12)]
    table = "".join(row("1\t1\t1", f"{60 * place}\t0\t50\t20", sure, text) for place, (text, sure) in enumerate(words))
    (line,) = lines_of(_HEAD + table, 1.0, 600.0, 100.0)
    assert (line.text, line.left, line.right) == ("The boat may pay.", 60.0, 290.0)


def test_lines_are_in_larger_type_only_when_they_are_much_higher():
    """A little more ink is no heading: its words would be missing where they stand."""
    heights = [49, 49, 57, 42, 49, 90]
    table = "".join(row(f"1\t{at}\t1", f"0\t{100 * at}\t50\t{ink}", 95, "word") for at, ink in enumerate(heights))
    askew = row("1\t9\t1", "0\t900\t50\t49", 95, "long") + row("1\t9\t1", "2000\t930\t50\t49", 95, "line")
    lines = lines_of(_HEAD + table + askew, 1.0, 600.0, 2000.0)
    assert [line.size for line in lines] == [49.0, 49.0, 49.0, 49.0, 49.0, 90.0, 49.0]


@pytest.mark.parametrize("is_rightwards", [True, False])
@pytest.mark.parametrize("turn", ["none", "left", "head", "right"])
def test_page_that_lies_otherwise_is_turned_upright(turn, is_rightwards):
    """A page of 600 by 800 pixels with two paragraphs; Arabic words run from right to left."""
    places = [("1\t1\t1", [100, 200, 300], 50), ("1\t1\t2", [100, 200, 300], 80), ("2\t1\t1", [100, 200, 300], 700)]
    turned = {
        "none": lambda x, y, w, h: (x, y, w, h),
        "left": lambda x, y, w, h: (y, 600 - x - w, h, w),
        "head": lambda x, y, w, h: (600 - x - w, 800 - y - h, w, h),
        "right": lambda x, y, w, h: (800 - y - h, x, h, w),
    }[turn]
    table = "".join(
        row(line, "\t".join(map(str, turned(left, top, 90, 20))), 95, f"{left}")
        for line, lefts, top in places
        for left in (lefts if is_rightwards else lefts[::-1])
    )
    size = (300.0, 400.0) if turn in ("none", "head") else (400.0, 300.0)
    lines = list(lines_of(_HEAD + table, 2.0, *size))
    assert [(line.left, line.right, line.bottom, line.size) for line in lines] == [
        (50.0, 195.0, 365.0, 10.0),
        (50.0, 195.0, 350.0, 10.0),
        (50.0, 195.0, 40.0, 10.0),
    ]


def test_page_whose_words_are_guessed_is_told_from_one_that_is_read():
    def page(*sure: float) -> str:
        return _HEAD + "".join(row("1\t1\t1", "0\t0\t9\t9", one, "word") for one in sure)

    assert is_guessed(page(64, 46, 67, 96, 12))
    assert not is_guessed(page(96, 96, 55, 91, 12, 0, 0, 0, 0))  # specks beside its words
    assert not is_guessed(page(12))
    assert not is_guessed("")


def test_page_is_drawn_with_300_dots_an_inch_or_with_as_many_as_there_may_be():
    assert scale_of(595, 842) == pytest.approx(300 / 72)
    for width, height in ((14_400, 14_400), (200_000, 100), (1, 10_000_000)):
        scale = scale_of(width, height)
        assert width * scale * height * scale <= PIXELS_MAX + 1
        assert max(width, height) * scale <= SIDE_PIXELS_MAX + 1
    for side in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(_Lost):
            scale_of(side, 100)


@pytest.mark.parametrize(
    ("installed", "wanted", "chosen"),
    [
        (["deu", "eng", "osd", "script/Latin"], "", ["eng", "deu"]),
        (["deu", "equ"], "", ["deu"]),
        (["eng", *[f"x{number:02}" for number in range(LANGUAGES_MAX)]], "", ["eng"]),
        (["deu", "eng", "script/Latin"], "script/Latin+deu+deu", ["script/Latin", "deu"]),
    ],
)
def test_pages_are_read_in_what_is_asked_for_or_installed(installed, wanted, chosen):
    assert choose(installed, wanted) == chosen


@pytest.mark.parametrize(
    ("installed", "wanted", "problem"),
    [
        (["osd"], "", "no languages"),
        ([f"x{number:02}" for number in range(LANGUAGES_MAX + 1)], "", "choose some"),
        (["eng"], "eng+deu+--help", "no language deu, --help"),
        (["eng"], "+", "no language"),
    ],
)
def test_language_that_is_missing_is_named(installed, wanted, problem):
    with pytest.raises(_NotUsable, match=problem):
        choose(installed, wanted)


def test_program_is_looked_for_unless_nobody_wants_it(tmp_path):
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    environment = {"PATH": str(program.parent), "TESSDATA_PREFIX": "/data", "OPENAI_API_KEY": "secret"}
    found = Tesseract.find("eng", environment)
    assert found == Tesseract(str(program.resolve()), "/data", "eng")
    assert found.environment() == {"LC_ALL": "C", "OMP_THREAD_LIMIT": "1", "TESSDATA_PREFIX": "/data"}
    assert Tesseract.find("off", environment) is None
    assert Tesseract.find(None, {"PATH": str(tmp_path)}) is None


def one_page() -> pdfium.PdfDocument:
    file = io.BytesIO()
    canvas = Canvas(file)
    canvas.showPage()
    canvas.save()
    return pdfium.PdfDocument(file.getvalue())


def test_pages_add_to_the_time_until_all_is_added():
    """The time was over long ago, so that no page is read; only time that can still be given is advised."""
    told: list[str] = []
    document = one_page()
    ocr = Ocr(Tesseract("/bin/true"), lambda: None)
    try:
        ocr.begin(-1e9, 2.5 * PAGE_SECONDS_ADDED, lambda: told.append("page"))
        advised = []
        for _ in range(5):
            assert ocr.read(document[0]) == []
            advised.append("ASKBOX_PARSE_SECONDS" in str(ocr.refusal()))
        assert (len(told), ocr.late_count) == (3, 5)
        assert (ocr.added_seconds, ocr.addable_seconds) == (2.5 * PAGE_SECONDS_ADDED, 0)
        assert advised == [True, True, False, False, False]
    finally:
        document.close()
        os.close(ocr._silence)


def test_program_for_which_there_is_too_little_memory_costs_the_page():
    def enclose() -> None:
        raise MemoryError

    document = one_page()
    ocr = Ocr(Tesseract("/bin/true"), enclose)
    try:
        assert "does not run" in str(ocr.start().problem)
        ocr.begin(50)
        assert ocr.read(document[0]) == []
        assert (ocr.failed_count, ocr.not_read_count) == (1, 1)
    finally:
        document.close()
        os.close(ocr._silence)
