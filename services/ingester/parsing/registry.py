"""Which parser reads a file: by its content first, by its name second."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from services.ingester.parsing.archive import Archive
from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.decoding import decode, looks_binary
from services.ingester.parsing.docx import parse_docx
from services.ingester.parsing.html import looks_like_html, parse_html
from services.ingester.parsing.markdown import parse_markdown
from services.ingester.parsing.pdf import parse_pdf
from services.ingester.parsing.plain import parse_plain
from shared.errors import CorruptFile, EncryptedFile, UnsupportedFormat

MARKDOWN = "text/markdown"
PLAIN = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

_TEXTS = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".mdown": MARKDOWN,
    ".mkd": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".xht": HTML,
}
# A name that promises one of these to a file of text is wrong: a page with an error message, half a download.
_BINARY = re.compile(r"\.(?:pdf|do[ct][xm]?|pp[ts]x?|xls[xmb]?|od[tsp]|epub|msg|zip|gz|png|jpe?g|gif|tiff?)$")
_PARSERS: dict[str, Callable[[bytes], ParsedDocument]] = {
    MARKDOWN: lambda content: parse_markdown(*decode(content)),
    PLAIN: lambda content: parse_plain(*decode(content)),
    HTML: parse_html,
    PDF: parse_pdf,
    DOCX: parse_docx,
}
_READ = "save it as PDF, DOCX, HTML, Markdown or plain text"
# What else begins so, and what to do about it.
_MAGIC = (
    (b"\x89PNG", f"an image: run OCR on it and {_READ}"),
    (b"\xff\xd8\xff", f"an image: run OCR on it and {_READ}"),
    (b"GIF8", f"an image: run OCR on it and {_READ}"),
    (b"II*\x00", f"an image: run OCR on it and {_READ}"),
    (b"MM\x00*", f"an image: run OCR on it and {_READ}"),
    (b"\x1f\x8b", "an archive: unpack it, then drop what is in it"),
    (b"7z\xbc\xaf'\x1c", "an archive: unpack it, then drop what is in it"),
    (b"Rar!\x1a\x07", "an archive: unpack it, then drop what is in it"),
    (b"{\\rtf", f"RTF: open it in a word processor and {_READ}"),
    (b"%!PS", "PostScript: convert it to PDF"),
)
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Names of streams in the older container, as they stand in its directory.
_OLD_KINDS = (
    ("WordDocument", f"an old Word document (.doc): open it and {_READ}"),
    ("Workbook", "an old spreadsheet (.xls): save its tables as HTML or PDF"),
    ("PowerPoint Document", "an old presentation (.ppt): save it as PDF"),
    ("__substg1.0_", "an Outlook message (.msg): save it as HTML or text"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ZIP_KINDS = (
    ("ppt/", "a presentation (.pptx): save it as PDF"),
    ("xl/", "a spreadsheet (.xlsx): save its tables as HTML or PDF"),
    ("META-INF/container.xml", "an e-book (.epub): convert it to HTML or PDF"),
    ("content.xml", "an OpenDocument file: save it as DOCX or PDF"),
)
HEAD_BYTES = 8192
_PDF_HEAD_BYTES = 1024


def media_type_of(name: str, content: bytes) -> str:
    """Name the kind of a file.

    Raises: UnsupportedFormat saying what the file is · EncryptedFile · CorruptFile where the name promises something else.
    """
    head = content[:HEAD_BYTES]
    suffix = PurePosixPath(name).suffix.lower()
    if head.lstrip().startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in head[:_PDF_HEAD_BYTES]):
        return PDF
    if head.startswith(_ZIP):
        return _kind_of_zip(content)
    if head.startswith(_OLD_OFFICE):
        raise _old_office(content)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise UnsupportedFormat(f"the file is {what}")
    if looks_binary(head):
        raise UnsupportedFormat(f"the file is binary and of no kind that is read: {_READ}")
    if _BINARY.match(suffix) and head:
        raise CorruptFile(
            f"the name ends in {suffix}, but the file is text: copy or download it again, or give it its right name"
        )
    return HTML if looks_like_html(decode(head)[0]) else _TEXTS.get(suffix, PLAIN)


def _kind_of_zip(content: bytes) -> str:
    names = Archive(content).names
    if "[Content_Types].xml" in names and any(name.startswith("word/") for name in names):
        return DOCX
    for start, what in _ZIP_KINDS:
        if any(name.startswith(start) for name in names):
            raise UnsupportedFormat(f"the file is {what}")
    raise UnsupportedFormat("the file is an archive: unpack it, then drop what is in it")


def _old_office(content: bytes) -> UnsupportedFormat | EncryptedFile:
    if "EncryptedPackage".encode("utf-16-le") in content:
        return EncryptedFile("the document is locked with a password: save it without one, then drop it again")
    for stream, what in _OLD_KINDS:
        if stream.encode("utf-16-le") in content:
            return UnsupportedFormat(f"the file is {what}")
    return UnsupportedFormat(f"the file is of an old office program: open it and {_READ}")


def parse(name: str, content: bytes) -> tuple[str, ParsedDocument]:
    """Read a file and return its media type and its text.

    Raises: PermanentError of the kind that says why it cannot be read.
    """
    media_type = media_type_of(name, content)
    return media_type, _PARSERS[media_type](content)
