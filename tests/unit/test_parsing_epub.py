"""Books become their chapters in reading order; what a reading program shows by itself is left out."""

import contextlib
import io
import time
import zipfile
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingester.parsing import ParsedDocument, media_type_of
from services.ingester.parsing.epub import AUTHORS_MAX, parse_epub
from services.ingester.parsing.registry import EPUB
from shared.errors import CorruptFile, EmptyDocument, EncryptedFile, NeedsOcr, ParserLimit, UnsupportedFormat
from tests.unit.parsing_checks import HEADING, LINES, PROSE, ROW, blocks_of, check, headings_of

_CONTAINER = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
_NAV_ITEM = '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
_NCX_ITEM = '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'


def page(body: str, head: str = "<title>The book</title>") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml" '
        f'xmlns:epub="http://www.idpf.org/2007/ops"><head>{head}</head><body>{body}</body></html>'
    )


def packed(parts: Mapping[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", EPUB, zipfile.ZIP_STORED)
        for name, text in parts.items():
            archive.writestr(name, text)
    return file.getvalue()


def package(
    names: Sequence[str], *, metadata: str = "<dc:title>A book</dc:title>", items: str = "", after: str = ""
) -> str:
    listed = "".join(
        f'<item id="i{place}" href="{name}" media-type="application/xhtml+xml"/>' for place, name in enumerate(names)
    )
    spine = "".join(f'<itemref idref="i{place}"/>' for place in range(len(names)))
    return (
        f'<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">{metadata}</metadata>'
        f"<manifest>{listed}{items}</manifest><spine>{spine}</spine>{after}</package>"
    )


def book(
    chapters: Mapping[str, str | bytes],
    *,
    spine: Sequence[str] | None = None,
    extra: Mapping[str, str | bytes] | None = None,
    **options: str,
) -> bytes:
    return packed(
        {
            "META-INF/container.xml": _CONTAINER,
            "OEBPS/book.opf": package(spine if spine is not None else list(chapters), **options),
            **{f"OEBPS/{name}": text for name, text in chapters.items()},
            **(extra or {}),
        }
    )


def read(chapters: Mapping[str, str | bytes], **options: object) -> ParsedDocument:
    parsed = parse_epub(book(chapters, **options))  # type: ignore[arg-type]
    check(parsed)
    return parsed


def navigation(*links: tuple[str, str]) -> dict[str, str]:
    listed = "".join(
        f'<li><a href="{address}"><span>{label[:4]}</span><b>{label[4:]}</b></a></li>' for address, label in links
    )
    inner = f'<nav epub:type="landmarks"><a href="a.xhtml">Start</a></nav><nav epub:type="toc"><ol>{listed}</ol></nav>'
    return {"OEBPS/nav.xhtml": page(f"<h1>Contents</h1>{inner}")}


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)] * 2),
        min_size=1,
        max_size=6,
    )
)
def test_every_word_of_any_book_is_read_in_order(chapters: list[tuple[str, str]]) -> None:
    parsed = read(
        {f"{place}.xhtml": page(f"<h2>{title}</h2><p>{text}.</p>") for place, (title, text) in enumerate(chapters)}
    )
    assert blocks_of(parsed) == [block for title, text in chapters for block in ((HEADING, title), (PROSE, f"{text}."))]


def test_chapters_stand_in_the_order_of_the_spine() -> None:
    chapters = {f"{name}.xhtml": page(f"<h1>{name}</h1><p>Text of {name}.</p>") for name in ("z", "a", "m")}
    parsed = read(chapters, spine=["m.xhtml", "z.xhtml", "a.xhtml", "z.xhtml"])
    assert headings_of(parsed) == [(1, "m"), (1, "z"), (1, "a")]  # a chapter that is listed twice is read once


def test_title_author_and_language_are_those_of_the_book() -> None:
    metadata = (
        "<dc:title>Catch-22</dc:title><dc:title>A novel</dc:title><dc:creator>J. H.</dc:creator>"
        "<dc:creator>Another</dc:creator><dc:language>en</dc:language>"
    )
    crowd = read({"a.xhtml": page("<p>Text.</p>")}, metadata="<dc:creator>Who</dc:creator>" * (AUTHORS_MAX + 1))
    assert crowd.metadata["author"].count("Who") == AUTHORS_MAX
    parsed = read({"a.xhtml": page("<h1>One</h1><p>Text.</p>")}, metadata=metadata)
    assert parsed.title == "Catch-22"
    assert parsed.metadata == {"author": "J. H., Another", "language": "en"}


