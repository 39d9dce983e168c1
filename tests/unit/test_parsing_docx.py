"""Word-processor documents become blocks in reading order; containers that lie or explode are refused."""

import contextlib
import functools
import io
import time
import zipfile
import zlib
from collections.abc import Callable

import docx
import pytest
from docx.document import Document
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls, qn
from docx.shared import Pt
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import ParsedDocument, media_type_of
from services.ingester.parsing.archive import PART_BYTES_MAX, Archive
from services.ingester.parsing.docx import parse_docx
from services.ingester.parsing.registry import DOCX
from shared.errors import CorruptFile, EncryptedFile, ParserLimit, UnsupportedFormat
from tests.unit.parsing_checks import HEADING, PROSE, ROW, blocks_of, check, headings_of

_MAIN = "word/document.xml"
_NAMESPACE = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def saved(document: Document) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def built(build: Callable[[Document], object]) -> ParsedDocument:
    document = docx.Document()
    build(document)
    parsed = parse_docx(saved(document))
    check(parsed)
    return parsed


def body(xml: str) -> list[tuple[object, str]]:
    """Parse a document whose body is written by hand, without styles or relations."""
    parsed = parse_docx(packed({_MAIN: f"<w:document {_NAMESPACE}><w:body>{xml}</w:body></w:document>"}))
    check(parsed)
    return blocks_of(parsed)


def packed(parts: dict[str, str], **options: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return file.getvalue()


def run(text: str, inside: str = "") -> str:
    return f"<w:r>{inside}<w:t>{text}</w:t></w:r>"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Normal", "Heading 1", "Heading 3", "List Bullet", "List Number", "Title", "Quote"]),
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30),
        ),
        max_size=12,
    )
)
def test_blocks_of_any_document_stand_in_order_and_hold_every_word(paragraphs: list[tuple[str, str]]) -> None:
    def build(document: Document) -> None:
        for style, text in paragraphs:
            document.add_paragraph(text, style=style)

    parsed = built(build)
    words = "".join("".join(text.split()) for _, text in paragraphs)
    seen = "".join("".join(text.split()) for _, text in blocks_of(parsed))
    assert set(words) - set("\u00ad\u200b\u2060\ufeff") <= set(seen)


