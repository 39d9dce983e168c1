"""Presentations become slides in the order in which they are shown; a damaged slide takes no other with it."""

import contextlib
import io
import time
import zipfile
from collections.abc import Callable

import pptx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.oxml import parse_xml
from pptx.presentation import Presentation
from pptx.slide import Slide
from pptx.util import Inches

from services.ingester.parsing import PageUnit, ParsedDocument, media_type_of
from services.ingester.parsing.office import CONTEXT_CHARACTERS_MAX, RELATIONS_MAX
from services.ingester.parsing.pptx import parse_pptx
from services.ingester.parsing.pptx_graphics import CHART_CELLS_MAX, chart_items, table_items
from services.ingester.parsing.registry import PPTX
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, NeedsOcr, ParserLimit
from tests.unit.parsing_checks import HEADING, PROSE, ROW, blocks_of, check, headings_of

_TITLE_SLIDE, _CONTENT, _TITLE_ONLY, _BLANK = 0, 1, 5, 6
_NAMESPACES = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def saved(deck: Presentation) -> bytes:
    file = io.BytesIO()
    deck.save(file)
    return file.getvalue()


def built(build: Callable[[Presentation], object]) -> ParsedDocument:
    deck = pptx.Presentation()
    build(deck)
    parsed = parse_pptx(saved(deck))
    check(parsed)
    assert parsed.page_unit is PageUnit.SLIDE
    return parsed


def slide_of(deck: Presentation, layout: int, title: str = "", body: str = "") -> Slide:
    slide = deck.slides.add_slide(deck.slide_layouts[layout])
    if title:
        slide.shapes.title.text = title
    if body:
        slide.placeholders[1].text = body
    return slide


def write_at(slide: Slide, top: float, text: str) -> None:
    box = slide.shapes.add_textbox(Inches(1), Inches(top), Inches(5), Inches(0.5))
    box.text_frame.text = text


def packed(slides: dict[str, str], *, extra: dict[str, str] | None = None, listed: list[str] | None = None) -> bytes:
    """Return a presentation whose parts are written by hand: slides by their names."""
    names = listed if listed is not None else list(slides)
    entries = "".join(f'<p:sldId id="{256 + place}" r:id="r{place}"/>' for place in range(len(names)))
    relations = "".join(
        f'<Relationship Id="r{place}" Type="{_RELATION}/slide" Target="slides/{name}.xml"/>'
        for place, name in enumerate(names)
    )
    parts = {
        "[Content_Types].xml": "<Types/>",
        "ppt/presentation.xml": f"<p:presentation {_NAMESPACES}><p:sldIdLst>{entries}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": f"<Relationships>{relations}</Relationships>",
        **{f"ppt/slides/{name}.xml": xml for name, xml in slides.items()},
        **(extra or {}),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return file.getvalue()


def slide_xml(shapes: str, *, show: str = "1") -> str:
    tree = f"<p:nvGrpSpPr><p:cNvPr id='1' name=''/></p:nvGrpSpPr><p:grpSpPr/>{shapes}"
    return f"<p:sld {_NAMESPACES} show='{show}'><p:cSld><p:spTree>{tree}</p:spTree></p:cSld></p:sld>"


def shape_xml(paragraphs: str, *, kind: str = "", hidden: str = "0") -> str:
    placeholder = f'<p:ph type="{kind}"/>' if kind else ""
    naming = f'<p:cNvPr id="2" name="x" hidden="{hidden}"/><p:cNvSpPr/><p:nvPr>{placeholder}</p:nvPr>'
    return f"<p:sp><p:nvSpPr>{naming}</p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/>{paragraphs}</p:txBody></p:sp>"


def words(text: str, properties: str = "") -> str:
    return f"<a:p>{properties}<a:r><a:t>{text}</a:t></a:r></a:p>"


def blocks(shapes: str, **extra: str) -> list[tuple[object, str]]:
    parsed = parse_pptx(packed({"slide1": slide_xml(shapes)}, extra=extra))
    check(parsed)
    return blocks_of(parsed)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)] * 3), max_size=6
    )
)
def test_every_word_of_any_presentation_is_read_in_order_and_on_its_slide(slides: list[tuple[str, str, str]]) -> None:
    def build(deck: Presentation) -> None:
        slide_of(deck, _CONTENT, "Opening")
        for title, body, notes in slides:
            slide = slide_of(deck, _CONTENT, title, body)
            if notes:
                slide.notes_slide.notes_text_frame.text = notes

    parsed = built(build)
    for page, texts in enumerate(slides, start=2):
        said = "".join(parsed.text[block.start : block.end] for block in parsed.blocks if block.page == page)
        at = 0
        for text in texts:
            seen = "".join(character for character in text if character not in "\u00ad\u200b\u2060\ufeff")
            assert seen in said[at:]
            at = said.index(seen, at) + len(seen)


