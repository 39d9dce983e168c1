"""Pages become their main content, with headings, items, rows and code where they stand."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import SelectolaxError

from services.ingester.parsing import html, media_type_of, parse
from services.ingester.parsing.html import NESTING_MAX, looks_like_html, parse_html
from services.ingester.parsing.html_reader import CODE_CHARACTERS_MAX
from services.ingester.parsing.registry import HTML, MARKDOWN
from shared.errors import CorruptFile, ParserLimit
from tests.unit.parsing_checks import HEADING, LINES, PROSE, ROW, blocks_of, check, headings_of

_PIECES = st.sampled_from(
    re.findall(
        r"[^ \n]+",
        """<p> </p> <h1> </h1> <h7> <h3\thidden> </h3> <ul> <li> </li> </ul> <ol\tstart=3> </ol> <table> <tr> <th> <td>
        </td> </tr> </table> <pre> </pre> <br> <br><br> <main> </main> <article> </article> <nav> </nav> <header> </header>
        <b> </b> <a\thref=#x> </a> <div\trole=main> </div> <img\talt=picture> <script> </script> <!-- --> &nbsp; &#0;
        &shy; &#xD800; <![CDATA[x]]> <svg> </svg> <template> </template> <caption> <select><option> word words. Two""",
    )
)


def read(source: str) -> list[tuple[object, str]]:
    document = parse_html(source.encode())
    check(document)
    return blocks_of(document)


@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES | st.text(max_size=8), max_size=30))
def test_blocks_of_any_page_stand_in_order_and_hold_every_word(pieces: list[str]) -> None:
    check(parse_html("\n".join(pieces).encode("utf-8", errors="surrogatepass")))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="ab cé", min_size=1, max_size=20), min_size=1, max_size=8))
def test_every_paragraph_comes_back(paragraphs: list[str]) -> None:
    source = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    expected = [" ".join(paragraph.split()) for paragraph in paragraphs]
    assert [text for _, text in read(source)] == [text for text in expected if text]


def test_headings_have_their_level_and_no_permalink() -> None:
    source = '<h1>One <b>two</b></h1><h2>C#<a href="#c">#</a></h2><h6><div>in</div><div>a div</div></h6><h3> </h3>'
    assert headings_of(parse_html(source.encode())) == [(1, "One two"), (2, "C#"), (6, "in a div")]


def test_main_content_is_read_and_what_is_around_it_is_not() -> None:
    source = (
        "<body><header>Banner</header><nav>Menu</nav><div>Skip to content</div>"
        "<main><header><h1>Title</h1></header><p>Text of the page.</p><nav>Inner menu</nav><aside>Related</aside></main>"
        "<footer>Imprint</footer></body>"
    )
    assert read(source) == [(HEADING, "Title"), (PROSE, "Text of the page.")]


def test_page_without_main_is_read_without_its_chrome() -> None:
    source = "<header>Banner</header><h1>Title</h1><p>Text.</p><div role=navigation>Menu</div><footer>Imprint</footer>"
    assert read(source) == [(HEADING, "Title"), (PROSE, "Text.")]


def test_small_article_beside_much_text_is_not_all_that_is_read() -> None:
    story = "The long story stands outside. " * 10
    assert read(f"<article>Teaser</article><p>{story}</p>") == [(PROSE, "Teaser"), (PROSE, story.strip())]


def test_several_articles_are_read() -> None:
    source = "<p>Blog</p><article><p>First post.</p></article><article><p>Second post.</p></article>"
    assert read(source) == [(PROSE, "First post."), (PROSE, "Second post.")]


