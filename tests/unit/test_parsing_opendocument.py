"""OpenDocument texts and presentations become blocks in reading order; pages are told only where they are known."""

import contextlib
import io
import time
import zipfile
from collections.abc import Mapping
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import PageUnit, ParsedDocument, media_type_of, parse
from services.ingester.parsing.office import CONTEXT_CHARACTERS_MAX
from services.ingester.parsing.opendocument import CHARACTERS_PER_PAGE_MAX, parse_opendocument
from services.ingester.parsing.opendocument_flow import EMPTY_CELLS_MAX
from services.ingester.parsing.opendocument_styles import STYLES_MAX
from services.ingester.parsing.registry import FODT, ODG, ODP, ODT
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, NeedsOcr, ParserLimit, UnsupportedFormat
from tests.unit.parsing_checks import HEADING, LINES, PROSE, ROW, blocks_of, check, headings_of

_NAMES = ("office", "text", "table", "style", "meta", "presentation")
_NAMESPACES = " ".join(
    [f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in _NAMES]
    + [
        'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"',
        'xmlns:fo="urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0"',
        'xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"',
        'xmlns:dc="http://purl.org/dc/elements/1.1/"',
    ]
)


def packed(parts: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return file.getvalue()


def document(
    body: str, *, kind: str = "text", styles: str = "", meta: str = "", extra: Mapping[str, str] | None = None
) -> bytes:
    return packed(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": f"<office:document-content {_NAMESPACES}><office:automatic-styles>{styles}"
            f"</office:automatic-styles><office:body><office:{kind}>{body}</office:{kind}></office:body>"
            "</office:document-content>",
            "meta.xml": f"<office:document-meta {_NAMESPACES}><office:meta>{meta}</office:meta></office:document-meta>",
            **(extra or {}),
        }
    )


def read(body: str, **options: object) -> ParsedDocument:
    parsed = parse_opendocument(document(body, **options))  # type: ignore[arg-type]
    check(parsed)
    return parsed


def blocks(body: str, **options: object) -> list[tuple[object, str]]:
    return blocks_of(read(body, **options))


def p(text: str, style: str = "Standard") -> str:
    return f'<text:p text:style-name="{style}">{text}</text:p>'


def h(text: str, level: int = 1) -> str:
    return f'<text:h text:outline-level="{level}">{text}</text:h>'


def row(*cells: str) -> str:
    return f"<table:table-row>{''.join(f'<table:table-cell>{cell}</table:table-cell>' for cell in cells)}</table:table-row>"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([p, h, lambda text: f"<text:list><text:list-item>{p(text)}</text:list-item></text:list>"]),
            st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_word_of_any_text_is_read_in_order(parts: list) -> None:
    parsed = read(p("Begin.") + "".join(build(escape(text)) for build, text in parts))
    at = 0
    for _, text in parts:
        seen = "".join(character for character in text if character not in "\u00ad\u200b\u2060\ufeff")
        assert seen in parsed.text[at:]
        at = parsed.text.index(seen, at) + len(seen)


def test_headings_paragraphs_items_and_rows_stand_as_they_are_read() -> None:
    levels = (
        '<text:list-style style:name="L"><text:list-level-style-number text:level="1" style:num-format="1"/>'
        '<text:list-level-style-bullet text:level="2"/></text:list-style>'
    )
    inner = f"<text:list><text:list-item>{p('inner')}</text:list-item></text:list>"
    listed = (
        f'<text:list text:style-name="L"><text:list-item>{p("first")}{p("more of it")}{inner}</text:list-item>'
        f"<text:list-item>{p('second')}</text:list-item></text:list>"
    )
    header = f"<table:table-header-rows>{row(p('Name'), p('Price'))}</table:table-header-rows>"
    table = f"<table:table>{header}{row(p('Tea'), p('2'))}</table:table>"
    parsed = read(
        h("First")
        + p("<text:span>Some</text:span><text:s text:c='3'/>text.<text:line-break/>On<text:tab/>two lines.")
        + listed
        + table
        + h("Second", 2),
        styles=levels,
    )
    assert blocks_of(parsed) == [
        (HEADING, "First"),
        (PROSE, "Some text.\nOn two lines."),
        (PROSE, "1. first"),
        (PROSE, "more of it"),
        (PROSE, "- inner"),
        (PROSE, "2. second"),
        (ROW, "Name | Price"),
        (ROW, "Tea | 2"),
        (HEADING, "Second"),
    ]
    assert "1. first\nmore of it\n- inner\n2. second\n\nName | Price\nTea | 2\n\nSecond" in parsed.text
    assert headings_of(parsed) == [(1, "First"), (2, "Second")]
    assert [block.context for block in parsed.blocks if block.kind is ROW] == ["", "Name | Price"]


