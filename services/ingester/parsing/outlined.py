"""Org, reStructuredText, AsciiDoc and LaTeX: the text as it is, with its headings; pure.

Headings are found by their lines alone. What else the markup means is left to the reader, as in Markdown.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument
from services.ingester.parsing.plain import plain_blocks
from services.ingester.parsing.titles import meaningful_title
from services.ingester.parsing.writer import (
    HEADING_CHARACTERS_MAX,
    LEVEL_MAX,
    TITLE_CHARACTERS_MAX,
    folded,
    refuse_endless,
)
from shared.text import one_line

# A longer line is no heading, whatever it begins with.
_LINE_CHARACTERS_MAX = 1000
_ORG_HEADING = re.compile(r"(\*+)[ \t]+(?:(?:TODO|DONE|NEXT|WAITING|CANCELLED)[ \t]+)?(?:\[#.\][ \t]+)?(\S.*)")
_ORG_TAGS = re.compile(r"[ \t]+:[\w@#%:]+:$")
_ORG_TITLE = re.compile(r"#\+title:(.*)", re.IGNORECASE)
_ORG_OPENING = re.compile(r"#\+begin_(\w+)", re.IGNORECASE)
_ORG_LINK = re.compile(r"\[\[[^\[\]]*\](?:\[([^\[\]]*)\])?\]")

_RST_RULE = re.compile(r"([!-/:-@\[-`{-~])\1+$")
_RST_CODE = re.compile(r"[ \t]*\.\. (?:code|code-block|sourcecode|parsed-literal|math)::")
_RST_DIRECTIVE = re.compile(r"\.\. |::$")

_ADOC_HEADING = re.compile(r"(={1,6})[ \t]+(\S.*)")
_ADOC_FENCE = re.compile(r"(-{4,}|\.{4,}|`{3,}|\+{4,}|/{4,})$")

_TEX_HEADING = re.compile(
    r"[ \t]*\\(part|chapter|section|subsection|subsubsection|paragraph)\*?[ \t]*(?:\[[^\]\n]*\])?\{"
)
_TEX_TITLE = re.compile(r"[ \t]*\\title[ \t]*(?:\[[^\]\n]*\])?\{")
_TEX_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
_TEX_COMMAND = re.compile(r"\\(?:label|index|footnote|cite\w*)\{[^{}]*\}|\\[A-Za-z]+\*?[ \t]*|[{}~$]")
_TEX_VERBATIM = re.compile(r"[ \t]*\\(begin|end)\{(?:verbatim|lstlisting|minted|Verbatim|comment)\*?\}")


@dataclass(frozen=True, slots=True)
class _Heading:
    """A heading and the lines that are its. Units: lines, counted from 0."""

    first: int
    last: int
    level: int
    words: str


@dataclass(frozen=True, slots=True)
class _Outline:
    """What the lines of a file are. `code` are the first and the last line of each part that is kept whole."""

    headings: list[_Heading]
    code: list[tuple[int, int]]
    title: str | None = None


def parse_org(text: str, replaced: int) -> ParsedDocument:
    """Find the headings of an Org file. Raises: ParserLimit."""
    return _parse(text, replaced, _org)


def parse_rst(text: str, replaced: int) -> ParsedDocument:
    """Find the headings of a reStructuredText file. Raises: ParserLimit."""
    return _parse(text, replaced, _rst)


def parse_asciidoc(text: str, replaced: int) -> ParsedDocument:
    """Find the headings of an AsciiDoc file. Raises: ParserLimit."""
    return _parse(text, replaced, _asciidoc)


def parse_latex(text: str, replaced: int) -> ParsedDocument:
    """Find the headings of a LaTeX file. Raises: ParserLimit."""
    return _parse(text, replaced, _latex)


def _parse(text: str, replaced: int, outline_of: Callable[[Sequence[str]], _Outline]) -> ParsedDocument:
    refuse_endless(text)
    lines = text.split("\n")
    outline = outline_of(lines)
    blocks = list(_blocks(text, lines, outline))
    highest = [block.heading for block in blocks if block.level == 1]
    claimed = one_line(meaningful_title(outline.title) or "", TITLE_CHARACTERS_MAX)
    title = claimed or (highest[0] if len(highest) == 1 else None)
    return ParsedDocument(text=text, blocks=blocks, title=title, replaced_character_count=replaced)


def _blocks(text: str, lines: Sequence[str], outline: _Outline) -> Iterator[Block]:
    starts = array("q", [0])
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found = sorted({heading.level for heading in outline.headings})
    levels = {level: min(place, LEVEL_MAX) for place, level in enumerate(found, start=1)}
    headings = {heading.first: heading for heading in outline.headings}
    spans = sorted([(heading.first, heading.last) for heading in outline.headings] + outline.code)
    next_line = 0
    for first, last in spans:
        yield from _body(text, starts, next_line, first)
        next_line = last + 1
        whole = text[starts[first] : starts[next_line] - 1]
        begin = starts[first] + len(whole) - len(whole.lstrip())
        end = starts[first] + len(whole.rstrip())
        heading = headings.get(first)
        if heading is None:
            yield Block(BlockKind.LINES, begin, end, line=1 + first)
        else:
            yield Block(BlockKind.HEADING, begin, end, levels[heading.level], heading.words, line=1 + first)
    yield from _body(text, starts, next_line, len(lines))


def _body(text: str, starts: Sequence[int], first: int, last: int) -> Iterator[Block]:
    """Return the paragraphs of some lines."""
    at = starts[first]
    for block in plain_blocks(text[at : starts[last]]):
        start = at + block.start
        end = start + len(text[start : at + block.end].rstrip())
        line = block.line + first if block.line is not None else None
        yield replace(block, start=start, end=end, line=line)


def _heading(first: int, last: int, level: int, words: str) -> Iterator[_Heading]:
    words = folded(words)
    if words and len(words) <= HEADING_CHARACTERS_MAX:
        yield _Heading(first, last, level, words)


def _org(lines: Sequence[str]) -> _Outline:
    headings: list[_Heading] = []
    code: list[tuple[int, int]] = []
    title = None
    closing = ""
    begin = 0
    for number, line in enumerate(lines):
        if closing:
            if line.strip().lower().startswith(closing):
                code.append((begin, number))
                closing = ""
        elif found := _ORG_OPENING.match(line.strip()):
            closing, begin = f"#+end_{found[1].lower()}", number
        elif len(line) <= _LINE_CHARACTERS_MAX and (found := _ORG_HEADING.match(line)):
            words = _ORG_LINK.sub(lambda link: link[1] or "", _ORG_TAGS.sub("", found[2]))
            headings += _heading(number, number, len(found[1]), words)
        elif title is None and (found := _ORG_TITLE.match(line)):
            title = found[1]
    return _Outline(headings, code, title)


def _rst(lines: Sequence[str]) -> _Outline:
    """Read titles by the rule under them, and over them; levels are in the order in which the rules appear."""
    headings: list[_Heading] = []
    levels: dict[str, int] = {}
    number = 0
    while number < len(lines) - 1:
        rule = _rule(lines[number])
        over = bool(rule) and number + 2 < len(lines) and lines[number].rstrip() == lines[number + 2].rstrip()
        words = lines[number + 1] if over else lines[number]
        under = lines[number].rstrip() if over else lines[number + 1].rstrip()
        is_alone = number == 0 or not lines[number - 1].strip()
        if is_alone and (over or not rule) and _is_rst_title(words, under, is_over=over):
            last = number + (2 if over else 1)
            style = f"{under[0]}{over}"
            headings += _heading(number, last, levels.setdefault(style, len(levels) + 1), words.strip())
            number = last
        number += 1
    code = _literal(lines)
    inside = {line for first, last in code for line in range(first, last + 1)}
    return _Outline([h for h in headings if h.first not in inside and h.last not in inside], code)


def _literal(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return the indented lines behind each `::` at the end of a line, and behind each directive for code."""
    found: list[tuple[int, int]] = []
    number = 0
    while number < len(lines):
        line = lines[number].rstrip()
        number += 1
        if not (line.endswith("::") or _RST_CODE.match(line)):
            continue
        margin = len(line) - len(line.lstrip())
        inner: list[int] = []
        while number < len(lines) and (not lines[number].strip() or lines[number].startswith(" " * (margin + 1))):
            if lines[number].strip():
                inner = [*inner[:1], number]
            number += 1
        if inner:
            found.append((inner[0], inner[-1]))
    return found


