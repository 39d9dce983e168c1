"""Which parser reads a file: content before name, plug-ins before built-in formats."""

import io
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingester.parsing import (
    BlockKind,
    Container,
    Format,
    ParsedDocument,
    Registry,
    Sample,
    TextWriter,
    media_type_of,
)
from services.ingester.parsing.formats import HEAD_BYTES
from services.ingester.parsing.ole import root_names
from services.ingester.parsing.registry import FORMATS, HTML, MARKDOWN, PDF, PLAIN
from shared.errors import CorruptFile, PermanentError, UnsupportedFormat

SECTOR = 512
NONE = 0xFFFFFFFF


def compound_file(names: list[str], embedded: tuple[str, ...] = ()) -> bytes:
    """Return a container of the older office programs: streams at its root, and a storage with what is embedded."""
    entries = [_entry("Root Entry", 5, child=1)]
    for place, name in enumerate(names, 1):
        entries.append(_entry(name, 2, right=place + 1 if place < len(names) or embedded else NONE))
    if embedded:
        entries.append(_entry("MBD0001", 1, child=len(entries) + 1))
        entries += [_entry(name, 2) for name in embedded]
    entries += [bytes(128)] * (-len(entries) % 4)
    sectors = len(entries) // 4
    chain = [0xFFFFFFFD, *range(2, sectors + 1), 0xFFFFFFFE]
    table = struct.pack("<128I", *chain, *[NONE] * (128 - len(chain)))
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 62, 3, 0xFFFE, 9, 6)
    header += bytes(10) + struct.pack("<III", 1, 1, 0) + struct.pack("<IIIIII", 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0, 0)
    header = header[:76] + struct.pack("<109I", 0, *[NONE] * 108)
    return header + table + b"".join(entries)


def _entry(name: str, kind: int, *, child: int = NONE, right: int = NONE) -> bytes:
    encoded = name.encode("utf-16-le")
    entry = encoded.ljust(64, b"\x00") + struct.pack("<HBBIII", len(encoded) + 2, kind, 1, NONE, right, child)
    return entry.ljust(128, b"\x00")


def parse_as(title: str):
    def parse(content: bytes) -> ParsedDocument:
        writer = TextWriter()
        writer.add(BlockKind.PROSE, content.decode("latin-1"))
        return writer.document(title, {})

    return parse


def reader_of(registry: Registry, name: str, content: bytes) -> str | None:
    return registry.parse(name, content)[1].title


def test_every_format_can_be_told_and_no_two_are_alike() -> None:
    assert all(entry.suffixes or entry.is_it for entry in FORMATS)
    assert all(suffix == suffix.lower() for entry in FORMATS for suffix in entry.suffixes)
    assert len({entry.media_type for entry in FORMATS}) == len(FORMATS)


def test_container_of_the_older_programs_is_told_by_its_root_alone() -> None:
    content = compound_file(["\x01CompObj", "WordDocument"], embedded=("Workbook",))
    assert root_names(content) == {"\x01CompObj", "WordDocument", "MBD0001"}
    with pytest.raises(UnsupportedFormat, match=r"\.doc\)"):
        media_type_of("a.bin", content)


@pytest.mark.parametrize(
    ("streams", "embedded", "words"),
    [
        (["__properties_version1.0", "__substg1.0_0037001F"], ("WordDocument",), r"\.msg\)"),
        (["PowerPoint Document"], ("Workbook",), r"\.ppt\)"),
        (["VisioDocument"], ("WordDocument",), "old office program"),
    ],
)
def test_what_is_embedded_says_nothing_of_a_container(
    streams: list[str], embedded: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UnsupportedFormat, match=words):
        media_type_of("a", compound_file(streams, embedded))


@given(st.integers(0, 4000), st.binary(max_size=40))
def test_directory_of_a_damaged_container_is_read_or_not(place: int, junk: bytes) -> None:
    sound = compound_file([f"stream {number}" for number in range(20)])
    content = sound[:place] + junk + sound[place + len(junk) :]
    names = root_names(content)
    assert names is None or len(names) <= len(content) // 128


def test_chain_and_siblings_that_bite_their_tails_end() -> None:
    content = bytearray(compound_file(["one", "two"]))
    struct.pack_into("<I", content, SECTOR + 4, 1)  # the directory's sector follows itself
    struct.pack_into("<II", content, 2 * SECTOR + 128 + 68, 1, 2)
    struct.pack_into("<II", content, 2 * SECTOR + 256 + 68, 1, 0)
    assert root_names(bytes(content)) == {"one", "two", "Root Entry"}


