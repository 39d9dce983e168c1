"""Blocks → chunks; pure.

Sentences, lines and rows are packed to about `tokens_target`, never across a heading, nor from one table into another,
never through a unit that fits.

**Boundaries resynchronise.** A boundary stands after the unit whose priority (an end of a block before an end of a
sentence, then a hash of the unit's text) is the least within half a target to either side. That depends on nothing
further away, so one changed sentence moves boundaries only around itself, however long its section is; packing
greedily from the start would move all that follow. Source of the idea: local-minimum content-defined chunking,
Bjørner, Blass and Gurevich, 2010.

**Units are a stream.** For the same reason a boundary is known as soon as the text up to a target behind it is, so that
a section of 100 MB takes no more memory than its blocks do.
"""

import hashlib
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from services.ingester.parsing.blocks import Block, BlockKind, PageUnit, ParsedDocument
from shared.sentences import sentence_spans
from shared.text import embedded_text

PREFIX_TOKENS_MAX = 32
# Title and headings do not take this from it: a row without the names of its columns is worth little. Of what a small model
# reads it is a fifth at most.
CONTEXT_TOKENS_MAX = 48
CONTEXT_SHARE_MAX = 5
# A word of more than 100 characters is one [UNK] token: characters count too, or base64 would be one endless "token".
CHARACTERS_PER_TOKEN_MAX = 10
_PIECE = re.compile(r"\S{1,80}\s*")
# What is counted at once. Without the second limit the longest units of a large model were 160 MB.
_UNITS_PER_COUNT = 2048
_CHARACTERS_PER_COUNT = 1024 * 1024
_LINE = re.compile(r"\S(?:[^\n]*\S)?")
_WORD = re.compile(r"\w+")
_DIVISIBLE = (BlockKind.PROSE, BlockKind.LINES)

Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document's text and what stands before it when it is embedded. Units: characters, tokens.

    `prefix` is title and headings on one line, and the context on the next. `page` is where the text begins; `page_turns` are
    the places in the text where others begin, each with its number and label. `lines` numbers the lines of the text, cut
    short where the rest simply counts on, and empty where that is not known.
    """

    ordinal: int
    text: str
    prefix: str
    heading: str
    page: int | None
    char_start: int
    char_end: int
    token_count: int
    page_label: str | None = None
    page_turns: list[tuple[int, int, str | None]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Limits:
    """How large chunks are. `tokens_max` is what the model reads, `special_count` of it are its own."""

    tokens_target: int
    tokens_max: int
    special_count: int


class _Span(NamedTuple):
    """What is not divided unless it is too long. `rank` is 0 where a block ends; `line` is the number of its first line."""

    start: int
    end: int
    rank: int
    page: int | None
    line: int | None


class _Unit(NamedTuple):
    """What is never divided: a sentence, a line, a row, or a piece of one that is too long."""

    start: int
    end: int
    weight: int
    priority: tuple[int, bytes]
    page: int | None
    line: int | None


@dataclass(frozen=True, slots=True)
class _Section:
    headings: tuple[str, ...]
    blocks: list[Block]


@dataclass(frozen=True, slots=True)
class _Run:
    """Blocks of a section that may share a chunk: of one context, and of one sheet."""

    context: str
    blocks: list[Block]


def chunk_document(document: ParsedDocument, count: Count, limits: Limits) -> Iterator[Chunk]:
    """Divide a document into chunks.

    Order: as in the text; ordinals from 0 without gaps.
    Units: `count` returns tokens with the special ones, as the model reads them.
    """
    ordinal = 0
    for section in _sections(document):
        heading = " > ".join(section.headings)
        names = _names(document.title, section.headings, count)
        for run in _runs(document, section.blocks):
            context = _beginning(run.context, min(CONTEXT_TOKENS_MAX, limits.tokens_max // CONTEXT_SHARE_MAX), count)
            prefix = f"{names}\n{context}" if names and context else names or context
            for units, tokens in _packed(document.text, run.blocks, prefix, count, limits):
                yield _chunk(document, units, ordinal, prefix, heading, tokens)
                ordinal += 1


def _packed(
    text: str, blocks: Sequence[Block], prefix: str, count: Count, limits: Limits
) -> Iterator[tuple[Sequence[_Unit], int]]:
    """Divide blocks into the units of each chunk, with its tokens."""
    room = limits.tokens_max - max(count([embedded_text(prefix, "")])[0], limits.special_count) - 1
    units = _units(text, blocks, count, limits, room)
    for group in _groups(units, radius=max(1, min(limits.tokens_target, room) // 2), weight_max=room):
        yield from _fit(text, prefix, group, count, limits.tokens_max)


def _chunk(
    document: ParsedDocument, units: Sequence[_Unit], ordinal: int, prefix: str, heading: str, tokens: int
) -> Chunk:
    page, start, end = units[0].page, units[0].start, units[-1].end
    turns: list[tuple[int, int, str | None]] = []
    here = page
    for unit in units:
        if unit.page is not None and unit.page != here:
            here = unit.page
            turns.append((unit.start - start, here, _label(document, here)))
    label = None if page is None else _label(document, page)
    lines = _lines(document.text, units)
    return Chunk(ordinal, document.text[start:end], prefix, heading, page, start, end, tokens, label, turns, lines)


def _label(document: ParsedDocument, page: int) -> str | None:
    return document.page_labels.get(page, "").strip() or None


def _lines(text: str, units: Sequence[_Unit]) -> list[int]:
    """Number the lines of a chunk, as far as they do not simply count on."""
    if _count_on(text, units):
        return [] if units[0].line is None else [units[0].line]
    numbers: list[int] = []
    at = units[0].start
    for unit in units:
        if unit.line is None:
            return []
        breaks = text.count("\n", at, unit.start)
        if breaks:  # empty lines count on from the unit before
            numbers += range(numbers[-1] + 1, numbers[-1] + breaks)
        if breaks or not numbers:
            numbers.append(unit.line)
        numbers += range(numbers[-1] + 1, numbers[-1] + 1 + text.count("\n", unit.start, unit.end))
        at = unit.end
    while len(numbers) > 1 and numbers[-1] == numbers[-2] + 1:
        numbers.pop()
    return numbers


def _count_on(text: str, units: Sequence[_Unit]) -> bool:
    """Whether the lines of a chunk simply count on from its first, as nearly always, or nothing is known of them."""
    line, at = units[0].line, units[0].start
    if line is None:
        return True
    for unit in units:
        line += text.count("\n", at, unit.start)
        if unit.line != line:
            return False
        at = unit.start
    return True


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
        yield _Section(
            headings, [Block(BlockKind.ROW, pending.start, pending.end, page=pending.page, line=pending.line)]
        )


def _runs(document: ParsedDocument, blocks: Sequence[Block]) -> Iterator[_Run]:
    """Divide a section where its context changes, or its sheet: their rows are numbered anew."""
    contexts = [block.context for block in blocks]
    for place in range(1, len(blocks)):
        is_behind_header = contexts[place] and not contexts[place - 1] and blocks[place - 1].kind is BlockKind.ROW
        if is_behind_header and _is_header(document.text, blocks[place - 1], contexts[place]):
            contexts[place - 1] = contexts[place]
    has_sheets = document.page_unit is PageUnit.SHEET
    pairs = zip(contexts, blocks, strict=True)
    for (context, _), group in groupby(pairs, key=lambda pair: (pair[0], pair[1].page if has_sheets else None)):
        yield _Run(context, [block for _, block in group])


def _is_header(text: str, block: Block, context: str) -> bool:
    """Whether a row is the one that names the columns: alone it would be a chunk of names."""
    length_max = 2 * len(context) + 100
    return block.end - block.start <= length_max and (
        _WORD.findall(text[block.start : block.end]) == _WORD.findall(context)
    )


def _names(title: str | None, headings: Sequence[str], count: Count) -> str:
    """Join title and headings; over the limit lose middle headings first, then the ends of title and last heading."""
    parts = [part[: PREFIX_TOKENS_MAX * CHARACTERS_PER_TOKEN_MAX] for part in [title or "", *headings] if part]
    parts = [part for place, part in enumerate(parts) if place == 0 or part != parts[place - 1]]
    while len(parts) > 2 and count([" > ".join(parts)])[0] > PREFIX_TOKENS_MAX:
        del parts[1]
    if len(parts) == 2 and count([" > ".join(parts)])[0] > PREFIX_TOKENS_MAX:
        # Neither is shortened below a half as long as the other is longer than that.
        first, last = parts
        last = _beginning(last, max(PREFIX_TOKENS_MAX // 2, PREFIX_TOKENS_MAX - count([f"{first} > "])[0]), count)
        parts = [_beginning(first, PREFIX_TOKENS_MAX - count([f" > {last}"])[0], count), last]
    return _beginning(" > ".join(parts), PREFIX_TOKENS_MAX, count)


def _beginning(text: str, tokens_max: int, count: Count) -> str:
    """Return as many words of a text as fit; of one long word, or a script without spaces, some characters."""
    words = text[: tokens_max * CHARACTERS_PER_TOKEN_MAX].split(" ")
    if text and count([" ".join(words)])[0] > tokens_max:
        fitting = bisect_right(range(1, len(words)), tokens_max, key=lambda n: count([" ".join(words[:n])])[0])
        del words[max(1, fitting) :]
    kept = " ".join(words)
    while kept and count([kept])[0] > tokens_max:
        kept = kept[: len(kept) * 7 // 8]
    return kept


def _units(text: str, blocks: Iterable[Block], count: Count, limits: Limits, room: int) -> Iterator[_Unit]:
    for part in _batches(_spans(text, blocks)):
        # What has too many characters for any chunk need not be counted: there may be 100 MB of it.
        short = [span for span in part if span.end - span.start <= CHARACTERS_PER_TOKEN_MAX * room]
        weights = iter(_weigh(text, short, count, limits))
        for span in part:
            start, end, rank, page, line = span
            if end - start <= CHARACTERS_PER_TOKEN_MAX * room and (weight := next(weights)) <= room:
                yield _Unit(start, end, weight, (rank, _hash(text[start:end])), page, line)
            else:
                yield from _pieces(text, span, count, limits)


def _spans(text: str, blocks: Iterable[Block]) -> Iterator[_Span]:
    for block in blocks:
        at, line = block.start, block.line
        if block.kind not in _DIVISIBLE:
            yield _Span(at, block.end, 0, block.page, line)
            continue
        before: tuple[int, int] | None = None
        for start, end in _divide(text, block):
            if before is not None:
                yield _Span(*before, 1, block.page, line)
            line = None if line is None else line + text.count("\n", at, start)
            at = start
            before = (start, end)
        if before is not None:
            yield _Span(*before, 0, block.page, line)


def _batches(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Gather what is counted at once."""
    batch: list[_Span] = []
    length = 0
    for span in spans:
        if batch and (len(batch) == _UNITS_PER_COUNT or length + span.end - span.start > _CHARACTERS_PER_COUNT):
            yield batch
            batch, length = [], 0
        batch.append(span)
        length += span.end - span.start
    if batch:
        yield batch