def test_slides_stand_in_the_order_in_which_they_are_shown() -> None:
    def build(deck: Presentation) -> None:
        for title in ("Third", "First", "Second"):
            slide_of(deck, _CONTENT, title, f"Text of the {title.lower()} slide.")
        order = deck.slides._sldIdLst
        order.append(order[0])  # moves it

    parsed = built(build)
    assert headings_of(parsed) == [(1, "First"), (1, "Second"), (1, "Third")]
    assert [block.page for block in parsed.blocks] == [1, 1, 2, 2, 3, 3]
    assert parsed.metadata["slides"] == "3"


def test_title_stands_first_wherever_it_was_drawn() -> None:
    def build(deck: Presentation) -> None:
        slide = slide_of(deck, _CONTENT, "The title", "The body.")
        slide.shapes._spTree.append(slide.shapes.title._element)

    assert blocks_of(built(build)) == [(HEADING, "The title"), (PROSE, "The body.")]


def test_shapes_keep_the_order_of_the_file() -> None:
    def build(deck: Presentation) -> None:
        slide = slide_of(deck, _TITLE_ONLY, "Cards")
        for top, text in ((2, "Left, head"), (3, "Left, text"), (2, "Right, head"), (3, "Right, text")):
            write_at(slide, top, text)

    assert [text for _, text in blocks_of(built(build))] == [
        "Cards",
        "Left, head",
        "Left, text",
        "Right, head",
        "Right, text",
    ]


def test_what_stands_alone_above_all_else_is_the_title_of_a_slide_without_one() -> None:
    def build(deck: Presentation) -> None:
        slide = slide_of(deck, _BLANK)
        write_at(slide, 1.5, "The body of the slide.")
        write_at(slide, 1, "What it is about")

    assert blocks_of(built(build)) == [(HEADING, "What it is about"), (PROSE, "The body of the slide.")]


def test_place_of_a_shape_in_a_group_is_that_of_the_group() -> None:
    place = '<a:xfrm><a:off x="0" y="{}"/><a:ext cx="9" cy="{}"/></a:xfrm>'
    inner = shape_xml(words("On top")).replace("<p:spPr/>", f"<p:spPr>{place.format(900, 50)}</p:spPr>")
    body = shape_xml(words("Below")).replace("<p:spPr/>", f"<p:spPr>{place.format(10, 50)}</p:spPr>")
    naming = "<p:nvGrpSpPr><p:cNvPr id='7' name=''/></p:nvGrpSpPr>"
    group = f"<p:grpSp>{naming}<p:grpSpPr>{place.format(0, 10)}</p:grpSpPr>{inner}</p:grpSp>"
    assert blocks(body + group) == [(HEADING, "On top"), (PROSE, "Below")]


@pytest.mark.parametrize("second", [(1, "beside it"), (1.2, "overlaps it")])
def test_what_stands_beside_others_is_no_title(second: tuple[float, str]) -> None:
    def build(deck: Presentation) -> None:
        slide_of(deck, _TITLE_ONLY, "Before")
        slide = slide_of(deck, _BLANK)
        write_at(slide, 1, "One of several")
        write_at(slide, *second)

    parsed = built(build)
    assert headings_of(parsed) == [(1, "Before"), (1, "Slide")]  # no slide stands below the title of another
    assert blocks_of(parsed)[2:] == [(PROSE, "One of several"), (PROSE, second[1])]


@pytest.mark.parametrize("text", ["A long paragraph. " * 12, "One\nTwo\nThree"])
def test_what_is_no_line_is_no_title(text: str) -> None:
    parsed = built(lambda deck: write_at(slide_of(deck, _BLANK), 1, text))
    assert headings_of(parsed) == [(1, "Slide")]
    assert parsed.title is None


def test_title_as_long_as_a_paragraph_is_read_and_is_no_heading() -> None:
    long = "A title that somebody used for everything there is to say. " * 8
    parsed = built(lambda deck: slide_of(deck, _CONTENT, long, "The body."))
    assert blocks_of(parsed) == [(HEADING, "Slide"), (PROSE, long.strip()), (PROSE, "The body.")]


