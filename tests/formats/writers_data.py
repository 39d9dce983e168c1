"""Writes known content as tables, records, elements, cells and mail; pure."""

import csv
import io
import json
from email.message import EmailMessage
from email.policy import SMTP
from xml.sax.saxutils import escape

from services.ingester.parsing import LineUnit, PageUnit
from tests.formats.content import AUTHOR, TITLE, Heading, Items, Paragraph, Part, Table, content
from tests.formats.truth import Place, Written
from tests.formats.writers_text import headings, lines_of, markup, said

COLUMNS = ("Number", "Section", "Mark", "Text")


def records() -> list[tuple[str, str, str, str]]:
    """Return a row for each paragraph and each row of the table, under COLUMNS."""
    rows = []
    section = ""
    for part in content():
        if isinstance(part, Heading):
            section = part.text
        elif isinstance(part, Paragraph):
            rows.append((str(len(rows) + 1), section, part.mark, part.text.replace(part.mark, "here")))
        elif isinstance(part, Table):
            rows += [
                (str(len(rows) + 1 + place), section, row[0], "; ".join(row[1:])) for place, row in enumerate(part.rows)
            ]
    return rows


def said_by(rows: list[tuple[str, ...]]) -> str:
    """Return everything that rows say as one text."""
    return "\n".join(" ".join(row) for row in rows)


def _delimited(name: str, media_type: str, delimiter: str, encoding: str, quoting: int = csv.QUOTE_MINIMAL) -> Written:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
    writer.writerows([COLUMNS, *records()])
    places = {row[2]: Place(line=line) for line, row in enumerate(records(), 2)}
    contexts = dict.fromkeys(places, " | ".join(COLUMNS))
    return Written(
        name, file.getvalue().encode(encoding), media_type, said_by([COLUMNS, *records()]), places=places,
        contexts=contexts, line_unit=LineUnit.ROW,
    )  # fmt: skip


def comma_separated() -> Written:
    """CSV with a byte order mark, as Excel writes it."""
    return _delimited("a.csv", "text/csv", ",", "utf-8-sig")


def semicolon_separated() -> Written:
    """CSV of a country where the comma divides numbers; all of it quoted."""
    return _delimited("b.csv", "text/csv", ";", "utf-8", csv.QUOTE_ALL)


def unicode_table() -> Written:
    """What Excel calls Unicode text: tabs, UTF-16; under the name that makes Excel open it."""
    return _delimited("c.csv", "text/csv", "\t", "utf-16")


def tab_separated() -> Written:
    """TSV."""
    return _delimited("a.tsv", "text/tab-separated-values", "\t", "utf-8")


def json_document(*, indent: int | None = 2) -> Written:
    """One JSON value with indentation: chapters that hold paragraphs, items and rows."""
    tree: list[dict[str, object]] = []
    for part in content():
        match part:
            case Heading(level, text):
                tree.append({"heading": text, "level": level, "body": []})
            case _:
                body = tree[-1]["body"]
                assert isinstance(body, list)
                body += _values(part)
    source = json.dumps({"title": TITLE, "chapters": tree}, indent=indent, ensure_ascii=False)
    # That everything stands on line 1 helps nobody.
    places = dict.fromkeys(lines_of(source), Place()) if indent is None else lines_of(source)
    return Written(
        "a.json", source.encode(), "application/json", f"{TITLE}\n{said(content())}", places=places,
        title=TITLE, extra_words_share_max=0.2,
    )  # fmt: skip


def json_on_one_line() -> Written:
    """The same as a program sends it."""
    return json_document(indent=None)


def _values(part: Part) -> list[object]:
    match part:
        case Paragraph(_, text):
            return [text]
        case Items(texts):
            return list(texts)
        case Table(header, rows):
            return [list(row) for row in (header, *rows)]
        case _:
            return []


def json_lines() -> Written:
    """A record a line, with letters escaped as many programs do."""
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in records()]
    places = {row[2]: Place(line=line) for line, row in enumerate(records(), 1)}
    return Written(
        "a.jsonl", ("\n".join(lines) + "\n").encode(), "application/jsonl", said_by([*records()]), places=places,
        extra_words_share_max=0.15,
    )  # fmt: skip


