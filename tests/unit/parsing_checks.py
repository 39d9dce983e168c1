"""What holds of every parsed document; shared by the tests of the formats."""

from services.ingester.parsing import BlockKind, ParsedDocument
from shared.text import storable

HEADING, PROSE, LINES, ROW = BlockKind.HEADING, BlockKind.PROSE, BlockKind.LINES, BlockKind.ROW


def blocks_of(document: ParsedDocument) -> list[tuple[BlockKind, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def headings_of(document: ParsedDocument) -> list[tuple[int, str]]:
    return [(block.level, block.heading) for block in document.blocks if block.kind is HEADING]


def check(document: ParsedDocument) -> None:
    """See that blocks stand in order and apart, that they hold every word, and that all of it can be stored."""
    at = 0
    for block in document.blocks:
        assert at <= block.start < block.end <= len(document.text)
        assert not document.text[at : block.start].strip()
        body = document.text[block.start : block.end]
        assert body == body.strip()
        if block.kind is HEADING:
            assert 1 <= block.level <= 6
            assert block.heading == " ".join(body.split())
        else:
            assert block.level == 0
        at = block.end
    assert not document.text[at:].strip()
    assert storable(document.text) == (document.text, 0)
    assert document.title is None or document.title.strip()
    assert all(value.strip() for value in document.metadata.values())
