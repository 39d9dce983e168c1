"""Tables, records and notebooks whose cells, columns or numbers have no end."""

import json
import struct
from collections.abc import Iterator

from tests.formats.hostile.office import KINDS, SHEET, WORKBOOK, file_of, packed, relations
from tests.formats.hostile.recipe import MIB, Hostile, Recipe, deflated, noise, repeated, stored

_FREE, _END = 0xFFFFFFFF, 0xFFFFFFFE
_OLE_HEAD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def _sheet(rows: str, after: str = "", *, shared: str | None = None) -> bytes:
    """A workbook of one sheet."""
    text = f'<worksheet xmlns="{SHEET}"><sheetData>{rows}</sheetData>{after}</worksheet>'
    more = [] if shared is None else [deflated("xl/sharedStrings.xml", f'<sst xmlns="{SHEET}">{shared}</sst>'.encode())]
    kind = KINDS["xlsx"]
    return packed(kind, deflated(kind.part, text.encode()), *more)


def _shared_bomb(length: int, count: int) -> bytes:
    cells = "".join(f'<row r="{n + 1}"><c r="A{n + 1}" t="s"><v>0</v></c></row>' for n in range(count))
    return _sheet(cells, shared=f"<si><t>{'word ' * (length // 5)}</t></si>")


def _shared_numbers() -> bytes:
    numbers = ("-1", "99999999999", "2147483648", "1e9", "0x10", "", "NaN", "٣")
    return _sheet(
        "".join(f'<row><c t="s"><v>{number}</v></c></row>' for number in numbers), shared="<si><t>one</t></si>"
    )


def _many_sheets(count: int) -> bytes:
    kind = KINDS["xlsx"]
    sheets = "".join(f'<sheet name="S{n}" sheetId="{n + 1}" r:id="r0"/>' for n in range(count))
    book = WORKBOOK[2][1].replace('<sheet name="S" sheetId="1" r:id="r0"/>', sheets)
    text = kind.opening + kind.paragraph.format("cell " * 1000) * 1000 + kind.closing
    return packed(kind, deflated(kind.part, text.encode()), deflated("xl/workbook.xml", book.encode()))


def _own_relations() -> bytes:
    """A sheet that is the workbook, whose texts are the sheet."""
    kind = KINDS["xlsx"]
    loop = relations(("worksheet", "workbook.xml"), ("sharedStrings", "workbook.xml"), ("styles", "workbook.xml"))
    return packed(
        kind, deflated(kind.part, b"<worksheet/>"), deflated("xl/_rels/workbook.xml.rels", loop.encode()),
    )  # fmt: skip


def _formats(count: int) -> bytes:
    codes = "".join(f'<numFmt numFmtId="{n}" formatCode="{"[h]" * 40}0{"#" * 2000}"/>' for n in range(count))
    xfs = "".join(f'<xf numFmtId="{n}"/>' for n in range(count))
    styles = f'<styleSheet xmlns="{SHEET}"><numFmts>{codes}</numFmts><cellXfs>{xfs}</cellXfs></styleSheet>'
    kind = KINDS["xlsx"]
    numbers = ("1e308", "-1e308", "1e-308", "inf", "nan", "9" * 400, "2958466", "-700000")
    rows = "".join(f'<row><c s="{s}"><v>{number}</v></c></row>' for number in numbers for s in range(0, count, 7))
    text = kind.opening + rows + kind.closing
    return packed(kind, deflated(kind.part, text.encode()), deflated("xl/styles.xml", styles.encode()))


