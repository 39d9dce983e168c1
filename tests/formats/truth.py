"""Does a parser give back what a generated document says? Words in order, headings, places, columns' names; pure."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from services.ingester.parsing import Block, BlockKind, LineUnit, PageUnit, ParsedDocument
from tests.formats.content import marks_of, words_of

WORDS_SHARE_MIN = 0.99


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mark stands: as a citation would say it."""

    page: int | None = None
    label: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A generated file and all that is known of it."""

    name: str
    content: bytes
    media_type: str
    said: str
    headings: list[tuple[int, str]] = field(default_factory=list)
    title: str | None = None
    places: dict[str, Place] = field(default_factory=dict)
    contexts: dict[str, str] = field(default_factory=dict)
    page_unit: PageUnit = PageUnit.PAGE
    line_unit: LineUnit = LineUnit.LINE
    # Markup and keys that are text of the file, beside its words.
    extra_words_share_max: float = 0.01


Writer = Callable[[], Written]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came back. `missing` are the first words that did not; `wrong` tells what else is not as it was written."""

    words_share: float
    extra_share: float
    missing: list[str]
    wrong: list[str]


def compare(document: ParsedDocument, written: Written) -> Comparison:
    """Compare a parsed document with what was written."""
    expected, found = words_of(written.said), words_of(document.text)
    matcher = difflib.SequenceMatcher(None, expected, found, autojunk=False)
    matched = [False] * len(expected)
    for at, _, length in matcher.get_matching_blocks():
        matched[at : at + length] = [True] * length
    count = sum(matched)
    return Comparison(
        count / len(expected),
        (len(found) - count) / len(expected),
        [word for word, is_matched in zip(expected, matched, strict=True) if not is_matched][:20],
        [*_wrong_headings(document, written), *_wrong_places(document, written)],
    )


def _wrong_headings(document: ParsedDocument, written: Written) -> list[str]:
    found = [(block.level, block.heading) for block in document.blocks if block.kind is BlockKind.HEADING]
    wrong = [f"heading {heading} is missing" for heading in written.headings if heading not in found]
    wrong += [f"heading {heading} was not written" for heading in found if heading not in written.headings]
    if not wrong and found != written.headings:
        wrong.append("headings stand in another order")
    if written.title is not None and document.title != written.title:
        wrong.append(f"the title is {document.title!r}, not {written.title!r}")
    return wrong


def _wrong_places(document: ParsedDocument, written: Written) -> list[str]:
    wrong = []
    at = marks_of(document.text)
    for mark in written.places.keys() | written.contexts.keys():
        block = None if mark not in at else _block_at(document, at[mark])
        if block is None:
            wrong.append(f"{mark} is in no block")
            continue
        if mark in written.places and (place := _place(document, block, at[mark])) != written.places[mark]:
            wrong.append(f"{mark} stands at {place}, not {written.places[mark]}")
        if mark in written.contexts and block.context != written.contexts[mark]:
            wrong.append(f"{mark} has the context {block.context!r}, not {written.contexts[mark]!r}")
    units = (document.page_unit, document.line_unit)
    if written.places and units != (written.page_unit, written.line_unit):
        wrong.append(f"the units are {units}")
    return sorted(wrong)


def _block_at(document: ParsedDocument, place: int) -> Block | None:
    return next((block for block in document.blocks if block.start <= place < block.end), None)


def _place(document: ParsedDocument, block: Block, at: int) -> Place:
    line = None if block.line is None else block.line + document.text.count("\n", block.start, at)
    label = None if block.page is None else document.page_labels.get(block.page)
    return Place(block.page, label, line)
