"""PDF files whose trees and chains loop, whose streams expand, whose numbers lie."""

import io
import zlib
from collections.abc import Iterator, Mapping

from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from tests.formats.hostile.recipe import MIB, Hostile, Recipe, noise, repeated

_FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
_SHOW = b"BT /F 12 Tf 72 700 Td (A harbour lies here, and a ship in it.) Tj ET"
_CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
_KIDS = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"


def stream(content: bytes, more: bytes = b"") -> bytes:
    """Write a stream; `more` is the rest of its dictionary."""
    return b"<</Length %d%s>>\nstream\n%s\nendstream" % (len(content), more, content)


def page(more: bytes = b"", contents: bytes = b"4 0 R", box: bytes = b"[0 0 612 792]") -> bytes:
    return b"<</Type/Page/Parent 2 0 R/MediaBox%s/Contents %s/Resources<</Font<</F 5 0 R>>>>%s>>" % (
        box,
        contents,
        more,
    )


def _pdf(objects: Mapping[int, bytes] | None = None, trailer: bytes = b"", *, show: bytes = _SHOW) -> bytes:
    """A file of one page, some of whose objects are others."""
    parts = {1: _CATALOG, 2: _KIDS, 3: page(), 4: stream(show), 5: _FONT} | dict(objects or {})
    body = bytearray(b"%PDF-1.7\n")
    places = {}
    for number, content in sorted(parts.items()):
        places[number] = len(body)
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    at = len(body)
    for number, place in places.items():
        body += (b"xref\n" if number == min(places) else b"") + b"%d 1\n%010d 00000 n \n" % (number, place)
    body += b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (max(places) + 1, trailer, at)
    return bytes(body)


def simple(text: str) -> bytes:
    """A file of one page that says something."""
    return _pdf(show=b"BT /F 12 Tf 72 700 Td (%s) Tj ET" % text.encode("latin-1"))


def _bomb(count: int, filters: bytes, *, twice: bool) -> bytes:
    """A drawing of `count` MiB of blanks."""
    packed = b"\x78\x9c" + repeated("", b"", b" " * MIB, count, b"", tells=0).packed
    if twice:
        packed = zlib.compress(packed, 9)
    return _pdf({4: stream(packed, b"/Filter" + filters)})


def _tree(depth: int) -> bytes:
    """A tree of pages with one branch."""
    levels = {
        10 + n: b"<</Type/Pages/Parent %d 0 R/Kids[%d 0 R]/Count 1>>" % (9 + n, 11 + n if n < depth - 1 else 3)
        for n in range(depth)
    }
    return _pdf({2: b"<</Type/Pages/Kids[10 0 R]/Count 1>>"} | levels)


def _forms(levels: int, width: int) -> bytes:
    """Drawings that show drawings, each many times."""
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 612 792]/Resources<</Font<</F 5 0 R>>/XObject<</X %d 0 R>>>>"
    objects = {10 + n: stream(b"/X Do " * width if n < levels - 1 else _SHOW, form % (11 + n)) for n in range(levels)}
    own = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>/XObject<</X 10 0 R>>>>>>"
    return _pdf({3: own} | objects, show=b"/X Do " + _SHOW)


def _outline(count: int, *, deep: bool) -> bytes:
    entries = {
        10 + n: b"<</Title(Entry %d)/Parent 9 0 R/Dest[3 0 R/Fit]%s>>"
        % (n, b"/%s %d 0 R" % (b"First" if deep else b"Next", 11 + n) if n < count - 1 else b"")
        for n in range(count)
    }
    root = b"<</Type/Outlines/First 10 0 R/Last 10 0 R/Count %d>>" % count
    return _pdf({1: b"<</Type/Catalog/Pages 2 0 R/Outlines 9 0 R>>", 9: root} | entries)