def test_headings_paragraphs_items_and_rows_stand_as_they_are_read() -> None:
    def build(document: Document) -> None:
        document.add_paragraph("The title", style="Title")
        document.add_heading("First", 1)
        document.add_paragraph("Some text.\nOn two lines.")
        document.add_paragraph("point", style="List Bullet")
        document.add_paragraph("step", style="List Number")
        document.add_paragraph("next step", style="List Number")
        table = document.add_table(2, 2)
        for place, words in enumerate(["Name", "Price", "Tea", ""]):
            table.cell(place // 2, place % 2).text = words
        document.add_heading("Second", 2)

    parsed = built(build)
    assert parsed.title == "The title"
    assert blocks_of(parsed) == [
        (HEADING, "The title"),
        (HEADING, "First"),
        (PROSE, "Some text.\nOn two lines."),
        (PROSE, "- point"),
        (PROSE, "1. step"),
        (PROSE, "2. next step"),
        (ROW, "Name | Price"),
        (ROW, "Tea |"),
        (HEADING, "Second"),
    ]
    assert "- point\n1. step\n2. next step\n\nName | Price\nTea |\n\nSecond" in parsed.text
    assert headings_of(parsed) == [(1, "The title"), (1, "First"), (2, "Second")]


def test_headings_are_known_in_every_language() -> None:
    def build(document: Document) -> None:
        own = document.styles.add_style("Kapitel", 1)
        own.base_style = document.styles["Heading 2"]
        document.add_paragraph("Ein Kapitel", style="Kapitel")
        level = parse_xml(f'<w:pPr {nsdecls("w")}><w:outlineLvl w:val="3"/></w:pPr>')
        document.add_paragraph("Eine Ebene")._p.insert(0, level)

    assert headings_of(built(build)) == [(2, "Ein Kapitel"), (4, "Eine Ebene")]


def test_long_paragraph_in_a_heading_style_is_prose() -> None:
    words = "A whole paragraph that someone set in a heading's type. " * 8
    assert blocks_of(built(lambda document: document.add_heading(words, 1))) == [(PROSE, words.strip())]


@pytest.mark.parametrize(
    ("claimed", "title"),
    [
        ("A real title", "A real title"),
        ("Microsoft Word - draft.doc", "First"),
        ("report_final.docx", "First"),
        ("", "First"),
    ],
)
def test_title_is_the_property_unless_a_program_wrote_it(claimed: str, title: str) -> None:
    def build(document: Document) -> None:
        document.core_properties.title = claimed
        document.core_properties.author = "An author"
        document.add_heading("First", 1)

    parsed = built(build)
    assert parsed.title == title
    assert parsed.metadata == {"author": "An author"}


def test_title_in_the_text_wins_over_the_property_which_is_no_metadata() -> None:
    def build(document: Document) -> None:
        document.core_properties.title = "A claimed title"
        document.add_paragraph("The title", style="Title")

    parsed = built(build)
    assert parsed.title == "The title"
    assert "title" not in parsed.metadata


def test_first_of_several_chapters_is_no_title() -> None:
    parsed = built(lambda document: [document.add_heading(name, 1) for name in ("Chapter 1", "Chapter 2")])
    assert parsed.title is None


def test_rows_know_the_names_of_their_columns() -> None:
    words = [
        ["Berth", "Ship", "Flag"],
        ["north", "Ærø", "dk"],
        ["", "", ""],
        ["east", "Gull", "no"],
        ["west", "Lark", "se"],
    ]

    def build(document: Document, *, is_repeated: bool = False, has_first_row: bool = True) -> None:
        table = document.add_table(5, 3)
        table._tbl.tblPr.find(qn("w:tblLook")).set(qn("w:firstRow"), "1" if has_first_row else "0")
        for row, cells in zip(table.rows, words, strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
        if is_repeated:
            for row in table.rows[:2]:
                row._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))

    def contexts(document: ParsedDocument) -> dict[str, str]:
        return {document.text[block.start : block.end]: block.context for block in document.blocks}

    first, second, third, fourth = (" | ".join(row) for row in words if any(row))
    assert contexts(built(build)) == {first: "", second: first, third: first, fourth: first}
    assert contexts(built(functools.partial(build, has_first_row=False))) == dict.fromkeys(
        [first, second, third, fourth], ""
    )
    repeated = functools.partial(build, is_repeated=True, has_first_row=False)
    assert contexts(built(repeated)) == {first: "", second: "", third: second, fourth: second}


def test_nested_tables_follow_the_row_that_holds_them() -> None:
    def build(document: Document) -> None:
        table = document.add_table(1, 2)
        table.cell(0, 0).text = "outer"
        table.cell(0, 1).text = "right"
        inner = table.cell(0, 1).add_table(1, 2)
        inner.cell(0, 0).text = "a"
        inner.cell(0, 1).text = "b"

    assert blocks_of(built(build)) == [(ROW, "outer | right"), (ROW, "a | b")]


def test_frame_of_one_cell_holds_paragraphs() -> None:
    def build(document: Document) -> None:
        cell = document.add_table(1, 1).cell(0, 0)
        cell.text = "One."
        cell.add_paragraph("Inside", style="Heading 1")

    assert blocks_of(built(build)) == [(PROSE, "One."), (HEADING, "Inside")]


def test_changes_are_read_as_accepted() -> None:
    assert body(
        f"<w:p>{run('kept ')}<w:del><w:r><w:delText>deleted</w:delText></w:r></w:del><w:ins>{run('inserted')}</w:ins>"
        f"<w:moveFrom>{run('from')}</w:moveFrom><w:moveTo>{run(' to')}</w:moveTo></w:p>"
        f"<w:tbl><w:tr><w:trPr><w:del/></w:trPr><w:tc><w:p>{run('x')}</w:p></w:tc><w:tc/></w:tr></w:tbl>"
    ) == [(PROSE, "kept inserted to")]


def test_links_controls_and_fields_are_read_and_hidden_text_is_not() -> None:
    assert body(
        f"<w:p><w:hyperlink>{run('link')}</w:hyperlink>{run(' hidden', '<w:rPr><w:vanish/></w:rPr>')}"
        f"<w:fldSimple>{run(' field')}</w:fldSimple><w:r><w:instrText>PAGE</w:instrText></w:r>"
        f"<w:sdt><w:sdtContent>{run(' control')}</w:sdtContent></w:sdt><w:r><w:tab/><w:noBreakHyphen/></w:r></w:p>"
        f"<w:sdt><w:sdtContent><w:p>{run('block')}</w:p></w:sdtContent></w:sdt>"
    ) == [(PROSE, "link field control -"), (PROSE, "block")]


