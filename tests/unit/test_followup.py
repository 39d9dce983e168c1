"""Questions that lean on those before them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.followup import WORDS_ADDED_MAX, leans, stand_alone
from services.query.prompt import Turn

BACKUP = "When does the nightly backup of PostgreSQL-17 run?"


def said(*questions: str) -> list[Turn]:
    """A conversation of these questions, each with an answer that must not be searched for."""
    return [turn for question in questions for turn in (Turn("user", question), Turn("assistant", "Poison [1]."))]


@pytest.mark.parametrize(
    "question",
    [
        "And the weekly one?",
        "Why?",
        "How long is it kept?",
        "What about Sunday?",
        "Where are they stored?",
        "Is this encrypted?",
        "For whom?",
        "Und am Sonntag?",
        "Wie lange werden diese aufbewahrt?",
        "Wo liegen deren Schlüssel?",
        "Et le dimanche ?",
        "¿Y el domingo?",
        "何時ですか",
        "?",
    ],
)
def test_question_that_points_back_is_joined_with_what_it_points_at(question):
    joined = stand_alone(question, said(BACKUP))
    assert joined == f"{question} nightly backup PostgreSQL-17 run"


@pytest.mark.parametrize(
    "question",
    [
        "How long is the parental leave in Sweden?",
        "Who is Napoleon?",
        "What is the name of the column that holds the price?",
        "Is there a fire exit on the second floor?",
        "Wann öffnet das Büro in Hamburg?",
        "In which year did the war of the roses end?",
        "Which regulations about the storage of their personal data apply to contractors abroad?",
        "夜間バックアップはいつ実行されますか",
    ],
)
def test_question_that_stands_by_itself_stays_as_it_is(question):
    assert stand_alone(question, said(BACKUP)) == question


def test_chain_of_follow_ups_leads_back_to_its_beginning():
    joined = stand_alone("Why?", said("How are visitors registered?", BACKUP, "And on Sunday?"))
    assert joined == "Why? nightly backup PostgreSQL-17 run Sunday"


def test_without_an_earlier_question_nothing_is_added():
    assert stand_alone("And the weekly one?", []) == "And the weekly one?"
    assert stand_alone("Why?", [Turn("assistant", "It is so.")]) == "Why?"


def test_what_is_added_is_bounded():
    long = " ".join(f"word{number}" for number in range(500))
    assert len(stand_alone("Why?", said(long)).split()) == 1 + WORDS_ADDED_MAX


@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=4))
def test_any_question_stays_and_only_words_of_earlier_questions_are_added(question, earlier):
    joined = stand_alone(question, said(*earlier))
    assert joined.startswith(question)
    assert "Poison" not in joined[len(question) :]
    if not leans(question):
        assert joined == question
    assert all(any(word in one for one in earlier) for word in joined[len(question) :].split())