def test_numbers_go_on_where_the_author_says_so() -> None:
    level = '<text:list-level-style-number text:level="1" style:num-format="1" text:start-value="3"/>'
    styles = f'<text:list-style style:name="L">{level}</text:list-style>'
    body = (
        f'<text:list text:style-name="L"><text:list-item>{p("a")}</text:list-item></text:list>'
        f'<text:list text:style-name="L" text:continue-numbering="true"><text:list-header>{p("b")}</text:list-header>'
        f'<text:list-item>{p("c")}</text:list-item><text:list-item text:start-value="9">{p("d")}</text:list-item></text:list>'
        f'<text:list text:style-name="L"><text:list-item>{p("e")}</text:list-item></text:list>'
    )
    body += (
        f'<text:list text:style-name="L" text:continue-list="x"><text:list-item>{p("f")}</text:list-item></text:list>'
    )
    assert [text for _, text in blocks(body, styles=styles)] == ["3. a", "b", "4. c", "9. d", "3. e", "4. f"]


def test_numbered_headings_have_no_marker() -> None:
    assert blocks(f"<text:list><text:list-item>{h('Chapter')}</text:list-item></text:list>{p('Text')}") == [
        (HEADING, "Chapter"),
        (PROSE, "Text"),
    ]


def test_notes_and_frames_stand_behind_their_paragraph() -> None:
    note = f"<text:note><text:note-citation>1</text:note-citation><text:note-body>{p('The note.')}</text:note-body></text:note>"
    frame = (
        f"<draw:frame><svg:desc>A photo of a cat</svg:desc><draw:text-box>{p('Boxed.')}</draw:text-box></draw:frame>"
    )
    shape = f"<draw:g><draw:custom-shape>{p('Drawn.')}</draw:custom-shape></draw:g>"
    assert [text for _, text in blocks(p(f"Before{note}{frame} after{shape}.") + p("Next."))] == [
        "Before after.",
        "The note.",
        "A photo of a cat",
        "Boxed.",
        "Drawn.",
        "Next.",
    ]


def test_what_was_deleted_remarked_or_generated_is_left_out() -> None:
    hidden = (
        '<style:style style:name="H" style:family="text"><style:text-properties text:display="none"/></style:style>'
    )
    change = f"<text:changed-region><text:deletion>{p('deleted')}</text:deletion></text:changed-region>"
    deleted = f"<text:tracked-changes>{change}</text:tracked-changes>"
    remark = f"<office:annotation><dc:creator>Who</dc:creator>{p('remark')}</office:annotation>"
    contents = f"<text:table-of-content><text:index-body>{p('Chapter … 3')}</text:index-body></text:table-of-content>"
    ruby = "<text:ruby><text:ruby-base>漢</text:ruby-base><text:ruby-text>かん</text:ruby-text></text:ruby>"
    section = (
        f'<text:section text:display="none">{p("secret")}</text:section><text:section>{p("section")}</text:section>'
    )
    body = (
        deleted
        + p(
            f"kept{remark} <text:change-start/>words<text:change-end/> <text:span text:style-name='H'>gone</text:span>{ruby}"
        )
        + contents
        + p("hidden", "H")
        + section
    )
    assert blocks(body, styles=hidden) == [(PROSE, "kept words 漢"), (PROSE, "section")]


