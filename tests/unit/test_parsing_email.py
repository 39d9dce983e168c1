"""Messages: their headers, their text in every encoding, what is attached, and authors who mean harm."""

import base64
import contextlib
import mailbox
import time
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingester.parsing import media_type_of, parse
from services.ingester.parsing.email_message import looks_like_email, parse_email
from services.ingester.parsing.mime import DEPTH_MAX, PIECE_BYTES, decoded_words
from shared.errors import CorruptFile, EncryptedFile, ParserLimit, PermanentError, UnsupportedFormat
from tests.unit.parsing_checks import LINES, ROW, blocks_of, check

HEAD = "From: Ada <ada@example.org>\nTo: Bob <bob@example.org>\nSubject: The offer\nMIME-Version: 1.0\n"


def letter(text: str = "Dear Bob,\n\nthe price is 40 crowns.\n", *, subject: str = "The offer") -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Ada Lovelace <ada@example.org>"
    message["To"] = "Bob <bob@example.org>, Eve <eve@example.org>"
    message["Date"] = "Fri, 16 Dec 2022 17:04:16 -0500"
    message["Subject"] = subject
    message["Message-ID"] = "<1@example.org>"
    message.set_content(text)
    return message


def attached(content: bytes) -> dict[str, bytes]:
    return {one.name: b"".join(one.pieces()) for one in parse_email(content).attachments}


def text_of(content: bytes) -> str:
    document = parse_email(content)
    check(document)
    return document.text


def test_headers_are_the_first_lines_and_the_metadata():
    document = parse_email(letter().as_bytes())
    check(document)
    assert blocks_of(document)[:4] == [
        (LINES, "From: Ada Lovelace <ada@example.org>"),
        (LINES, "To: Bob <bob@example.org>, Eve <eve@example.org>"),
        (LINES, "Date: Fri, 16 Dec 2022 17:04:16 -0500"),
        (LINES, "Subject: The offer"),
    ]
    assert document.text.endswith("Dear Bob,\n\nthe price is 40 crowns.")
    assert document.title == "The offer"
    assert document.metadata == {
        "from": "Ada Lovelace <ada@example.org>",
        "to": "Bob <bob@example.org>, Eve <eve@example.org>",
        "date": "2022-12-16T17:04:16-05:00",
        "subject": "The offer",
    }


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "cp1252", "koi8-r", "iso-2022-jp", "shift_jis", "gb18030"])
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
def test_text_comes_back_in_every_encoding(charset, encoding):
    words = {
        "koi8-r": "Привет, мир. Цена сорок крон.",
        "iso-2022-jp": "値段は四十です。",
        "shift_jis": "値段は四十です。",
        "gb18030": "价格是四十。",
    }
    said = words.get(charset, "Grüße, the price is 40 crowns, déjà vu.") + "\n"
    raw = said.encode(charset)
    body = base64.encodebytes(raw) if encoding == "base64" else raw
    if encoding == "quoted-printable":
        body = "".join(f"={byte:02X}" if byte > 126 or byte in b"=\x1b" else chr(byte) for byte in raw).encode()
    head = f'{HEAD}Content-Type: text/plain; charset="{charset}"\nContent-Transfer-Encoding: {encoding}\n\n'
    assert text_of(head.encode() + body).endswith(said.strip())


def test_encoded_words_are_read_even_where_programs_cut_a_character():
    cut = base64.b64encode("値段".encode())
    half = [base64.b64encode(base64.b64decode(cut)[:4]).decode(), base64.b64encode(base64.b64decode(cut)[4:]).decode()]
    assert decoded_words(f"Re: =?utf-8?B?{half[0]}?=\n =?UTF-8?B?{half[1]}?= fin") == "Re: 値段 fin"
    assert decoded_words("=?iso-8859-1?Q?Gr=FC=DFe_an?= =?utf-8?q?_alle?=, =?x-unknown?Q?so?=") == "Grüße an alle, so"
    assert decoded_words("=?utf-8?B?!!!?= =?utf-8?Q?=ZZ?= =?none") is not None