@pytest.mark.parametrize("metadata", ["", "<dc:title>Untitled document</dc:title>", "<dc:title> </dc:title>"])
def test_book_without_a_title_has_that_of_its_only_chapter(metadata: str) -> None:
    assert read({"a.xhtml": page("<h1>Alone</h1><p>Text.</p>")}, metadata=metadata).title == "Alone"


def test_headers_notes_tables_and_code_of_a_chapter_are_read() -> None:
    body = (
        "<section><header><h1>Chapter</h1></header><p>Text<a epub:type='noteref'>1</a>.</p>"
        "<aside epub:type='footnote'>The note.</aside><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"
        "<pre>x = 1\ny = 2</pre><footer>The end.</footer></section><article><p>Apart.</p></article><main><p>Main.</p></main>"
    )
    assert blocks_of(read({"a.xhtml": page(body)})) == [
        (HEADING, "Chapter"),
        (PROSE, "Text1."),
        (PROSE, "The note."),
        (ROW, "a | b"),
        (ROW, "1 | 2"),
        (LINES, "x = 1\ny = 2"),
        (PROSE, "The end."),
        (PROSE, "Apart."),
        (PROSE, "Main."),
    ]


def test_elements_that_end_at_once_swallow_nothing() -> None:
    chapter = page("<p>One <i/>two.</p><script/><p>Three.</p>", head="<title/><style/>").partition("?>")[2]
    assert [text for _, text in blocks_of(read({"a.xhtml": chapter}))] == ["One two.", "Three."]


@pytest.mark.parametrize("is_older", [False, True])
def test_chapter_without_a_heading_gets_the_one_of_the_contents(*, is_older: bool) -> None:
    links = [
        ("text/a.xhtml", "Chapter 1"),
        ("text/b%20b.xhtml#start", "Chapter 2"),
        ("text/b%20b.xhtml#later", "A part of it"),
        ("text/c.xhtml", "Chapter 3 of the contents"),
    ]
    chapters = {
        "text/a.xhtml": page("<p>First.</p>"),
        "text/b b.xhtml": page("<p>Second.</p>"),
        "text/c.xhtml": page("<h1>Chapter 3</h1><p>Third.</p>"),
        "text/d.xhtml": page("<p>More of the third.</p>"),
    }
    points = "".join(
        f'<navPoint><navLabel><text>{label}</text></navLabel><content src="{address}"/></navPoint>'
        for address, label in links
    )
    ncx = {
        "OEBPS/toc.ncx": f"<!DOCTYPE ncx PUBLIC '-//x//' 'http://localhost/x.dtd'><ncx><navMap>{points}</navMap></ncx>"
    }
    parsed = read(
        chapters,
        spine=["text/a.xhtml", "text/b%20b.xhtml", "text/c.xhtml", "text/d.xhtml"],
        items=_NCX_ITEM if is_older else _NAV_ITEM,
        extra=ncx if is_older else navigation(*links),
    )
    assert headings_of(parsed) == [(1, "Chapter 1"), (1, "Chapter 2"), (1, "Chapter 3")]
    assert blocks_of(parsed)[-1] == (PROSE, "More of the third.")


def test_line_that_only_looks_like_a_heading_becomes_one() -> None:
    parsed = read(
        {"a.xhtml": page("<p>I</p><p class='title'>The  Beginning</p><p>Text.</p>")},
        items=_NAV_ITEM,
        extra=navigation(("a.xhtml", "the beginning")),
    )
    assert blocks_of(parsed) == [(PROSE, "I"), (HEADING, "The Beginning"), (PROSE, "Text.")]


def test_label_of_a_place_further_down_is_no_heading_of_the_whole() -> None:
    body = "<p>Rest</p><p>of the</p><p>chapter</p><p>before.</p><h2>Next</h2><p>Text.</p>"
    for address, first in (("a.xhtml#next", "Rest"), ("a.xhtml", "Next and more")):
        parsed = read({"a.xhtml": page(body)}, items=_NAV_ITEM, extra=navigation((address, "Next and more")))
        assert blocks_of(parsed)[0][1] == first


def test_covers_and_tables_of_contents_are_left_out() -> None:
    links = "".join(f"<p><a href='{name}.xhtml'>Chapter {name}</a></p>" for name in "abc")
    chapters = {
        "cover.xhtml": page("<div><img src='c.jpg' alt='Cover'/></div>"),
        "title.xhtml": page("<h1>A book</h1>"),
        "nav.xhtml": navigation(("a.xhtml", "One"))["OEBPS/nav.xhtml"],
        "toc.xhtml": page(f"<h2>Contents</h2>{links}"),
        "a.xhtml": page("<h1>One</h1><p>Text.</p>"),
    }
    parsed = read(
        chapters,
        items=_NAV_ITEM,
        after='<guide><reference type="toc" href="toc.xhtml"/><reference type="text" href="a.xhtml"/></guide>',
    )
    assert blocks_of(parsed) == [(HEADING, "One"), (PROSE, "Text.")]