@pytest.mark.parametrize("shift", range(4))
def test_beginning_of_a_text_may_end_within_a_character(shift: int) -> None:
    text = "x" * shift + "🍎数据库" * HEAD_BYTES
    beginning = Sample("a.txt", text.encode()).text
    assert text.startswith(beginning)
    assert len(beginning.encode()) > HEAD_BYTES - 4


@pytest.mark.parametrize("name", ["sales.xls", "letter.doc", "letter.DOC"])
def test_page_that_a_program_calls_an_office_file_is_read(name: str) -> None:
    assert media_type_of(name, b"<html><table><tr><td>1</table>") == HTML


@pytest.mark.parametrize("name", ["report.pdf", "report.docx", "photo.png"])
def test_page_under_the_name_of_what_it_is_not_is_told_as_such(name: str) -> None:
    with pytest.raises(CorruptFile, match="the file is text"):
        media_type_of(name, b"<html><p>404 not found")


def test_format_of_a_plug_in_is_told_by_content_before_name() -> None:
    recipe = Format("text/x-recipe", (".recipe",), parse_as("recipe"), lambda sample: sample.text.startswith("Recipe"))
    registry = Registry([recipe])
    assert reader_of(registry, "a.md", b"Recipe of soup") == "recipe"
    assert reader_of(registry, "a.recipe", b"Soup") == "recipe"
    assert registry.find("a.md", b"Soup").media_type == MARKDOWN
    assert registry.find("a.recipe", b"%PDF-1.7").media_type == PDF


def test_plug_in_with_the_media_type_of_a_built_in_format_reads_all_its_files() -> None:
    registry = Registry([Format(PDF, (), parse_as("mine")), Format(PLAIN, (), parse_as("also mine"))])
    assert reader_of(registry, "a.txt", b"%PDF-1.7 \xff") == "mine"
    assert reader_of(registry, "no known ending", b"words") == "also mine"
    with pytest.raises(CorruptFile, match="the file is text"):
        registry.find("a.pdf", b"words")


def test_plug_in_with_a_test_of_its_own_leaves_the_rest_to_the_built_in_format() -> None:
    mine = Format(PDF, (), parse_as("mine"), lambda sample: b"/MyProducer" in sample.head, Container.BYTES)
    registry = Registry([mine])
    assert reader_of(registry, "a.pdf", b"%PDF-1.7 /MyProducer") == "mine"
    with pytest.raises(PermanentError):
        registry.parse("a.pdf", b"%PDF-1.7")


@pytest.mark.parametrize(
    ("suffix", "container", "content"),
    [
        (".png", Container.BYTES, b"\x89PNG\r\n\x1a\n\x00"),
        (".doc", Container.OLE, compound_file(["WordDocument"])),
        (".doc", Container.BYTES, compound_file(["WordDocument"])),
        (".dwg", Container.BYTES, b"AC1032\x00\x00"),
    ],
)
def test_name_alone_gives_a_plug_in_what_nobody_else_reads(suffix: str, container: Container, content: bytes) -> None:
    registry = Registry([Format("x/mine", (suffix,), parse_as("mine"), container=container)])
    assert reader_of(registry, f"a{suffix}", content) == "mine"
    with pytest.raises(UnsupportedFormat):
        registry.find("a.other", content)
    with pytest.raises(CorruptFile, match="the file is text"):
        registry.find(f"a{suffix}", b"words")


def test_of_two_plug_ins_with_the_same_claim_the_first_wins() -> None:
    first, second = (Format("text/x-mine", (".mine",), parse_as(name)) for name in ("first", "second"))
    assert reader_of(Registry([first, second]), "a.mine", b"words") == "first"


def test_whole_name_tells_a_format() -> None:
    registry = Registry([Format("text/x-make", ("makefile",), parse_as("make"))])
    assert reader_of(registry, "folder/Makefile", b"all:") == "make"
    assert registry.find("makefile.txt", b"all:").media_type == PLAIN


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"visio/document.xml": "<v/>"}, "a drawing of Visio"),
        ({"FixedDocSeq.fdseq": "<f/>"}, "an XPS document"),
        ({"Data/mt0.jpg": "", "Index.zip": ""}, "of Pages, Numbers or Keynote"),
        ({"index.xml": "<p/>", "buildVersionHistory.plist": ""}, "of Pages, Numbers or Keynote"),
        ({"mimetype": "application/vnd.sun.xml.writer", "content.xml": "<o/>"}, "of an old OpenOffice"),
    ],
)
def test_container_of_another_program_is_named(parts: dict[str, str], reason: str) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {"[Content_Types].xml": "<Types/>", **parts}.items():
            archive.writestr(name, content)
    with pytest.raises(UnsupportedFormat, match=f"the file is {reason}"):
        media_type_of("a.bin", file.getvalue())