def test_table_of_contents_is_left_out() -> None:
    gallery = '<w:sdtPr><w:docPartObj><w:docPartGallery w:val="Table of Contents"/></w:docPartObj></w:sdtPr>'
    contents = f"<w:sdt>{gallery}<w:sdtContent><w:p>{run('Chapter … 3')}</w:p></w:sdtContent></w:sdt>"
    assert body(f"{contents}<w:p>{run('Text')}</w:p>") == [(PROSE, "Text")]


def test_text_boxes_are_read_once_behind_their_paragraph() -> None:
    box = f"<w:txbxContent><w:p>{run('boxed')}</w:p></w:txbxContent>"
    both = (
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    )
    assert body(f"<w:p>{run('before ')}<w:r>{both}</w:r>{run('after')}</w:p>") == [
        (PROSE, "before after"),
        (PROSE, "boxed"),
    ]


def with_notes(paragraph: str, notes: str) -> ParsedDocument:
    """A document of one paragraph and its notes."""
    relations = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes" Target="footnotes.xml"/></Relationships>'
    )
    return parse_docx(
        packed(
            {
                _MAIN: f"<w:document {_NAMESPACE}><w:body>{paragraph}</w:body></w:document>",
                "word/_rels/document.xml.rels": relations,
                "word/footnotes.xml": f"<w:footnotes {_NAMESPACE}>{notes}</w:footnotes>",
            }
        )
    )


def test_notes_stand_behind_the_paragraph_that_refers_to_them() -> None:
    note = '<w:footnote w:id="{0}" {1}><w:p><w:r><w:t>{2}</w:t></w:r></w:p></w:footnote>'
    notes = note.format(-1, 'w:type="separator"', "line") + note.format(2, "", "The note.")
    reference = '<w:r><w:footnoteReference w:id="2"/></w:r>'
    parsed = with_notes(f"<w:p>{run('Text.')}{reference}{reference}</w:p><w:p>{run('Next.')}</w:p>", notes)
    assert blocks_of(parsed) == [(PROSE, "Text."), (PROSE, "The note."), (PROSE, "Next.")]


def test_notes_that_refer_to_one_another_are_read_one_after_the_other() -> None:
    reference = '<w:r><w:footnoteReference w:id="{}"/></w:r>'
    notes = "".join(
        f'<w:footnote w:id="{number}"><w:p>{run(f"Note {number}.")}{reference.format((number + 1) % 5000)}</w:p></w:footnote>'
        for number in range(5000)
    )
    parsed = with_notes(f"<w:p>{run('Text.')}{reference.format(0)}</w:p><w:p>{run('Next.')}</w:p>", notes)
    texts = [text for _, text in blocks_of(parsed)]
    assert texts == ["Text.", *(f"Note {number}." for number in range(5000)), "Next."]


def test_document_whose_picture_is_missing_is_read() -> None:
    def build(document: Document) -> None:
        document.add_paragraph("Text").style.font.size = Pt(12)
        document.part.relate_to(
            "NULL", "http://schemas.openxmlformats.org/officeDocument/2006/relationships/image", True
        )

    assert blocks_of(built(build)) == [(PROSE, "Text")]


def test_kind_is_known_by_what_the_container_holds() -> None:
    content = saved(docx.Document())
    assert media_type_of("renamed.txt", content) == DOCX
    assert media_type_of("renamed.pdf", content) == DOCX


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["[Content_Types].xml", "xl/workbook.bin"], "a binary spreadsheet"),
        (["mimetype", "content.xml"], "an OpenDocument file"),
        (["photos/a.jpg"], "an archive"),
        ([], "an archive"),
    ],
)
def test_other_containers_are_refused_by_what_they_are(names: list[str], kind: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"the file is {kind}"):
        media_type_of("a.docx", packed(dict.fromkeys(names, "x")))


