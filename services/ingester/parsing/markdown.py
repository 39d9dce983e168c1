"""Markdown: headings, paragraphs, list items, code lines and table rows, each where it stands in the source."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument
from services.ingester.parsing.front_matter import find_front_matter
from services.ingester.parsing.writer import TITLE_CHARACTERS_MAX
from shared.text import one_line

# `{ #id .class key=value }`, and not the `{id}` of a path.
_ATTRIBUTES = re.compile(r"\{\s*(?:[#.:][^{}]*|[\w-]+=[^{}]*|-)\}\s*$")
# A longer one is a paragraph with a rule under it; it would stand beside each of its chunks.
HEADING_CHARACTERS_MAX = 300
# A shorter table stands beside its text in one chunk, with its header: alone it would say less.
TABLE_CHARACTERS_MIN = 600
# The parser leaves out what is nested deeper; at its default of 20 that was the tenth level of a list.
NESTING_MAX = 100
# Only a heading's inline markup matters; leaving it to the rest made parsing 50 times slower.
_BLOCKS = MarkdownIt("commonmark", {"maxNesting": NESTING_MAX}).enable("table").disable("inline")
_INLINE = MarkdownIt("commonmark")


def parse_markdown(text: str, replaced: int) -> ParsedDocument:
    """Find the blocks of a Markdown text. Offsets refer to the source, so a quote is verbatim."""
    metadata, body_start = find_front_matter(text)
    blocks = list(_blocks(text, body_start))
    headings = [block for block in blocks if block.kind is BlockKind.HEADING]
    first = next((block.heading for block in headings if block.level == 1), None)
    named = one_line(metadata.get("title", ""), TITLE_CHARACTERS_MAX)
    title = named or first or (headings[0].heading if headings else None)
    return ParsedDocument(text=text, blocks=blocks, title=title, metadata=metadata, replaced_character_count=replaced)


def plain_heading(source: str) -> str:
    """Return a heading without its markup: `**A** [b](c) { #id }` is `A b`."""
    (inline,) = _INLINE.parseInline(_ATTRIBUTES.sub("", source).strip())
    return " ".join("".join(_plain(token) for token in inline.children or []).split())


def _plain(token: Token) -> str:
    match token.type:
        case "text" | "code_inline":
            return token.content
        case "image":
            return "".join(_plain(child) for child in token.children or [])
        case "softbreak" | "hardbreak":
            return " "
        case _:
            return ""


def _blocks(text: str, body_start: int) -> Iterator[Block]:
    body = text[body_start:]
    first_line = 1 + text.count("\n", 0, body_start)
    starts = [body_start]
    for line in body.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    tokens = _BLOCKS.parse(body)
    done = 0  # lines before this one belong to an earlier block
    columns = ""
    for place, token in enumerate(tokens):
        if token.map is None or token.map[0] < done:
            continue
        if token.type == "table_open":
            end_of_table = starts[min(token.map[1], len(starts) - 1)]
            is_long = end_of_table - starts[token.map[0]] >= TABLE_CHARACTERS_MIN
            columns = _columns(tokens, place) if is_long else ""
        kind = _kind_of(tokens, place)
        if kind is None:
            continue
        begin, end = token.map
        span = _trim(text, starts[begin], min(starts[end], len(text)))
        done = end
        if span is None:
            continue
        number = first_line + begin + text.count("\n", starts[begin], span[0])
        if kind is BlockKind.HEADING:
            heading = plain_heading(tokens[place + 1].content)
            yield Block(kind, *span, level=int(token.tag[1]), heading=heading, line=number)
        else:
            is_data = kind is BlockKind.ROW and tokens[place + 1].type == "td_open"
            yield Block(kind, *span, line=number, context=columns if is_data else "")


def _columns(tokens: list[Token], place: int) -> str:
    """Return the names of a table's columns."""
    names: list[str] = []
    while tokens[place].type != "tr_close":
        if tokens[place].type == "inline":
            names.append(plain_heading(tokens[place].content[:HEADING_CHARACTERS_MAX]))
        place += 1
    return " | ".join(names) if any(names) else ""


def _kind_of(tokens: list[Token], place: int) -> BlockKind | None:
    match tokens[place].type:
        case "heading_open":
            is_heading = len(tokens[place + 1].content) <= HEADING_CHARACTERS_MAX
            return BlockKind.HEADING if is_heading else BlockKind.PROSE
        case "inline" | "html_block":
            return BlockKind.PROSE
        case "fence" | "code_block":
            return BlockKind.LINES
        case "tr_open":
            return BlockKind.ROW
        case _:
            is_left_out = tokens[place].nesting == 1 and tokens[place].level >= NESTING_MAX - 1
            return BlockKind.PROSE if is_left_out else None


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None
