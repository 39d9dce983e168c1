"""Plain text: paragraphs divided by empty lines."""

import re

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument

_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n[ \t]*\S[^\n]*)*")
# Lines that stand alone (logs, lists, verse) are kept whole; wrapped prose is read as sentences.
_WRAPPED_LINE_LENGTH_MIN = 40


def parse_plain(text: str, replaced: int) -> ParsedDocument:
    """Find the paragraphs of a text."""
    return ParsedDocument(text=text, blocks=plain_blocks(text), replaced_character_count=replaced)


def plain_blocks(text: str) -> list[Block]:
    """Return the paragraphs of a text as blocks. Units: `line` is 1 where the text begins."""
    blocks = []
    line, at = 1, 0
    for found in _PARAGRAPH.finditer(text):
        line += text.count("\n", at, found.start())
        at = found.start()
        blocks.append(Block(_kind(found.group()), at, found.end(), line=line))
    return blocks


def _kind(paragraph: str) -> BlockKind:
    lines = paragraph.splitlines()
    if len(lines) == 1:
        return BlockKind.PROSE
    wrapped = sum(len(line) >= _WRAPPED_LINE_LENGTH_MIN and line.rstrip()[-1:].isalnum() for line in lines[:-1])
    return (
        BlockKind.PROSE
        if 2 * wrapped >= len(lines) - 1 or paragraph.count(". ") >= len(lines) // 3 + 1
        else BlockKind.LINES
    )