def test_paragraphs_lists_and_line_breaks_stand_as_they_are_read() -> None:
    numbered = '<a:pPr lvl="{}"><a:buAutoNum type="arabicPeriod"{}/></a:pPr>'
    listed = blocks(
        shape_xml(words("Title"), kind="title")
        + shape_xml(
            words("Intro\u00ad duction", "<a:pPr/>")
            + words("point", '<a:pPr><a:buChar char="•"/></a:pPr>')
            + words("five", numbered.format(0, ' startAt="5"'))
            + words("deeper", numbered.format(1, ""))
            + words("six", numbered.format(0, ' startAt="5"'))
            + words("deeper again", numbered.format(1, ""))
            + "<a:p><a:r><a:t>one</a:t></a:r><a:br/><a:r><a:t>  two</a:t></a:r>"
            + '<a:fld type="slidenum"><a:t>7</a:t></a:fld><a:fld type="datetime1"><a:t> May</a:t></a:fld></a:p>',
            kind="body",
        )
    )
    assert [text for _, text in listed] == [
        "Title",
        "Intro duction",
        "- point",
        "5. five",
        "1. deeper",
        "6. six",
        "1. deeper again",
        "one\ntwo May",
    ]


def test_lines_of_one_shape_stand_below_one_another_and_shapes_apart() -> None:
    def build(deck: Presentation) -> None:
        write_at(slide_of(deck, _CONTENT, "Title", "One\nTwo"), 5, "Apart")

    assert built(build).text == "Title\n\nOne\nTwo\n\nApart"


