"""Parsers behind one interface: bytes → text with blocks. They run in a child process and know neither database nor network."""

from services.ingester.parsing.blocks import Attachment, Block, BlockKind, LineUnit, PageUnit, ParsedDocument
from services.ingester.parsing.formats import Container, Format, Sample
from services.ingester.parsing.registry import Registry, media_type_of, parse
from services.ingester.parsing.writer import TextWriter

__all__ = [
    "Attachment",
    "Block",
    "BlockKind",
    "Container",
    "Format",
    "LineUnit",
    "PageUnit",
    "ParsedDocument",
    "Registry",
    "Sample",
    "TextWriter",
    "media_type_of",
    "parse",
]
