"""Messages: who wrote to whom, when and about what, the text, and the files that were sent with it.

Whatever is attached becomes a document of its own, which is parsed by itself; here it is named. Pictures that belong to the
page and signatures do not count as attached.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime

from services.ingester.parsing.blocks import Attachment, BlockKind, ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.html import parse_html
from services.ingester.parsing.mime import (
    Part,
    as_text,
    body_pieces,
    decoded_words,
    file_pieces,
    headers_of,
    leaves_of,
    parameter_of,
)
from services.ingester.parsing.plain import plain_blocks
from services.ingester.parsing.writer import TextWriter, folded
from shared.errors import EncryptedFile, ParserLimit, UnsupportedFormat
from shared.text import storable

ATTACHMENTS_MAX = 200
# Of lines without words a text needs thirty times its length while its paragraphs are looked for; this is 3,000 pages.
TEXT_BYTES_MAX = 16 * 1024 * 1024
_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_LINE = re.compile(r"([!-9;-~]+)[ \t]*:|[ \t]|$")
_ENVELOPE = re.compile(r">?From [^\n]*\n")
# A header that only messages have, and as many of those that notes have as well.
_OWN = frozenset(
    [
        "received",
        "return-path",
        "delivered-to",
        "message-id",
        "mime-version",
        "dkim-signature",
        "x-mailer",
        "x-original-to",
        "arc-seal",
    ]
)
_COMMON = _OWN | frozenset(["from", "to", "cc", "bcc", "sender", "reply-to", "subject", "date", "content-type"])
_NEXT_IN_MAILBOX = re.compile(rb"\n\r?\nFrom \S[^\n]{0,200}? \d\d:\d\d(?::\d\d)? [^\n]{0,20}\d{4}")
_SIGNATURES = frozenset(
    [
        "application/pgp-signature",
        "application/pkcs7-signature",
        "application/x-pkcs7-signature",
        "application/pgp-keys",
    ]
)
_SEALED = frozenset(["application/pkcs7-mime", "application/x-pkcs7-mime"])
_REPORTS = frozenset(["message/delivery-status", "message/disposition-notification", "text/rfc822-headers"])
_PGP = re.compile(r"\s*-----BEGIN PGP MESSAGE-----")
# Endings for files without a name; what is in them is told by their content.
_SUFFIXES = {
    "message/rfc822": ".eml",
    "application/pdf": ".pdf",
    "application/zip": ".zip",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "text/plain": ".txt",
    "text/html": ".html",
    "text/csv": ".csv",
    "text/calendar": ".ics",
}


def looks_like_email(head: str) -> bool:
    """Whether a text begins with the headers of a message, to its first empty line or as far as it was looked at.

    Notes begin with "From:" and "Subject:" too: only what no person writes makes a message.
    """
    lines = head[envelope.end() if (envelope := _ENVELOPE.match(head)) else 0 :].split("\n")
    names: set[str] = set()
    for number, line in enumerate(lines):
        if not line.strip() and number:
            break
        found = _LINE.match(line)
        if found is None or (found[1] is None and not number):
            if number == len(lines) - 1 and names:
                break  # cut off where the look ends
            return False
        if found[1]:
            names.add(found[1].lower())
    return bool(names & _OWN) and len(names & _COMMON) >= 2


def parse_email(content: bytes) -> ParsedDocument:
    """Read a message.

    Raises: EncryptedFile · UnsupportedFormat for a mailbox · CorruptFile · ParserLimit.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")) or b"\x00" in content[:2]:
        content = decode(content)[0].encode()
    if content.startswith(b"From ") and _NEXT_IN_MAILBOX.search(content):
        raise UnsupportedFormat(
            "the file is a mailbox of several messages: save each of them as .eml (most mail programs do so when messages "
            "are dragged into a folder), then drop those"
        )
    headers, start = headers_of(content, 0, len(content))
    _refuse_sealed(headers)
    shown = {name: folded(decoded_words(headers.get(name.lower(), ""))) for name in _SHOWN}
    texts: list[Part] = []
    attached: list[Part] = []
    for part in leaves_of(content, headers, start):
        _refuse_sealed(part.headers)
        _sort(part, texts, attached)
    if len(attached) > ATTACHMENTS_MAX:
        raise ParserLimit(
            f"the message has {len(attached)} attachments; at most {ATTACHMENTS_MAX} are taken: save them, then drop them"
        )
    if sum(part.end - part.start for part in texts) > TEXT_BYTES_MAX:
        raise ParserLimit(f"the message has a text of more than {TEXT_BYTES_MAX:,} bytes: save it in several files")
    attachments = tuple(
        Attachment(_name(content, part), functools.partial(file_pieces, content, part)) for part in attached
    )
    writer = TextWriter()
    _write_headers(writer, shown, attachments)
    replaced = 0
    for part in texts:
        replaced += _write_text(writer, content, part)
    metadata = {name.lower(): value for name, value in shown.items()}
    metadata["date"] = _date(shown["Date"])
    metadata["attachments"] = ", ".join(attachment.name for attachment in attachments)
    return replace(writer.document(shown["Subject"], metadata, replaced_before=replaced), attachments=attachments)