def elements() -> Written:
    """XML whose elements hold the text, in an encoding that it declares."""
    names = {1: "chapter", 2: "section", 3: "part"}
    lines = ['<?xml version="1.0" encoding="UTF-16"?>', "<!-- a remark -->", "<book>", f"  <title>{TITLE}</title>"]
    for part in content():
        match part:
            case Heading(level, text):
                lines.append(f"  <{names[level]}>{escape(text)}</{names[level]}>")
            case Paragraph(_, text):
                lines.append(f"  <para>{escape(text)}</para>")
            case Items(texts):
                lines += ["  <list>", *(f"    <item>{escape(text)}</item>" for text in texts), "  </list>"]
            case Table(header, rows):
                for row in (header, *rows):
                    lines += ["  <row>", *(f"    <cell>{escape(cell)}</cell>" for cell in row), "  </row>"]
    source = "\n".join([*lines, "</book>", ""])
    return Written(
        "a.xml", source.encode("utf-16"), "application/xml", f"{TITLE}\n{said(content())}",
        [(1, TITLE)], TITLE, lines_of(source), extra_words_share_max=0.02,
    )  # fmt: skip


def notebook() -> Written:
    """A notebook: a markdown cell for each heading and paragraph, a code cell with its output for the list and the table."""
    cells: list[dict[str, object]] = []
    places: dict[str, Place] = {}
    told: list[str] = []
    for part in content():
        match part:
            case Heading(level, text):
                cells.append({"cell_type": "markdown", "metadata": {}, "source": [f"{'#' * level} {text}"]})
                told.append(text)
            case Paragraph(mark, text):
                cells.append({"cell_type": "markdown", "metadata": {}, "source": [text]})
                places[mark] = Place(page=len(cells))
                told.append(text)
            case Items(texts):
                cells.append(_code([f"print({text!r})\n" for text in texts], "".join(f"{text}\n" for text in texts)))
                told += [*(f"print({text!r})" for text in texts), *texts]
            case Table(header, rows):
                output = "".join(" ".join(row) + "\n" for row in (header, *rows))
                cells.append(_code(["show(rows)"], output))
                places |= {row[0]: Place(page=len(cells)) for row in rows}
                told += ["show(rows)", output]
    book = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    return Written(
        "a.ipynb", json.dumps(book, indent=1).encode(), "application/x-ipynb+json", "\n".join(told),
        headings(content()), places=places, page_unit=PageUnit.CELL, extra_words_share_max=0.02,
    )  # fmt: skip


def _code(source: list[str], output: str) -> dict[str, object]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output.splitlines(keepends=True)}]
    return {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": source, "outputs": outputs}


def _message() -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = f"{AUTHOR} <ada@example.org>"
    message["To"] = "harbour@example.org"
    message["Subject"] = f"{TITLE} – Übersicht"
    message["Date"] = "Tue, 04 Mar 2025 10:00:00 +0100"
    return message


def plain_mail() -> Written:
    """Mail of text alone, in quoted-printable."""
    message = _message()
    body = "\n\n".join(" ".join(said([part]).split("\n")) for part in content())
    message.set_content(body, cte="quoted-printable")
    return Written(
        "a.eml", message.as_bytes(), "message/rfc822", said(content()), title=f"{TITLE} – Übersicht",
        extra_words_share_max=0.02,
    )  # fmt: skip


def page_mail() -> Written:
    """Mail of a page alone, in base64."""
    message = _message()
    body = "\n".join(markup(part) for part in content())
    message.set_content(f"<html><body>{body}</body></html>", subtype="html", cte="base64")
    return Written(
        "b.eml", message.as_bytes(), "message/rfc822", said(content()), title=f"{TITLE} – Übersicht",
        headings=headings(content()), extra_words_share_max=0.02,
    )  # fmt: skip


def mail_with_attachments() -> Written:
    """Mail in two forms, of which people read the second, with two files that are documents of their own."""
    message = _message()
    body = "\n\n".join(" ".join(said([part]).split("\n")) for part in content())
    message.set_content(body)
    message.add_alternative(f"<html><body>{''.join(map(markup, content()))}</body></html>", subtype="html")
    message.add_attachment(b"a,b\n1,2\n", maintype="text", subtype="csv", filename="Öfen.csv")
    message.add_attachment(b"\x89PNG\r\n\x1a\n", maintype="image", subtype="png", filename="plan.png")
    return Written(
        "c.eml", message.as_bytes(), "message/rfc822", said(content()), title=f"{TITLE} – Übersicht",
        extra_words_share_max=0.02,
    )  # fmt: skip


WRITERS = (
    comma_separated, semicolon_separated, unicode_table, tab_separated, json_document, json_on_one_line, json_lines,
    elements, notebook, plain_mail, page_mail, mail_with_attachments,
)  # fmt: skip
