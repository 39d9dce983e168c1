"""A written answer's markers → citations: for each cited source the sentence that fits the claim best, verbatim; pure."""

import math
import re
from collections.abc import Collection, Mapping, Sequence

from services.query.citations import Citation, sentences_of
from services.query.reading import Passage

_WORD = re.compile(r"\w+")
# The claim names the sentence; the question helps where the claim only says "yes" or a number.
QUESTION_SHARE = 0.3


def cite_claims(
    question: str, offered: Sequence[Passage], said: Mapping[int, str], cited: Collection[int]
) -> list[Citation]:
    """Bind each cited source to what it is cited for.

    Order: by index, which stays the number in the prompt.
    """
    return [_cite(number, offered[number - 1], said.get(number, ""), question) for number in sorted(cited)]


def whole(offered: Sequence[Passage]) -> list[Citation]:
    """Show passages as numbered sources, each with the whole text of its hit."""
    return [_whole(number, passage) for number, passage in enumerate(offered, start=1)]


def _whole(number: int, passage: Passage) -> Citation:
    hit = passage.hit
    return Citation(number, hit, hit.char_start, hit.char_end, hit.text)


def _cite(number: int, passage: Passage, claim: str, question: str) -> Citation:
    claimed, asked = _words(claim), _words(question)

    def fit(text: str) -> float:
        words = _words(text)
        return (len(words & claimed) + QUESTION_SHARE * len(words & asked)) / math.sqrt(len(words) or 1)

    # Of equals the hit's own sentence, not that of what stands beside it.
    best = max(
        sentences_of(passage.parts),
        key=lambda sentence: (fit(sentence.text), passage.parts[sentence.hit_index] == passage.hit),
        default=None,
    )
    if best is None or fit(best.text) == 0:  # a table, code, or another language than the answer's
        return _whole(number, passage)
    hit = passage.parts[best.hit_index]
    return Citation(number, hit, hit.char_start + best.start, hit.char_start + best.end, best.text)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
