"""Sentences of retrieved chunks and the citations made of them; pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.sentences import sentence_spans

# List items, table rows, quotes and fences begin something of their own even where no sentence ended.
_BREAK = re.compile(r"\n(?=[ \t]*(?:[-*+>|]|\d{1,3}[.)]|```|~~~|///|:::|#{1,6}\s|<))")
_WORD = re.compile(r"\w{2,}")
# Chinese and Japanese write no spaces: there letters count instead of words.
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
SENTENCE_WORDS_MIN = 3
SENTENCE_WIDE_MIN = 6
SENTENCE_CHARACTERS_MAX = 600


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved chunk with its place in the live version of its document."""

    chunk_id: int
    document_id: int
    collection: str
    source_uri: str
    title: str | None
    heading: str
    page: int | None
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
    found = []
    for index, hit in enumerate(hits):
        for start, end in _spans(hit.text):
            text = hit.text[start:end]
            if (
                (len(_WORD.findall(text)) >= SENTENCE_WORDS_MIN or len(_WIDE.findall(text)) >= SENTENCE_WIDE_MIN)
                and len(text) <= SENTENCE_CHARACTERS_MAX
                and not text.startswith(("```", "~~~"))
            ):
                found.append(Sentence(index, start, end, text))
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    borders = [found.end() for found in _BREAK.finditer(text)]
    for border in [*borders, len(text)]:
        for inner_start, inner_end in sentence_spans(text[start:border]):
            yield start + inner_start, start + inner_end
        start = border


def cite(hits: Sequence[Hit], chosen: Sequence[Sentence]) -> list[Citation]:
    """Bind chosen sentences to their documents.

    Order: documents as their best sentence stands in `chosen`, sentences in document order. Indices from 1.
    """
    places: dict[int, int] = {}
    for sentence in chosen:
        places.setdefault(hits[sentence.hit_index].document_id, len(places))

    def order(sentence: Sentence) -> tuple[int, int]:
        hit = hits[sentence.hit_index]
        return places[hit.document_id], hit.char_start + sentence.start

    citations: list[Citation] = []
    seen: set[tuple[int, int]] = set()
    for sentence in sorted(chosen, key=order):
        hit = hits[sentence.hit_index]
        start = hit.char_start + sentence.start
        if (hit.document_id, start) in seen:
            continue
        seen.add((hit.document_id, start))
        citations.append(Citation(len(citations) + 1, hit, start, hit.char_start + sentence.end, sentence.text))
    return citations


def render(citations: Sequence[Citation]) -> str:
    """Write citations as an answer: each quote with its marker."""
    return "\n".join(f"{citation.quote} [{citation.index}]" for citation in citations)
