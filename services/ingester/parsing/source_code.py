"""Source code and configuration: the text as it is, in blocks that know in which definition they stand; pure.

A definition is found by its first line and ends where the indentation does; no grammar is needed for that, and no file is
too broken for it. One that is longer than a chunk is the `context` of its lines: a small one is seen whole anyway, and a
chunk for each would tear files of short functions into crumbs.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument
from services.ingester.parsing.writer import refuse_endless
from shared.text import one_line

CONTEXT_CHARACTERS_MIN = 400
_DEFINITIONS_MAX = 3
_DEFINITION_CHARACTERS_MAX = 100
_TAB = " " * 4

_MODIFIERS = (
    "export|default|declare|async|public|private|protected|internal|static|final|abstract|virtual|override|sealed|partial"
    "|inline|constexpr|unsafe|extern|pub|const|local|open|data|suspend|readonly|template|typedef|case|implicit|create|or"
    "|replace|temporary|temp|unlogged|materialized|unique"
)
_KEYWORDS = (
    r"def|defp|defmodule|class|func|fn|function|fun|interface|struct|enum|union|trait|impl|module|namespace|protocol"
    r"|extension|object|record|sub|procedure|macro_rules!|type|table|view|trigger|message|service"
)
_CONTROL = (
    "if|for|foreach|while|until|unless|switch|case|match|when|select|return|else|elif|elsif|catch|except|finally|do|try"
    "|with|using|lock|synchronized|throw|raise|new|await|yield|defer|go|echo|print|assert|and|or|not"
)
_KEYWORD_LINE = re.compile(
    rf"(?:(?:{_MODIFIERS})\b(?:\([^()\n]*\))?[ \t]++)*+(?:{_KEYWORDS})[ \t*&]++[\w$<(\"'\[~@]", re.IGNORECASE
)
_CALLABLE = re.compile(rf"(?!(?:{_CONTROL})\b)[\w~$@][^(){{}}=;\"'+]*+\(", re.IGNORECASE)
_ARROW = re.compile(r"(?:export[ \t]++)?+(?:const|let|var)[ \t]++[\w$]++[^;]*=>")
_OPENED = re.compile(rf"(?!(?:{_CONTROL})\b)[\w.#@&*:~\[$]", re.IGNORECASE)
# A remark or decorator right above a definition belongs to it, and its indentation says nothing.
_REMARK = re.compile(r"#|//|/\*|\*|--|;|@|\[[A-Z#]")
_CLOSING = re.compile(
    r"[}]|\$\$|end[ \t]*+(?:$|[;,.)#]|--|(?:sub|function|procedure|class|module|type|interface|program|property)\b)",
    re.IGNORECASE,
)
_CONTINUED = re.compile(r"[{)\]]|(?!(?:else|try|finally|except)\b)[A-Za-z_]\w*+[ \t]*+:$")
_YAML_KEY = re.compile(r"(?:- )*+[\"']?[\w./ -]+[\"']?[ \t]*:[ \t]*(?:[|>&!][^\n]*)?$")
_SECTION = re.compile(r"\[[^\]\n]+\]")


@dataclass(frozen=True, slots=True)
class Syntax:
    """How a family of languages shows where something begins. A flat one ends it where the next begins."""

    is_definition: Callable[[str, str, int], bool]
    continues: re.Pattern[str] = _CONTINUED
    is_flat: bool = False


@dataclass(slots=True)
class _Definition:
    """Something named, from the remarks above it to its last line. Units: lines, counted from 0."""

    lead: int
    end: int
    indent: int
    name: str
    is_long: bool = False


def _is_code_definition(line: str, following: str, indent: int) -> bool:
    if _KEYWORD_LINE.match(line) and not line.endswith((";", ",", ".")):
        return True
    if not line.endswith("{"):
        return following.startswith("{") and _CALLABLE.match(line) is not None
    return (_CALLABLE if indent else _OPENED).match(line) is not None or _ARROW.match(line) is not None


CODE = Syntax(_is_code_definition)
YAML = Syntax(lambda line, _following, _indent: _YAML_KEY.match(line) is not None, re.compile(r"- |-$"))
SECTIONS = Syntax(lambda line, _following, _indent: _SECTION.match(line) is not None, is_flat=True)


def parse_source(text: str, replaced: int, syntax: Syntax = CODE) -> ParsedDocument:
    """Divide a source file into groups of lines. It has no title: what it is called stands in its path.

    Raises: ParserLimit.
    """
    refuse_endless(text)
    lines = text.split("\n")
    definitions = _definitions(lines, syntax)
    _measure(lines, definitions)
    return ParsedDocument(text=text, blocks=list(_blocks(lines, definitions)), replaced_character_count=replaced)


def _definitions(lines: Sequence[str], syntax: Syntax) -> list[_Definition]:
    """Find what is defined. Order: by first line, outer ones before inner ones."""
    found: list[_Definition] = []
    stack: list[_Definition] = []
    remarks = 0  # lines of remarks right above
    last = -1  # the last line that is neither empty nor a remark
    for number, whole in enumerate(lines):
        line = whole.strip()
        if not line or (_REMARK.match(line) and not (syntax.is_flat and _SECTION.match(line))):
            remarks = remarks + 1 if line else 0
            continue
        indent = _indent(whole)
        following = lines[number + 1].strip() if number + 1 < len(lines) else ""
        is_definition = syntax.is_definition(line, following[:1], indent)
        while stack and _has_ended(stack[-1], line, indent, syntax, is_definition=is_definition):
            stack.pop().end = last
        last = number
        if is_definition:
            stack.append(_Definition(number - remarks, number, indent, line.rstrip("{(:= \t")))
            found.append(stack[-1])
        elif stack and indent <= stack[-1].indent and _CLOSING.match(line) and not syntax.is_flat:
            stack.pop().end = number
        remarks = 0
    for definition in stack:
        definition.end = last
    return found


def _has_ended(open_one: _Definition, line: str, indent: int, syntax: Syntax, *, is_definition: bool) -> bool:
    if syntax.is_flat:
        return is_definition
    if indent > open_one.indent:
        return False
    if indent < open_one.indent:
        return True
    if line.startswith("-") and open_one.name.startswith("-"):  # the next item of a list in YAML
        return True
    return not (_CLOSING.match(line) or syntax.continues.match(line))


def _indent(line: str) -> int:
    white = line[: len(line) - len(line.lstrip())]
    return len(white.replace("\t", _TAB))


def _measure(lines: Sequence[str], definitions: Sequence[_Definition]) -> None:
    ends = array("q", [0])
    for line in lines:
        ends.append(ends[-1] + len(line) + 1)
    for definition in definitions:
        definition.is_long = ends[definition.end + 1] - ends[definition.lead] > CONTEXT_CHARACTERS_MIN


def _blocks(lines: Sequence[str], definitions: Sequence[_Definition]) -> Iterator[Block]:
    """Return groups of lines, divided by empty ones, before each definition, and after each long one."""
    starts = {definition.lead: definition for definition in definitions}
    after = {definition.end + 1 for definition in definitions if definition.is_long}
    around: list[_Definition] = []
    begin = end = at = 0
    first: int | None = None
    context = ""
    for number, line in enumerate(lines):
        if first is not None and (not line.strip() or number in starts or number in after):
            yield Block(BlockKind.LINES, begin, end, line=first + 1, context=context)
            first = None
        if number in starts or number in after:
            around = [definition for definition in around if definition.end >= number]
            if number in starts and starts[number].is_long:
                around.append(starts[number])
            context = " > ".join(one_line(d.name, _DEFINITION_CHARACTERS_MAX) for d in around[-_DEFINITIONS_MAX:])
        if line.strip():
            if first is None:
                first = number
                begin = at + len(line) - len(line.lstrip())
            end = at + len(line.rstrip())
        at += len(line) + 1
    if first is not None:
        yield Block(BlockKind.LINES, begin, end, line=first + 1, context=context)
