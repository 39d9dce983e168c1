"""Twice the text takes twice the time, in every stage that a file's text passes; figures: `python -m tests.bench linear`."""

import itertools

import pytest

from services.ingester.chunking import Limits, chunk_document
from services.ingester.parsing import parse
from shared.settings import BUNDLED_MODEL
from shared.tokens import open_tokenizer
from tests.bench.linear import KIB, PREPARED, RATIO_MAX, SHAPES, growth

LENGTH = 8 * KIB
PARAGRAPHS = 3000


@pytest.mark.parametrize("stage", PREPARED)
def test_time_grows_with_the_text_and_no_faster(stage: str) -> None:
    measured = [growth(stage, shape, LENGTH) for shape in SHAPES]
    assert [(one.shape, one.once, one.twice) for one in measured if one.ratio > RATIO_MAX] == []


def test_what_grows_faster_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(text: str) -> int:
        return sum(a == b for a, b in itertools.product(text[: len(text) // 4], repeat=2))

    monkeypatch.setitem(PREPARED, "pairs", lambda text: lambda: pairs(text))  # type: ignore[arg-type]
    assert growth("pairs", "letter", LENGTH, repeats=2).ratio > RATIO_MAX


def test_identical_paragraphs_are_all_there_each_with_its_own_place() -> None:
    tokenizer = open_tokenizer(BUNDLED_MODEL)
    sentence = "One paragraph says the same again."
    _, document = parse("a.txt", f"{sentence}\n\n".encode() * PARAGRAPHS)
    chunks = list(chunk_document(document, tokenizer.count, Limits(16, tokenizer.tokens_max, tokenizer.special_count)))
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert sum(chunk.text.count(sentence) for chunk in chunks) == PARAGRAPHS
    assert all(before.char_end <= after.char_start for before, after in itertools.pairwise(chunks))
