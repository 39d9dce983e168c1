"""BM25 and what is made of its term weights; pure. The database scores chunks with the same formula (sql/0022)."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

K1 = 1.2
B = 0.75
# Whoever writes `foo_bar` means it, not foo and bar.
IDENTIFIER_WEIGHT = 1.5


@dataclass(frozen=True, slots=True)
class QuestionTerm:
    """A lexeme of a question in the languages that read a word of it so, and how much the word tells.

    Lexemes of one word have the same number.
    """

    lexeme: str
    languages: frozenset[str]
    word: int
    idf: float
    is_identifier: bool = False

    @property
    def weight(self) -> float:
        """What the term adds to a score."""
        return self.idf * (IDENTIFIER_WEIGHT if self.is_identifier else 1.0)


def idf_in(terms: Iterable[QuestionTerm], language: str) -> dict[str, float]:
    """Return the lexemes that a text in `language` is compared with: it cannot hold what other languages make of a word."""
    return {term.lexeme: term.idf for term in terms if language in term.languages}


def inverse_document_frequency(chunk_count: int, total: int) -> float:
    """Return how much a term tells: positive, falling with the number of chunks that hold it.

    Source: Robertson and Zaragoza 2009, with 1 added under the logarithm so that it never is negative.
    """
    return math.log(1 + max(total - chunk_count + 0.5, 0.5) / (chunk_count + 0.5))


def bm25(frequencies: Mapping[str, float], idf: Mapping[str, float], length: int, mean_length: float) -> float:
    """Score one text for the terms in `idf`."""
    norm = K1 * (1 - B + B * length / mean_length)
    return sum(
        idf[term] * frequency * (K1 + 1) / (frequency + norm)
        for term, frequency in frequencies.items()
        if term in idf and frequency > 0
    )


def coverage(found: Collection[str], idf: Mapping[str, float]) -> float:
    """Return the share of the question's term weight that a text holds, from 0 to 1; 0 for a question without terms."""
    total = sum(idf.values())
    return sum(weight for term, weight in idf.items() if term in found) / total if total > 0 else 0.0
