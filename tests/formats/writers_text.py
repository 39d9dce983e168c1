"""Writes known content as text with and without markup; pure."""

import html
from collections.abc import Callable

from tests.formats.content import (
    AUTHOR,
    TITLE,
    Heading,
    Items,
    Paragraph,
    Part,
    Table,
    content,
    marks_of,
    texts_of,
)
from tests.formats.truth import Place, Written

Render = Callable[[Part], str]


def lines_of(source: str) -> dict[str, Place]:
    """Return the line of each mark in a text, as an editor counts it."""
    return {mark: Place(line=source.count("\n", 0, at) + 1) for mark, at in marks_of(source).items()}


def said(parts: list[Part]) -> str:
    """Return everything that parts say as one text."""
    return "\n".join(texts_of(parts))


def headings(parts: list[Part]) -> list[tuple[int, str]]:
    """Return the headings among parts with their levels."""
    return [(part.level, part.text) for part in parts if isinstance(part, Heading)]


def contexts(parts: list[Part]) -> dict[str, str]:
    """Return the names of the columns above each marked row."""
    return {row[0]: " | ".join(part.header) for part in parts if isinstance(part, Table) for row in part.rows}


def plain_text() -> Written:
    """Paragraphs under lines that no parser can know to be headings; UTF-16 with a mark, as Notepad writes it."""
    source = "\n\n".join(_plain(part) for part in content()) + "\n"
    return Written("a.txt", source.encode("utf-16"), "text/plain", said(content()), places=lines_of(source))


def _plain(part: Part) -> str:
    match part:
        case Heading(_, text) | Paragraph(_, text):
            return text
        case Items(texts):
            return "\n".join(f"- {text}" for text in texts)
        case Table(header, rows):
            return "\n".join("  ".join(row) for row in (header, *rows))


def markdown() -> Written:
    """CommonMark with front matter and a pipe table."""
    front = f"---\ntitle: {TITLE}\nauthor: {AUTHOR}\n---\n\n"
    source = front + "\n\n".join(_markdown(part) for part in content()) + "\n"
    return Written(
        "a.md", source.encode(), "text/markdown", said(content()), headings(content()), TITLE,
        lines_of(source), contexts(content()), extra_words_share_max=0.02,
    )  # fmt: skip


def _markdown(part: Part) -> str:
    match part:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(_, text):
            return text
        case Items(texts):
            return "\n".join(f"- {text}" for text in texts)
        case Table(header, rows):
            return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def page() -> Written:
    """A page with navigation and a script around its content."""
    noise = "<nav><ul><li><a href=/>Home</a><li><a href=/a>About</a></ul></nav><script>var hidden = 1;</script>"
    body = "\n".join(markup(part) for part in content())
    source = (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{TITLE}</title></head>"
        f"<body>{noise}<main>\n{body}\n</main><footer>All rights reserved</footer></body></html>"
    )
    return Written(
        "a.html", source.encode(), "text/html", said(content()), headings(content()), TITLE, {}, contexts(content())
    )


def markup(part: Part) -> str:
    """Return a part as XHTML."""
    match part:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(_, text):
            return f"<p>{html.escape(text)}</p>"
        case Items(texts):
            return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"
        case Table(header, rows):
            head = "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr></thead>"
            body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f"<table>{head}<tbody>{body}</tbody></table>"


def python_code() -> Written:
    """A module: sections are functions, paragraphs remarks, the list and the table data."""
    lines = [f'"""{TITLE}."""', ""]
    for part in content():
        match part:
            case Heading(level, text):
                name = "_".join(text.lower().replace(":", " ").replace(".", " ").split())
                lines += ["", "", f"def {name}():", f'    """{text}"""'] if level == 3 else [f"# {text}"]
            case Paragraph(_, text):
                lines += [f"    # {text}", "    pass"]
            case Items(texts):
                lines += [f"    print({text!r})" for text in texts]
            case Table(header, rows):
                lines += ["    rows = [", *(f"        {row!r}," for row in (header, *rows)), "    ]"]
    source = "\n".join(lines) + "\n"
    return Written("a.py", source.encode(), "text/x-source", source, places=lines_of(source))


def script() -> Written:
    """JavaScript without functions; long lines, remarks over several of them."""
    lines = [f"/* {TITLE} */", "const harbour = {"]
    for part in content():
        match part:
            case Heading(_, text):
                lines += ["", f"  // {text}"]
            case Paragraph(mark, text):
                lines += [f"  {mark}: `{text}`,", "  /*", f"   * {mark.replace('mark', 'see')}", "   */"]
            case Items(texts):
                lines.append(f"  items: [{', '.join(map(repr, texts))}],")
            case Table(header, rows):
                lines += ["  rows: [", *(f"    [{', '.join(map(repr, row))}]," for row in (header, *rows)), "  ],"]
    source = "\n".join([*lines, "};", ""])
    return Written("a.js", source.encode(), "text/x-source", source, places=lines_of(source))


