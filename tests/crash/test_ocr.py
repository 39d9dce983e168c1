"""OCR by a stand-in for tesseract, through the real sandbox: what a page does to it costs that page."""

import asyncio
import io
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from difflib import SequenceMatcher
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from services.console.doctor.findings import Level
from services.console.doctor.peers import judge_ocr, look_at_ocr
from services.console.doctor.settings import DoctorSettings
from services.ingester.chunking import Chunk
from services.ingester.sandbox import ParsedHead, ParseLimits, ParserPool
from shared.errors import NeedsOcr
from shared.settings import BUNDLED_MODEL
from tests.crash.tesseract import ATTACKS, DIES, FAILS, FLOODS, GUESSES, HANGS, READS, SEES_NOTHING, install
from tests.crash.test_sandbox import parse
from tests.waiting import until

GIB = 1024**3
SECONDS = 60.0
# So many layers take minutes to draw, and moments to count.
LAYERS = 30_000
_SENTENCE = "The harbour was quiet when the first boats came home in the grey light."
_PAGE = (
    "The harbour was quiet when the first boats came home in the grey light. Each of them owes its dues on the day on which it "
    "lands its catch, at the office behind the lock, which opens at seven. Whoever comes late pays fifteen in the hundred more, "
    "unless the keeper has been told of it before noon. Nets and ropes are not left on the quay overnight, for the path is narrow "
    "and the lamps are few. In winter the outer pier is shut, because ice makes its stones slippery and the railing ends before "
    "its last third. Fuel is taken on at the marked places alone, with sand and cloths at hand. A list of all berths, with the "
    "names of those who have rented them, hangs beside the door and is written anew on the first Monday of each month."
)
_READ = "Harbour dues 2481 by 3508 at 300 in deu+eng are owed by every boat."

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are of Linux")


