"""What a question says of its own words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.terms import OPERATORS_MAX, Terms, read_terms


@pytest.mark.parametrize(
    ("question", "text", "phrases", "excluded"),
    [
        ('when does the "nightly backup" run?', "when does the nightly backup run?", ("nightly backup",), ()),
        ("say “hello  world” now", "say hello world now", ("hello world",), ()),
        ("was heißt „guten Tag“ hier", "was heißt guten Tag hier", ("guten Tag",), ()),
        ("que dit « le  roi »?", "que dit le roi?", ("le roi",), ()),
        ('("x y")', "(x y)", ("x y",), ()),
        ("backup -weekly", "backup", (), ("weekly",)),
        ("backup -weekly.", "backup .", (), ("weekly",)),
        ('backup -"every week" -monthly', "backup", (), ("every week", "monthly")),
        ("function -foo_bar -C++", "function", (), ("foo_bar", "C++")),
        ("-only", "", (), ("only",)),
        ('"a b" -c1 "a b"', "a b a b", ("a b",), ("c1",)),
    ],
)
def test_operators_are_read_and_leave_the_text(
    question: str, text: str, phrases: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    assert read_terms(question) == Terms(text, phrases, excluded)


@pytest.mark.parametrize(
    "question",
    [
        "foo-bar and e-mail",
        "a lone - dash – here -- there",
        "what is -5 or -5GHz",
        "what does --verbose do",
        "what does tar -x do",
        'what does `find -name` do with `"`',
        'an "unbalanced mark',
        'a 5" pipe and a 6" pipe',
        'nothing in "" or " "',
        '"..."',
        "it's a 'single' quotation",
        "",
    ],
)
def test_question_without_operators_stays_as_it_is(question: str) -> None:
    assert read_terms(question) == Terms(question)


def test_number_of_operators_is_bounded() -> None:
    terms = read_terms("x " + " ".join(f"-word{n}" for n in range(OPERATORS_MAX + 3)))
    assert len(terms.excluded) == OPERATORS_MAX
    assert "-word9" in terms.text


@given(st.text(alphabet='ab1 -"“”«»`\n_.', max_size=40))
def test_what_is_excluded_is_not_looked_for_and_nothing_breaks(question: str) -> None:
    terms = read_terms(question)
    assert len(terms.text) <= len(question)
    for phrase in terms.phrases:
        assert phrase
        assert " ".join(phrase.split()) == phrase
    if not terms.phrases and not terms.excluded:
        assert terms.text == question


def test_excluded_word_is_gone_from_the_text() -> None:
    assert "weekly" not in read_terms('when does it run -weekly -"weekly plan"').text


def test_long_tail_of_signs_is_read_in_linear_time():
    """Quadratic time would be twenty minutes."""
    assert read_terms("-a" + "!" * 200_000 + "b").excluded == ("a" + "!" * 200_000 + "b",)
    assert read_terms("word -ab" + "!" * 200_000).excluded == ("ab",)
