"""Sentences of retrieved chunks and the citations made of them; pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.query.markers import Mark
from shared.sentences import sentence_spans

# List items, table rows, quotes, fences and the records of a log begin something of their own even where no sentence ended.
_BREAK = re.compile(
    r"""\n(?=[ \t]*(?:[-*+>|]|\d{1,3}[.)]|```|~~~|///|:::|#{1,6}\s|<|\{"|\[?\d{4}-\d\d-\d\d[T ]\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d))"""
)
# A row of a table, as the parsers write it.
_ROW = re.compile(r"^[^\n]*\S \| [^\n]*$", re.MULTILINE)
# What stands below the names of a table's columns in Markdown.
_RULE = re.compile(r"[ \t|]*\n[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*\|[ \t|:-]*(?:\n|\Z)")
_LINE = re.compile(r"\S(?:[^\n]*\S)?")
_WORD = re.compile(r"\w{2,}")
_CELL = re.compile(r"\w+")
# Chinese and Japanese write no spaces: there letters count instead of words.
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
SENTENCE_WORDS_MIN = 3
# A name and its number.
ROW_WORDS_MIN = 2
SENTENCE_WIDE_MIN = 6
# With fewer, a row whose last cell differs from the name there is no cut row of names.
NAMES_MIN = 4
SENTENCE_CHARACTERS_MAX = 600


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved chunk with its place in the live version of its document.

    `page_turns` are the characters of the text at which further pages begin, with their numbers and labels; `lines` numbers
    the lines of the text, cut short where the rest counts on one by one.
    """

    chunk_id: int
    document_id: int
    collection: str
    source_uri: str
    title: str | None
    heading: str
    page: int | None
    page_label: str | None
    page_turns: tuple[tuple[int, int, str | None], ...]
    page_unit: str
    lines: tuple[int, ...]
    line_unit: str
    ordinal: int
    char_start: int
    char_end: int
    text: str
    prefix: str
    language: str
    token_count: int
    lexemes: frozenset[str]
    cosine: float
    bm25: float
    score: float
    # How it came to its place: its shares of either arm's best, and its place in each arm that found it.
    dense_share: float = 0.0
    lexical_share: float = 0.0
    dense_place: int | None = None
    lexical_place: int | None = None

    @property
    def context(self) -> str:
        """What the text is read under besides its headings, such as the names of a table's columns.

        It stands behind title and headings, which are one line of the prefix where there are any.
        """
        names, _, context = self.prefix.partition("\n")
        return context if self.title or self.heading else names


@dataclass(frozen=True, slots=True)
class Sentence:
    """A verbatim span of a hit. Units: characters of the chunk's text."""

    hit_index: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A span of a document that the answer quotes. Units: characters of the document's text."""

    index: int
    hit: Hit
    char_start: int
    char_end: int
    quote: str


def sentences_of(hits: Sequence[Hit]) -> list[Sentence]:
    """Return what can be quoted of hits: spans with enough words, and not too long."""
    return [
        Sentence(index, start, end, hit.text[start:end])
        for index, hit in enumerate(hits)
        for start, end, is_row in _spans(hit.text)
        if _can_be_quoted(hit.text[start:end], is_row=is_row) and not (is_row and _names_columns(hit, start, end))
    ]


def _names_columns(hit: Hit, start: int, end: int) -> bool:
    """Whether a row says what stands in the columns, and so answers nothing."""
    if _RULE.match(hit.text, end):
        return True
    cells = _cells(hit.text[start:end])
    return any(_are_names(cells, _cells(line)) for line in hit.context.split("\n"))


def _are_names(cells: list[str], names: list[str]) -> bool:
    """Whether cells are those names, which may be cut short."""
    return bool(names) and (cells == names or (len(names) > NAMES_MIN and cells[: len(names) - 1] == names[:-1]))


def _cells(row: str) -> list[str]:
    return [cell for part in row.split("|") if (cell := " ".join(part.split()).casefold())]


def _can_be_quoted(text: str, *, is_row: bool) -> bool:
    has_words = (
        len(_WORD.findall(text)) >= SENTENCE_WORDS_MIN
        or len(_WIDE.findall(text)) >= SENTENCE_WIDE_MIN
        or (is_row and len(_CELL.findall(text)) >= ROW_WORDS_MIN)
    )
    return has_words and len(text) <= SENTENCE_CHARACTERS_MAX and not text.startswith(("```", "~~~"))


def _spans(text: str) -> Iterator[tuple[int, int, bool]]:
    """Return sentences, and rows whole, whatever stands in their cells. What is too long for a quote is returned by lines."""
    rows = {
        found.start(): found.end()
        for found in _ROW.finditer(text)
        if found.end() - found.start() <= SENTENCE_CHARACTERS_MAX
    }
    borders = {found.end() for found in _BREAK.finditer(text)}.union(rows, rows.values(), [len(text)])
    start = 0
    for border in sorted(borders):
        part = text[start:border]
        if rows.get(start) == border:
            yield border - len(part.lstrip()), start + len(part.rstrip()), True
        else:
            for inner_start, inner_end in sentence_spans(part):
                if inner_end - inner_start <= SENTENCE_CHARACTERS_MAX:
                    yield start + inner_start, start + inner_end, False
                else:
                    for line in _LINE.finditer(part, inner_start, inner_end):
                        yield start + line.start(), start + line.end(), False
        start = border


def cite(hits: Sequence[Hit], chosen: Sequence[Sentence]) -> list[Citation]:
    """Bind chosen sentences to their documents.

    Order: as chosen. Indices from 1.
    """
    citations: list[Citation] = []
    seen: set[tuple[int, int]] = set()
    for sentence in chosen:
        hit = hits[sentence.hit_index]
        start = hit.char_start + sentence.start
        if (hit.document_id, start) in seen:
            continue
        seen.add((hit.document_id, start))
        citations.append(Citation(len(citations) + 1, hit, start, hit.char_start + sentence.end, sentence.text))
    return citations


def in_reading_order(citations: Sequence[Citation]) -> list[Citation]:
    """Return citations as an answer reads: documents as their best one stands, within a document as it goes on."""
    places: dict[int, int] = {}
    for citation in citations:
        places.setdefault(citation.hit.document_id, len(places))
    return sorted(citations, key=lambda citation: (places[citation.hit.document_id], citation.char_start))


def render(citations: Sequence[Citation]) -> str:
    """Write citations as an answer: each quote with its marker."""
    return "\n".join(f"{citation.quote} [{citation.index}]" for citation in citations)


def marks_of(citations: Sequence[Citation]) -> list[Mark]:
    """Return where the markers of a rendered answer stand. What looks like one within a quote is none."""
    marks: list[Mark] = []
    at = 0
    for citation in citations:
        start = at + len(citation.quote) + 1
        end = start + len(f"[{citation.index}]")
        marks.append(Mark(citation.index, start, end))
        at = end + 1
    return marks