def test_plain_text_goes_before_the_same_in_html_and_html_before_nothing():
    message = letter()
    message.add_alternative("<h1>Offer</h1><p>the price is 40 crowns, in colour</p>", subtype="html")
    assert "colour" not in text_of(message.as_bytes())
    empty = letter("\n")
    empty.add_alternative("<table><tr><td>crowns</td><td>40</td></tr></table><h2>Terms</h2>", subtype="html")
    document = parse_email(empty.as_bytes())
    check(document)
    assert (ROW, "crowns | 40") in blocks_of(document) or "crowns" in document.text
    assert document.text.endswith("Terms")


def test_quoted_replies_are_kept():
    said = "I agree.\n\n> What about 40 crowns?\n>> Or 30?"
    assert said in text_of(letter(said).as_bytes())


def test_what_is_attached_is_named_and_comes_out_as_it_went_in():
    message = letter()
    pdf = bytes(range(256)) * 5000
    message.add_attachment(pdf, maintype="application", subtype="pdf", filename="Angebot für Jürgen.pdf")
    message.add_attachment("a;b\n1;2\n", subtype="csv", filename="prices.csv")
    inner = letter("The inner price is 30.", subject="Re: inner")
    message.add_attachment(inner)
    raw = message.as_bytes()
    found = attached(raw)
    assert list(found) == ["Angebot für Jürgen.pdf", "prices.csv", "Re: inner.eml"]
    assert found["Angebot für Jürgen.pdf"] == pdf
    assert found["prices.csv"].split() == [b"a;b", b"1;2"]
    assert "The inner price is 30." in text_of(found["Re: inner.eml"])
    document = parse_email(raw)
    assert "Attachments: Angebot für Jürgen.pdf, prices.csv, Re: inner.eml" in document.text
    assert document.metadata["attachments"] == "Angebot für Jürgen.pdf, prices.csv, Re: inner.eml"
    assert "inner price" not in document.text


