"""Blocks → chunks; pure.

Sentences, lines and rows are packed to about `tokens_target`, never across a heading, never through a unit that fits.

**Boundaries resynchronise.** A boundary stands after the unit whose priority (an end of a block before an end of a
sentence, then a hash of the unit's text) is the least within half a target to either side. That depends on nothing
further away, so one changed sentence moves boundaries only around itself, however long its section is; packing
greedily from the start would move all that follow. Source of the idea: local-minimum content-defined chunking,
Bjørner, Blass and Gurevich, 2010.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.ingester.parsing.blocks import Block, BlockKind, ParsedDocument
from shared.sentences import sentence_spans
from shared.text import embedded_text

PREFIX_TOKENS_MAX = 32
# A word of more than 100 characters is one [UNK] token: characters count too, or base64 would be one endless "token".
CHARACTERS_PER_TOKEN_MAX = 10
_PIECE = re.compile(r"\S{1,80}\s*")
_UNITS_PER_COUNT = 2048

Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document's text and what stands before it when it is embedded. Units: characters, tokens."""

    ordinal: int
    text: str
    prefix: str
    heading: str
    page: int | None
    char_start: int
    char_end: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How large chunks are. `tokens_max` is what the model reads, `special_count` of it are its own."""

    tokens_target: int
    tokens_max: int
    special_count: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is never divided: a sentence, a line, a row, or a piece of one that is too long."""

    start: int
    end: int
    weight: int
    priority: tuple[int, bytes]
    page: int | None


@dataclass(frozen=True, slots=True)
class _Section:
    headings: tuple[str, ...]
    blocks: list[Block]