def test_code_keeps_its_lines_and_spaces() -> None:
    styles = '<style:style style:name="P9" style:family="paragraph" style:parent-style-name="Preformatted_20_Text"/>'
    body = p("def f():", "P9") + p("<text:s text:c='4'/>return 1", "P9") + p("Text.")
    parsed = read(body, styles=styles)
    assert blocks_of(parsed)[0] == (LINES, "def f():")
    assert parsed.text.startswith("def f():\n")
    assert parsed.text.endswith("return 1\n\nText.")


@pytest.mark.parametrize(
    ("claimed", "styled", "title"),
    [
        ("", "The title", "The title"),
        ("A claimed title", "", "A claimed title"),
        ("A claimed title", "The title", "The title"),
        ("report_final.odt", "", "Chapter"),
    ],
)
def test_title_is_the_one_that_stands_in_the_text(claimed: str, styled: str, title: str) -> None:
    styles = '<style:style style:name="P1" style:family="paragraph" style:parent-style-name="Title"/>'
    meta = f"<dc:title>{claimed}</dc:title><dc:creator>Editor</dc:creator><meta:initial-creator>Author</meta:initial-creator>"
    parsed = read(
        p(styled, "P1") + h("Chapter", 2) + p("Text"), styles=styles, meta=meta + "<dc:language>de</dc:language>"
    )
    assert parsed.title == title
    assert parsed.metadata == {"author": "Author", "language": "de"}


def test_cells_hold_lists_tables_and_empty_places() -> None:
    inner = f"<table:table>{row(p('x'), p('y'))}</table:table>"
    repeated = '<table:table-cell table:number-columns-repeated="{}"/>'
    table = (
        f"<table:table>{row(p('a') + p('b'), '<text:list><text:list-item>' + p('c') + '</text:list-item></text:list>')}"
        f"<table:table-row><table:table-cell table:number-columns-spanned='2'>{p('wide')}</table:table-cell>"
        f"<table:covered-table-cell/><table:table-cell>{p('e')}{inner}</table:table-cell></table:table-row>"
        f"<table:table-row><table:table-cell>{p('f')}</table:table-cell>{repeated.format(2)}"
        f"<table:table-cell>{p('g')}</table:table-cell></table:table-row></table:table>"
    )
    assert [text for _, text in blocks(table)] == ["a b | c", "wide | e", "x | y", "f |  |  | g"]
    endless = f"<table:table-row><table:table-cell>{p('f')}</table:table-cell>{repeated.format(999_999_999)}</table:table-row>"
    assert blocks(f"<table:table>{endless}</table:table>")[0][1].count("|") == EMPTY_CELLS_MAX


def test_cell_that_reaches_down_keeps_the_columns_below_in_their_places() -> None:
    below = (
        f"<table:table-row><table:covered-table-cell/><table:table-cell>{p('d')}</table:table-cell></table:table-row>"
    )
    tall = f"<table:table-cell table:number-rows-spanned='2'>{p('a')}</table:table-cell>"
    table = f"<table:table-row>{tall}<table:table-cell>{p('b')}</table:table-cell></table:table-row>{below}"
    assert [text for _, text in blocks(f"<table:table>{table}</table:table>")] == ["a | b", "| d"]


def test_notes_of_a_row_stand_behind_it_in_order() -> None:
    note = "<text:note><text:note-body><text:p>{}</text:p></text:note-body></text:note>"
    items = "".join(f"<text:list-item>{p(name + note.format(name * 2))}</text:list-item>" for name in "ab")
    table = f"<table:table>{row(f'<text:list>{items}</text:list>', p('c' + note.format('cc')))}</table:table>"
    assert [text for _, text in blocks(table)] == ["a b | c", "aa", "bb", "cc"]


