"""Parsers behind one interface: bytes → text with blocks. They run in a child process and know neither database nor network."""

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument
from services.ingester.parsing.registry import media_type_of, parse

__all__ = ["Block", "BlockKind", "ParsedDocument", "media_type_of", "parse"]