@pytest.mark.parametrize(
    "source",
    [
        "<script>no</script>",
        "<style>no</style>",
        "<template><p>no</p></template>",
        "<noscript>no</noscript>",
        "<p hidden>no</p>",
        '<p aria-hidden="true">no</p>',
        '<p style="color: red; DISPLAY : none">no</p>',
        "<button>no</button>",
        "<select><option>no</option></select>",
        "<textarea>no</textarea>",
        "<svg><text>no</text></svg>",
        "<iframe>no</iframe>",
        "<!-- no -->",
        "<span class='hl linenos'>no</span>",
    ],
)
def test_what_nobody_reads_is_left_out(source: str) -> None:
    assert read(f"<p>before</p>{source}<p>after</p>") == [(PROSE, "before"), (PROSE, "after")]


def test_items_have_their_marks_and_stand_below_one_another() -> None:
    source = (
        "<ul><li>one<ul><li>deeper</li></ul></li><li><p>two</p></li></ul><ol start=4><li>four</li><li>five</li></ol>"
    )
    document = parse_html(source.encode())
    check(document)
    assert document.text == "- one\n- deeper\n- two\n\n4. four\n5. five"


def test_rows_keep_header_and_empty_cells() -> None:
    source = (
        "<table><caption>Prices</caption><thead><tr><th>Name<th>Note<th>Price</thead>"
        "<tr><td>Tea<td><td><p>3</p><p>EUR</p></table><p>After</p>"
    )
    assert read(source) == [
        (PROSE, "Prices"),
        (ROW, "Name | Note | Price"),
        (ROW, "Tea |  | 3 EUR"),
        (PROSE, "After"),
    ]


def test_rows_know_the_names_of_their_columns() -> None:
    source = (
        "<table><tr><th colspan=2>Prices<tr><th>Name<th>Price<tr><td>Tea<td>3<tr><th>Milk<td>1</table>"
        "<table><tr><td>a<td>b</table>"
    )
    document = parse_html(source.encode())
    contexts = {document.text[block.start : block.end]: block.context for block in document.blocks}
    assert contexts == {
        "Prices": "",
        "Name | Price": "",
        "Tea | 3": "Name | Price",
        "Milk | 1": "Name | Price",
        "a | b": "",
    }


def test_table_that_arranges_the_page_is_read_as_text() -> None:
    source = "<table><tr><td>Menu</td><td><h1>Title</h1>One.<br><br>Two.<table><tr><td>a<td>b</table></td></tr></table>"
    assert read(source) == [
        (PROSE, "Menu"),
        (HEADING, "Title"),
        (PROSE, "One."),
        (PROSE, "Two."),
        (ROW, "a | b"),
    ]


def test_single_cell_holds_paragraphs() -> None:
    assert read("<table><tr><td>One.<br><br>Two.</table>") == [(PROSE, "One."), (PROSE, "Two.")]


def test_code_keeps_its_lines() -> None:
    assert read("<pre><code>def f():\n    return <b>1</b>\n\n<div>x</div></code></pre>") == [
        (LINES, "def f():\n    return 1\n\nx")
    ]


def test_whole_text_file_in_a_page_has_paragraphs() -> None:
    paragraph = "A sentence that someone wrapped at some width of\ncharacters, as people did.\n\n"
    blocks = read(f"<pre>{paragraph * (CODE_CHARACTERS_MAX // len(paragraph) + 1)}</pre>")
    assert len(blocks) > 100
    assert blocks[0] == (PROSE, paragraph.strip())


def test_line_breaks_end_lines_and_two_of_them_a_paragraph() -> None:
    assert read("<p>Street 1<br>Town<br> <br>Next<wbr>word &amp; a&shy;b <img alt='a picture'></p>") == [
        (PROSE, "Street 1\nTown"),
        (PROSE, "Nextword & ab a picture"),
    ]


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("<title> A  title </title><h1>Heading</h1>", "A title"),
        ('<meta property="og:title" content="Shared"><h1>Heading</h1>', "Shared"),
        ("<title>index.html</title><h1>Heading</h1>", "Heading"),
        ("<title>Untitled Document</title><h2>Second</h2>", "Second"),
        ("<header><h1>Site</h1></header><p>Text</p>", "Site"),
        ("<p>Text</p><svg><title>Icon</title></svg>", None),
    ],
)
def test_title_comes_from_the_content(source: str, title: str | None) -> None:
    assert parse_html(source.encode()).title == title