def test_frame_of_one_cell_holds_paragraphs() -> None:
    table = f"<table:table>{row(p('One.') + h('Inside'))}</table:table>"
    assert blocks(table) == [(PROSE, "One."), (HEADING, "Inside")]


_BREAK = "<text:soft-page-break/>"
_NEW_PAGE = (
    '<style:style style:name="N" style:family="paragraph"><style:paragraph-properties fo:break-before="page"/></style:style>'
    '<style:style style:name="E" style:family="paragraph"><style:paragraph-properties fo:break-after="page"/></style:style>'
    '<style:style style:name="M" style:family="paragraph" style:master-page-name="Landscape"/>'
)


@pytest.mark.parametrize(
    ("body", "count", "pages"),
    [
        (p("a") + _BREAK + p("b") + p(f"c {_BREAK} d") + p("e"), 3, [1, 2, 2, 3]),
        (p("a", "N") + p("b", "N") + p("c", "E") + p("d") + p("e", "M"), 4, [1, 2, 2, 3, 4]),
        (
            f"<table:table>{row(p('a'), p('b'))}{_BREAK}{row(p(f'c{_BREAK}'), p('d'))}</table:table>" + p("e"),
            3,
            [1, 2, 3],
        ),
        (p("a") + p("b"), 1, [1, 1]),
        (p("a") + p("b"), 7, [None, None]),  # not every page is marked
        (p("a") + p("b"), None, [None, None]),
        (p("a" * (CHARACTERS_PER_PAGE_MAX + 1)), 1, [None]),
    ],
)
def test_pages_are_told_when_all_of_them_are_marked(body: str, count: int | None, pages: list[int | None]) -> None:
    statistic = f'<meta:document-statistic meta:page-count="{count}" meta:character-count="{len(body)}"/>'
    parsed = read(body, styles=_NEW_PAGE, meta=statistic if count else "")
    assert [block.page for block in parsed.blocks] == pages


def test_counts_of_an_author_are_bounded() -> None:
    styles = '<style:style style:name="P9" style:parent-style-name="Preformatted_20_Text"/>'
    for count in ("999999999", "9" * 5000, "-7", "many"):
        (found,) = blocks(p(f"a<text:s text:c='{count}'/>b", "P9"), styles=styles)
        assert len(found[1]) <= 202
    header = f"<table:table-header-rows>{row(p('name ' * 1000), p('x'))}</table:table-header-rows>"
    parsed = read(f"<table:table>{header}{row(p('a'), p('b'))}</table:table>")
    assert len(parsed.blocks[1].context) == CONTEXT_CHARACTERS_MAX
    endless = "<style:style/>" * STYLES_MAX + '<style:style style:name="P1" style:parent-style-name="Title"/>'
    assert headings_of(read(p("Text", "P1"), styles=endless)) == []


def test_styles_of_the_document_are_known_beside_those_of_single_paragraphs() -> None:
    named = (
        f"<office:document-styles {_NAMESPACES}><office:styles>"
        '<style:style style:name="Mine" style:family="paragraph" style:parent-style-name="Title"/>'
        '<style:style style:name="Loop" style:family="paragraph" style:parent-style-name="Loop"/>'
        "</office:styles></office:document-styles>"
    )
    parsed = read(p("Named so", "Mine") + p("Text", "Loop"), extra={"styles.xml": named})
    assert (parsed.title, headings_of(parsed)) == ("Named so", [(1, "Named so")])


@pytest.mark.parametrize("broken", ["styles.xml", "meta.xml", "META-INF/manifest.xml"])
def test_text_is_read_though_another_part_is_damaged(broken: str) -> None:
    assert blocks(p("Text"), extra={broken: "<broken"}) == [(PROSE, "Text")]


@pytest.mark.parametrize("attribute", ['xml:id="a#b"', 'unheard:of="x"'])
def test_text_is_read_though_an_attribute_is_misnamed(attribute: str) -> None:
    assert blocks(f"<text:p {attribute}>Text</text:p>") == [(PROSE, "Text")]
    with pytest.raises(CorruptFile, match="no proper XML"):
        read(f"<text:p {attribute}>Text")


