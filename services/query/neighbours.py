"""BM25 of chunks, each read together with the ones before and after it; pure.

A small chunk holds few of a question's words: what it is about often stands in the sentences around it. With the share that
fusion.py gives it, nDCG@10 of SciFact's training questions went from 0.737 to 0.740, of 100 questions about a library's
documentation from 0.823 to 0.828, recall in 1,000 tokens of 472 questions about five long texts from 0.861 to 0.892. Two chunks
to either side are no better, and more are worse in long texts (all of them: 0.817).
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.query.bm25 import QuestionTerm, bm25

# The terms that tell most: with more, a pasted page would be counted word by word.
TERMS_COUNTED_MAX = 64


@dataclass(frozen=True, slots=True)
class WordCounts:
    """How often each of some lexemes stands in a chunk. Units: `lexeme_count` is the chunk's length in words."""

    collection_id: int
    document_id: int
    chunk_id: int
    ordinal: int
    language: str
    lexeme_count: int
    times: Sequence[float]


def most_telling(terms: Iterable[QuestionTerm]) -> list[QuestionTerm]:
    """Return the terms that are counted."""
    return sorted(terms, key=lambda term: (-term.weight, term.lexeme))[:TERMS_COUNTED_MAX]


def bm25_with_neighbours(
    counts: Sequence[WordCounts], terms: Sequence[QuestionTerm], wanted: Container[tuple[int, int]]
) -> dict[tuple[int, int], float]:
    """Return the score of each wanted chunk together with its neighbours, by collection and chunk.

    `counts` hold the wanted chunks and their neighbours, `times` in the order of `terms`. The mean length is that of these texts.
    """
    there = {(count.collection_id, count.document_id, count.ordinal): count for count in counts}
    texts = {}
    for count in counts:
        if (count.collection_id, count.chunk_id) in wanted:
            near = range(count.ordinal - 1, count.ordinal + 2)
            places = [(count.collection_id, count.document_id, ordinal) for ordinal in near]
            texts[count.collection_id, count.chunk_id] = [there[place] for place in places if place in there]
    lengths = {key: sum(part.lexeme_count for part in parts) for key, parts in texts.items()}
    mean_length = max(1.0, sum(lengths.values()) / max(1, len(lengths)))
    weights = {term.lexeme: term.weight for term in terms}
    return {key: bm25(_together(parts, terms), weights, lengths[key], mean_length) for key, parts in texts.items()}


def _together(parts: Iterable[WordCounts], terms: Sequence[QuestionTerm]) -> Mapping[str, float]:
    """Add up how often each lexeme stands in some chunks, in each as its language reads it."""
    frequencies: dict[str, float] = {}
    for part in parts:
        for term, times in zip(terms, part.times, strict=True):
            if times and part.language in term.languages:
                frequencies[term.lexeme] = frequencies.get(term.lexeme, 0.0) + times
    return frequencies
