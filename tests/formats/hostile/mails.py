"""Messages of endless parts, headers and encodings, and messages in messages."""

import base64
from collections.abc import Iterator

from tests.formats.hostile.office import KINDS, file_of
from tests.formats.hostile.recipe import MIB, Hostile, Recipe, entity_attacks

_HEAD = "From: ada@example.org\r\nTo: b@example.org\r\nSubject: Berths\r\nMIME-Version: 1.0\r\nMessage-ID: <1@example.org>\r\n"


def _mail(body: str, kind: str = "text/plain", more: str = "") -> bytes:
    return f"{_HEAD}{more}Content-Type: {kind}\r\n\r\n{body}".encode()


def _nested(depth: int) -> bytes:
    """Multiparts within multiparts."""
    opening = "".join(f'--b{n}\r\nContent-Type: multipart/mixed; boundary="b{n + 1}"\r\n\r\n' for n in range(depth))
    return _mail(f"{opening}--b{depth}\r\n\r\ndeep\r\n", 'multipart/mixed; boundary="b0"')


def _messages(depth: int) -> bytes:
    """Messages within messages."""
    inner = "From: a@b.c\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n" * depth
    return _mail(f"--b\r\nContent-Type: message/rfc822\r\n\r\n{inner}text", "multipart/mixed; boundary=b")


def _attached(*files: tuple[str, bytes]) -> bytes:
    parts = "".join(
        f'--b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="{name}"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{base64.encodebytes(content).decode()}\r\n"
        for name, content in files
    )
    return _mail(f"--b\r\n\r\nSee the files.\r\n{parts}--b--\r\n", "multipart/mixed; boundary=b")


def _tree(width: int, depth: int) -> bytes:
    """Each message holds `width` others."""
    mail = _mail("leaf")
    for level in range(depth):
        mail = _attached(*((f"m{level}-{number}.eml", mail) for number in range(width)))
    return mail


def corpus(recipe: Recipe) -> Iterator[Hostile]:
    """Return messages."""
    many = recipe.sized(100_000, 2000)
    long = recipe.sized(10 * MIB)
    parts = "--b\r\nContent-Type: text/plain\r\n\r\npart\r\n" * recipe.sized(10_000)
    yield Hostile("eml/parts.eml", lambda: _mail(parts, "multipart/mixed; boundary=b"))
    yield Hostile("eml/deep.eml", lambda: _nested(many))
    yield Hostile(
        "eml/same-boundary.eml",
        lambda: _mail("--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * many, "multipart/mixed; boundary=b"),
    )
    yield Hostile("eml/messages.eml", lambda: _messages(many))
    yield Hostile("eml/header.eml", lambda: _mail("text", more=f"X-Long: {'v' * long}\r\n"))
    yield Hostile("eml/headers.eml", lambda: _mail("text", more="".join(f"X-{n}: v\r\n" for n in range(10 * many))))
    yield Hostile("eml/folded.eml", lambda: _mail("text", more="X-Folded: a\r\n" + " b\r\n" * (10 * many)))
    yield Hostile(
        "eml/subject.eml",
        lambda: _mail("text", more="Subject: " + "=?utf-8?q?a=C3?= =?utf-8?b?qQ==?= " * many + "\r\n").replace(
            b"Subject: Berths\r\n", b""
        ),
    )
    for place, charset in enumerate(("zip", "utf-7", "no-such", "idna", "utf-16", "rot13")):
        yield Hostile(
            f"eml/charset{place}.eml",
            lambda c=charset: _mail(
                "text =E9",
                f'text/plain; charset="{c}"',
                f"Content-Transfer-Encoding: quoted-printable\r\nX: =?{c}?b?eJw=?=\r\n",
            ),
        )
    continued = "".join(f"; name*{n}*=%41" for n in range(many))
    yield Hostile("eml/parameters.eml", lambda: _mail("text", f"text/plain{continued}"))
    yield Hostile(
        "eml/quoted.eml", lambda: _mail("=\r\n" * long, more="Content-Transfer-Encoding: quoted-printable\r\n")
    )
    yield Hostile("eml/base64.eml", lambda: _mail("!=A=" * (2 * long), more="Content-Transfer-Encoding: base64\r\n"))
    lines = ("M" + "86%A" * 15 + "\r\n") * (long // 60)
    yield Hostile(
        "eml/uu.eml",
        lambda: _mail(
            f"begin 644 ../../tmp/askbox-escaped\r\n{lines}", more="Content-Transfer-Encoding: x-uuencode\r\n"
        ),
    )
    yield Hostile("eml/uu-open.eml", lambda: _mail("begin 644 a\r\n" * many))
    yield Hostile(
        "eml/boundary.eml",
        lambda: _mail("--(a+)+$\r\n\r\ntext\r\n" * 100 + "-" * long, 'multipart/mixed; boundary="(a+)+$"'),
    )
    yield Hostile("eml/no-boundary.eml", lambda: _mail("--\r\n" * many, "multipart/mixed"))
    yield Hostile("eml/dashes.eml", lambda: _mail("--b" * (long // 3), "multipart/mixed; boundary=b"))
    yield Hostile("eml/attachments.eml", lambda: _attached(*((f"{n}.txt", b"text") for n in range(500))), "failed")
    names = (
        "../../tmp/askbox-escaped.txt",
        "/etc/passwd",
        "a\\..\\b.txt",
        "",
        "n" * 5000 + ".txt",
        "a\x00b.txt",
        "..",
        "CON",
        "a\u202etxt.exe",
    )
    yield Hostile(
        "eml/names.eml", lambda: _attached(*((name, b"attached text %d" % n) for n, name in enumerate(names)))
    )
    yield Hostile("eml/tree.eml", lambda: _tree(recipe.sized(12, 3), 3))
    yield Hostile("eml/chain.eml", lambda: _tree(1, 12))
    doctype, reference = entity_attacks(recipe, "w:document")["xxe-file"]
    bad = file_of(KINDS["docx"], KINDS["docx"].paragraph.format(reference), before=doctype)
    yield Hostile(
        "eml/carrier.eml",
        lambda: _attached(("bad.docx", bad), ("a.pdf", b"%PDF-1.7\n"), ("a.zip", b"PK\x03\x04"), ("empty.txt", b"")),
    )
    outside = f'message/external-body; access-type=URL; URL="{recipe.url}body"'
    yield Hostile("eml/elsewhere.eml", lambda: _mail("Content-Type: text/plain\r\n\r\nphantom", outside))
    page = f'<html><body background="{recipe.url}b"><img src="{recipe.file.as_uri()}"><p>text{"<div>" * many}'
    yield Hostile("eml/page.eml", lambda: _mail(page, "text/html"))
    yield Hostile(
        "eml/date.eml",
        lambda: _mail("text", more=f"Date: {'9' * 5000}\r\nDate: Mon, 99 Foo 99999 99:99:99 +9999\r\n"),
        "ready",
    )
    yield Hostile("eml/addresses.eml", lambda: _mail("text", more="Cc: " + "(((a <b@c>, " * many + "\r\n"))
    yield Hostile(
        "eml/sealed.eml", lambda: _mail("AAAA", "application/pkcs7-mime; smime-type=enveloped-data"), "failed"
    )
    yield Hostile(
        "eml/box.mbox",
        lambda: (b"From a@b.c Mon Mar  3 10:00:00 2025\n" + _mail("text\r\n") + b"\n") * recipe.sized(20_000),
    )
    yield Hostile("eml/blank-lines.eml", lambda: _mail("\r\n" * long))
