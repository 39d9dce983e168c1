"""What is done with whatever a parser of somebody else returns."""

from dataclasses import replace

import pytest

from services.ingester.parsing import Format
from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument
from services.ingester.plugins import _formats, _guarded
from shared.errors import CorruptFile
from shared.text import storable

SPOILT = "Berth\x00s \ud800"
DOCUMENT = ParsedDocument(
    text=f"{SPOILT} of a harbour",
    blocks=[
        Block(BlockKind.HEADING, 0, 5, level=1, heading=SPOILT),
        Block(BlockKind.ROW, 6, 9, page=1, context=SPOILT),
        Block(BlockKind.PROSE, 10, 14),
    ],
    title=SPOILT,
    metadata={SPOILT: SPOILT},
    page_labels={1: SPOILT},
)


def test_every_word_of_a_plug_in_can_be_stored():
    document = _guarded("berths", lambda _: DOCUMENT)(b"")
    words = [document.text, document.title or "", *document.metadata, *document.metadata.values()]
    words += [word for block in document.blocks for word in (block.heading, block.context)]
    words += document.page_labels.values()
    assert [word for word in words if storable(word) != (word, 0)] == []
    assert (document.blocks[0].heading[:5], document.blocks[1].context[:5]) == ("Berth", "Berth")


def test_what_stands_beside_the_text_of_a_plug_in_is_no_longer_than_that_of_others():
    long = "berth " * 1000
    heading = Block(BlockKind.HEADING, 0, 5, level=40, heading=long)
    given = replace(
        DOCUMENT,
        blocks=[heading],
        title=long,
        metadata={f"{number} {long}": long for number in range(1000)},
        page_labels={1: long},
    )
    document = _guarded("berths", lambda _: given)(b"")
    (block,) = document.blocks
    assert (block.level, len(block.heading)) == (6, 300)
    assert (len(document.title or ""), len(document.page_labels[1]), len(document.metadata)) == (300, 300, 100)
    assert {(len(name), len(text)) for name, text in document.metadata.items()} == {(100, 1000)}


@pytest.mark.parametrize("blocks", [[Block(BlockKind.PROSE, 5, 3)], [Block(BlockKind.PROSE, 0, 900)], ["text"]])
def test_blocks_that_cannot_be_are_the_plug_ins_fault(blocks):
    with pytest.raises(CorruptFile, match="the plug-in berths could not read the file"):
        _guarded("berths", lambda _: replace(DOCUMENT, blocks=blocks))(b"")


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": [Block(BlockKind.PROSE, 0, 5, page=0)]},
        {"blocks": [Block(BlockKind.PROSE, 0, 5, page=2**31)]},
        {"blocks": [Block(BlockKind.PROSE, 0, 5, line="4")]},
        {"page_unit": "leaf"},
        {"line_unit": "verse"},
        {"attachments": ["a.txt"]},
    ],
    ids=str,
)
def test_places_and_attachments_that_cannot_be_are_the_plug_ins_fault(wrong):
    with pytest.raises(CorruptFile, match="the plug-in berths could not read the file"):
        _guarded("berths", lambda _: replace(DOCUMENT, **wrong))(b"")


@pytest.mark.parametrize("media_type", ["recipe", "text/" + "x" * 200, None])
def test_name_that_is_no_media_type_is_refused_when_the_plug_in_is_loaded(media_type):
    with pytest.raises(TypeError, match="media type"):
        _formats(Format(media_type, (), lambda _: DOCUMENT))