@pytest.mark.parametrize(
    ("stream", "error", "words"),
    [
        ("EncryptedPackage", EncryptedFile, "without one"),
        ("WordDocument", UnsupportedFormat, r"\.doc\)"),
        ("other", UnsupportedFormat, "old office program"),
    ],
)
def test_older_containers_are_refused_by_what_they_hold(stream: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        media_type_of("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + stream.encode("utf-16-le"))


def test_container_that_was_cut_off_is_corrupt() -> None:
    content = saved(docx.Document())
    with pytest.raises(CorruptFile):
        media_type_of("a.docx", content[: len(content) // 2])


def test_container_that_lost_its_beginning_is_corrupt() -> None:
    content = saved(docx.Document())
    archive = Archive(content[:30] + content[230:])  # its parts seem to begin before the file does
    with pytest.raises(CorruptFile, match="damaged"):
        archive.read(archive.names[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
def test_damaged_document_is_read_or_refused(place: int, junk: bytes) -> None:
    content = bytearray(_SAMPLE)
    at = place % len(content)
    content[at : at + len(junk)] = junk
    with contextlib.suppress(CorruptFile, EncryptedFile, ParserLimit):
        check(parse_docx(bytes(content)))


def test_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = packed({_MAIN: " " * 200_000_000})
    assert len(bomb) < 1_000_000
    started = time.process_time()
    with pytest.raises(ParserLimit, match="expands without end"):
        parse_docx(bomb)
    assert time.process_time() - started < 1


def test_large_part_is_refused_though_the_container_is_large_too() -> None:
    archive = Archive(packed({"a.xml": "x" * 1000}))
    with pytest.raises(ParserLimit, match="at most 999"):
        archive.read("a.xml", bytes_max=999)
    assert PART_BYTES_MAX < 2**30


def test_directory_that_lies_about_a_size_gains_nothing() -> None:
    text = "x" * 5_000_000
    content = packed({_MAIN: text})
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.index(signature) + offset
        content = content[:at] + (10).to_bytes(4, "little") + content[at + 4 :]
    with pytest.raises(CorruptFile, match="damaged"):
        parse_docx(content)
    checksum = zlib.crc32(b"x" * 10).to_bytes(4, "little")  # and if its checksum agrees, no more than it says is read
    for signature, offset in ((b"PK\x01\x02", 16), (b"PK\x03\x04", 14)):
        at = content.index(signature) + offset
        content = content[:at] + checksum + content[at + 4 :]
    assert Archive(content).read(_MAIN) == b"x" * 10


def test_part_without_a_name_stands_in_for_no_other() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(zipfile.ZipInfo(""), b"x")
    archive = Archive(file.getvalue())
    assert not archive.has(_MAIN)
    assert archive.read(_MAIN) is None


def test_container_of_endless_parts_is_refused() -> None:
    with pytest.raises(ParserLimit, match="parts"):
        Archive(packed({f"{n}": "" for n in range(20_001)}))


def test_endless_directory_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", lambda _: pytest.fail("the directory was read"))
    with pytest.raises(ParserLimit, match="1,000,000 parts"):
        Archive(b"PK\x01\x02" * 1_000_000)


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>',
        '<!DOCTYPE d [<!ENTITY c SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE d SYSTEM "http://127.0.0.1:9/x.dtd">',
    ],
)
def test_document_type_is_refused(declaration: str) -> None:
    text = f"{declaration}<w:document {_NAMESPACE}><w:body><w:p>{run('&c;')}</w:p></w:body></w:document>"
    with pytest.raises(CorruptFile):
        parse_docx(packed({_MAIN: text}))


def test_endless_nesting_is_refused() -> None:
    deep = "<w:sdt>" * 5000 + "</w:sdt>" * 5000
    with pytest.raises(CorruptFile, match="no proper XML"):
        body(deep)


def test_nesting_that_the_xml_parser_takes_is_read() -> None:
    depth = 60
    table = "<w:tbl><w:tr><w:tc><w:p/>" * depth + f"<w:p>{run('deep')}</w:p>" + "</w:tc></w:tr></w:tbl>" * depth
    assert body(table) == [(PROSE, "deep")]


def _sample() -> bytes:
    document = docx.Document()
    document.add_heading("First", 1)
    document.add_paragraph("Some text.")
    return saved(document)


_SAMPLE = _sample()