def _workbooks(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(100_000, 1000)
    corner = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    yield Hostile("xlsx/corner.xlsx", lambda: _sheet(corner, '<dimension ref="A1:XFD1048576"/>'), "ready")
    yield Hostile("xlsx/shared.xlsx", lambda: _shared_bomb(recipe.sized(MIB, 100_000), many), "failed")
    yield Hostile("xlsx/shared-numbers.xlsx", _shared_numbers)
    merged = "<mergeCells>{}</mergeCells>"
    yield Hostile(
        "xlsx/merged.xlsx", lambda: _sheet(corner, merged.format('<mergeCell ref="A1:XFD1048576"/>' * many)), "ready"
    )
    yield Hostile("xlsx/sheets.xlsx", lambda: _many_sheets(many))
    yield Hostile("xlsx/loop.xlsx", _own_relations)
    wrong = ("ZZZZZ99999999", "A0", "A-1", "XFE1", "1A", "Ä1", "", "$A$1", "A99999999999999999999")
    yield Hostile(
        "xlsx/places.xlsx", lambda: _sheet("".join(f'<row r="{r[1:]}"><c r="{r}"><v>5</v></c></row>' for r in wrong))
    )
    backwards = "".join(
        f'<row r="{many - n}"><c r="B1"><v>{n}</v></c><c r="A1"><v>x</v></c></row>' for n in range(many)
    )
    yield Hostile("xlsx/backwards.xlsx", lambda: _sheet(backwards))
    columns = "".join(f"<c><v>{n}</v></c>" for n in range(10 * many))
    yield Hostile("xlsx/columns.xlsx", lambda: _sheet(f'<row r="1">{columns}</row>' * 3))
    yield Hostile("xlsx/formats.xlsx", lambda: _formats(recipe.sized(5000, 100)))
    runs = "<is>" + "<r><t>a</t></r>" * (10 * many) + "</is>"
    yield Hostile("xlsx/runs.xlsx", lambda: _sheet(f'<row><c t="inlineStr">{runs}</c></row>' * 3))
    escapes = "_x0000__xD800__xFFFF__x005F_" * many
    yield Hostile("xlsx/escapes.xlsx", lambda: _sheet(f'<row><c t="str"><v>{escapes}</v></c></row>'))
    million = repeated(
        KINDS["xlsx"].part, KINDS["xlsx"].opening.encode(), b"<row><c><v>1</v></c></row>" * 40_000,
        recipe.sized(100), KINDS["xlsx"].closing.encode(),
    )  # fmt: skip
    yield Hostile("xlsx/rows.xlsx", lambda: packed(KINDS["xlsx"], million, stored("padding", noise(recipe.sized(MIB)))))


def _open_tables(recipe: Recipe) -> Iterator[Hostile]:
    cell = '<table:table-cell table:number-columns-repeated="2147483647"><text:p>x</text:p></table:table-cell>'
    row = f'<table:table-row table:number-rows-repeated="2147483647">{cell}</table:table-row>'
    yield Hostile("ods/repeated.ods", lambda: file_of(KINDS["ods"], row * recipe.sized(1000)))
    empty = row.replace("<text:p>x</text:p>", "")
    yield Hostile(
        "ods/repeated-empty.ods", lambda: file_of(KINDS["ods"], empty * 1000 + KINDS["ods"].paragraph.format("x"))
    )
    signs = ("-5", "0", "1e9", "99999999999999999999", "NaN")
    odd = "".join(row.replace("2147483647", sign) for sign in signs)
    yield Hostile("ods/repeated-oddly.ods", lambda: file_of(KINDS["ods"], odd))
    spaces = KINDS["ods"].paragraph.format('a<text:s text:c="2147483647"/>b')
    yield Hostile("ods/spaces.ods", lambda: file_of(KINDS["ods"], spaces * recipe.sized(10_000)))


def _ole(directory: bytes, *, first: int = 0, table: bytes | None = None, rest: bytes = b"") -> bytes:
    """A container of the older office programs: header, table of chains, directory."""
    head = _OLE_HEAD + bytes(16) + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    head += struct.pack("<9I", 0, 1, 1 + first, 0, 4096, _END, 0, _END, 0) + struct.pack("<I", 0) + b"\xff" * (108 * 4)
    chains = table or struct.pack("<4I", 0xFFFFFFFD, _END, 3, _END) + b"\xff" * (512 - 16)
    return head + chains + directory.ljust(512, b"\0") + rest


def _entry(name: str, kind: int, left: int, right: int, inner: int, start: int, size: int) -> bytes:
    coded = name.encode("utf-16-le").ljust(64, b"\0")
    head = coded + struct.pack("<HBB3I", 2 * len(name) + 2, kind, 1, left, right, inner)
    return head + bytes(36) + struct.pack("<IQ", start, size)


def _old_programs(recipe: Recipe) -> Iterator[Hostile]:
    root = _entry("Root Entry", 5, _FREE, _FREE, 1, _END, 0)
    loop = root + _entry("Workbook", 2, 1, 1, _FREE, 2, 2**40) + _entry("WordDocument", 2, 1, 2, 0, 2, 4096)
    yield Hostile("ole/loop.xls", lambda: _ole(loop, rest=bytes(8192)), "failed")
    ring = struct.pack("<4I", 0xFFFFFFFD, 1, 2, 3) + b"\0" * 496
    yield Hostile(
        "ole/ring.xls",
        lambda: _ole(root + _entry("Workbook", 2, _FREE, _FREE, _FREE, 2, 2**31), table=ring, rest=bytes(8192)),
        "failed",
    )
    for name, stream in (("doc", "WordDocument"), ("ppt", "PowerPoint Document"), ("msg", "__properties_version1.0")):
        one = root + _entry(stream, 2, _FREE, _FREE, _FREE, 2, 4096)
        yield Hostile(f"ole/old.{name}", lambda one=one: _ole(one, rest=bytes(8192)), "failed")
    yield Hostile("ole/cut.xls", lambda: _ole(root)[:700], "failed")
    yield Hostile("ole/noise.xls", lambda: _OLE_HEAD + noise(recipe.sized(MIB)), "failed")
    for seed in range(3):
        book = struct.pack("<HHHHI", 0x809, 16, 0x600, 5, 0) + bytes(8) + noise(6000, seed)
        whole = root + _entry("Workbook", 2, _FREE, _FREE, _FREE, 2, len(book))
        chain = [0xFFFFFFFD, _END, *range(3, 14), _END]
        table = struct.pack(f"<{len(chain)}I", *chain).ljust(512, b"\xff")
        yield Hostile(
            f"ole/records{seed}.xls",
            lambda w=whole, t=table, b=book: _ole(w, table=t, rest=b.ljust(8192, b"\0")),
            "failed",
        )
    strings = (
        struct.pack("<HHHHI", 0x809, 16, 0x600, 5, 0)
        + bytes(8)
        + struct.pack("<HHII", 0xFC, 8000, 2**31 - 1, 2**31 - 1)
        + b"\xff\xff\x0c\xff" * 1500
    )
    whole = root + _entry("Workbook", 2, _FREE, _FREE, _FREE, 2, len(strings))
    table = struct.pack("<14I", 0xFFFFFFFD, _END, *range(3, 14), _END).ljust(512, b"\xff")
    yield Hostile("ole/strings.xls", lambda: _ole(whole, table=table, rest=strings.ljust(8192, b"\0")), "failed")


def _delimited(recipe: Recipe) -> Iterator[Hostile]:
    long = recipe.sized(30 * MIB)
    yield Hostile("csv/quote.csv", lambda: b'a,b\n1,"' + b"endless text, and more\n" * (long // 23))
    yield Hostile("csv/quotes.csv", lambda: b'"' * long)
    yield Hostile(
        "csv/columns.csv", lambda: (",".join(f"c{n}" for n in range(recipe.sized(1_000_000))) + "\n").encode() * 3
    )
    wide = ",".join(f"column {n}" for n in range(recipe.sized(100_000)))
    yield Hostile("csv/header.csv", lambda: f"{wide}\n{'1,' * 1000}\n".encode() + b"x,y\n" * recipe.sized(100_000))
    yield Hostile("csv/ragged.csv", lambda: b"".join(b"v," * (n % 997) + b"\n" for n in range(recipe.sized(20_000))))
    yield Hostile("csv/cell.csv", lambda: b"a,b\n1," + b"x" * long + b"\n")
    for place, mark in enumerate(('"', "\\x00", "a", "\n", ";;", "🦀", "")):
        yield Hostile(f"csv/separator{place}.csv", lambda mark=mark: f"sep={mark}\na{mark}b\n1{mark}2\n".encode())
    yield Hostile("csv/nul.csv", lambda: b"sep=\x00\na\x00b\n1\x002\n" * 10)
    yield Hostile("csv/formulas.csv", lambda: b"name,value\n=cmd|' /C calc'!A0,@SUM(1)\n+1,-2\n", "ready")
    yield Hostile("csv/mixed.csv", lambda: b"a;b,c\td|e\n" * recipe.sized(300_000))
    yield Hostile("csv/returns.tsv", lambda: b"a\tb\r1\t2\r" * recipe.sized(500_000))
    yield Hostile("csv/escaped.csv", lambda: b'a,b\n"' + b'""' * (long // 2) + b'",2\n')
    yield Hostile("csv/rows.csv", lambda: b"a,b\n" + b"1,2\n" * recipe.sized(1_500_000))


def _records(recipe: Recipe) -> Iterator[Hostile]:
    deep = recipe.sized(1_000_000, 100_000)
    for place, (begin, end) in enumerate((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"))):
        yield Hostile(f"json/deep{place}.json", lambda b=begin, e=end: (b * deep + "1" + e * deep).encode())
        yield Hostile(f"json/open{place}.json", lambda b=begin: (b * deep).encode())
    yield Hostile("json/deep.jsonl", lambda: (b"[" * 100_000 + b"]" * 100_000 + b"\n") * recipe.sized(30))
    yield Hostile("json/digits.json", lambda: b'{"n": ' + b"9" * recipe.sized(10 * MIB) + b"}", "ready")
    yield Hostile("json/numbers.json", lambda: b"[1e999999, -1e999999, NaN, Infinity, 0.1e-999999, -0]", "ready")
    yield Hostile(
        "json/keys.json", lambda: ("{" + ",".join('"k": 1' for _ in range(recipe.sized(1_000_000))) + "}").encode()
    )
    yield Hostile("json/key.json", lambda: b'{"' + b"k" * recipe.sized(10 * MIB) + b'": {"b": {"c": "text"}}}')
    yield Hostile("json/list.json", lambda: b"[" + b"1," * recipe.sized(5_000_000) + b"1]")
    yield Hostile(
        "json/surrogates.json", lambda: b'["\\ud800", "\\udfff\\ud83d", "\\u0000", "\\ud83d\\ude00"]', "ready"
    )
    yield Hostile("json/escapes.json", lambda: b'["' + b"\\u0041\\n" * recipe.sized(3_000_000) + b'"]')
    yield Hostile("json/line.jsonl", lambda: b'{"a": "' + b"text " * recipe.sized(10 * MIB) + b'"}\n{"b": 1}\n')
    yield Hostile("json/lines.jsonl", lambda: b'{"a": 1}\n' * recipe.sized(1_000_000))
    yield Hostile("json/cut.json", lambda: b'{"a": ["text", {"b": ' * 3, "ready")


def _notebooks(recipe: Recipe) -> Iterator[Hostile]:
    def book(*cells: object, **more: object) -> bytes:
        return json.dumps({"cells": [*cells], "metadata": {}, "nbformat": 4, "nbformat_minor": 5} | more).encode()

    def code(*outputs: object) -> dict[str, object]:
        return {"cell_type": "code", "metadata": {}, "source": "x = 1", "outputs": [*outputs], "execution_count": 1}

    long = recipe.sized(30 * MIB)
    yield Hostile(
        "ipynb/output.ipynb",
        lambda: book(code({"output_type": "stream", "name": "stdout", "text": "a line\n" * (long // 7)})),
    )
    yield Hostile(
        "ipynb/picture.ipynb",
        lambda: book(code({"output_type": "display_data", "data": {"image/png": "iVBO" * (long // 4)}})),
        "ready",
    )
    page = "<table>" * recipe.sized(10_000) + "<script>fetch('" + recipe.url + "')</script>"
    yield Hostile(
        "ipynb/page.ipynb", lambda: book(code({"output_type": "execute_result", "data": {"text/html": page}})), "ready"
    )
    yield Hostile("ipynb/cells.ipynb", lambda: book(*[code()] * recipe.sized(100_000)))
    odd = [
        None,
        5,
        [],
        "cell",
        {},
        {"cell_type": "code", "source": {"a": 1}},
        {"cell_type": "markdown", "source": [1, None, ["x"]]},
        code(None, 5, {"output_type": []}),
    ]
    yield Hostile("ipynb/odd.ipynb", lambda: book(*odd))
    yield Hostile("ipynb/no-list.ipynb", lambda: json.dumps({"cells": {"a": 1}, "nbformat": "x"}).encode())
    deep = b'{"cells": [{"cell_type": "code", "source": "x", "outputs": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]}"
    yield Hostile("ipynb/deep.ipynb", lambda: deep)
    markdown = {"cell_type": "markdown", "metadata": {}, "source": ["> " * recipe.sized(100_000) + "x"]}
    yield Hostile(
        "ipynb/markdown.ipynb", lambda: book(markdown, {"cell_type": "markdown", "source": "[" * recipe.sized(200_000)})
    )
    trace = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[0;31m" * recipe.sized(500_000)]}
    yield Hostile("ipynb/colours.ipynb", lambda: book(code(trace)), "ready")


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return tables of every kind."""
    yield from _workbooks(recipe)
    yield from _open_tables(recipe)
    yield from _old_programs(recipe)
    yield from _delimited(recipe)
    yield from _records(recipe)
    yield from _notebooks(recipe)
