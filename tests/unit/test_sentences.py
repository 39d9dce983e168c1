"""Where sentences end."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.sentences import sentence_spans

_TEXT = st.text(max_size=200) | st.text(alphabet="aB.!?…。！ \n\t\"')*_(eg0", max_size=200)


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@settings(max_examples=300)
@given(_TEXT)
def test_spans_are_in_order_and_hold_everything_but_white_space_between(text: str) -> None:
    at = 0
    for start, end in sentence_spans(text):
        assert at <= start < end
        assert not text[at:start].strip()
        assert text[start:end] == text[start:end].strip()
        at = end
    assert not text[at:].strip()


@settings(max_examples=100)
@given(_TEXT)
def test_white_space_around_a_text_changes_no_sentence(text: str) -> None:
    assert _sentences(f" \n{text.strip()}\t ") == _sentences(text.strip())


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("He said \u201cno.\u201d Then he left.", ["He said \u201cno.\u201d", "Then he left."]),
        ("It is **bold.** And plain.", ["It is **bold.**", "And plain."]),
        ("Wait... Really?! Yes.", ["Wait...", "Really?!", "Yes."]),
        ("Version 1.5 of it. Version 2.0 too.", ["Version 1.5 of it.", "Version 2.0 too."]),
        ("It runs on localhost. Ärger gibt es nicht.", ["It runs on localhost.", "Ärger gibt es nicht."]),
        ("Это так. Да.", ["Это так.", "Да."]),
        ("今日は。明日も！", ["今日は。", "明日も！"]),
        ("A title\n\nA paragraph", ["A title", "A paragraph"]),
        ("wrapped\nlines are one", ["wrapped\nlines are one"]),
        ("it ends. but goes on", ["it ends. but goes on"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert _sentences(text) == sentences


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met Mrs. Jones.",
        "See Fig. 3 and Eq. 4 there.",
        "Fruit, e.g. Apples, are cheap.",
        "J. R. R. Tolkien wrote it.",
        "(cf. Section 4)",
        "He worked at Acme Inc. Then.",
    ],
)
def test_abbreviations_end_no_sentence(text: str) -> None:
    assert _sentences(text) == [text]


def test_word_that_only_ends_like_an_abbreviation_ends_its_sentence() -> None:
    assert _sentences("We met Bartdr. Then we left.") == ["We met Bartdr.", "Then we left."]


@pytest.mark.parametrize(
    "unit",
    [
        ".",
        "A.",
        " ",
        "!",
        "?!",
        "…",
        "。",
        ".)",
        ". ",
        ". (",
        '."',
        "\n",
        "\n \t",
        "e.g. ",
        "*",
        "._",
        ".  \n(*",
        "A. ",
    ],
)
def test_hostile_text_is_read_in_linear_time(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    spans = list(sentence_spans(text))
    assert time.process_time() - started < 3  # quadratic, the full stops took minutes
    assert sum(len(text[start:end]) for start, end in spans) <= len(text)