def _refuse_sealed(headers: dict[str, str]) -> None:
    """Refuse a message that only its reader can open.

    Raises: EncryptedFile, or UnsupportedFormat when it is signed in a way that wraps it.
    """
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _SEALED and "signed" in parameter_of(content_type, "smime-type").lower():
        raise UnsupportedFormat(
            "the file is a message that is wrapped in its signature: open it in a mail program, and save it or print it as PDF"
        )
    if media_type in _SEALED or media_type == "multipart/encrypted":
        raise EncryptedFile(
            "the message is encrypted: open it in the mail program that has the key, and save it unencrypted or print it as PDF"
        )


def _sort(part: Part, texts: list[Part], attached: list[Part]) -> None:
    """Put a part where it belongs: to the text, to the attachments, or nowhere."""
    kind = part.media_type.partition("/")[0]
    is_attached = part.disposition == "attachment"
    if part.media_type in _SIGNATURES:
        return
    if part.is_embedded and kind in {"image", "font", "audio", "video"}:
        return
    if kind == "image" and not is_attached and not part.file_name:
        return
    is_text = kind == "text" or part.media_type in _REPORTS
    if is_text and not is_attached and not (part.file_name and (texts or part.disposition)):
        if part.is_shown and not part.is_embedded and part.media_type not in ("text/css", "text/javascript"):
            texts.append(part)
        return
    if part.end > part.start and not (part.is_embedded and not part.file_name):
        attached.append(part)


def _name(content: bytes, part: Part) -> str:
    """Return the name of an attachment; a message is named by its subject."""
    name = part.file_name
    if not name and part.media_type == "message/rfc822":
        headers, _ = headers_of(content[part.start : part.end][:65_536], 0, min(part.end - part.start, 65_536))
        name = folded(decoded_words(headers.get("subject", "")))[:100].strip() or "message"
    if part.media_type == "message/rfc822" and not name.lower().endswith(".eml"):
        name += ".eml"  # its headers alone may not show what it is
    return storable(name or f"attachment{_SUFFIXES.get(part.media_type, '')}")[0][:1000]


def _write_headers(writer: TextWriter, shown: dict[str, str], attachments: Sequence[Attachment]) -> None:
    lines = [f"{name}: {value}" for name, value in shown.items() if value]
    if attachments:
        lines.append(f"Attachments: {', '.join(attachment.name for attachment in attachments)}")
    for line in lines:
        writer.add(BlockKind.LINES, line, is_joined=True)


def _write_text(writer: TextWriter, content: bytes, part: Part) -> int:
    """Write one text of a message; return how many of its characters could not be read.

    Raises: EncryptedFile · CorruptFile · ParserLimit.
    """
    text, replaced = storable(as_text(b"".join(body_pieces(content, part)), part.charset))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    replaced += text.count("\N{REPLACEMENT CHARACTER}")
    if _PGP.match(text):
        raise EncryptedFile(
            "the message is encrypted: open it in the mail program that has the key, and save it unencrypted or print it as PDF"
        )
    if part.media_type != "text/html":
        for block in plain_blocks(text):
            writer.add(block.kind, text[block.start : block.end])
        return replaced
    page = parse_html(text.encode())
    end = 0
    for block in page.blocks:
        is_joined = end > 0 and page.text[end : block.start] == "\n"
        writer.add(
            block.kind,
            page.text[block.start : block.end],
            level=block.level,
            context=block.context,
            is_joined=is_joined,
        )
        end = block.end
    return replaced


def _date(written: str) -> str:
    """Return a date as ISO has it, or as it was written."""
    try:
        return parsedate_to_datetime(written[:200]).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return written