def _loops() -> Iterator[tuple[str, bytes]]:
    outlined = b"<</Type/Catalog/Pages 2 0 R/Outlines 9 0 R>>"
    nine = b"<</Type/Outlines/First 10 0 R/Last 10 0 R/Count 1>>"
    yield "tree-self", _pdf({2: b"<</Type/Pages/Kids[2 0 R 3 0 R]/Count 2>>"})
    yield (
        "tree-parent",
        _pdf({2: b"<</Type/Pages/Kids[6 0 R 3 0 R]/Count 2>>", 6: b"<</Type/Pages/Parent 2 0 R/Kids[2 0 R]/Count 1>>"}),
    )
    yield "tree-same", _pdf({2: b"<</Type/Pages/Kids[" + b"3 0 R " * 20_000 + b"]/Count 20000>>"})
    yield "count-huge", _pdf({2: b"<</Type/Pages/Kids[3 0 R]/Count 2147483647>>"})
    yield "count-negative", _pdf({2: b"<</Type/Pages/Kids[3 0 R]/Count -5>>"})
    yield "outline-next", _pdf({1: outlined, 9: nine, 10: b"<</Title(A)/Parent 9 0 R/Next 10 0 R/Dest[3 0 R/Fit]>>"})
    yield "outline-first", _pdf({1: outlined, 9: nine, 10: b"<</Title(A)/Parent 9 0 R/First 9 0 R/Dest[3 0 R/Fit]>>"})
    yield (
        "outline-pair",
        _pdf(
            {
                1: outlined,
                9: nine,
                10: b"<</Title(A)/First 11 0 R/Next 11 0 R>>",
                11: b"<</Title(B)/First 10 0 R/Next 10 0 R>>",
            }
        ),
    )
    yield "object-self", _pdf({4: b"4 0 R"})
    yield "objects-pair", _pdf({4: b"6 0 R", 6: b"4 0 R"})
    yield "length-self", _pdf({4: b"<</Length 4 0 R>>\nstream\n" + _SHOW + b"\nendstream"})
    yield "length-huge", _pdf({4: b"<</Length 99999999999>>\nstream\n" + _SHOW + b"\nendstream"})
    yield "length-negative", _pdf({4: b"<</Length -1>>\nstream\n" + _SHOW + b"\nendstream"})
    yield "table-previous", _pdf(trailer=b"/Prev 400")
    whole = _pdf()
    at = whole.rindex(b"xref", 0, whole.rindex(b"startxref"))
    yield "table-itself", _pdf(trailer=b"/Prev %d" % at)
    yield "table-stream-itself", _pdf(trailer=b"/XRefStm %d" % at)
    lying = (
        b"%PDF-1.7\n1 0 obj"
        + _CATALOG
        + b"endobj\nxref\n0 2147483647\n0000000000 65535 f \ntrailer<</Size 2147483647/Root 1 0 R>>\nstartxref\n53\n%%EOF"
    )
    yield "table-huge", lying
    table = b"/Type/XRef/W[8 8 8]/Index[0 2147483647]/Size 2147483647/Root 1 0 R"
    yield "table-stream-huge", b"%PDF-1.7\n9 0 obj\n" + stream(bytes(48), table) + b"\nendobj\nstartxref\n9\n%%EOF"
    packed = b"/Type/ObjStm/N 2147483647/First 20/Extends 6 0 R"
    yield "objects-in-themselves", _pdf({6: stream(b"6 0 4 10 7 20 " + b"<<>> " * 10, packed), 4: b"7 0 R"})
    yield "labels-loop", _pdf({1: b"<</Type/Catalog/Pages 2 0 R/PageLabels 6 0 R>>", 6: b"<</Kids[6 0 R 6 0 R]>>"})
    yield (
        "names-loop",
        _pdf({1: b"<</Type/Catalog/Pages 2 0 R/Names<</Dests 6 0 R>>>>", 6: b"<</Kids[6 0 R]/Limits[(a)(z)]>>"}),
    )
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 6 0 R>>/Font<</F 5 0 R>>>>"
    own = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>/XObject<</X 6 0 R>>>>>>"
    yield "form-self", _pdf({3: own, 6: stream(b"/X Do " * 10 + _SHOW, form)}, show=b"/X Do " + _SHOW)
    drawn = b"<</Type/Font/Subtype/Type3/FontBBox[0 0 9 9]/FontMatrix[1 0 0 1 0 0]/FirstChar 65/LastChar 65/Widths[9]/Encoding<</Differences[65/A]>>/CharProcs<</A 6 0 R>>/Resources<</Font<</F 5 0 R>>>>>>"
    yield "font-self", _pdf({5: drawn, 6: stream(b"9 0 d0 BT /F 9 Tf (AAAA) Tj ET")}, show=b"BT /F 9 Tf (AAAA) Tj ET")
    yield "font-missing", _pdf({5: b"null"})
    yield (
        "font-wrong",
        _pdf(
            {
                5: b"<</Type/Font/Subtype/TrueType/BaseFont/../../../etc/passwd/FirstChar -5/LastChar 99999/Widths 5 0 R>>"
            }
        ),
    )