def test_rows_know_their_columns() -> None:
    def build(deck: Presentation) -> None:
        slide = slide_of(deck, _TITLE_ONLY, "Prices")
        table = slide.shapes.add_table(3, 3, 0, 0, Inches(5), Inches(2)).table
        for place, text in enumerate(["Name", "Price", "", "Tea", "2", "fresh\nhot", "both", "", "9"]):
            table.cell(place // 3, place % 3).text = text
        table.cell(2, 0).merge(table.cell(2, 1))

    parsed = built(build)
    assert blocks_of(parsed)[1:] == [(ROW, "Name | Price |"), (ROW, "Tea | 2 | fresh hot"), (ROW, "both | 9")]
    assert [block.context for block in parsed.blocks] == ["", "", "Name | Price", "Name | Price"]
    assert "Name | Price |\nTea | 2 | fresh hot\nboth | 9" in parsed.text


def test_table_without_a_header_has_no_column_names() -> None:
    def build(deck: Presentation) -> None:
        table = slide_of(deck, _TITLE_ONLY, "Pairs").shapes.add_table(2, 2, 0, 0, Inches(5), Inches(2)).table
        table.first_row = False
        for place, text in enumerate("abcd"):
            table.cell(place // 2, place % 2).text = text

    assert [block.context for block in built(build).blocks] == ["", "", ""]


def test_line_across_a_whole_table_parts_its_rows() -> None:
    def build(deck: Presentation) -> None:
        table = slide_of(deck, _TITLE_ONLY, "Split").shapes.add_table(3, 2, 0, 0, Inches(5), Inches(2)).table
        for place, text in enumerate(["a", "b", "All of them", "", "c", "d"]):
            table.cell(place // 2, place % 2).text = text
        table.cell(1, 0).merge(table.cell(1, 1))

    assert blocks_of(built(build))[1:] == [(ROW, "a | b"), (PROSE, "All of them"), (ROW, "c | d")]


def test_frame_of_one_cell_holds_paragraphs() -> None:
    def build(deck: Presentation) -> None:
        table = slide_of(deck, _TITLE_ONLY, "Framed").shapes.add_table(1, 1, 0, 0, Inches(5), Inches(2)).table
        table.cell(0, 0).text = "One.\nTwo."

    assert blocks_of(built(build))[1:] == [(PROSE, "One."), (PROSE, "Two.")]


def test_chart_is_read_as_a_table() -> None:
    def build(deck: Presentation) -> None:
        data = CategoryChartData()
        data.categories = ["Spring", "Summer"]
        data.add_series("Tea", (0.1 + 0.2, 1234567))
        data.add_series("Coffee", (3, None))
        slide = slide_of(deck, _TITLE_ONLY, "Sales")
        chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(5), Inches(3), data).chart
        chart.has_title = True
        chart.chart_title.text_frame.text = "Cups by season"

    parsed = built(build)
    assert blocks_of(parsed)[1:] == [
        (PROSE, "Cups by season"),
        (ROW, "Tea | Coffee"),
        (ROW, "Spring | 0.3 | 3"),
        (ROW, "Summer | 1234567 |"),
    ]
    assert parsed.blocks[-1].context == "Tea | Coffee"


def test_cloud_of_points_is_read_by_its_name_alone() -> None:
    def build(deck: Presentation) -> None:
        data = XyChartData()
        series = data.add_series("Measurements")
        for x in range(CHART_CELLS_MAX // 2 + 1):
            series.add_data_point(x, x)
        slide = slide_of(deck, _TITLE_ONLY, "Cloud")
        slide.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, 0, 0, Inches(5), Inches(3), data)

    assert blocks_of(built(build)) == [(HEADING, "Cloud"), (ROW, "Measurements")]


def test_points_are_looked_for_only_where_charts_keep_them() -> None:
    cached = "<c><pt idx='0'><v>{}</v></pt></c>"
    series = (
        f"<ser><tx><v>Tea</v></tx><cat><r>{cached.format('Spring')}</r></cat><val><r>{cached.format(3)}</r></val></ser>"
    )
    hidden = "<ser><cat>" + "<x>" * 9 + cached.format("Summer") + "</x>" * 9 + "</cat></ser>"
    items = chart_items(etree.fromstring(f"<chartSpace>{series}{hidden}</chartSpace>"))
    assert [item.text for item in items] == ["Tea", "Spring | 3 | "]


def test_category_of_several_levels_is_called_by_the_one_at_the_axis() -> None:
    points = "".join(f"<lvl><pt idx='0'><v>{name}</v></pt></lvl>" for name in ("May", "2026"))
    series = f"<ser><cat><r><c>{points}</c></r></cat><val><r><c><pt idx='0'><v>3</v></pt></c></r></val></ser>"
    assert [item.text for item in chart_items(etree.fromstring(f"<chartSpace>{series}</chartSpace>"))] == ["May | 3"]


def test_names_of_columns_and_relations_are_bounded() -> None:
    table = "<a:tbl><a:tblPr firstRow='1'/>{}</a:tbl>"
    cell = "<a:tc><a:txBody>{}</a:txBody></a:tc>"
    rows = [cell.format(words("name " * 1000)) + cell.format(words("x")), cell.format(words("a")) * 2]
    items = table_items(
        etree.fromstring(f"<x {_NAMESPACES}>{table.format(''.join(f'<a:tr>{row}</a:tr>' for row in rows))}</x>")[0]
    )
    assert len(items[1].context) == CONTEXT_CHARACTERS_MAX
    many = f'<R>{"<R/>" * RELATIONS_MAX}<R Id="r0" Type="{_RELATION}/slide" Target="slides/a.xml"/></R>'
    with pytest.raises(CorruptFile):
        parse_pptx(packed({"a": slide_xml("")}, extra={"ppt/_rels/presentation.xml.rels": many}))


def test_diagram_is_read_in_the_order_of_its_boxes() -> None:
    frame = (
        "<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr id='3' name='d'/></p:nvGraphicFramePr><a:graphic><a:graphicData>"
        "<d:relIds xmlns:d='urn:d' r:dm='r1' r:lo='r2'/></a:graphicData></a:graphic></p:graphicFrame>"
    )
    point = "<d:pt><d:t><a:bodyPr/><a:p><a:r><a:t>{}</a:t></a:r></a:p></d:t></d:pt>"
    points = "".join(map(point.format, ("Plan", "Build"))) + '<d:pt type="pres"/>'
    found = blocks(
        shape_xml(words("Steps"), kind="title") + frame,
        **{
            "ppt/slides/_rels/slide1.xml.rels": f'<R><R Id="r1" Type="{_RELATION}/diagramData" '
            'Target="../diagrams/data1.xml"/></R>',
            "ppt/diagrams/data1.xml": f"<d:dataModel xmlns:d='urn:d' {_NAMESPACES}><d:ptLst>{points}</d:ptLst></d:dataModel>",
        },
    )
    assert found == [(HEADING, "Steps"), (PROSE, "Plan"), (PROSE, "Build")]


def test_notes_stand_under_a_heading_on_the_slide_they_belong_to() -> None:
    def build(deck: Presentation) -> None:
        slide_of(deck, _CONTENT, "One", "Shown.").notes_slide.notes_text_frame.text = "Said.\nAnd said again."
        slide_of(deck, _CONTENT, "Two")

    parsed = built(build)
    assert headings_of(parsed) == [(1, "One"), (2, "Notes"), (1, "Two")]
    assert blocks_of(parsed)[3:5] == [(PROSE, "Said."), (PROSE, "And said again.")]
    assert [block.page for block in parsed.blocks] == [1, 1, 1, 1, 1, 2]


def test_groups_are_looked_through_however_deep() -> None:
    def build(deck: Presentation) -> None:
        shapes = slide_of(deck, _TITLE_ONLY, "Nested").shapes
        for depth in range(60):
            shapes = shapes.add_group_shape().shapes
            shapes.add_textbox(0, 0, 100, 100).text_frame.text = f"at {depth}"

    assert [text for _, text in blocks_of(built(build))][1:] == [f"at {depth}" for depth in range(60)]


def test_second_form_of_a_shape_is_not_read() -> None:
    forms = "".join(
        f"<mc:{name}>{shape_xml(words(name))}{shape_xml(words('and more'))}</mc:{name}>"
        for name in ("Choice", "Fallback")
    )
    alternate = f"<mc:AlternateContent xmlns:mc='urn:mc'>{forms}</mc:AlternateContent>"
    assert blocks(shape_xml(words("T"), kind="title") + alternate) == [
        (HEADING, "T"),
        (PROSE, "Choice"),
        (PROSE, "and more"),
    ]


def test_dates_footers_and_numbers_are_no_content() -> None:
    repeated = "".join(shape_xml(words(kind), kind=kind) for kind in ("dt", "ftr", "sldNum"))
    assert blocks(repeated + shape_xml(words("Title"), kind="title")) == [(HEADING, "Title")]


def test_hidden_slides_are_read_and_counted_and_hidden_shapes_are_not() -> None:
    hidden = slide_xml(shape_xml(words("Backup"), kind="title") + shape_xml(words("gone"), hidden="1"), show="0")
    parsed = parse_pptx(packed({"a": slide_xml(shape_xml(words("Shown"), kind="title")), "b": hidden}))
    assert blocks_of(parsed) == [(HEADING, "Shown"), (HEADING, "Backup")]
    assert parsed.metadata == {"slides": "2", "slides_hidden": "1"}


@pytest.mark.parametrize(
    ("description", "kept"),
    [
        ("A bar chart of the sales in May", "A bar chart of the sales in May"),
        ("A cat on a roof\n\nDescription automatically generated", "A cat on a roof"),
        ("logo-final.png", None),
        ("", None),
    ],
)
def test_picture_is_read_by_what_is_said_of_it(description: str, kept: str | None) -> None:
    def build(deck: Presentation) -> None:
        picture = slide_of(deck, _TITLE_ONLY, "Seen").shapes.add_picture(io.BytesIO(_PICTURE), 0, 0)
        picture._element.nvPicPr.cNvPr.set("descr", description)

    assert blocks_of(built(build))[1:] == ([] if kept is None else [(PROSE, kept)])


def test_pictures_alone_need_ocr() -> None:
    deck = pptx.Presentation()
    slide_of(deck, _BLANK).shapes.add_picture(io.BytesIO(_PICTURE), 0, 0)
    with pytest.raises(NeedsOcr, match="ocrmypdf"):
        parse_pptx(saved(deck))


@pytest.mark.parametrize("count", [0, 2])
def test_presentation_without_words_is_empty(count: int) -> None:
    deck = pptx.Presentation()
    for _ in range(count):
        slide_of(deck, _CONTENT)
    with pytest.raises(EmptyDocument, match=f"slides \\({count}\\)"):
        parse_pptx(saved(deck))


@pytest.mark.parametrize(
    ("claimed", "layout", "title"),
    [
        ("A real title", _TITLE_SLIDE, "A real title"),
        ("PowerPoint Presentation", _TITLE_SLIDE, "Our plans"),
        ("", _CONTENT, None),
    ],
)
def test_title_is_the_property_or_that_of_an_opening_slide(claimed: str, layout: int, title: str | None) -> None:
    def build(deck: Presentation) -> None:
        deck.core_properties.title = claimed
        deck.core_properties.author = "An author"
        slide_of(deck, layout, "Our plans", "for next year")
        slide_of(deck, _CONTENT, "Details", "of them")

    parsed = built(build)
    assert parsed.title == title
    assert parsed.metadata["author"] == "An author"


def test_slides_have_the_numbers_that_the_program_shows() -> None:
    def build(deck: Presentation) -> None:
        deck.element.set("firstSlideNum", "0")
        for title in ("Zero", "One"):
            slide_of(deck, _TITLE_ONLY, title)

    parsed = built(build)
    assert [block.page for block in parsed.blocks] == [1, 2]
    assert parsed.page_labels == {1: "0", 2: "1"}


def test_damaged_and_missing_slides_keep_their_numbers_and_are_counted() -> None:
    good = slide_xml(shape_xml(words("Good"), kind="title"))
    parsed = parse_pptx(packed({"a": good, "b": "<p:sld", "c": good}, listed=["b", "lost", "c", "a"]))
    assert [(block.page, block.heading) for block in parsed.blocks] == [(3, "Good"), (4, "Good")]
    assert parsed.metadata == {"slides": "4", "slides_unreadable": "2"}


@pytest.mark.parametrize(
    "content",
    [
        packed({"a": "<p:sld"}),
        packed({}, listed=["a", "b"]),
        packed({}, extra={"ppt/presentation.xml": "<p:presentation"}),
        packed({}, extra={"ppt/_rels/presentation.xml.rels": "<Relationships"}),
    ],
)
def test_presentation_that_is_damaged_as_a_whole_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptFile, match="save"):
        parse_pptx(content)


def test_presentation_without_a_main_part_is_corrupt() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ppt/slides/slide1.xml", slide_xml(""))
    with pytest.raises(CorruptFile, match="no main part"):
        parse_pptx(file.getvalue())


def test_slide_that_is_listed_a_thousand_times_is_read_once() -> None:
    parsed = parse_pptx(packed({"a": slide_xml(shape_xml(words("Once"), kind="title"))}, listed=["a"] * 1000))
    assert blocks_of(parsed) == [(HEADING, "Once")]


def test_endless_list_of_slides_is_refused() -> None:
    with pytest.raises(ParserLimit, match="slides"):
        parse_pptx(packed({}, listed=["a"] * 20_001))


def test_entities_are_refused_and_nothing_is_fetched() -> None:
    bomb = '<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    slide = slide_xml(shape_xml(words("&b;&f;")))
    with pytest.raises(CorruptFile, match="none of its slides"):
        parse_pptx(packed({"a": bomb + slide}))


@pytest.mark.parametrize(
    "shapes",
    [
        shape_xml(words("word ")) * 20_000,
        shape_xml(words("word ") * 20_000),
        shape_xml("<a:p>" + "<a:r><a:t>w </a:t></a:r><a:br/>" * 30_000 + "</a:p>"),
        "<p:grpSp><p:nvGrpSpPr><p:cNvPr id='1' name=''/></p:nvGrpSpPr>" * 240 + "</p:grpSp>" * 240,
    ],
)
def test_hostile_slide_is_read_in_linear_time(shapes: str) -> None:
    content = packed({"a": slide_xml(shape_xml(words("T"), kind="title") + shapes)})
    started = time.process_time()
    check(parse_pptx(content))
    assert time.process_time() - started < 20


def test_nesting_beyond_what_any_program_writes_is_refused() -> None:
    groups = "<p:grpSp><p:nvGrpSpPr><p:cNvPr id='1' name=''/></p:nvGrpSpPr>" * 3000 + "</p:grpSp>" * 3000
    with pytest.raises(CorruptFile):
        parse_pptx(packed({"a": slide_xml(groups)}))


def test_kind_is_known_by_what_the_container_holds() -> None:
    content = saved(pptx.Presentation())
    assert media_type_of("renamed.txt", content) == PPTX
    assert media_type_of("renamed.docx", content) == PPTX


def _sample() -> bytes:
    deck = pptx.Presentation()
    slide = slide_of(deck, _CONTENT, "Title", "Body")
    slide.shapes.add_table(2, 2, 0, 0, 100, 100)
    slide.notes_slide.notes_text_frame.text = "Notes"
    slide.shapes._spTree.append(parse_xml(f"<p:grpSp {_NAMESPACES}/>"))
    return saved(deck)


_SAMPLE = _sample()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60_000), st.binary(min_size=1, max_size=40))
def test_damaged_presentation_is_read_or_refused(place: int, junk: bytes) -> None:
    content = bytearray(_SAMPLE)
    at = place % len(content)
    content[at : at + len(junk)] = junk
    with contextlib.suppress(CorruptFile, EncryptedFile, ParserLimit, EmptyDocument):
        check(parse_pptx(bytes(content)))