@pytest.mark.parametrize("size", [0, 1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 7])
def test_attachments_of_any_length_come_out_in_bounded_pieces(size):
    content = bytes(place * 7 % 256 for place in range(1000)) * (size // 1000 + 1)
    message = letter()
    message.add_attachment(content[:size], maintype="application", subtype="octet-stream", filename="x.bin")
    document = parse_email(message.as_bytes())
    pieces = [piece for one in document.attachments for piece in one.pieces()]
    assert b"".join(pieces) == content[:size]
    assert max(map(len, pieces), default=0) <= PIECE_BYTES


@given(st.binary(max_size=4000))
def test_quoted_printable_and_base64_lose_nothing(content):
    import quopri

    for encoding, encoded in (
        ("base64", base64.encodebytes(content)),
        ("quoted-printable", quopri.encodestring(content.replace(b"\r", b"").replace(b"\n", b""))),
    ):
        head = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--b\nContent-Type: application/x; name=x\n"
        raw = f"{head}Content-Transfer-Encoding: {encoding}\n\n".encode() + encoded + b"\n--b--\n"
        expected = content if encoding == "base64" else content.replace(b"\r", b"").replace(b"\n", b"")
        assert attached(raw).get("x", b"") == expected


@pytest.mark.parametrize(
    ("charset", "raw"),
    [
        ("koi8-r", "Цена сорок крон".encode("koi8-r")),
        ("iso-2022-jp", "値段は四十です".encode("iso-2022-jp")),
        ("utf-16", "Цена сорок крон".encode("utf-16")),
        ("iso-8859-1", "Цена сорок крон".encode()),
        ("no-such", "Цена сорок крон".encode()),
        ("zlib", "Цена сорок крон".encode()),
    ],
)
def test_attached_text_is_in_utf8_whatever_the_message_says(charset, raw):
    head = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain; charset={charset}; name=a.txt\n"
    body = f"{head}Content-Disposition: attachment\nContent-Transfer-Encoding: base64\n\n".encode()
    found = attached(body + base64.encodebytes(raw) + b"--b--")["a.txt"].decode()
    assert found in ("Цена сорок крон", "値段は四十です")


def test_base64_in_several_runs_is_read_to_its_end():
    runs = b"".join(base64.b64encode(word) + b"\n" for word in (b"a", b"bc", b"def", b"ghij"))
    head = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: application/x; name=x\n"
    assert attached(f"{head}Content-Transfer-Encoding: base64\n\n".encode() + runs + b"--b--") == {"x": b"abcdefghij"}


def test_message_within_is_named_as_one():
    inner = "Content-Type: message/rfc822; name=forwarded\n\nFrom: x\nSubject: y\n\nz"
    raw = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\n{inner}\n--b--".encode()
    assert list(attached(raw)) == ["forwarded.eml"]


def test_pictures_of_the_page_and_signatures_are_not_attached():
    message = letter()
    message.add_alternative("<img src='cid:logo'>the price", subtype="html")
    message.get_payload()[1].add_related(b"\x89PNG", maintype="image", subtype="png", cid="<logo>", filename="logo.png")
    message.add_attachment(b"sig", maintype="application", subtype="pkcs7-signature", filename="smime.p7s")
    message.add_attachment(b"\x89PNG photo", maintype="image", subtype="png", filename="photo.png")
    assert list(attached(message.as_bytes())) == ["photo.png"]


def test_texts_between_attachments_are_all_the_letter():
    raw = (
        f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\nfor old programs\n--b\n\nabove\n--b\n"
        "Content-Type: text/plain\nContent-Disposition: inline; filename=notes.txt\n\nnotes\n--b\n\nbelow\n--b--\nafterwards"
    ).encode()
    assert text_of(raw).endswith("Attachments: notes.txt\n\nabove\n\nbelow")
    assert attached(raw) == {"notes.txt": b"notes"}


def test_digest_holds_messages():
    raw = f"{HEAD}Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: one\n\n1\n--b\n\nSubject: two\n\n2\n--b--".encode()
    assert list(attached(raw)) == ["one.eml", "two.eml"]
    assert text_of(attached(raw)["two.eml"]) == "Subject: two\n\n2"


def test_broken_messages_are_read_as_far_as_they_go():
    for raw, expected in (
        (f"{HEAD}Content-Type: multipart/mixed; boundary=nowhere\n\nthe price", "the price"),
        (f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\n\nthe price", "the price"),
        (f"{HEAD}Content-Type: text/plain; charset=no-such\n\nthe price", "the price"),
        (f"{HEAD}Content-Type: \n\nthe price", "the price"),
        (f"{HEAD}Content-Transfer-Encoding: base64\n\n{base64.b64encode(b'the price').decode()[:-1]}", "the pric"),
        (f"{HEAD}no header\nthe price", "the price"),
        (f"{HEAD}Date: the day after\n\nthe price", "the price"),
        ("the price", "the price"),
        (f"\n{HEAD}\nthe price", "the price"),
    ):
        assert expected in text_of(raw.encode()), raw


def test_locked_messages_say_so():
    bodies = (
        "Content-Type: multipart/encrypted; boundary=b\n\n--b\n\nx\n--b--",
        "Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\n\nMIAG",
        "Content-Type: application/x-pkcs7-mime; name=smime.p7m\n\nMIAG",
        "Content-Type: text/plain\n\n-----BEGIN PGP MESSAGE-----\n\nhQ\n-----END PGP MESSAGE-----",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: application/pkcs7-mime\n\nMIAG\n--b\n\nfooter\n--b--",
    )
    for body in bodies:
        with pytest.raises(EncryptedFile, match="encrypted"):
            parse_email((HEAD + body).encode())
    with pytest.raises(UnsupportedFormat, match="signature"):
        parse_email(f"{HEAD}Content-Type: application/pkcs7-mime; smime-type=signed-data\n\nMIAG".encode())


def test_outlooks_own_container_is_named():
    with pytest.raises(UnsupportedFormat, match=r"winmail\.dat"):
        parse("winmail.dat", b"\x78\x9f\x3e\x22\x00\x00\x01")


def test_mailbox_says_what_to_do_and_one_message_of_one_is_read(tmp_path):
    box = mailbox.mbox(tmp_path / "box")
    for number in range(2):
        box.add(mailbox.mboxMessage(letter(f"number {number}")))
        box.flush()
        raw = (tmp_path / "box").read_bytes()
        assert media_type_of("box", raw) == "message/rfc822"
        if number == 0:
            assert text_of(raw).endswith("number 0")
    box.close()
    with pytest.raises(UnsupportedFormat, match=r"each of them as \.eml"):
        parse_email(raw)


def test_content_tells_a_message_from_a_note():
    whole = letter().as_bytes()
    for name in ("letter.eml", "letter", "letter.txt"):
        assert media_type_of(name, whole) == "message/rfc822"
    note = b"From: the desk of Ada\nSubject: eggs\n\nBuy eggs.\n"
    assert media_type_of("note.txt", note) == "text/plain"
    assert media_type_of("note.eml", note) == "message/rfc822"
    assert not looks_like_email("From: Ada\n")
    assert not looks_like_email("MIME-Version: 1.0\nbut then: prose goes on, and\non\n")
    long = f"Received: from x\n{'ARC-Seal: ' + 'x' * 70 + chr(10)}" * 200
    assert media_type_of("long", f"{long}Subject: x\n\nx".encode()) == "message/rfc822"


def test_saved_page_of_a_browser_is_read():
    raw = (
        b'From: <Saved by Blink>\nSubject: Prices\nMIME-Version: 1.0\nContent-Type: multipart/related; boundary=b; type="text/html"\n\n'
        b"--b\nContent-Type: text/html\nContent-ID: <page>\n\n<html><body><h1>Prices</h1><p>forty crowns</p></body></html>\n"
        b"--b\nContent-Type: text/css\nContent-ID: <css>\n\np { color: red }\n--b--"
    )
    media_type, document = parse("page.mhtml", raw)
    assert media_type == "message/rfc822"
    assert document.text.endswith("Prices\n\nforty crowns")
    assert not document.attachments


# -- hostile authors --------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    parts = [HEAD]
    parts += [f"Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n" for level in range(depth)]
    return "".join([*parts, "\nthe innermost\n", *(f"--b{level}--\n" for level in reversed(range(depth)))]).encode()


def test_nesting_is_bounded():
    assert text_of(nested(DEPTH_MAX)).endswith("the innermost")
    for depth in (DEPTH_MAX + 1, 20_000):
        with pytest.raises(CorruptFile, match="nested"):
            parse_email(nested(depth))


def test_numbers_are_bounded():
    with pytest.raises(ParserLimit, match="text of more than"):
        parse_email(HEAD.encode() + b"\n" + b"x y\n" * 5_000_000)
    part = "--b\nContent-Disposition: attachment; filename=x\n\nx\n"
    head = f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n"
    assert len(parse_email(f"{head}{part * 200}--b--".encode()).attachments) == 200
    with pytest.raises(ParserLimit, match="201 attachments"):
        parse_email(f"{head}{part * 201}--b--".encode())
    with pytest.raises(ParserLimit, match="parts"):
        parse_email(head.encode() + b"--b\n\n" * 100_000)


@pytest.mark.parametrize(
    "raw",
    [
        f"{HEAD}X: ".encode() + b"(" * 2_000_000,
        f"{HEAD}To: ".encode() + b'"a" <a@b>, ' * 200_000,
        f"{HEAD}Content-Type: text/plain;".encode() + b";" * 2_000_000,
        f"{HEAD}Content-Type: text/plain; ".encode() + b" a*0*=x;" * 200_000,
        f"{HEAD}Subject: ".encode() + b"=?utf-8?q?" * 200_000,
        HEAD.encode() + b"X: y\n" * 400_000,
        HEAD.encode() + b" \n" * 1_000_000,
        f"{HEAD}Content-Type: multipart/mixed; boundary=-\n\n".encode() + b"-" * 2_000_000,
        f"{HEAD}Content-Type: multipart/mixed; boundary=-\n\n".encode() + b"\n---x" * 400_000,
        f"{HEAD}Content-Transfer-Encoding: quoted-printable\n\n".encode() + b"=" * 2_000_000,
        f"{HEAD}Content-Transfer-Encoding: base64\n\n".encode() + b"=" * 2_000_000,
        f"{HEAD}Content-Transfer-Encoding: x-uuencode\n\n".encode() + b"\nM" * 100_000,
        b"From x\n" + b"\n\nFrom x 11:11 11:11" * 100_000,
        b"From x\n\n\nFrom x" + b" 11:11" * 300_000,
    ],
)  # fmt: skip
def test_hostile_messages_take_a_time_in_proportion_to_their_length(raw):
    started = time.process_time()
    with contextlib.suppress(PermanentError):
        check(parse_email(raw))
    assert time.process_time() - started < 20  # a squared one takes hours


@given(st.binary(max_size=600))
def test_any_bytes_are_a_message_or_a_reason(noise):
    for raw in (
        noise,
        HEAD.encode() + noise,
        f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n--b\n".encode() + noise,
    ):
        with contextlib.suppress(PermanentError):
            document = parse_email(raw)
            check(document)
            for one in document.attachments:
                b"".join(one.pieces())