def slide(name: str, shapes: str, notes: str = "") -> str:
    inner = f"<presentation:notes>{notes}</presentation:notes>" if notes else ""
    return f'<draw:page draw:name="{name}">{shapes}{inner}</draw:page>'


def frame(text: str, kind: str = "", top: str = "") -> str:
    attributes = f' presentation:class="{kind}"' if kind else ""
    attributes += f' svg:y="{top}" svg:height="1cm"' if top else ""
    return f"<draw:frame{attributes}><draw:text-box>{text}</draw:text-box></draw:frame>"


def test_slides_have_titles_bodies_tables_and_notes() -> None:
    table = f"<draw:frame><table:table>{row(p('Tea'), p('2'))}</table:table></draw:frame>"
    notes = frame(p("Said."), "notes") + frame(p("12"), "page-number")
    listed = f"<text:list><text:list-item>{p('point')}</text:list-item></text:list>"
    parsed = read(
        slide("p1", frame(p("Next year"), "subtitle") + frame(p("Our plans"), "title"))
        + slide(
            "p2", frame(listed, "outline") + frame(p("Costs"), "title") + table + frame(p("footer"), "footer"), notes
        )
        + slide("p3", frame(p("Below."), top="5cm") + frame(p("On top"), top="12mm")),
        kind="presentation",
    )
    assert parsed.page_unit is PageUnit.SLIDE
    assert parsed.title == "Our plans"
    assert parsed.metadata == {"slides": "3"}
    assert blocks_of(parsed) == [
        (HEADING, "Our plans"),
        (PROSE, "Next year"),
        (HEADING, "Costs"),
        (PROSE, "- point"),
        (ROW, "Tea | 2"),
        (HEADING, "Notes"),
        (PROSE, "Said."),
        (HEADING, "On top"),
        (PROSE, "Below."),
    ]
    assert [block.page for block in parsed.blocks] == [1, 1, 2, 2, 2, 2, 2, 3, 3]


def test_title_of_the_first_slide_is_that_of_the_presentation_only_when_it_opens_it() -> None:
    slides = [slide(name, frame(p(name), "title") + frame(p("body"), "outline")) for name in ("First", "Second")]
    assert read("".join(slides), kind="presentation").title is None


def test_slide_whose_shapes_have_no_whole_place_has_no_title() -> None:
    half = f'<draw:frame svg:y="1cm"><draw:text-box>{p("Half")}</draw:text-box></draw:frame>'
    parsed = read(slide("p1", half + frame(p("Whole"), top="5cm")), kind="presentation")
    assert headings_of(parsed) == [(1, "Slide")]


def test_drawing_has_pages() -> None:
    parsed = read(
        slide("p1", f"<draw:rect>{p('Box')}</draw:rect><draw:g><draw:rect>{p('Other')}</draw:rect></draw:g>"),
        kind="drawing",
    )
    assert parsed.page_unit is PageUnit.PAGE
    assert parsed.title is None
    assert blocks_of(parsed) == [(HEADING, "Page"), (PROSE, "Box"), (PROSE, "Other")]


def flat(kind: str, body: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<office:document {_NAMESPACES} office:version="1.3" '
        f'office:mimetype="application/vnd.oasis.opendocument.{kind}"><office:meta><dc:title>A flat one</dc:title></office:meta>'
        f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document>"
    ).encode()


def test_document_in_one_piece_is_read_as_one_in_parts() -> None:
    media_type, parsed = parse("a.xml", flat("text", h("Chapter", 2) + p("Text")))
    assert media_type == FODT
    assert (parsed.title, blocks_of(parsed)) == ("A flat one", [(HEADING, "Chapter"), (PROSE, "Text")])
    _, slides = parse("a.fodp", flat("presentation", slide("p1", frame(p("Plans"), "title"))))
    assert [(block.heading, block.page) for block in slides.blocks] == [("Plans", 1)]
    assert media_type_of("a.xml", b"<?xml version='1.0'?><office:document>") != FODT