def test_table_of_contents_that_says_more_is_read() -> None:
    body = "<h1>Contents</h1><p><a href='a.xhtml'>One</a></p><p>A word to the reader, who has come as far as this.</p>"
    parsed = read({"nav.xhtml": page(body)}, after='<guide><reference type="toc" href="nav.xhtml"/></guide>')
    assert len(blocks_of(parsed)) == 3


def test_missing_and_damaged_chapters_take_no_other_with_them() -> None:
    deep = page("<div>" * 60_000)
    chapters = {"a.xhtml": page("<p>One.</p>"), "deep.xhtml": deep, "c.xhtml": page("<p>Two.</p>")}
    parsed = read(chapters, spine=["lost.xhtml", "a.xhtml", "deep.xhtml", "c.xhtml", "../../../etc/passwd"])
    assert [text for _, text in blocks_of(parsed)] == ["One.", "Two."]
    assert parsed.metadata == {"chapters_unreadable": "3"}


def test_encodings_of_chapters_are_their_own() -> None:
    latin = '<?xml version="1.0" encoding="iso-8859-1"?><html><body><p>Müller</p></body></html>'.encode("latin-1")
    parsed = read({"a.xhtml": latin, "b.xhtml": page("<p>漢字</p>").encode("utf-16")})
    assert [text for _, text in blocks_of(parsed)] == ["Müller", "漢字"]


def encryption(*parts: tuple[str, str]) -> dict[str, str]:
    data = "".join(
        f'<enc:EncryptedData><enc:EncryptionMethod Algorithm="{method}"/><enc:CipherData>'
        f'<enc:CipherReference URI="{name}"/></enc:CipherData></enc:EncryptedData>'
        for name, method in parts
    )
    return {"META-INF/encryption.xml": f'<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#">{data}</encryption>'}


_CIPHER = "http://www.w3.org/2001/04/xmlenc#aes256-cbc"


def test_book_that_is_locked_by_its_seller_says_so() -> None:
    with pytest.raises(EncryptedFile, match="DRM"):
        parse_epub(book({"a b.xhtml": b"\x00\x01"}, extra=encryption(("OEBPS/a%20b.xhtml", _CIPHER))))


@pytest.mark.parametrize(
    "part", [("OEBPS/a.xhtml", "http://www.idpf.org/2008/embedding"), ("OEBPS/font.otf", _CIPHER), ("x.otf", "")]
)
def test_locked_fonts_lock_no_book(part: tuple[str, str]) -> None:
    assert blocks_of(read({"a.xhtml": page("<p>Text.</p>")}, extra=encryption(part))) == [(PROSE, "Text.")]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (book({"a.xhtml": page("<img src='1.jpg'/>")}), NeedsOcr, "ocrmypdf"),
        (book({"a.xhtml": page("<svg><image href='1.jpg'/></svg>")}), NeedsOcr, "ocrmypdf"),
        (book({"a.xhtml": page("")}), EmptyDocument, "no text"),
        (book({}, spine=["a.xhtml", "b.xhtml"]), CorruptFile, "none of the 2 chapters"),
        (book({}), CorruptFile, "lists no chapters"),
        (packed({"META-INF/container.xml": _CONTAINER}), CorruptFile, "list of its chapters"),
        (packed({}), CorruptFile, "list of its chapters"),
        (packed({"META-INF/container.xml": _CONTAINER, "OEBPS/book.opf": "<package"}), CorruptFile, "no proper XML"),
    ],
)
def test_book_that_cannot_be_read_says_why(content: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_epub(content)


@pytest.mark.parametrize("container", [None, "<broken", "<container/>"])
def test_book_is_found_though_its_container_does_not_name_it(container: str | None) -> None:
    parts = {"book.opf": package(["a.xhtml"]), "a.xhtml": page("<p>Text.</p>")}
    content = packed(parts if container is None else parts | {"META-INF/container.xml": container})
    assert blocks_of(parse_epub(content)) == [(PROSE, "Text.")]


@pytest.mark.parametrize("broken", ["OEBPS/toc.ncx", "META-INF/encryption.xml"])
def test_book_is_read_though_another_part_is_damaged(broken: str) -> None:
    parsed = read({"a.xhtml": page("<p>Text.</p>")}, items=_NCX_ITEM, extra={broken: "<broken"})
    assert blocks_of(parsed) == [(PROSE, "Text.")]


def test_pages_are_those_of_the_printed_book() -> None:
    chapters = {
        "a.xhtml": page("<p>Before any.</p><span epub:type='pagebreak' title='iv'/><p>On <b>four</b>.</p>"),
        "b.xhtml": page(
            "<p>Still four.</p><p><span role='doc-pagebreak' aria-label=' Page 1. '/>One, to<span class='pagenum'>[Pg 2]</span> two.</p>"
            "<p>Two.</p><p><a id='page_3' class='pageno'/>Three.</p><hr epub:type='pagebreak'/><p>Not told.</p>"
            "<p>12 <span class='pagenum'>apples</span></p>"
        ),
        "c.xhtml": page(
            "<h1><a id='page5' class='pagenum' aria-hidden='true'></a>Last</h1><table><tr><td>a</td><td>b</td></tr></table>"
        ),
    }
    parsed = read(chapters)
    assert [(parsed.text[block.start : block.end], block.page) for block in parsed.blocks] == [
        ("Before any.", None),
        ("On four.", 1),
        ("Still four.", 1),
        ("One, to two.", 2),
        ("Two.", 3),
        ("Three.", 4),
        ("Not told.", 4),
        ("12 apples", 4),
        ("Last", 5),
        ("a | b", 5),
    ]
    assert parsed.page_labels == {1: "iv", 2: "1", 3: "2", 4: "3"}


def test_endless_pages_are_refused() -> None:
    with pytest.raises(ParserLimit, match="marks more than"):
        read({"a.xhtml": page("<p>x</p>" + "<i class='pagenum'>1</i>" * 100_001)})


_OUTSIDE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
_BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))