def _divide(text: str, block: Block) -> Iterator[tuple[int, int]]:
    """Return the spans of prose or lines that are not divided further."""
    if block.kind is BlockKind.PROSE:
        first = block.start
        for start, end in sentence_spans(text[first : block.end]):
            yield first + start, first + end
    else:
        for line in _LINE.finditer(text, block.start, block.end):
            yield line.span()


def _pieces(text: str, whole: _Span, count: Count, limits: Limits) -> Iterator[_Unit]:
    """Divide a span that no chunk can hold between its words; the last piece ends what the span ended."""
    before, line = whole.start, whole.line
    found = (match.span() for match in _PIECE.finditer(text, whole.start, whole.end))
    pieces = (_Span(start, start + len(text[start:end].rstrip()), 2, whole.page, None) for start, end in found)
    for part in _batches(pieces):
        weights = _weigh(text, part, count, limits)
        for (start, end, rank, page, _), weight in zip(part, weights, strict=True):
            line = None if line is None else line + text.count("\n", before, start)
            before = start
            priority = (whole.rank if end == whole.end else rank, _hash(text[max(whole.start, start - 40) : end]))
            yield _Unit(start, end, weight, priority, page, line)


def _weigh(text: str, spans: Sequence[_Span], count: Count, limits: Limits) -> list[int]:
    """Return what spans weigh: their tokens, and no less than their characters ask for."""
    counted = count([text[span.start : span.end] for span in spans])
    return [
        max(tokens - limits.special_count, -((span.start - span.end) // CHARACTERS_PER_TOKEN_MAX), 1)
        for span, tokens in zip(spans, counted, strict=True)
    ]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _groups(units: Iterable[_Unit], *, radius: int, weight_max: int) -> Iterator[Sequence[_Unit]]:
    """Cut a section's units at the local minima of their priorities."""
    held: deque[_Unit] = deque()  # what was looked at and is in no group yet
    given = 0

    def looked_at() -> Iterator[tuple[int, tuple[int, bytes]]]:
        for unit in units:
            held.append(unit)
            yield unit.weight, unit.priority

    for cut in boundaries(looked_at(), radius):
        group = [held.popleft() for _ in range(cut + 1 - given)]
        given = cut + 1
        yield from _halve(group, weight_max)
    yield from _halve(list(held), weight_max)


class _Place(NamedTuple):
    """A place where a section may be cut. `end` is the weight up to it."""

    number: int
    end: int
    priority: tuple[int, bytes]


def boundaries(units: Iterable[tuple[int, tuple[int, bytes]]], radius: int) -> Iterator[int]:
    """Return the places after which a section is cut: those of least priority within `radius` of weight.

    `units` are weights and priorities; at most two radii of them are looked at ahead.
    Order: ascending. Cuts are at least `radius` apart and as far from both ends.
    """
    total = 0
    arrived: deque[_Place] = deque()  # whether they are far enough from the end is not known yet
    inner: deque[_Place] = deque()  # they are, and wait for what lies within a radius behind them
    window: deque[_Place] = deque()  # of these and some before: ascending priority; the least is at the left
    for number, (weight, priority) in enumerate(units):
        total += weight
        if total >= radius:
            arrived.append(_Place(number, total, priority))
        while arrived and arrived[0].end + radius <= total:
            entering = arrived.popleft()
            while inner and inner[0].end + radius <= entering.end:
                if _is_least(inner[0], window, radius):
                    yield inner[0].number
                inner.popleft()
            while window and window[-1].priority > entering.priority:
                window.pop()
            window.append(entering)
            inner.append(entering)
    for place in inner:
        if _is_least(place, window, radius):
            yield place.number


def _is_least(place: _Place, window: deque[_Place], radius: int) -> bool:
    """Whether no place within a radius is less; those too far before it are forgotten."""
    while window[0].end <= place.end - radius:
        window.popleft()
    return window[0].number == place.number


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
) -> Iterator[tuple[Sequence[_Unit], int]]:
    """Count exactly what the model will read, and halve what is still too long."""
    stack = [group]
    while stack:
        part = stack.pop()
        body = text[part[0].start : part[-1].end]
        tokens = count([embedded_text(prefix, body)])[0]
        if tokens <= tokens_max or len(part) == 1:
            yield part, tokens
            continue
        middle = len(part) // 2
        stack += [part[middle:], part[:middle]]
