"""Pages, XML, Markdown, RTF and other marked-up text whose marks nest, never end, or lead elsewhere."""

import itertools
from collections.abc import Iterator

from tests.formats.hostile.recipe import MIB, Hostile, Recipe, entity_attacks, noise


def _pages(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(100_000, 2000)
    long = recipe.sized(20 * MIB)
    for tag in ("div", "b", "a", "font", "table", "ul", "blockquote", "svg", "select", "button", "template", "p><b"):
        yield Hostile(
            f"html/deep-{tag[:8].replace('><', '-')}.html",
            lambda tag=tag: f"<!doctype html><body>{f'<{tag}>' * many}text".encode(),
        )
    yield Hostile("html/crossed.html", lambda: b"<html><body>" + b"<b><i><p>x</b></i>" * (many // 4))
    yield Hostile("html/table-in.html", lambda: b"<html><body>" + b"<table><tr><td>x" * (many // 10))
    yield Hostile("html/fostered.html", lambda: b"<html><body><table>" + b"x<b>" * (many // 4))
    attributes = " ".join(f"a{n}=1" for n in range(10 * many))
    yield Hostile("html/attributes.html", lambda: f"<html><body {attributes}><p>text".encode())
    yield Hostile("html/value.html", lambda: b"<html><body><p title='" + b"v" * long + b"'>text")
    yield Hostile("html/name.html", lambda: b"<html><body><" + b"n" * long + b">text")
    yield Hostile("html/remark.html", lambda: b"<html><body><p>text<!--" + b"- " * (long // 2))
    yield Hostile("html/remarks.html", lambda: b"<html><body>" + b"<!-->" * (long // 50) + b"text")
    yield Hostile("html/script.html", lambda: b"<html><body>text<script>" + b"</scrip" * (long // 8))
    yield Hostile("html/plain.html", lambda: b"<html><body><plaintext>" + b"<p>" * (long // 30))
    yield Hostile(
        "html/entities.html", lambda: b"<html><body><p>" + b"&amp;&nbsp;&#x110000;&#0;&#xD800;&notanentity" * (many * 2)
    )
    spans = b"<td colspan=1000000000 rowspan=1000000000>x</td>"
    yield Hostile("html/spans.html", lambda: b"<html><body><table>" + (b"<tr>" + spans * 100 + b"</tr>") * 200)
    yield Hostile("html/cells.html", lambda: b"<html><body><table><tr>" + b"<td>x" * (5 * many))
    yield Hostile("html/headings.html", lambda: b"<html><body>" + b"<h1>t</h1>" * (2 * many))
    yield Hostile("html/title.html", lambda: b"<html><title>" + b"word " * (long // 10) + b"</title><p>text")
    yield Hostile("html/nul.html", lambda: b"<html><body><p>a\x00b\x01\x1b</p>\xff\xfe" * 100)
    for place, charset in enumerate(
        ("utf-7", "utf-16", "x-user-defined", "zip", "no-such", "iso-2022-kr", "\x00", "idna")
    ):
        yield Hostile(
            f"html/charset{place}.html",
            lambda charset=charset: f'<html><meta charset="{charset}"><p>+ADw-script é'.encode("latin-1"),
        )
    lures = f"""<!doctype html><base href="{recipe.url}"><link rel=stylesheet href="{recipe.url}s.css"><img src="{recipe.url}i.png">
    <iframe src="{recipe.file.as_uri()}"></iframe><meta http-equiv=refresh content="0;url={recipe.url}r"><script src="{recipe.url}s.js">
    </script><object data="{recipe.file.as_uri()}"></object><video src="{recipe.url}v"></video><p>text"""
    yield Hostile("html/lures.html", lures.encode, "ready")


def _elements(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(100_000, 2000)
    long = recipe.sized(20 * MIB)
    start = '<?xml version="1.0"?>'
    for name, (doctype, reference) in entity_attacks(recipe, "r").items():
        yield Hostile(f"xml/{name}.xml", lambda d=doctype, r=reference: f"{start}{d}<r><t>{r}</t></r>".encode())
    include = f'<r xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{recipe.file.as_uri()}" parse="text"/><xi:include href="{recipe.url}xi"/></r>'
    yield Hostile("xml/include.xml", f"{start}{include}".encode)
    sheet = f'{start}<?xml-stylesheet type="text/xsl" href="{recipe.url}x.xsl"?><r xsi:schemaLocation="a {recipe.url}x.xsd" xmlns:xsi="x">text</r>'
    yield Hostile("xml/stylesheet.xml", sheet.encode, "ready")
    yield Hostile("xml/deep.xml", lambda: (start + "<a>" * many + "x" + "</a>" * many).encode())
    yield Hostile("xml/deep-names.xml", lambda: (start + "".join(f"<a{n}>t" for n in range(many))).encode())
    yield Hostile(
        "xml/attributes.xml",
        lambda: (start + "<r " + " ".join(f'a{n}="{n}"' for n in range(10 * many)) + ">x</r>").encode(),
    )
    yield Hostile("xml/value.xml", lambda: (start + '<r a="' + "v " * (long // 2) + '">x</r>').encode())
    yield Hostile("xml/name.xml", lambda: (start + "<r><" + "n" * long).encode())
    yield Hostile("xml/cdata.xml", lambda: (start + "<r><![CDATA[" + "text ]] > " * (long // 10) + "]]></r>").encode())
    yield Hostile(
        "xml/remark.xml",
        lambda: (start + "<r><!--" + "x " * (long // 2) + "--><?p " + "y " * (long // 2) + "?>text</r>").encode(),
    )
    yield Hostile(
        "xml/namespaces.xml",
        lambda: (
            start + "<r>" + "".join(f'<n{n}:x xmlns:n{n}="u{n}">t</n{n}:x>' for n in range(many)) + "</r>"
        ).encode(),
    )
    defaults = "".join(f'a{n} CDATA "{"d" * 100}" ' for n in range(2000))
    yield Hostile(
        "xml/defaults.xml",
        lambda: (start + f"<!DOCTYPE r [<!ATTLIST x {defaults}>]><r>" + "<x/>" * many + "</r>").encode(),
    )
    cycle = '<!DOCTYPE r [<!ENTITY a "&b;"><!ENTITY b "&a;"><!ENTITY % p "%q;"><!ENTITY % q "%p;"> %p;]>'
    yield Hostile("xml/cycle.xml", lambda: f"{start}{cycle}<r>&a; text</r>".encode())
    subset = "".join(f'<!ENTITY e{n} "{n}">' for n in range(2 * many))
    yield Hostile("xml/subset.xml", lambda: f"{start}<!DOCTYPE r [{subset}]><r>&e1;</r>".encode())
    for place, encoding in enumerate(("utf-7", "cp037", "UTF-16", "zip", "utf-32", "no-such")):
        yield Hostile(
            f"xml/encoding{place}.xml",
            lambda e=encoding: f'<?xml version="1.0" encoding="{e}"?><r>text é</r>'.encode("latin-1"),
        )
    yield Hostile(
        "xml/flat.fodt",
        lambda: (
            start
            + '<office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" office:mimetype="application/vnd.oasis.opendocument.text">'
            + "<a>" * many
        ).encode(),
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{recipe.url}"/><text>t</text>'
    yield Hostile("xml/picture.svg", lambda: (start + svg + "<g>" * many + "<text>deep</text>").encode())


def _aliases(levels: int, form: str) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] if form == "list" else ["a0: &a0 {k: v}"]
    for level in range(1, levels):
        refs = ", ".join([f"*a{level - 1}"] * 9)
        body = f"[{refs}]" if form == "list" else f"{{<<: [{refs}], k{level}: v}}"
        lines.append(f"a{level}: &a{level} {body}")
    return "\n".join(lines)


def _markdown(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(100_000, 2000)
    fronts = {
        "aliases": _aliases(30, "list"),
        "merges": _aliases(30, "map"),
        "cycle": "a: &a [*a, *a]\nb: &b {b: *b}",
        "flow": "a: " + "[" * many,
        "maps": "a: " + "{a: " * many,
        "indent": "".join(" " * n + "a:\n" for n in range(recipe.sized(3000))),
        "python": "a: !!python/object/apply:os.system ['touch /tmp/askbox-escaped']\nb: !!python/name:os.system",
        "numbers": f"a: {'9' * many}\nb: 0x{'f' * many}\nc: 1:{'59:' * 1000}1\nd: 9999-99-99\ne: .nan",
        "keys": "\n".join(f"k{n}: v" for n in range(many)),
        "scalar": "a: >\n" + "  text\n" * many,
        "tags": "%TAG ! tag:x:\n" + "a: !<" + "x" * many + "> b",
        "open": "a: 'endless " + "text\n" * many,
    }
    for name, front in fronts.items():
        yield Hostile(
            f"markdown/front-{name}.md", lambda front=front: f"---\n{front}\n---\n\n# Title\n\nText.\n".encode()
        )
    units = (
        "*a ", "_a ", "**a_ ", "[", "![", "[a](", "<", "`", "``a`", "~~a ", "|", "> ", "- ", "1. ", "&", "\\", "[a][", "<!--",
        "![a](<b", "***", "[^1]: ", "# ", "<a href='", "http://", "$", "=\n", "a\n=\n", "\t", "* * ", "]", "((((", "a@",
    )  # fmt: skip
    for place, unit in enumerate(units):
        yield Hostile(f"markdown/unit{place:02}.md", lambda unit=unit: (unit * (3 * many)).encode(), "ready")
    yield Hostile(
        "markdown/ticks.md", lambda: "".join("`" * n + " " for n in range(1, recipe.sized(3000))).encode(), "ready"
    )
    yield Hostile("markdown/quotes.md", lambda: ("> " * 1000 + "a\n").encode() * recipe.sized(1000))
    yield Hostile("markdown/lists.md", lambda: "".join("  " * n + "- a\n" for n in range(recipe.sized(3000))).encode())
    references = "".join(f"[r{n}]: /u{n} '{'t' * 50}'\n" for n in range(many))
    yield Hostile("markdown/references.md", lambda: (references + "".join(f"[r{n}]" for n in range(many))).encode())
    yield Hostile(
        "markdown/table.md", lambda: ("|" + "a|" * many + "\n|" + "-|" * many + "\n" + "|b|\n" * 200).encode()
    )
    yield Hostile("markdown/fence.md", lambda: b"```\n" * (3 * many))
    yield Hostile("markdown/html.md", lambda: b"<div>\n\n" * many + b"<!-- \n" * many)
    yield Hostile("markdown/headings.md", lambda: b"# a\n" * (5 * many))
    yield Hostile("markdown/heading.md", lambda: b"# " + b"a " * (20 * many))


def _rtf(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(1_000_000, 20_000)
    yield Hostile("rtf/deep.rtf", lambda: b"{\\rtf1 " + b"{" * many + b"deep")
    yield Hostile("rtf/closed.rtf", lambda: b"{\\rtf1 a" + b"}" * many + b" b")
    yield Hostile("rtf/bytes.rtf", lambda: b"{\\rtf1 a\\bin2147483647 " + noise(100_000))
    yield Hostile("rtf/bytes-back.rtf", lambda: b"{\\rtf1 a\\bin-5 text\\bin99999999999999999999 text}")
    yield Hostile(
        "rtf/characters.rtf", lambda: b"{\\rtf1 " + b"\\u-10179?\\u99999999999?\\uc999999999 \\u65?" * (many // 10)
    )
    yield Hostile("rtf/object.rtf", lambda: b"{\\rtf1 text{\\object{\\*\\objdata " + b"0105" * (5 * many) + b"}}}")
    yield Hostile("rtf/picture.rtf", lambda: b"{\\rtf1 text{\\pict\\pngblip " + b"89504e47\n" * (3 * many) + b"}}")
    yield Hostile(
        "rtf/fonts.rtf",
        lambda: (
            b"{\\rtf1{\\fonttbl"
            + b"".join(b"{\\f%d\\fcharset%d A;}" % (n, n % 256) for n in range(many // 10))
            + b"}\\f99999 text}"
        ),
    )
    yield Hostile(
        "rtf/tables.rtf", lambda: b"{\\rtf1 " + b"\\trowd\\cellx1 a\\cell\\nestrow\\itap9999 b\\nestcell" * (many // 10)
    )
    yield Hostile("rtf/words.rtf", lambda: b"{\\rtf1 " + b"\\" + b"w" * (10 * many))
    yield Hostile("rtf/hex.rtf", lambda: b"{\\rtf1\\ansicpg99999 " + b"\\'zz\\'e9\\'" * many)
    fields = f'{{\\field{{\\*\\fldinst INCLUDETEXT "{recipe.file}" INCLUDEPICTURE "{recipe.url}"}}{{\\fldrslt x}}}}'
    yield Hostile("rtf/fields.rtf", lambda: ("{\\rtf1{\\*\\template " + recipe.url + "}" + fields * 100 + "}").encode())


def _outlined(recipe: Recipe) -> Iterator[Hostile]:
    many = recipe.sized(100_000, 2000)
    file, url = recipe.file, recipe.url
    yield Hostile(
        "text/lures.rst",
        lambda: (
            f".. include:: {file}\n\n.. raw:: html\n   :file: {file}\n\n.. csv-table::\n   :url: {url}\n\nText.\n".encode()
        ),
        "ready",
    )
    yield Hostile(
        "text/lures.adoc", lambda: f"= Title\n\ninclude::{file}[]\n\ninclude::{url}[]\n\nText.\n".encode(), "ready"
    )
    yield Hostile("text/lures.org", lambda: f'#+INCLUDE: "{file}"\n#+SETUPFILE: {url}\n* H\nText.\n'.encode(), "ready")
    lures = f"\\documentclass{{article}}\\begin{{document}}\\input{{{file}}}\\include{{{file}}}\\write18{{touch /tmp/askbox-escaped}}text\\end{{document}}"
    yield Hostile("text/lures.tex", lures.encode, "ready")
    letters = "abcdefghijklmnopqrst"
    laughs = "\\def\\la{ha}" + "".join(
        "\\def\\l%s{%s}\n" % (name, f"\\l{before} " * 10) for before, name in itertools.pairwise(letters)
    )
    yield Hostile("text/macros.tex", lambda: (laughs + "\\begin{document}\\lt\\end{document}").encode(), "ready")
    for suffix, unit in (
        ("tex", "{"), ("tex", "\\begin{a}"), ("tex", "\\section{"), ("tex", "$$"), ("tex", "\\"), ("rst", "=\n"), ("rst", "a\n=\n"),
        ("rst", ".. a::\n"), ("org", "* "), ("org", "*a*\n"), ("org", "#+BEGIN_SRC\n"), ("adoc", "=== a\n\n"), ("adoc", "|===\n"),
        ("adoc", "----\n"), ("yaml", "- "), ("yaml", "a: &a [*a]\n"), ("ini", "[s]\n"), ("ini", "["), ("py", "("), ("py", "def f(\n"),
        ("py", "class A:\n"), ("py", "'''\n"), ("js", "function(){"), ("js", "`${"), ("c", "/*"), ("sql", "(select "), ("sh", "$("),
        ("css", "a{"), ("go", "func f() {\n"), ("rs", "fn f<"), ("hs", "{-"), ("py", "@d\n"), ("py", "    " * 50 + "x\n"),
    ):  # fmt: skip
        name = "".join(character if character.isalnum() else f"{ord(character):x}" for character in unit[:6])
        yield Hostile(f"source/{name}.{suffix}", lambda unit=unit: (unit * (2 * many)).encode())
    yield Hostile("source/minified.js", lambda: b"function a(b){return b[1]||c(2)};" * recipe.sized(200_000))


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return marked-up text of every kind."""
    yield from _pages(recipe)
    yield from _elements(recipe)
    yield from _markdown(recipe)
    yield from _rtf(recipe)
    yield from _outlined(recipe)