def chunk_document(document: ParsedDocument, count: Count, limits: Limits) -> Iterator[Chunk]:
    """Divide a document into chunks.

    Order: as in the text; ordinals from 0 without gaps.
    Units: `count` returns tokens with the special ones, as the model reads them.
    """
    ordinal = 0
    for section in _sections(document):
        heading = " > ".join(section.headings)
        prefix = _prefix(document.title, section.headings, count)
        room = limits.tokens_max - max(count([embedded_text(prefix, "")])[0], limits.special_count) - 1
        units = _units(document.text, section.blocks, count, limits, room)
        for group in _groups(units, radius=max(1, min(limits.tokens_target, room) // 2), weight_max=room):
            for first, last, tokens in _fit(document.text, prefix, group, count, limits.tokens_max):
                start, end = first.start, last.end
                yield Chunk(ordinal, document.text[start:end], prefix, heading, first.page, start, end, tokens)
                ordinal += 1


def _sections(document: ParsedDocument) -> Iterator[_Section]:
    """Group blocks under their path of headings. A heading without a body is a section of its own words."""
    path: list[tuple[int, str]] = []
    pending: Block | None = None
    blocks: list[Block] = []
    for block in document.blocks:
        if block.kind is not BlockKind.HEADING:
            blocks.append(block)
            pending = None
            continue
        yield from _close(path, blocks, pending)
        blocks = []
        while path and path[-1][0] >= block.level:
            path.pop()
        path.append((block.level, block.heading))
        pending = block
    yield from _close(path, blocks, pending)


def _close(path: list[tuple[int, str]], blocks: list[Block], pending: Block | None) -> Iterator[_Section]:
    headings = tuple(heading for _, heading in path if heading)
    if blocks:
        yield _Section(headings, blocks)
    elif pending is not None:
        yield _Section(headings, [Block(BlockKind.ROW, pending.start, pending.end, page=pending.page)])


def _prefix(title: str | None, headings: Sequence[str], count: Count) -> str:
    """Join title and headings; over its limit lose middle headings first, then words from the end, then characters."""
    parts = [part[: PREFIX_TOKENS_MAX * CHARACTERS_PER_TOKEN_MAX] for part in [title or "", *headings] if part]
    parts = [part for place, part in enumerate(parts) if place == 0 or part != parts[place - 1]]
    while len(parts) > 2 and count([" > ".join(parts)])[0] > PREFIX_TOKENS_MAX:
        del parts[1]
    words = " > ".join(parts)[: PREFIX_TOKENS_MAX * CHARACTERS_PER_TOKEN_MAX].split(" ")
    while len(words) > 1 and count([" ".join(words)])[0] > PREFIX_TOKENS_MAX:
        words.pop()
    joined = " ".join(words)
    while joined and count([joined])[0] > PREFIX_TOKENS_MAX:  # one long word, or a script without spaces
        joined = joined[: len(joined) * 7 // 8]
    return joined


def _units(text: str, blocks: Iterable[Block], count: Count, limits: Limits, room: int) -> list[_Unit]:
    spans: list[tuple[int, int, int, int | None]] = []
    for block in blocks:
        inner = list(_divide(text, block))
        for place, (start, end) in enumerate(inner):
            spans.append((start, end, 0 if place == len(inner) - 1 else 1, block.page))
    units: list[_Unit] = []
    for at in range(0, len(spans), _UNITS_PER_COUNT):
        part = spans[at : at + _UNITS_PER_COUNT]
        for (start, end, rank, page), weight in zip(
            part, _weigh(text, [(s, e) for s, e, _, _ in part], count, limits), strict=True
        ):
            if weight <= room:
                units.append(_Unit(start, end, weight, (rank, _hash(text[start:end])), page))
            else:
                units.extend(_pieces(text, start, end, rank, page, count, limits))
    return units


def _divide(text: str, block: Block) -> Iterator[tuple[int, int]]:
    """Return the spans of a block that are not divided further."""
    body = text[block.start : block.end]
    match block.kind:
        case BlockKind.PROSE:
            spans = sentence_spans(body)
        case BlockKind.LINES:
            spans = [(line.start(), line.end()) for line in re.finditer(r"\S(?:[^\n]*\S)?", body)]
        case _:
            spans = [(0, len(body))]
    for start, end in spans:
        yield block.start + start, block.start + end


def _pieces(text: str, start: int, end: int, rank: int, page: int | None, count: Count, limits: Limits) -> list[_Unit]:
    """Divide a unit that no chunk can hold between its words; the last piece ends what the unit ended."""
    spans = [
        (start + found.start(), start + len(found.group().rstrip()) + found.start())
        for found in _PIECE.finditer(text[start:end])
    ]
    units: list[_Unit] = []
    for at in range(0, len(spans), _UNITS_PER_COUNT):
        part = spans[at : at + _UNITS_PER_COUNT]
        for (s, e), weight in zip(part, _weigh(text, part, count, limits), strict=True):
            units.append(_Unit(s, e, weight, (rank if e == end else 2, _hash(text[max(start, s - 40) : e])), page))
    return units


def _weigh(text: str, spans: Sequence[tuple[int, int]], count: Count, limits: Limits) -> list[int]:
    counted = count([text[start:end] for start, end in spans])
    return [
        max(1, tokens - limits.special_count, -((start - end) // CHARACTERS_PER_TOKEN_MAX))
        for (start, end), tokens in zip(spans, counted, strict=True)
    ]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _groups(units: Sequence[_Unit], *, radius: int, weight_max: int) -> Iterator[Sequence[_Unit]]:
    """Cut a section's units at the local minima of their priorities."""
    start = 0
    for cut in boundaries([unit.weight for unit in units], [unit.priority for unit in units], radius):
        yield from _halve(units[start : cut + 1], weight_max)
        start = cut + 1
    yield from _halve(units[start:], weight_max)


def boundaries(weights: Sequence[int], priorities: Sequence[tuple[int, bytes]], radius: int) -> list[int]:
    """Return the places after which a section is cut: those of least priority within `radius` of weight.

    Order: ascending. Cuts are at least `radius` apart and as far from both ends.
    """
    ends: list[int] = []
    total = 0
    for weight in weights:
        total += weight
        ends.append(total)
    low = bisect_left(ends, radius)
    high = bisect_right(ends, total - radius)
    cuts = []
    window: deque[int] = deque()  # places of ascending priority; the least is at the left
    entering = low
    for place in range(low, high):
        while entering < high and ends[entering] < ends[place] + radius:
            while window and priorities[window[-1]] > priorities[entering]:
                window.pop()
            window.append(entering)
            entering += 1
        while ends[window[0]] <= ends[place] - radius:
            window.popleft()
        if window[0] == place:
            cuts.append(place)
    return cuts


def _halve(units: Sequence[_Unit], weight_max: int) -> Iterator[Sequence[_Unit]]:
    """Cut a group that is too heavy at its least priority in the middle half, until all fit."""
    stack = [units] if units else []
    while stack:
        group = stack.pop()
        weight = sum(unit.weight for unit in group)
        if weight <= weight_max or len(group) == 1:
            yield group
            continue
        best: tuple[tuple[int, bytes], int] | None = None
        before = 0
        nearest = (weight, 0)
        for place, unit in enumerate(group[:-1]):
            before += unit.weight
            nearest = min(nearest, (abs(2 * before - weight), place))
            if weight // 4 <= before <= weight - weight // 4 and (best is None or (unit.priority, place) < best):
                best = (unit.priority, place)
        cut = best[1] if best is not None else nearest[1]
        stack += [group[cut + 1 :], group[: cut + 1]]


def _fit(
    text: str, prefix: str, group: Sequence[_Unit], count: Count, tokens_max: int
) -> Iterator[tuple[_Unit, _Unit, int]]:
    """Count exactly what the model will read, and halve what is still too long."""
    stack = [group]
    while stack:
        part = stack.pop()
        body = text[part[0].start : part[-1].end]
        tokens = count([embedded_text(prefix, body)])[0]
        if tokens <= tokens_max or len(part) == 1:
            yield part[0], part[-1], tokens
            continue
        middle = len(part) // 2
        stack += [part[middle:], part[:middle]]
