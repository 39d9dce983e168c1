"""Which parser reads a file: by its content first, by its name second.

1. The first format whose content test is certain (`is_it`), whatever the name says.
2. For a file of text: the first format of text with that name, or else plain text.
3. For any other file: a reason (`refusals.py`).

A format is one entry of `FORMATS`; its reason in `refusals.py`, if it has one, goes then. The formats of plug-ins stand
before the built-in ones (`plugins.py`).
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from services.ingester.parsing.blocks import ParsedDocument
from services.ingester.parsing.decoding import decode
from services.ingester.parsing.delimited import find_delimiter, parse_delimited
from services.ingester.parsing.docx import parse_docx
from services.ingester.parsing.email_message import looks_like_email, parse_email
from services.ingester.parsing.epub import parse_epub
from services.ingester.parsing.formats import Container, Format, Sample
from services.ingester.parsing.html import looks_like_html, parse_html
from services.ingester.parsing.markdown import parse_markdown
from services.ingester.parsing.ods import parse_ods
from services.ingester.parsing.opendocument import is_flat_opendocument, parse_flat_opendocument, parse_opendocument
from services.ingester.parsing.pdf import parse_pdf
from services.ingester.parsing.plain import parse_plain
from services.ingester.parsing.pptx import parse_pptx
from services.ingester.parsing.refusals import (
    BINARY_SUFFIXES,
    LOOSE_SUFFIXES,
    NEARLY_TEXT_SUFFIXES,
    REFUSALS,
    UNKNOWN_BINARY,
)
from services.ingester.parsing.text_formats import TEXT_FORMATS
from services.ingester.parsing.xls import STREAMS, parse_xls
from services.ingester.parsing.xlsx import parse_xlsx
from shared.errors import CorruptFile, EmptyDocument, UnsupportedFormat

MARKDOWN = "text/markdown"
PLAIN = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
EMAIL = "message/rfc822"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
ODT = "application/vnd.oasis.opendocument.text"
ODP = "application/vnd.oasis.opendocument.presentation"
ODG = "application/vnd.oasis.opendocument.graphics"
FODT = "application/vnd.oasis.opendocument.text-flat-xml"
EPUB = "application/epub+zip"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLS = "application/vnd.ms-excel"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
CSV = "text/csv"
TSV = "text/tab-separated-values"
_PDF_HEAD_BYTES = 1024
_CONTENT_TYPES = "[Content_Types].xml"


def _is_pdf(sample: Sample) -> bool:
    return sample.head.lstrip().startswith(b"%PDF-") or (
        sample.suffix == ".pdf" and b"%PDF-" in sample.head[:_PDF_HEAD_BYTES]
    )


def _is_docx(sample: Sample) -> bool:
    return sample.has_part(_CONTENT_TYPES) and sample.has_part_below("word/")


def _is_pptx(sample: Sample) -> bool:
    return sample.has_part(_CONTENT_TYPES) and sample.has_part_below("ppt/")


def _is_xlsx(sample: Sample) -> bool:
    is_binary = "xl/workbook.bin" in sample.parts
    return sample.has_part(_CONTENT_TYPES) and sample.has_part_below("xl/") and not is_binary


def _is_xls(sample: Sample) -> bool:
    return any(sample.has_stream(name) for name in STREAMS)


def _is_table_called_xls(sample: Sample) -> bool:
    """Whether a text is a table with the name that lets Excel open it."""
    text = sample.text.strip() if sample.suffix == ".xls" else ""
    return "\n" in text and not text.startswith("<") and find_delimiter(text) is not None


def _is_opendocument(media_type: str) -> Callable[[Sample], bool]:
    """Return the test of an OpenDocument kind, of its templates, and of texts that hold others together."""
    declared = (media_type, f"{media_type}-template", f"{media_type}-master")
    return lambda sample: sample.declared_type in declared and "content.xml" in sample.parts


def _is_epub(sample: Sample) -> bool:
    # Programs of design keep their files in such a container as well, and say so.
    return sample.declared_type == EPUB or (not sample.declared_type and "META-INF/container.xml" in sample.parts)


# In this order: the first whose content test or name fits reads the file.
FORMATS = (
    Format(PDF, (".pdf",), parse_pdf, _is_pdf, Container.BYTES),
    Format(DOCX, (".docx", ".docm", ".dotx", ".dotm"), parse_docx, _is_docx, Container.ZIP),
    Format(PPTX, (".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm"), parse_pptx, _is_pptx, Container.ZIP),
    Format(ODT, (".odt", ".ott"), parse_opendocument, _is_opendocument(ODT), Container.ZIP),
    Format(ODP, (".odp", ".otp"), parse_opendocument, _is_opendocument(ODP), Container.ZIP),
    Format(ODG, (".odg", ".otg"), parse_opendocument, _is_opendocument(ODG), Container.ZIP),
    Format(
        FODT, (".fodt", ".fodp", ".fodg"), parse_flat_opendocument, lambda sample: is_flat_opendocument(sample.text)
    ),
    Format(XLSX, (".xlsx", ".xlsm", ".xltx", ".xltm"), parse_xlsx, _is_xlsx, Container.ZIP),
    Format(ODS, (".ods", ".ots"), parse_ods, _is_opendocument(ODS), Container.ZIP),
    Format(XLS, (".xls", ".xlt"), parse_xls, _is_xls, Container.OLE),
    Format(EPUB, (".epub",), parse_epub, _is_epub, Container.ZIP),
    Format(EMAIL, (".eml", ".mbox", ".mht", ".mhtml"), parse_email, lambda sample: looks_like_email(sample.text)),
    Format(HTML, (".html", ".htm", ".xhtml", ".xht"), parse_html, lambda sample: looks_like_html(sample.text)),
    Format(CSV, (".csv", ".psv"), lambda content: parse_delimited(*decode(content)), _is_table_called_xls),
    Format(TSV, (".tsv", ".tab"), lambda content: parse_delimited(*decode(content))),
    *TEXT_FORMATS,
    Format(MARKDOWN, (".md", ".markdown", ".mdown", ".mkd"), lambda content: parse_markdown(*decode(content))),
    Format(PLAIN, (".txt", ".text", ".log"), lambda content: parse_plain(*decode(content))),
)
_BY_MEDIA_TYPE = {entry.media_type: entry for entry in FORMATS}


class Registry:
    """The formats that are read, those of plug-ins before the built-in ones."""

    def __init__(self, plugged: Iterable[Format] = ()) -> None:
        self._formats: Sequence[Format] = [*map(_in_place_of_its_namesake, plugged), *FORMATS]
        self._plain = next(entry for entry in self._formats if entry.media_type == PLAIN)
        binary = (entry.suffixes for entry in self._formats if entry.container is not Container.TEXT)
        self._binary_suffixes = BINARY_SUFFIXES.union(*binary) - NEARLY_TEXT_SUFFIXES

    def find(self, name: str, content: bytes) -> Format:
        """Return the format of a file.

        Raises: UnsupportedFormat saying what the file is · EncryptedFile · CorruptFile where the name promises something else.
        """
        sample = Sample(name, content)
        certain = next((entry for entry in self._formats if entry.holds(sample)), None)
        is_misnamed = self._is_misnamed(sample, certain)
        if certain is not None and not is_misnamed:
            return certain
        if sample.container is not Container.TEXT and (plugged := self._told_by_name_alone(sample)) is not None:
            return plugged
        for refusal in REFUSALS:
            if refusal.holds(sample):
                raise refusal.reason()
        if sample.container is not Container.TEXT:
            raise UnsupportedFormat(UNKNOWN_BINARY)
        if is_misnamed:
            raise CorruptFile(
                f"the name ends in {sample.suffix}, but the file is text: copy or download it again, "
                "or give it its right name"
            )
        texts = (entry for entry in self._formats if entry.container is Container.TEXT)
        return next((entry for entry in texts if entry.is_named(sample)), self._plain)

    def _told_by_name_alone(self, sample: Sample) -> Format | None:
        """Return a plug-in's format that is no text and has no content test."""
        kinds = (Container.BYTES, sample.container)
        return next(
            (
                entry
                for entry in self._formats
                if not entry.is_it and entry.container in kinds and entry.is_named(sample)
            ),
            None,
        )

    def _is_misnamed(self, sample: Sample, certain: Format | None) -> bool:
        """Whether a text has the name of something else: a page with an error message, half a download."""
        if not sample.head or sample.container is not Container.TEXT or sample.suffix not in self._binary_suffixes:
            return False
        # A PDF of nothing but ASCII is what its name says, and so is a page that a program calls a spreadsheet.
        return certain is None or (certain.container is Container.TEXT and sample.suffix not in LOOSE_SUFFIXES)

    def parse(self, name: str, content: bytes) -> tuple[str, ParsedDocument]:
        """Read a file and return its media type and its text.

        One that holds nothing is an empty document in every format: whoever empties a file takes its text back. One that
        holds pictures of a text is refused.

        Raises: PermanentError of the kind that says why it cannot be read.
        """
        found = self.find(name, content)
        with contextlib.suppress(EmptyDocument):
            if content and not content.isspace():
                return found.media_type, found.parse(content)
        return found.media_type, ParsedDocument("", [])


def _in_place_of_its_namesake(plugged: Format) -> Format:
    """Let a plug-in that names only the media type of a built-in format read all that this one reads."""
    built_in = _BY_MEDIA_TYPE.get(plugged.media_type)
    if built_in is None or plugged.is_it is not None:
        return plugged
    return replace(
        plugged,
        suffixes=plugged.suffixes + built_in.suffixes,
        is_it=built_in.is_it,
        container=built_in.container,
    )


_BUILT_IN = Registry()


def media_type_of(name: str, content: bytes) -> str:
    """Name the kind of a file as the built-in formats know it.

    Raises: as `Registry.find`.
    """
    return _BUILT_IN.find(name, content).media_type


def parse(name: str, content: bytes) -> tuple[str, ParsedDocument]:
    """Read a file with the built-in formats.

    Raises: as `Registry.parse`.
    """
    return _BUILT_IN.parse(name, content)