def test_nothing_outside_of_the_book_is_read() -> None:
    opf = _OUTSIDE + package(["a.xhtml"], metadata="<dc:title>A &f; book</dc:title>")
    chapter = _OUTSIDE + page("<p>Text &f;.</p>").partition("?>")[2]
    parsed = parse_epub(packed({"META-INF/container.xml": _CONTAINER, "OEBPS/book.opf": opf, "OEBPS/a.xhtml": chapter}))
    assert "root:" not in f"{parsed.text} {parsed.title}"
    assert "Text &f;." in parsed.text


@pytest.mark.parametrize("place", ["<spine>", "<dc:title>A book"])
def test_entities_that_multiply_are_refused(place: str) -> None:
    used = '<spine toc="&e9;">' if place == "<spine>" else "<dc:title>&e9;"
    opf = f'<!DOCTYPE package [<!ENTITY e0 "words">{_BOMB}]>{package(["a.xhtml"]).replace(place, used)}'
    content = packed(
        {"META-INF/container.xml": _CONTAINER, "OEBPS/book.opf": opf, "OEBPS/a.xhtml": page("<p>Text.</p>")}
    )
    with pytest.raises(CorruptFile, match="no proper XML"):
        parse_epub(content)


@pytest.mark.parametrize("unit", ["<a href='b'><table><tr><td>", "<a href='b'>x</a>", "<nav epub:type='toc'><a>x"])
def test_hostile_table_of_contents_is_read_in_linear_time(unit: str) -> None:
    contents = page(unit * 12_000)
    content = book(
        {"a.xhtml": page("<p>Text.</p>"), "nav.xhtml": contents},
        items=_NAV_ITEM,
        after='<guide><reference type="toc" href="nav.xhtml"/></guide>',
    )
    started = time.process_time()
    check(parse_epub(content))
    assert time.process_time() - started < 20


def test_kind_is_known_by_what_the_container_holds() -> None:
    content = book({"a.xhtml": page("<p>Text.</p>")})
    assert media_type_of("renamed.zip", content) == EPUB
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "application/vnd.adobe.indesign-idml-package")
        archive.writestr("META-INF/container.xml", _CONTAINER)
    with pytest.raises(UnsupportedFormat, match="archive"):
        media_type_of("layout.idml", file.getvalue())


_SAMPLE = book(
    {"a.xhtml": page("<h1>One</h1><p>Text.</p>")}, items=_NAV_ITEM, extra=navigation(("a.xhtml", "Chapter 1"))
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
def test_damaged_book_is_read_or_refused(place: int, junk: bytes) -> None:
    content = bytearray(_SAMPLE)
    at = place % len(content)
    content[at : at + len(junk)] = junk
    with contextlib.suppress(CorruptFile, EncryptedFile, ParserLimit, EmptyDocument):
        check(parse_epub(bytes(content)))
