"""What a citation says of its place, for every unit and every span."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.citations import Citation, Hit
from services.query.places import Place, place_of, place_of_hit, place_of_quote
from services.query.quotes import cite_claims
from services.query.reading import alone

TEXT = "First line of it.\nSecond line of it.\nThird line of it."
FIRST, SECOND, THIRD = (TEXT.index(word) for word in ("First", "Second", "Third"))


def hit(text: str = TEXT, **given: object) -> Hit:
    fields = {
        "chunk_id": 1,
        "document_id": 1,
        "collection": "default",
        "source_uri": "inbox:note.md",
        "title": None,
        "heading": "",
        "page": None,
        "page_label": None,
        "page_turns": (),
        "page_unit": "page",
        "lines": (),
        "line_unit": "line",
        "ordinal": 0,
        "char_start": 1000,
        "char_end": 1000 + len(text),
        "text": text,
        "prefix": "",
        "language": "english",
        "token_count": 9,
        "lexemes": frozenset(),
        "cosine": 0.5,
        "bm25": 1.0,
        "score": 1.0,
    }
    return Hit(**fields | given)


@pytest.mark.parametrize(
    ("given", "words", "lines"),
    [
        ({}, None, None),
        ({"page": 12}, "page 12", None),
        ({"page": 4, "page_label": "iv"}, "page iv", None),
        ({"page": 4, "page_unit": "slide"}, "slide 4", None),
        ({"page": 3, "page_unit": "cell"}, "cell 3", None),
        ({"page": 3, "page_unit": "cell", "lines": (1,)}, "cell 3, lines 1–3", (1, 3)),
        ({"lines": (40,)}, "lines 40–42", (40, 42)),
        ({"lines": (17,), "line_unit": "row"}, "rows 17–19", (17, 19)),
        (
            {"page": 2, "page_unit": "sheet", "page_label": "Q3", "lines": (17, 20), "line_unit": "row"},
            "sheet Q3, rows 17–21",
            (17, 21),
        ),
        ({"page": 12, "page_turns": ((SECOND, 13, None),)}, "pages 12–13", None),
        ({"page": 3, "page_label": "iii", "page_turns": ((THIRD, 5, "1"),)}, "pages iii–1", None),
        ({"page": 3, "page_unit": "slide", "page_turns": ((18, 4, None), (THIRD, 5, None))}, "slides 3–5", None),
        ({"page": 12, "lines": (50, 1), "page_turns": ((SECOND, 13, None),)}, "pages 12–13", None),
        ({"page_turns": ((SECOND, 2, None),)}, None, None),
    ],
)
def test_chunk_is_placed_in_words_and_numbers(given, words, lines) -> None:
    assert place_of_hit(hit(**given)) == Place(given.get("page"), lines, words)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"lines": (40,)}, Place(None, (41, 41), "line 41")),
        ({"lines": (17, 20, 33), "line_unit": "row"}, Place(None, (20, 20), "row 20")),
        ({"lines": (17, 20), "line_unit": "row"}, Place(None, (20, 20), "row 20")),
        ({"page": 12, "page_turns": ((SECOND, 13, "xiii"), (THIRD, 14, None))}, Place(13, None, "page xiii")),
        ({"page": 12, "page_turns": ((THIRD, 13, None),)}, Place(12, None, "page 12")),
        (
            {"page": 1, "page_unit": "cell", "lines": (9, 1), "page_turns": ((SECOND, 2, None),)},
            Place(2, (1, 1), "cell 2, line 1"),
        ),
    ],
)
def test_quote_is_placed_where_it_stands_and_not_where_its_chunk_begins(given, place) -> None:
    one = hit(**given)
    (citation,) = cite_claims("", [alone(one)], {1: "second"}, [1])
    assert citation.quote == "Second line of it."
    assert place_of_quote(citation) == place


def test_line_break_at_the_end_of_a_span_begins_no_line() -> None:
    assert place_of(hit(lines=(7,)), 0, SECOND) == Place(None, (7, 7), "line 7")


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["a", "b c", "one two three"])), min_size=1, max_size=12
    ),
    is_short=st.booleans(),
    data=st.data(),
)
def test_lines_of_any_span_are_those_of_its_characters(rows, is_short, data) -> None:
    numbers, number = [], 0
    for gap, _ in rows:
        number += gap
        numbers.append(number)
    text = "\n".join(body for _, body in rows)
    number_at = [numbers[text.count("\n", 0, at)] for at in range(len(text))]
    listed = list(numbers)
    while is_short and len(listed) > 1 and listed[-1] == listed[-2] + 1:
        listed.pop()
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    one = hit(text, lines=tuple(listed))
    assert place_of(one, start, end).lines == (number_at[start], number_at[end - 1])
    assert (
        place_of_quote(Citation(1, one, 1000 + start, 1000 + end, text[start:end])).lines
        == place_of(one, start, end).lines
    )


@pytest.mark.parametrize(
    ("given", "context"),
    [
        ({"title": "Sales", "heading": "Q3", "prefix": "Sales > Q3\nTown | Disks"}, "Town | Disks"),
        ({"heading": "Q3", "prefix": "Q3"}, ""),
        ({"prefix": "Town | Disks"}, "Town | Disks"),
        ({}, ""),
    ],
)
def test_context_is_told_apart_from_title_and_headings(given, context) -> None:
    assert replace(hit(), **given).context == context