def test_language_and_description_are_metadata() -> None:
    source = '<html lang="de"><head><meta name="Description" content=" Worum es geht. "></head><body>Text'
    assert parse_html(source.encode()).metadata == {"language": "de", "description": "Worum es geht."}


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("<meta charset=utf-8>", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ('<meta charset="ISO-8859-1">', "cp1252"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251"),
        ('<?xml version="1.0" encoding="koi8-r"?>', "koi8-r"),
    ],
)
def test_page_is_decoded_as_it_says(head: str, encoding: str) -> None:
    words = "Привет, мир" if encoding in ("cp1251", "koi8-r") else "Äpfel"
    document = parse_html(f"{head}<html><body><p>{words}</p></body></html>".encode(encoding))
    assert document.text == words
    assert document.replaced_character_count == 0


@pytest.mark.parametrize("encoding", ["rot13", "zlib", "utf-16", "no-such", "idna"])
def test_encoding_that_is_none_is_not_believed(encoding: str) -> None:
    document = parse_html(f"<meta charset={encoding}><p>déjà".encode("cp1252"))
    assert document.text == "déjà"


def test_elements_that_close_themselves_are_read_as_xhtml() -> None:
    source = '<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><a id="x"/><p>Text</p><br/></body>'
    assert read(source) == [(PROSE, "Text")]


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.txt", b"<!DOCTYPE html><p>x", HTML),
        ("a.md", b"\xef\xbb\xbf\n<!-- made by x -->\n<!-- y --><HTML lang=en>", HTML),
        ("a", b'<?xml version="1.0"?>\n<html xmlns="x">', HTML),
        ("a.md", b"<div>\n\n# Markdown with a tag", MARKDOWN),
        ("a.HTM", b"words", HTML),
        ("a.html", "<p>wide".encode("utf-16"), HTML),
    ],
)
def test_page_is_known_by_its_content_then_by_its_name(name: str, content: bytes, media_type: str) -> None:
    assert media_type_of(name, content) == media_type
    assert parse(name, content)[0] == media_type


def test_endless_nesting_is_refused_before_the_tree_is_built() -> None:
    started = time.process_time()
    with pytest.raises(CorruptFile, match="nests more than"):
        parse_html(b"<div>" * 200_000 + b"text")
    assert time.process_time() - started < 5


def test_deep_nesting_is_read_without_recursion() -> None:
    assert read("<div>" * 5000 + "text" + "</div>" * 5000) == [(PROSE, "text")]
    assert NESTING_MAX > 5000


@pytest.mark.parametrize(
    "source",
    [
        "<p>" * 100_000,
        "<li>" * 50_000,
        "<table><tr><td>" * 500 + "x",
        "<img alt=''>" * 100_000,
        "<" * 200_000,
        "<!--" * 50_000,
        "<a " * 40_000,
        "&amp" * 200_000,
        "<?xml " + "<a/" * 40_000,
        "<title>" + "/" * 200_000,
        "<title>" + "a" * 200_000 + "!",
        "<pre>" + "\n" * 200_000,
        "<h1>" + "word " * 100_000,
        "<p>" + " \u00a0" * 100_000,
    ],
    ids=lambda source: source[:12],
)
def test_hostile_page_is_read_in_linear_time(source: str) -> None:
    started = time.process_time()
    check(parse_html(source.encode()))
    assert time.process_time() - started < 5


def test_page_that_needs_more_memory_than_there_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise SelectolaxError

    monkeypatch.setattr(html, "LexborHTMLParser", refuse)
    with pytest.raises(ParserLimit, match="split the file"):
        parse_html(b"<p>Text")


def test_many_comments_before_no_page_are_looked_through_once() -> None:
    started = time.process_time()
    assert not looks_like_html("<!---->" * 600 + "no page")
    assert time.process_time() - started < 1
