"""Documents, slides, sheets and books whose XML expands, nests, lies, or leads elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.formats.hostile.recipe import (
    MIB,
    Entry,
    Hostile,
    Recipe,
    deflated,
    entity_attacks,
    noise,
    repeated,
    stored,
    zipped,
)

_OPEN = "urn:oasis:names:tc:opendocument:xmlns"
_OPEN_ROOT = (
    f'<office:document-content xmlns:office="{_OPEN}:office:1.0" xmlns:text="{_OPEN}:text:1.0" xmlns:table="{_OPEN}:table:1.0" '
    f'xmlns:draw="{_OPEN}:drawing:1.0" xmlns:style="{_OPEN}:style:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"><office:body>'
)
_OPEN_END = "</office:body></office:document-content>"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


@dataclass(frozen=True, slots=True)
class Kind:
    """How text stands in one kind of file: `opening` one `paragraph` after the other `closing`, in `part`."""

    suffix: str
    part: str
    root: str
    opening: str
    closing: str
    paragraph: str
    nest: tuple[str, str]
    others: tuple[tuple[str, str], ...]


def relations(*kinds_and_targets: tuple[str, str]) -> str:
    """Write the relations of a part: `r0`, `r1` and so on."""
    entries = (
        f'<Relationship Id="r{place}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for place, (kind, target) in enumerate(kinds_and_targets)
    )
    return f'<Relationships xmlns="{_RELATIONS}">{"".join(entries)}</Relationships>'


def _open_kind(suffix: str, kind: str, before: str, after: str, paragraph: str, nest: tuple[str, str]) -> Kind:
    return Kind(
        suffix, "content.xml", "office:document-content", f"{_OPEN_ROOT}<office:{kind}>{before}",
        f"{after}</office:{kind}>{_OPEN_END}", paragraph, nest,
        (("mimetype", f"application/vnd.oasis.opendocument.{kind}"),),
    )  # fmt: skip


_TYPES = ("[Content_Types].xml", '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>')
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
WORKBOOK = (
    _TYPES,
    ("_rels/.rels", relations(("officeDocument", "xl/workbook.xml"))),
    (
        "xl/workbook.xml",
        f'<workbook xmlns="{SHEET}" xmlns:r="{_OFFICE}"><sheets><sheet name="S" sheetId="1" r:id="r0"/></sheets></workbook>',
    ),
    (
        "xl/_rels/workbook.xml.rels",
        relations(
            ("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml"), ("styles", "styles.xml")
        ),
    ),
)
_DECK = (
    _TYPES,
    ("_rels/.rels", relations(("officeDocument", "ppt/presentation.xml"))),
    (
        "ppt/presentation.xml",
        (
            '<p:presentation xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
            f'xmlns:r="{_OFFICE}"><p:sldIdLst><p:sldId id="256" r:id="r0"/></p:sldIdLst></p:presentation>'
        ),
    ),
    ("ppt/_rels/presentation.xml.rels", relations(("slide", "slides/slide1.xml"))),
)
_BOOK = (
    ("mimetype", "application/epub+zip"),
    (
        "META-INF/container.xml",
        (
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="p.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
        ),
    ),
    (
        "p.opf",
        (
            '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/><manifest>'
            '<item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="c"/></spine></package>'
        ),
    ),
)
_SHAPE = (
    '<p:sld xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><p:cSld><p:spTree>'
)
KINDS = {
    kind.suffix: kind
    for kind in (
        Kind(
            "docx", "word/document.xml", "w:document",
            '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>',
            "</w:body></w:document>", "<w:p><w:r><w:t>{}</w:t></w:r></w:p>", ("<w:sdt>", "</w:sdt>"), (_TYPES,),
        ),
        Kind(
            "pptx", "ppt/slides/slide1.xml", "p:sld", _SHAPE, "</p:spTree></p:cSld></p:sld>",
            "<p:sp><p:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:txBody></p:sp>", ("<p:grpSp>", "</p:grpSp>"), _DECK,
        ),
        Kind(
            "xlsx", "xl/worksheets/sheet1.xml", "worksheet", f'<worksheet xmlns="{SHEET}"><sheetData>',
            "</sheetData></worksheet>", '<row><c t="inlineStr"><is><t>{}</t></is></c></row>', ("<row>", "</row>"), WORKBOOK,
        ),
        Kind(
            "epub", "c.xhtml", "html", '<html xmlns="http://www.w3.org/1999/xhtml"><body>', "</body></html>",
            "<p>{}</p>", ("<div>", "</div>"), _BOOK,
        ),
        _open_kind("odt", "text", "", "", "<text:p>{}</text:p>", ("<text:section>", "</text:section>")),
        _open_kind(
            "odp", "presentation", "<draw:page><draw:frame><draw:text-box>", "</draw:text-box></draw:frame></draw:page>",
            "<text:p>{}</text:p>", ("<draw:g>", "</draw:g>"),
        ),
        _open_kind(
            "ods", "spreadsheet", "<table:table>", "</table:table>",
            "<table:table-row><table:table-cell><text:p>{}</text:p></table:table-cell></table:table-row>",
            ("<table:table-row-group>", "</table:table-row-group>"),
        ),
    )
}  # fmt: skip


def file_of(kind: Kind, body: str, *more: Entry, before: str = "") -> bytes:
    """A file of a kind whose main part holds this body behind what stands before its root."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>{before}{kind.opening}{body}{kind.closing}'
    return packed(kind, deflated(kind.part, text.encode()), *more)