def pdf(*pages: int | str, size: tuple[float, float] = A4, layers: int = 0) -> bytes:
    """Return a PDF of pictures of one grey, and of pages with a sentence; the second page has layers over it."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=size)
    for number, page in enumerate(pages, 1):
        if isinstance(page, int):
            canvas.drawInlineImage(Image.new("L", (8, 8), page), 0, 0, *size)
        else:
            canvas.drawString(72, 700, page)
        if layers and number == 2:
            canvas.setFillAlpha(0.5)
            for _ in range(layers):
                canvas.rect(0, 0, *size, stroke=0, fill=1)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


@asynccontextmanager
async def parsing(
    seconds: float = SECONDS, languages: str | None = "deu+eng", *, seconds_max: float = 0.0
) -> AsyncIterator[ParserPool]:
    parsers = ParserPool(BUNDLED_MODEL, ParseLimits(seconds, GIB, 128, seconds_max), languages)
    await parsers.start()
    try:
        yield parsers
    finally:
        await parsers.stop()


@pytest.fixture
def tesseract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = install(tmp_path / "tesseract", "deu", "eng", "osd")
    monkeypatch.setenv("PATH", str(folder))
    return folder.parent


@pytest.fixture
async def parsers(tesseract: Path) -> AsyncIterator[ParserPool]:
    async with parsing() as pool:
        yield pool


def places(chunks: list[Chunk]) -> list[tuple[str, int | None]]:
    return [(chunk.text, chunk.page) for chunk in chunks]


def page_count(head: ParsedHead, name: str) -> int:
    return int(head.metadata.get(name, 0))


def not_read_and_blank(head: ParsedHead) -> tuple[int, int]:
    return page_count(head, "pages_not_read_by_ocr"), page_count(head, "pages_without_text")


async def test_scan_is_read_page_by_page(parsers):
    head, chunks = await parse(parsers, pdf(READS, SEES_NOTHING, READS), "scan.pdf")
    assert places(chunks) == [(f"{_READ}\n\n{_READ}", 1)]
    assert [[tuple(turn) for turn in chunk.page_turns] for chunk in chunks] == [[(len(_READ) + 2, 3, None)]]
    assert (page_count(head, "pages_read_by_ocr"), page_count(head, "pages_without_text")) == (2, 1)


async def test_only_pages_without_text_are_given_to_it(parsers):
    head, chunks = await parse(parsers, pdf(_SENTENCE, READS, _SENTENCE), "mixed.pdf")
    assert "\n\n".join(chunk.text for chunk in chunks) == f"{_SENTENCE}\n\n{_READ}\n\n{_SENTENCE}"
    assert page_count(head, "pages_read_by_ocr") == 1


@pytest.mark.parametrize("size", [(200_000.0, 3_000.0), (20_000.0, 20_000.0)])
async def test_page_of_any_size_is_a_picture_of_bounded_size(parsers, size):
    _, chunks = await parse(parsers, pdf(READS, size=size), "wide.pdf")
    words = chunks[0].text.split()
    width, height = int(words[2]), int(words[4])
    assert width * height <= 18_100_000
    assert max(width, height) <= 30_001


@pytest.mark.parametrize("bad", [DIES, FLOODS, FAILS])
async def test_page_that_breaks_it_costs_that_page(parsers, bad):
    head, chunks = await parse(parsers, pdf(READS, bad, READS), "scan.pdf")
    assert places(chunks) == [(f"{_READ}\n\n{_READ}", 1)]
    assert (page_count(head, "pages_read_by_ocr"), not_read_and_blank(head)) == (2, (1, 0))


async def test_page_that_is_guessed_at_is_not_read(parsers):
    head, chunks = await parse(parsers, pdf(READS, GUESSES, READS), "scan.pdf")
    assert places(chunks) == [(f"{_READ}\n\n{_READ}", 1)]
    assert (page_count(head, "pages_read_by_ocr"), not_read_and_blank(head)) == (2, (1, 0))


async def test_page_that_hangs_costs_that_page(tesseract):
    async with parsing(20) as parsers:
        head, chunks = await parse(parsers, pdf(READS, HANGS, READS), "scan.pdf")
    assert places(chunks) == [(f"{_READ}\n\n{_READ}", 1)]
    assert not_read_and_blank(head) == (1, 0)


async def test_page_that_cannot_be_drawn_in_its_time_costs_that_page(tesseract):
    async with parsing(20) as parsers:
        head, chunks = await parse(parsers, pdf(READS, READS, READS, layers=LAYERS), "scan.pdf")
    assert places(chunks) == [(f"{_READ}\n\n{_READ}", 1)]
    assert not_read_and_blank(head) == (1, 0)


async def test_page_that_is_not_read_is_none_that_is_blank(parsers):
    head, _ = await parse(parsers, pdf(_SENTENCE * 4, DIES, SEES_NOTHING, "", FAILS), "mixed.pdf")
    assert (page_count(head, "pages"), not_read_and_blank(head)) == (5, (2, 2))


async def test_scan_that_is_not_read_in_its_time_says_how_far_it_came(tesseract):
    async with parsing(10) as parsers:
        with pytest.raises(NeedsOcr, match=r"came to \d of 6 pages.*ASKBOX_PARSE_SECONDS \(about \d+ times as much\)"):
            await parse(parsers, pdf(READS, READS, *[HANGS] * 4), "scan.pdf")


async def test_pages_that_go_to_it_have_time_of_their_own(tesseract):
    """Four pages that hang take more time than there is without them."""
    async with parsing(15, seconds_max=1000) as parsers:
        head, _ = await parse(parsers, pdf(*[HANGS] * 4, *[READS] * 5), "scan.pdf")
    assert (page_count(head, "pages_read_by_ocr"), not_read_and_blank(head)) == (5, (4, 0))


async def test_scan_without_end_ends_and_says_what_was_not_read(tesseract):
    async with parsing(15, seconds_max=19) as parsers:
        head, chunks = await parse(parsers, pdf(_SENTENCE * 30, READS, *[HANGS] * 60), "mixed.pdf")
    assert chunks
    assert (page_count(head, "pages_read_by_ocr"), not_read_and_blank(head)) == (1, (60, 0))


async def test_text_stands_though_its_pictures_are_not_read_in_time(tesseract):
    async with parsing(15) as parsers:
        head, chunks = await parse(parsers, pdf(_SENTENCE * 4, *[HANGS] * 6, _SENTENCE), "mixed.pdf")
    assert chunks
    assert not_read_and_blank(head) == (6, 0)


@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        ((READS, DIES, DIES), "OCR failed on 2 of 3 pages"),
        (
            (READS, GUESSES, GUESSES),
            r"OCR guesses at 2 of 3 pages.*another language than deu\+eng.*ASKBOX_OCR_LANGUAGES",
        ),
        ((SEES_NOTHING, SEES_NOTHING), "OCR found no text in 2 of 2 pages"),
    ],
)
async def test_scan_that_is_hardly_read_is_refused(parsers, pages, reason):
    with pytest.raises(NeedsOcr, match=reason):
        await parse(parsers, pdf(*pages), "scan.pdf")


async def test_program_that_was_taken_over_reaches_nothing(tmp_path, monkeypatch):
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        folder = install(tmp_path / "tesseract", "eng", port=port)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
        async with parsing(languages=None) as parsers:
            if not parsers.walls["files"]:
                pytest.skip("this kernel has no Landlock")
            _, chunks = await parse(parsers, pdf(ATTACKS), "scan.pdf")
    assert [chunk.text for chunk in chunks] == ["open: nothing"]


async def test_nothing_of_it_is_left_when_its_parser_is_killed(parsers):
    async def parse_for_ever() -> None:
        await parse(parsers, pdf(HANGS), "scan.pdf")

    async def started() -> list[psutil.Process]:
        below = psutil.Process(parsers.server_pid).children(recursive=True)
        return below if any("stdin" in process.cmdline() for process in below) else []

    def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
        return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    running = asyncio.create_task(parse_for_ever())
    processes = await until(started)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    try:
        await until(lambda: asyncio.sleep(0, not alive(processes)))
    finally:
        for process in alive(processes):
            process.kill()


@pytest.mark.parametrize(
    ("languages", "told", "problem"),
    [
        (None, ("eng", "deu"), None),
        ("deu", ("deu",), None),
        ("deu+fra", (), "has no language fra"),
        ("off", (), "turned off"),
    ],
)
async def test_server_says_in_which_languages_pages_are_read(tesseract, languages, told, problem):
    async with parsing(languages=languages) as parsers:
        assert parsers.ocr.languages == told
        assert (problem or "None") in str(parsers.ocr.problem)


async def test_program_that_cannot_run_behind_the_walls_is_told_and_scans_are_refused(tesseract):
    (tesseract / "bin" / "tesseract").write_text("#!/bin/sh\nexit 1\n")
    async with parsing() as parsers:
        assert "does not run behind the parser's walls" in str(parsers.ocr.problem)
        with pytest.raises(NeedsOcr, match="install tesseract"):
            await parse(parsers, pdf(READS), "scan.pdf")


async def test_data_may_lie_elsewhere(tesseract, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lat.traineddata").touch()
    monkeypatch.setenv("TESSDATA_PREFIX", str(folder))
    async with parsing(languages=None) as parsers:
        assert parsers.ocr.languages == ("lat",)


async def test_without_it_a_scan_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    async with parsing(languages=None) as parsers:
        assert "not installed" in str(parsers.ocr.problem)
        with pytest.raises(NeedsOcr, match="install tesseract"):
            await parse(parsers, pdf(READS), "scan.pdf")


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
async def test_scan_is_read_by_the_program_itself_whichever_way_round_it_lies():
    """A page upright, on its sides and on its head: words in their order, and the page of each."""
    drawn = Image.new("L", (1240, 1754), 245)
    font = ImageFont.load_default(26)
    for place, line in enumerate(textwrap.wrap(_PAGE, 70)):
        ImageDraw.Draw(drawn).text((120, 200 + 44 * place), line, font=font, fill=20)
    file = io.BytesIO()
    canvas = Canvas(file)
    for degrees in (0, 90, 180, 270):
        turned = drawn.rotate(degrees, expand=True)
        size = (A4[0], A4[1]) if turned.width < turned.height else (A4[1], A4[0])
        canvas.setPageSize(size)
        canvas.drawInlineImage(turned, 0, 0, *size)
        canvas.showPage()
    canvas.save()
    async with parsing(240, "eng") as parsers:
        if not parsers.ocr.languages:
            pytest.skip(str(parsers.ocr.problem))
        head, chunks = await parse(parsers, file.getvalue(), "scan.pdf")
    assert page_count(head, "pages_read_by_ocr") == 4
    read = " ".join(chunk.text for chunk in chunks).split()
    assert SequenceMatcher(None, _PAGE.split() * 4, read, autojunk=False).ratio() > 0.97
    named = {page for chunk in chunks for page in (chunk.page, *(turn[1] for turn in map(tuple, chunk.page_turns)))}
    assert named == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("languages", "level", "found"),
    [
        (None, Level.OK, "read by tesseract (eng, deu)"),
        ("fra", Level.WARN, "has no language fra"),
        ("off", Level.OK, "turned off"),
    ],
)
async def test_doctor_says_whether_scans_are_read(tesseract, tmp_path, monkeypatch, languages, level, found):
    monkeypatch.chdir(tmp_path)
    if languages is not None:
        monkeypatch.setenv("ASKBOX_OCR_LANGUAGES", languages)
    (finding,) = await asyncio.to_thread(look_at_ocr, DoctorSettings.read())
    assert finding.level is level
    assert found in finding.found


def test_doctor_takes_a_missing_program_for_a_choice_unless_languages_are_asked_for():
    status = {"languages": [], "problem": "tesseract is not installed"}
    assert judge_ocr(status | {"is_wanted": False}).level is Level.OK
    assert judge_ocr(status | {"is_wanted": True}).level is Level.WARN
