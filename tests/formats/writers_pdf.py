"""Writes known content as PDF with reportlab: one column, two columns, a table, a running header, page numbers."""

import io

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    NextPageTemplate,
    PageBreak,
    PageTemplate,
)
from reportlab.platypus import Paragraph as Flow
from reportlab.platypus import (
    Table as Grid,
)

from tests.formats.content import AUTHOR, TITLE, Heading, Items, Paragraph, Part, Table, chapters, content
from tests.formats.truth import Place, Written
from tests.formats.writers_text import headings, said

_WIDTH, _HEIGHT = A4
_MARGIN, _GAP = 60, 24
_BODY = ParagraphStyle("body", fontName="Times-Roman", fontSize=10, leading=13, spaceAfter=6)
_HEADINGS = {
    level: ParagraphStyle(
        f"h{level}", fontName="Helvetica-Bold", fontSize=size, leading=size + 4, spaceBefore=8, spaceAfter=5
    )
    for level, size in ((1, 20), (2, 15), (3, 12))
}
_CHINESE = "数据库存储文本 东京的图书馆很安静"


class _Marked(Flow):
    """A paragraph that notes the page on which it begins; what is left over for the next page notes nothing."""

    mark = ""
    places: dict[str, Place]

    def split(self, *arguments):
        parts = super().split(*arguments)
        for part in parts[:1]:
            part.mark, part.places = self.mark, self.places
        return parts

    def draw(self) -> None:
        if self.mark:
            self.places[self.mark] = Place(page=self.canv.getPageNumber())
        super().draw()


class _Outlined(Flow):
    """A heading that may stand in the outline."""

    entry: Heading | None = None

    def draw(self) -> None:
        if self.entry is not None:
            self.canv.bookmarkPage(self.entry.text)
            self.canv.addOutlineEntry(self.entry.text, self.entry.text, self.entry.level - 1)
        super().draw()


class _LabelledCanvas(Canvas):
    """Calls its first page iv, and counts from 1 behind it."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.addPageLabel(0, "ROMAN_LOWER", start=4)
        self.addPageLabel(1, "ARABIC", start=1)


class _Grid(Grid):
    """A table whose rows note their page; the part that is left over for the next page is of this class too."""

    places: dict[str, Place]

    def draw(self) -> None:
        for row in self._cellvalues:
            self.places.setdefault(row[0], Place(page=self.canv.getPageNumber()))
        super().draw()

    def _splitRows(self, *arguments, **options):  # noqa: N802 (its name in the library)
        parts = super()._splitRows(*arguments, **options)
        for part in parts:
            part.places = self.places
        return parts


def portable_document() -> Written:
    """Three chapters, of which the second is set in two columns; headings are told by their type."""
    return _document(is_labelled=False)


def labelled_document() -> Written:
    """The same with an outline, and a first page that is called iv."""
    return _document(is_labelled=True)


def _document(*, is_labelled: bool) -> Written:
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    places: dict[str, Place] = {}
    story: list[Flowable] = []
    parts = content(is_western=True)
    for number, chapter in enumerate(chapters(parts), 1):
        if number > 1:
            story += [NextPageTemplate("two" if number == 2 else "one"), PageBreak()]
        for part in chapter:
            story += _flowables(part, places)
            if is_labelled and isinstance(part, Heading):
                story[-1].entry = part
    story.append(Flow(f'<font name="STSong-Light">{_CHINESE}</font>', _BODY))
    file = io.BytesIO()
    template = BaseDocTemplate(file, pagesize=A4, title=TITLE, author=AUTHOR)
    template.addPageTemplates([_page_template("one", 1), _page_template("two", 2)])
    template.build(story, canvasmaker=_LabelledCanvas if is_labelled else Canvas)
    places = {mark: place for mark, place in places.items() if mark.startswith("mark")}
    if is_labelled:
        places = {
            mark: Place(place.page, "iv" if place.page == 1 else str((place.page or 0) - 1))
            for mark, place in places.items()
        }
    return Written(
        "a.pdf", file.getvalue(), "application/pdf", f"{said(parts)}\n{_CHINESE}", headings(parts), TITLE, places,
        extra_words_share_max=0.02,
    )  # fmt: skip


def _flowables(part: Part, places: dict[str, Place]) -> list[Flowable]:
    match part:
        case Heading(level, text):
            return [_Outlined(text, _HEADINGS[level])]
        case Paragraph():
            flow = _Marked(part.text, _BODY)
            flow.mark, flow.places = part.mark, places
            return [flow]
        case Items(texts):
            return [Flow(f"• {text}", _BODY) for text in texts]
        case Table(header, rows):
            style = [("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("FONTSIZE", (0, 0), (-1, -1), 8)]
            grid = _Grid([header, *rows], colWidths=[45, 75, 45, 55], repeatRows=0, style=style)
            grid.places = places
            return [grid]


def _page_template(name: str, columns: int) -> PageTemplate:
    width = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    frames = [
        Frame(_MARGIN + at * (width + _GAP), _MARGIN, width, _HEIGHT - 2 * _MARGIN, 0, 0, 0, 0) for at in range(columns)
    ]
    return PageTemplate(name, frames, onPage=_run_around)


def _run_around(canvas: Canvas, _template: BaseDocTemplate) -> None:
    canvas.setFont("Times-Roman", 8)
    canvas.drawString(_MARGIN, _HEIGHT - 35, TITLE)
    canvas.drawCentredString(_WIDTH / 2, 30, str(canvas.getPageNumber()))


WRITERS = (portable_document, labelled_document)