def packed(kind: Kind, main: Entry, *more: Entry) -> bytes:
    """A file of a kind with this main part."""
    given = {main.name, *(entry.name for entry in more)}
    others = [
        stored(name, text.encode()) if name == "mimetype" else deflated(name, text.encode())
        for name, text in kind.others
        if name.encode() not in given
    ]
    return zipped([*others, main, *more])


def _bomb(kind: Kind, count: int, *, padding: int = 0, tells: int | None = None, text: str = "harbour ") -> bytes:
    """A part that is unpacked to `count` MiB of paragraphs; padding makes the file large enough to be believed."""
    one = kind.paragraph.format(text * 100).encode()
    block = one * (MIB // len(one))
    head, tail = kind.opening.encode(), kind.closing.encode()
    return packed(kind, repeated(kind.part, head, block, count, tail, tells=tells), stored("padding", noise(padding)))


def _dense(kind: Kind, mebibytes: int) -> bytes:
    """As many elements as fit."""
    one = kind.paragraph.format("x").encode()
    block = one * (MIB // len(one))
    main = repeated(kind.part, kind.opening.encode(), block, mebibytes, kind.closing.encode())
    return packed(kind, main, stored("padding", noise(mebibytes * MIB // 200)))


def _of_each_kind(kind: Kind, recipe: Recipe) -> Iterator[tuple[str, Callable[[], bytes], str]]:
    text = kind.paragraph.format
    many = recipe.sized(100_000, 2000)
    yield "bomb", lambda: _bomb(kind, recipe.sized(1500, 64)), "failed"
    yield "lie", lambda: _bomb(kind, recipe.sized(512, 64), tells=5000), "failed"
    yield "believed", lambda: _bomb(kind, recipe.sized(100), padding=recipe.sized(MIB)), ""
    yield "dense", lambda: _dense(kind, recipe.sized(120)), ""
    for name, (doctype, reference) in entity_attacks(recipe, kind.root).items():
        yield name, lambda d=doctype, r=reference: file_of(kind, text(r), before=d), ""
    yield "deep", lambda: file_of(kind, kind.nest[0] * many + text("deep") + kind.nest[1] * many), "failed"
    attributes = (f'a{number}="{number}"' for number in range(10 * many))
    yield "attributes", lambda: file_of(kind, text("x") + f"<x {' '.join(attributes)}/>"), ""
    yield "long-value", lambda: file_of(kind, text("x") + f'<x a="{"v" * recipe.sized(40 * MIB)}"/>'), ""
    yield "long-text", lambda: file_of(kind, text("word " * recipe.sized(4 * MIB))), ""
    yield "namespaces", lambda: file_of(kind, "".join(f'<n{n}:x xmlns:n{n}="u{n}"/>' for n in range(many))), ""
    yield "cut", lambda: packed(kind, deflated(kind.part, (kind.opening + text("half")).encode())), ""
    yield "binary", lambda: packed(kind, deflated(kind.part, noise(100_000))), "failed"


def _notes_that_refer(count: int) -> bytes:
    """Each note of a document refers to the next one."""
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    notes = "".join(
        f'<w:footnote w:id="{number}"><w:p><w:r><w:t>Note {number}.</w:t><w:footnoteReference w:id="{number + 1}"/></w:r></w:p>'
        "</w:footnote>"
        for number in range(count)
    )
    return file_of(
        KINDS["docx"], '<w:p><w:r><w:t>Text.</w:t><w:footnoteReference w:id="0"/></w:r></w:p>',
        deflated("_rels/.rels", relations(("officeDocument", "word/document.xml")).encode()),
        deflated("word/_rels/document.xml.rels", relations(("footnotes", "footnotes.xml")).encode()),
        deflated("word/footnotes.xml", f"<w:footnotes {names}>{notes}</w:footnotes>".encode()),
    )  # fmt: skip


def _styles_that_loop(count: int) -> bytes:
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    styles = "".join(
        f'<w:style w:styleId="s{n}" w:type="paragraph"><w:name w:val="s{n}"/><w:basedOn w:val="s{(n + 1) % count}"/></w:style>'
        for n in range(count)
    )
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="s{n}"/></w:pPr><w:r><w:t>Text {n}.</w:t></w:r></w:p>'
        for n in range(0, count, 10)
    )
    return file_of(
        KINDS["docx"], body,
        deflated("_rels/.rels", relations(("officeDocument", "word/document.xml")).encode()),
        deflated("word/_rels/document.xml.rels", relations(("styles", "styles.xml")).encode()),
        deflated("word/styles.xml", f"<w:styles {names}>{styles}</w:styles>".encode()),
    )  # fmt: skip


def _nested_tables(depth: int) -> bytes:
    cell = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc>"
    return file_of(KINDS["docx"], cell * depth + "</w:tc></w:tr></w:tbl>" * depth)


def _elsewhere(recipe: Recipe) -> bytes:
    """A document all of whose relations lead out of it."""
    targets = [recipe.url + "template", recipe.file.as_uri(), "../../../../../etc/passwd", "\\\\server\\share", "/"]
    kinds = ["attachedTemplate", "footnotes", "styles", "numbering", "aFChunk"]
    outside = relations(*zip(kinds, targets, strict=True))
    return file_of(
        KINDS["docx"], KINDS["docx"].paragraph.format("Text.") + '<w:altChunk xmlns:r="r" r:id="r4"/>',
        deflated("word/_rels/document.xml.rels", outside.replace("/>", ' TargetMode="External"/>').encode()),
        deflated("_rels/.rels", relations(("officeDocument", "word/document.xml"), ("core-properties", "../..")).encode()),
    )  # fmt: skip


def _slides(count: int, *, are_same: bool) -> bytes:
    ids = "".join(f'<p:sldId id="{256 + n}" r:id="r{0 if are_same else n}"/>' for n in range(count))
    main = (
        '<p:presentation xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
        f'xmlns:r="{_OFFICE}"><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>'
    )
    slide = KINDS["pptx"]
    text = slide.opening + slide.paragraph.format("A slide. " * 1000) + slide.closing
    linked = relations(*(("slide", f"slides/slide{1 if are_same else n + 1}.xml") for n in range(count)))
    own = relations(("notesSlide", "slide1.xml"), ("diagramData", "slide1.xml"), ("slideLayout", "slide1.xml"))
    return packed(
        slide, deflated(slide.part, text.encode()), deflated("ppt/presentation.xml", main.encode()),
        deflated("ppt/_rels/presentation.xml.rels", linked.encode()),
        deflated("ppt/slides/_rels/slide1.xml.rels", own.encode()),
    )  # fmt: skip


def _book(package: str, *more: Entry) -> bytes:
    book = KINDS["epub"]
    text = book.opening + book.paragraph.format("A page. " * 100) + book.closing
    return packed(book, deflated(book.part, text.encode()), deflated("p.opf", package.encode()), *more)


def _package(items: str, spine: str) -> str:
    return (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:title>T</dc:title></metadata><manifest>{items}</manifest><spine toc="n">{spine}</spine></package>'
    )


def _books(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(100_000, 1000)
    page = '<item id="c" href="c.xhtml" media-type="application/xhtml+xml"/>'
    yield Hostile("epub/spine.epub", lambda: _book(_package(page, '<itemref idref="c"/>' * many)))
    same = "".join(f'<item id="c{n}" href="c.xhtml?{n}#x" media-type="application/xhtml+xml"/>' for n in range(many))
    refs = "".join(f'<itemref idref="c{n}"/>' for n in range(many))
    yield Hostile("epub/same.epub", lambda: _book(_package(same, refs)))
    targets = (
        recipe.url + "page.xhtml",
        recipe.file.as_uri(),
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/x",
        "p.opf",
        "\x07",
    )
    out = "".join(
        f'<item id="c{n}" href="{target if target.isprintable() else "&#9;"}" media-type="application/xhtml+xml"/>'
        for n, target in enumerate(targets)
    )
    refs_out = "".join(f'<itemref idref="c{n}"/>' for n in range(len(targets)))
    yield Hostile("epub/elsewhere.epub", lambda: _book(_package(page + out, '<itemref idref="c"/>' + refs_out)))
    for tag, inner in (
        ("navPoint", "<navLabel><text>t</text></navLabel><content src='c.xhtml'/>"),
        ("li", "<a href='c.xhtml'>t</a>"),
    ):
        root, name = ("ncx", "t.ncx") if tag == "navPoint" else ("html", "t.xhtml")
        deep = f"<{root}>" + f"<{tag}>{inner}" * many + f"</{tag}>" * many + f"</{root}>"
        item = f'<item id="n" href="{name}" media-type="application/x-dtbncx+xml" properties="nav"/>'
        yield Hostile(
            f"epub/deep-{root}.epub",
            lambda name=name, deep=deep, item=item: _book(
                _package(page + item, '<itemref idref="c"/>'), deflated(name, deep.encode())
            ),
        )


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return what an author can do with the XML of each kind, then what only one kind allows."""
    for suffix, kind in KINDS.items():
        for name, write, end in _of_each_kind(kind, recipe):
            is_page = suffix == "epub" and name in ("deep", "binary")  # which a browser shows as well as it can
            yield Hostile(f"{suffix}/{name}.{suffix}", write, "" if is_page else end)
    many = recipe.sized(100_000, 1000)
    yield Hostile("docx/notes.docx", lambda: _notes_that_refer(many))
    yield Hostile("docx/styles.docx", lambda: _styles_that_loop(many))
    yield Hostile("docx/tables.docx", lambda: _nested_tables(60))
    yield Hostile("docx/elsewhere.docx", lambda: _elsewhere(recipe), "ready")
    yield Hostile("pptx/same-slide.pptx", lambda: _slides(many, are_same=True))
    yield Hostile("pptx/missing-slides.pptx", lambda: _slides(many, are_same=False))
    yield from _books(recipe)
    spaces = '<text:p>a<text:s text:c="2147483647"/>b<text:tab/></text:p>'
    yield Hostile("odt/spaces.odt", lambda: file_of(KINDS["odt"], spaces * many), "ready")
    lists = "<text:list><text:list-item>"
    yield Hostile(
        "odt/lists.odt",
        lambda: file_of(KINDS["odt"], lists * 100 + "<text:p>deep</text:p>" + "</text:list-item></text:list>" * 100),
        "ready",
    )
    frames = '<text:p><draw:frame><draw:object xlink:href="./Object 1"/><draw:image xlink:href="{}"/></draw:frame>text</text:p>'
    yield Hostile("odt/elsewhere.odt", lambda: file_of(KINDS["odt"], frames.format(recipe.url + "i.png")), "ready")
