"""Files that nobody reads: what they are, and what a person can do about it."""

from collections.abc import Callable
from dataclasses import dataclass

from services.ingester.parsing.formats import Container, Sample
from shared.errors import EncryptedFile, PermanentError, UnsupportedFormat

READ = "save it as PDF, DOCX, HTML, Markdown or plain text"
_IMAGE = f"an image: run OCR on it and {READ}"
_DRAWING = "a drawing (.emf, .wmf): put it into a document and save that as PDF"
_ARCHIVE = "an archive: unpack it, then drop what is in it"
_RECORDING = "a recording of sound or pictures: write down what is said in it and drop that as text"
_TABLES = "a database or a file of tables: export its tables as CSV"
_IWORK = "of Pages, Numbers or Keynote: export it as DOCX, XLSX, PPTX or PDF"
_PROGRAM = "a program, and no text: leave it out, or drop its source code"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kind of file that is not read, known by its content. The tests of a BYTES kind see every file."""

    container: Container
    is_it: Callable[[Sample], bool]
    what: str
    error: type[PermanentError] = UnsupportedFormat

    def holds(self, sample: Sample) -> bool:
        """Whether a file is of this kind."""
        return self.container in (Container.BYTES, sample.container) and self.is_it(sample)

    def reason(self) -> PermanentError:
        """Return what is told of the file."""
        return self.error(self.what if self.error is EncryptedFile else f"the file is {self.what}")


def _begins(start: bytes, what: str, *, is_text_too: bool = False) -> Refusal:
    """Know a kind by its first bytes; a text may begin with some of them, and is then a text."""
    return Refusal(
        Container.BYTES,
        lambda sample: sample.head.startswith(start) and not (is_text_too and sample.container is not Container.BYTES),
        what,
    )


def _is_still_picture(sample: Sample) -> bool:
    is_webp = sample.head.startswith(b"RIFF") and sample.head[8:12] == b"WEBP"
    return is_webp or sample.head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")


def _is_recording(sample: Sample) -> bool:
    """Whether it is sound or film: by its mark, or by the first four bytes of a box or a chunk."""
    head = sample.head
    has_mark = head.startswith(
        (b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"\xff\xfb", b"\xff\xf3", b"\x00\x00\x01\xba")
    )
    has_chunk = head.startswith((b"RIFF", b"FORM")) and head[8:12] in (b"WAVE", b"AVI ", b"AIFF", b"AIFC")
    return sample.container is Container.BYTES and (has_mark or has_chunk or head[4:8] in (b"ftyp", b"moov", b"mdat"))


def _has_part(name: str, what: str) -> Refusal:
    return Refusal(Container.ZIP, lambda sample: sample.has_part_below(name), what)


def _has_stream(name: str, what: str) -> Refusal:
    return Refusal(Container.OLE, lambda sample: sample.has_stream(name), what)


def _is_locked(sample: Sample) -> bool:
    return sample.has_stream("EncryptedPackage")


# In this order, after every format: what is read needs no reason.
REFUSALS = (
    Refusal(
        Container.OLE,
        _is_locked,
        "the document is locked with a password: save it without one, then drop it again",
        EncryptedFile,
    ),
    _has_stream("WordDocument", f"an old Word document (.doc): open it and {READ}"),
    _has_stream("PowerPoint Document", "an old presentation (.ppt): open it and save it as PPTX or PDF"),
    _has_stream(
        "__substg1.0_",
        "an Outlook message (.msg): open it and save it as HTML or text, or as .eml in a program that can",
    ),
    Refusal(Container.OLE, lambda _: True, f"of an old office program: open it and {READ}"),
    _has_part("xl/", "a binary spreadsheet (.xlsb): save it as XLSX"),
    Refusal(
        Container.ZIP,
        lambda sample: sample.declared_type.startswith("application/vnd.sun.xml."),
        "of an old OpenOffice: open it and save it as ODT, ODS, ODP or PDF",
    ),
    _has_part("content.xml", f"an OpenDocument file of a kind that holds no text: open it and {READ}"),
    _has_part("Index/", _IWORK),
    _has_part("Index.zip", _IWORK),
    _has_part("index.apxl", "of an old Keynote: export it as PPTX or PDF"),
    _has_part("buildVersionHistory.plist", _IWORK),
    _has_part("visio/", "a drawing of Visio: save it as PDF"),
    _has_part("FixedDoc", "an XPS document: print or convert it to PDF"),
    _has_part("META-INF/MANIFEST.MF", _PROGRAM),
    Refusal(Container.ZIP, lambda _: True, _ARCHIVE),
    _begins(b"\x89PNG", _IMAGE),
    _begins(b"\xff\xd8\xff", _IMAGE),
    _begins(b"GIF8", _IMAGE),
    _begins(b"II*\x00", _IMAGE),
    _begins(b"MM\x00*", _IMAGE),
    _begins(b"\x1f\x8b", _ARCHIVE),
    _begins(b"7z\xbc\xaf'\x1c", _ARCHIVE),
    _begins(b"Rar!\x1a\x07", _ARCHIVE),
    _begins(b"\x78\x9f\x3e\x22", "a winmail.dat of Outlook: ask its sender for the files themselves, or unpack it"),
    _begins(b"%!PS", "PostScript: convert it to PDF"),
    _begins(b"BM", _IMAGE, is_text_too=True),
    _begins(b"8BPS", _IMAGE, is_text_too=True),
    _begins(b"BZh", _ARCHIVE, is_text_too=True),
    _begins(b"\xfd7zXZ\x00", _ARCHIVE),
    _begins(b"\x28\xb5\x2f\xfd", _ARCHIVE),
    Refusal(Container.BYTES, lambda sample: sample.head[257:262] == b"ustar", _ARCHIVE),
    Refusal(Container.BYTES, _is_still_picture, _IMAGE),
    _begins(b"\xd7\xcd\xc6\x9a", _DRAWING),
    Refusal(Container.BYTES, lambda sample: sample.head[40:44] == b" EMF" and sample.head[0] == 1, _DRAWING),
    Refusal(Container.BYTES, _is_recording, _RECORDING),
    _begins(b"SQLite format 3\x00", _TABLES),
    _begins(b"PAR1", _TABLES, is_text_too=True),
    _begins(b"ARROW1", _TABLES, is_text_too=True),
    _begins(b"Obj\x01", _TABLES),
    _begins(b"\x7fELF", _PROGRAM),
    _begins(b"MZ", _PROGRAM, is_text_too=True),
    _begins(b"\xca\xfe\xba\xbe", _PROGRAM),
    _begins(b"\xcf\xfa\xed\xfe", _PROGRAM),
    _begins(b"\x00asm", _PROGRAM),
    _begins(b"AT&TFORM", "a DjVu document: convert it to PDF", is_text_too=True),
    _begins(b"\xffWPC", f"a WordPerfect document: open it in a word processor and {READ}"),
    _begins(b"\xe4\x52\x5c\x7b", "a OneNote section: export it as PDF or DOCX"),
    _begins(b"bplist00", "a binary property list: convert it to XML (plutil -convert xml1)", is_text_too=True),
    Refusal(
        Container.BYTES,
        lambda sample: sample.head[60:68] in (b"BOOKMOBI", b"TEXtREAd") and sample.container is Container.BYTES,
        "a Kindle or Mobipocket book: convert it to EPUB or PDF",
    ),
)
# What is refused although no content test names it.
UNKNOWN_BINARY = f"the file is binary and of no kind that is read: {READ}"
# A name that promises one of these, beside those of the formats that are no text, to a file of text is wrong.
_BINARY = (
    ".doc .dot .ppt .pps .xls .xlsm .xlsb .msg .pptx .ppsx .xlsx .odt .ods .odp .epub .zip .gz "
    ".png .jpg .jpeg .gif .tif .tiff"
)
BINARY_SUFFIXES = frozenset(_BINARY.split())
# RTF is text that may hold bytes: a file that does not begin as it does is text all the same.
NEARLY_TEXT_SUFFIXES = frozenset([".rtf"])
# Programs give these names to pages, RTF and messages too, and office programs open them so.
LOOSE_SUFFIXES = frozenset([".doc", ".dot", ".xls", ".ppt", ".msg"])