@pytest.mark.parametrize("kind", ["text", "presentation"])
def test_pictures_alone_need_ocr_and_nothing_at_all_is_empty(kind: str) -> None:
    picture = "<draw:frame><draw:image/></draw:frame>"
    with pytest.raises(NeedsOcr, match="ocrmypdf"):
        parse_opendocument(document(p(picture) if kind == "text" else slide("p1", picture), kind=kind))
    with pytest.raises(EmptyDocument):
        parse_opendocument(document("", kind=kind))


def test_locked_document_is_told_from_a_damaged_one() -> None:
    manifest = "<manifest><file-entry full-path='content.xml'><encryption-data/></file-entry></manifest>"
    with pytest.raises(EncryptedFile):
        parse_opendocument(document(p("x"), extra={"META-INF/manifest.xml": manifest}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed({"mimetype": ODT}), "no text part"),
        (packed({"content.xml": "<office"}), "no proper XML"),
        (packed({"content.xml": "<a/>"}), "no text, slides"),
        (packed({"content.xml": '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><a>&f;</a>'}), "document type"),
    ],
)
def test_damaged_document_says_what_is_wrong(content: bytes, words: str) -> None:
    with pytest.raises(CorruptFile, match=words):
        parse_opendocument(content)


@pytest.mark.parametrize(
    "body",
    [
        p("word ") * 50_000,
        "<text:list><text:list-item>" * 120 + "</text:list-item></text:list>" * 120 + p("x"),
        f"<table:table>{row(p('a'), p('b')) * 20_000}</table:table>",
        "<table:table><table:table-row><table:table-cell>" * 80
        + p("x")
        + "</table:table-cell></table:table-row></table:table>" * 80,
        p("<text:note><text:note-body><text:p/></text:note-body></text:note>x" * 20_000),
        p("a<text:span>b</text:span>" * 50_000),
    ],
)
def test_hostile_text_is_read_in_linear_time(body: str) -> None:
    content = document(body)
    started = time.process_time()
    check(parse_opendocument(content))
    assert time.process_time() - started < 20


def test_nesting_beyond_what_any_program_writes_is_refused() -> None:
    with pytest.raises(CorruptFile):
        parse_opendocument(document("<text:section>" * 5000 + "</text:section>" * 5000))


@pytest.mark.parametrize(
    ("declared", "media_type"),
    [(ODT, ODT), (f"{ODT}-template", ODT), (f"{ODT}-master", ODT), (ODP, ODP), (ODG, ODG)],
)
def test_kind_is_what_the_container_declares(declared: str, media_type: str) -> None:
    assert media_type_of("a.docx", packed({"mimetype": declared, "content.xml": "<x/>"})) == media_type


def test_kind_is_what_the_manifest_says_where_nothing_else_does() -> None:
    manifest = f'<manifest><file-entry full-path="/" media-type="{ODP}"/></manifest>'
    assert media_type_of("a.bin", packed({"META-INF/manifest.xml": manifest, "content.xml": "<x/>"})) == ODP


@pytest.mark.parametrize("declared", ["application/vnd.oasis.opendocument.formula", "x" * 100_000])
def test_other_opendocument_files_are_refused(declared: str) -> None:
    with pytest.raises(UnsupportedFormat, match="OpenDocument"):
        media_type_of("a.odf", packed({"mimetype": declared, "content.xml": "<x/>"}))


_SAMPLE = document(
    h("Title") + p("Text") + f"<table:table>{row(p('a'), p('b'))}</table:table>", meta="<dc:title>A title</dc:title>"
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
def test_damaged_file_is_read_or_refused(place: int, junk: bytes) -> None:
    content = bytearray(_SAMPLE)
    at = place % len(content)
    content[at : at + len(junk)] = junk
    with contextlib.suppress(CorruptFile, EncryptedFile, ParserLimit, EmptyDocument):
        check(parse_opendocument(bytes(content)))