def _rule(line: str) -> bool:
    return _RST_RULE.match(line.rstrip()) is not None


def _is_rst_title(words: str, under: str, *, is_over: bool) -> bool:
    if not words.strip() or not _rule(under) or _rule(words) or _RST_DIRECTIVE.match(words):
        return False
    is_wide = len(under) >= min(len(words.rstrip()), 4)
    return is_wide and (is_over or not words[0].isspace())


def _asciidoc(lines: Sequence[str]) -> _Outline:
    headings: list[_Heading] = []
    code: list[tuple[int, int]] = []
    fence = ""
    begin = 0
    for number, line in enumerate(lines):
        if found := _ADOC_FENCE.match(line.rstrip()):
            if not fence:
                fence, begin = found[1], number
            elif fence == found[1]:
                code.append((begin, number))
                fence = ""
        elif not fence and (found := _ADOC_HEADING.match(line)):
            headings += _heading(number, number, len(found[1]), found[2])
    return _Outline(headings, code)


def _latex(lines: Sequence[str]) -> _Outline:
    headings: list[_Heading] = []
    code: list[tuple[int, int]] = []
    title = None
    begin: int | None = None
    for number, line in enumerate(lines):
        if found := _TEX_VERBATIM.match(line):
            if begin is not None and found[1] == "end":
                code.append((begin, number))
            begin = (number if begin is None else begin) if found[1] == "begin" else None
        elif begin is not None:
            continue
        elif found := _TEX_HEADING.match(line):
            headings += _heading(number, number, _TEX_LEVELS[found[1]], _argument(line, found.end()))
        elif title is None and (found := _TEX_TITLE.match(line)):
            title = folded(_argument(line, found.end()))
    return _Outline(headings, code, title)


def _argument(line: str, start: int) -> str:
    """Return the words between braces, as far as they stand on the line."""
    depth = 1
    for at in range(start, min(len(line), start + 2 * HEADING_CHARACTERS_MAX)):
        depth += {"{": 1, "}": -1}.get(line[at], 0) if line[at - 1] != "\\" else 0
        if depth == 0:
            return _TEX_COMMAND.sub(" ", line[start:at])
    return _TEX_COMMAND.sub(" ", line[start : start + 2 * HEADING_CHARACTERS_MAX])
