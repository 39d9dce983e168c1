"""Markdown: headings, paragraphs, list items, code lines and table rows, each where it stands in the source."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?P<body>.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_MATTER_CHARACTERS_MAX = 20_000
_ENTRY = re.compile(r"^(?P<key>[A-Za-z_][\w-]*):[ \t]*(?P<value>\S.*)$", re.MULTILINE)
# Between two rules may stand prose; front matter begins with a key.
_KEY_FIRST = re.compile(r"\s*+(?:#[^\n]*\n\s*+)*+[\"']?\w[\w .-]*+[\"']?[ \t]*+:(?:\s|\Z)")
# `{ #id .class key=value }`, and not the `{id}` of a path.
_ATTRIBUTES = re.compile(r"\{\s*(?:[#.:][^{}]*|[\w-]+=[^{}]*|-)\}\s*$")
_METADATA_MAX = 50
# A longer one is a paragraph with a rule under it; it would stand beside each of its chunks.
HEADING_CHARACTERS_MAX = 300
# The parser leaves out what is nested deeper; at its default of 20 that was the tenth level of a list.
NESTING_MAX = 100
# Only a heading's inline markup matters; leaving it to the rest made parsing 50 times slower.
_BLOCKS = MarkdownIt("commonmark", {"maxNesting": NESTING_MAX}).enable("table").disable("inline")
_INLINE = MarkdownIt("commonmark")


def parse_markdown(text: str, replaced: int) -> ParsedDocument:
    """Find the blocks of a Markdown text. Offsets refer to the source, so a quote is verbatim."""
    matter = _FRONT_MATTER.match(text[:_FRONT_MATTER_CHARACTERS_MAX])
    if matter and (matter["body"] or "").strip() and not _KEY_FIRST.match(matter["body"]):
        matter = None
    metadata = _read_front_matter(matter.group("body") or "") if matter else {}
    body_start = matter.end() if matter else 0
    blocks = list(_blocks(text, body_start))
    headings = [block for block in blocks if block.kind is BlockKind.HEADING]
    first = next((block.heading for block in headings if block.level == 1), None)
    title = metadata.get("title") or first or (headings[0].heading if headings else None)
    return ParsedDocument(text=text, blocks=blocks, title=title, metadata=metadata, replaced_character_count=replaced)


def _read_front_matter(body: str) -> dict[str, str]:
    entries = list(_ENTRY.finditer(body))[:_METADATA_MAX]
    return {
        entry["key"]: entry["value"].strip().strip("\"'") for entry in entries if entry["value"].strip().strip("\"'")
    }


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
    starts = [body_start]
    for line in body.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    tokens = _BLOCKS.parse(body)
    done = 0  # lines before this one belong to an earlier block
    for place, token in enumerate(tokens):
        if token.map is None or token.map[0] < done:
            continue
        kind = _kind_of(tokens, place)
        if kind is None:
            continue
        begin, end = token.map
        span = _trim(text, starts[begin], min(starts[end], len(text)))
        done = end
        if span is None:
            continue
        if kind is BlockKind.HEADING:
            heading = plain_heading(tokens[place + 1].content)
            yield Block(kind, *span, level=int(token.tag[1]), heading=heading)
        else:
            yield Block(kind, *span)


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