def _contents(recipe: Recipe) -> Iterator[tuple[str, bytes]]:
    many = recipe.sized(1_000_000, 20_000)
    for name, unit in {
        "states": b"q ", "arrays": b"[", "texts": b"BT ", "dictionaries": b"<<", "strings": b"(", "marked": b"/P <</MCID 0>> BDC ",
        "clips": b"0 0 9 9 re W n ", "numbers": b"9" * 300 + b" Td ", "images": b"BI /W 9 /H 9 ID ", "matrices": b"1e30 0 0 1e30 0 0 cm ",
    }.items():  # fmt: skip
        yield f"many-{name}", _pdf(show=unit * (many // (1 + len(unit) // 10)) + _SHOW)
    yield "same-place", _pdf(show=b"BT /F 12 Tf 72 700 Td " + b"(word ) Tj " * (many // 5) + b"ET")
    yield "moves", _pdf(show=b"BT /F 12 Tf " + b"1 0 0 1 9 9 Tm (a) Tj " * (many // 10) + b"ET")
    yield (
        "scattered",
        _pdf(
            show=b"BT /F 1 Tf "
            + b"".join(b"1 0 0 1 %d %d Tm (w%d) Tj " % (n * 7919 % 600, n * 104729 % 790, n) for n in range(many // 20))
            + b"ET"
        ),
    )
    yield "long-string", _pdf(show=b"BT /F 12 Tf 72 700 Td (" + b"word " * many + b") Tj ET")
    yield "sizes", _pdf(show=b"BT /F 1e38 Tf 1e38 -1e38 Td (a) Tj /F -0.0000001 Tf (b) Tj /F 0 Tf (c) Tj ET" + _SHOW)
    for name, box in {
        "huge": b"[0 0 1e38 1e38]",
        "none": b"[0 0 0 0]",
        "back": b"[9 9 -9 -9]",
        "words": b"[/a /b (c) null]",
        "short": b"[1]",
    }.items():
        yield f"box-{name}", _pdf({3: page(box=box)})
    yield "turned", _pdf({3: page(b"/Rotate 999999999/UserUnit 1e30")})
    yield "contents-many", _pdf({3: page(contents=b"[" + b"4 0 R " * (many // 20) + b"]")})
    yield "dictionary-deep", _pdf({6: b"<</A" * many + b">>" * many})
    yield "array-deep", _pdf({3: page(b"/A" + b"[" * many + b"]" * many)})
    yield "name-long", _pdf({3: page(b"/" + b"n" * (10 * many) + b" 1")})
    codes = b"1 beginbfrange <00> <ff> <" + b"0041" * 20_000 + b"> endbfrange\n"
    cmap = b"/CIDInit /ProcSet findresource begin 1 begincodespacerange <00> <ff> endcodespacerange\n" + codes * 10
    yield "codes", _pdf({5: b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>", 6: stream(cmap)})
    odd = b"1 beginbfrange <00> <ff> <d800> endbfrange 1 beginbfchar <41> <0000> endbfchar"
    yield "codes-odd", _pdf({5: b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>", 6: stream(odd)})


def _streams(recipe: Recipe) -> Iterator[tuple[str, bytes]]:
    size = recipe.sized(2000, 100)
    yield "bomb", _bomb(size, b"/FlateDecode", twice=False)
    yield "bomb-twice", _bomb(size, b"[/FlateDecode/FlateDecode]", twice=True)
    yield (
        "filters",
        _pdf(
            {4: stream(b"x\x9c\x03\x00\x00\x00\x00\x01", b"/Filter[" + b"/FlateDecode" * recipe.sized(100_000) + b"]")}
        ),
    )
    yield "filters-hex", _pdf({4: stream(b"41" * 100_000 + b">", b"/Filter[" + b"/ASCIIHexDecode" * 1000 + b"]")})
    yield "lengths", _pdf({4: stream(b"\x81 " * MIB + b"\x80", b"/Filter/RunLengthDecode")})
    yield "words", _pdf({4: stream(noise(MIB), b"/Filter/LZWDecode")})
    yield (
        "predictor",
        _pdf(
            {
                4: stream(
                    zlib.compress(b"x" * 1000),
                    b"/Filter/FlateDecode/DecodeParms<</Predictor 15/Columns 2147483647/Colors 32/BitsPerComponent 32>>",
                )
            }
        ),
    )
    own = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</XObject<</X 6 0 R>>>>>>"
    image = b"/Type/XObject/Subtype/Image/Width %d/Height %d/BitsPerComponent 8/ColorSpace/DeviceRGB/Filter/%s"
    for name in (b"JBIG2Decode", b"JPXDecode", b"DCTDecode", b"CCITTFaxDecode", b"FlateDecode"):
        for place, side in enumerate((1_000_000, 2_147_483_647)):
            content = noise(1000) if name != b"FlateDecode" else zlib.compress(bytes(1000))
            yield (
                f"picture-{name[:4].decode().lower()}{place}",
                _pdf({3: own, 6: stream(content, image % (side, side, name))}, show=b"/X Do"),
            )


def _doings(recipe: Recipe) -> Iterator[tuple[str, bytes]]:
    url, file = recipe.url.encode(), str(recipe.file).encode()
    actions = {
        "script": b"<</S/JavaScript/JS(app.launchURL\\('%s'\\); this.exportDataObject)>>" % url,
        "launch": b"<</S/Launch/F(%s)/Win<</F(cmd.exe)>>>>" % file,
        "address": b"<</S/URI/URI(%s)>>" % url,
        "submit": b"<</S/SubmitForm/F<</FS/URL/F(%s)>>>>" % url,
        "other-file": b"<</S/GoToR/F(%s)/D[0/Fit]>>" % file,
    }
    for name, action in actions.items():
        yield f"does-{name}", _pdf({1: b"<</Type/Catalog/Pages 2 0 R/OpenAction %s/AA<</WC %s>>>>" % (action, action)})
    outside = b"/Type/XObject/Subtype/Form/F<</FS/URL/F(%s)>>" % url
    yield "stream-elsewhere", _pdf({4: stream(b"", b"/F<</FS/URL/F(%s)>>" % url), 6: stream(b"", outside)})
    form = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "%s">]><x>&e;</x>' % recipe.file.as_uri().encode()
    yield "form", _pdf({1: b"<</Type/Catalog/Pages 2 0 R/AcroForm<</XFA 6 0 R/Fields[6 0 R]>>>>", 6: stream(form)})
    for version, revision in ((5, 6), (4, 4), (1, 2), (99, 99), (-1, -1)):
        locked = b"/Encrypt<</Filter/Standard/V %d/R %d/O(%s)/U(%s)/P -4/Length 99999>>/ID[(a)(b)]" % (
            version, revision, b"o" * 32, b"u" * 32,
        )  # fmt: skip
        yield f"locked{revision}", _pdf(trailer=locked)


def _canvas(pages: int, encrypt: StandardEncryption | None = None) -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file, encrypt=encrypt)
    for number in range(pages):
        canvas.drawString(72, 700, f"Page {number} tells of a harbour.")
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def _cut(percent: int) -> bytes:
    whole = _canvas(20)
    return whole[: len(whole) * percent // 100]


def _empty_pages(count: int) -> bytes:
    numbers = range(10, 10 + count)
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    pages = dict.fromkeys(numbers, b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>")
    return _pdf({2: b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, count)} | pages)


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return PDF files."""
    for group in (_loops(), _contents(recipe), _streams(recipe), _doings(recipe)):
        for name, content in group:
            yield Hostile(f"pdf/{name}.pdf", lambda content=content: content)
    yield Hostile("pdf/tree-deep.pdf", lambda: _tree(recipe.sized(100_000, 2000)))
    yield Hostile("pdf/forms.pdf", lambda: _forms(10, 10))
    yield Hostile("pdf/forms-wide.pdf", lambda: _forms(5, recipe.sized(1000, 30)))
    yield Hostile("pdf/outline-long.pdf", lambda: _outline(recipe.sized(100_000, 2000), deep=False))
    yield Hostile("pdf/outline-deep.pdf", lambda: _outline(recipe.sized(100_000, 2000), deep=True))
    yield Hostile("pdf/empty-pages.pdf", lambda: _empty_pages(recipe.sized(100_000, 2000)))
    yield Hostile("pdf/pages.pdf", lambda: _canvas(recipe.sized(5000, 50)), "ready")
    yield Hostile("pdf/locked-truly.pdf", lambda: _canvas(2, StandardEncryption("secret")), "failed")
    for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99):
        yield Hostile(f"pdf/cut{percent:02}.pdf", lambda percent=percent: _cut(percent))
    yield Hostile(
        "pdf/updates.pdf", lambda: _pdf() + b"".join(b"4 0 obj\n%s\nendobj\n" % stream(_SHOW) for _ in range(10_000))
    )
    yield Hostile("pdf/head.pdf", lambda: b"%PDF-1.7\n", "failed")
    yield Hostile("pdf/noise.pdf", lambda: b"%PDF-1.7\n" + noise(MIB), "failed")
    yield Hostile("pdf/objects.pdf", lambda: b"%PDF-1.7\n" + b"1 0 obj<<>>endobj\n" * recipe.sized(500_000), "failed")
    yield Hostile("pdf/half-numbers.pdf", lambda: b"%PDF-1.7\n" + b"1 0 " * recipe.sized(2_000_000), "failed")
    yield Hostile("pdf/starts.pdf", lambda: b"%PDF-1.7\n" + b"startxref\n9\n" * recipe.sized(500_000), "failed")