def yaml_text() -> Written:
    """YAML with nested keys, folded text and lists."""
    lines = [f"title: {TITLE}", "parts:"]
    for part in content():
        match part:
            case Heading(level, text):
                lines += [f'  - heading: "{text}"', f"    level: {level}", "    body:"]
            case Paragraph(_, text):
                first, _, rest = text.partition(". ")
                lines += ["      - |", f"        {first}.", f"        {rest}"]
            case Items(texts):
                lines += [f"      - {text}" for text in texts]
            case Table(header, rows):
                lines += [f"      - [{', '.join(row)}]" for row in (header, *rows)]
    source = "\n".join([*lines, ""])
    return Written("a.yaml", source.encode(), "application/yaml", source, places=lines_of(source))


def log() -> Written:
    """A log: a line with a time for everything that is said; line ends of Windows."""
    lines = [
        f"2025-03-04 10:{number // 60 % 60:02d}:{number % 60:02d} INFO {text}"
        for number, text in enumerate(texts_of(content()))
    ]
    source = "\n".join([*lines, ""])
    return Written("a.log", source.replace("\n", "\r\n").encode(), "text/plain", source, places=lines_of(source))


def restructured() -> Written:
    """Text for Docutils with underlined headings."""
    underlines = {1: "=", 2: "-", 3: "~"}

    def render(part: Part) -> str:
        match part:
            case Heading(level, text):
                return f"{text}\n{underlines[level] * (len(text) + 2)}"
            case Table(header, rows):
                return f".. list-table::\n   :header-rows: 1\n\n" + "\n".join(  # noqa: F541
                    "   * - " + "\n     - ".join(row) for row in (header, *rows)
                )
            case _:
                return _plain(part)

    return _source("a.rst", "text/x-rst", render)


def org() -> Written:
    """Org with stars and a pipe table."""

    def render(part: Part) -> str:
        match part:
            case Heading(level, text):
                return f"{'*' * level} {text}"
            case Table(header, rows):
                return "\n".join(f"| {' | '.join(row)} |" for row in (header, *rows))
            case _:
                return _plain(part)

    return _source("a.org", "text/org", render)


def latex() -> Written:
    """LaTeX with its sectioning commands."""
    commands = {1: "section", 2: "subsection", 3: "subsubsection"}

    def render(part: Part) -> str:
        match part:
            case Heading(level, text):
                return f"\\{commands[level]}{{{text}}}"
            case Items(texts):
                return "\\begin{itemize}\n" + "\n".join(f"\\item {text}" for text in texts) + "\n\\end{itemize}"
            case Table(header, rows):
                body = " \\\\\n".join(" & ".join(row) for row in (header, *rows))
                return f"\\begin{{tabular}}{{llll}}\n{body} \\\\\n\\end{{tabular}}"
            case _:
                return _plain(part)

    return _source("a.tex", "text/x-tex", render)


def _source(name: str, media_type: str, render: Render) -> Written:
    source = "\n\n".join(render(part) for part in content()) + "\n"
    return Written(
        name, source.encode(), media_type, said(content()), headings(content()), places=lines_of(source),
        extra_words_share_max=0.05,
    )  # fmt: skip


def rich_text() -> Written:
    """RTF as word processors write it: Unicode as numbers with a substitute, a font table, styles named by headings."""
    head = (
        r"{\rtf1\ansi\ansicpg1252\deff0\uc1{\fonttbl{\f0\fswiss Helvetica;}{\f1\froman Times;}}"
        r"{\stylesheet{\s0 Normal;}{\s1 heading 1;}{\s2 heading 2;}{\s3 heading 3;}}"
        r"{\info{\title " + _escaped(TITLE) + r"}{\author " + _escaped(AUTHOR) + r"}}{\*\generator Nobody;}" + "\n"
    )
    body = "\n".join(_rich(part) for part in content())
    return Written(
        "a.rtf", (head + body + "}").encode("ascii"), "application/rtf", said(content()), headings(content()), TITLE
    )


def _rich(part: Part) -> str:
    match part:
        case Heading(level, text):
            return rf"{{\pard\s{level}\b {_escaped(text)}\b0\par}}"
        case Paragraph(_, text):
            return rf"{{\pard\plain {_escaped(text)}\par}}"
        case Items(texts):
            return "\n".join(rf"{{\pard\bullet\tab {_escaped(text)}\par}}" for text in texts)
        case Table(header, rows):
            return "\n".join(
                r"\trowd\cellx2000\cellx4000\cellx6000\cellx8000 "
                + "".join(rf"\pard\intbl {_escaped(cell)}\cell " for cell in row)
                + r"\row"
                for row in (header, *rows)
            )


def _escaped(text: str) -> str:
    parts = []
    for character in text:
        if character in "\\{}":
            parts.append(f"\\{character}")
        elif ord(character) < 128:
            parts.append(character)
        elif len(in_code_page := character.encode("cp1252", "ignore")) == 1:
            parts.append(f"\\'{in_code_page[0]:02x}")
        else:
            units = character.encode("utf-16-le")
            numbers = (int.from_bytes(units[at : at + 2], "little", signed=True) for at in range(0, len(units), 2))
            parts += [f"\\u{number}?" for number in numbers]
    return "".join(parts)


WRITERS = (
    plain_text, markdown, page, python_code, script, yaml_text, log, restructured, org, latex, rich_text,
)  # fmt: skip
