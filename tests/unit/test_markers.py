"""Markers: only those that name a source are shown, however the text comes in pieces, and code stays as it is."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.query.markers import NOT_IN_SOURCES, Draft, Markers, claims, unmarked

SOURCES = 8


def shown(*pieces: str, sources: int = SOURCES) -> tuple[str, list[int]]:
    markers = Markers(sources)
    text = "".join([*(markers.feed(piece) for piece in pieces), markers.finish()])
    return text, markers.cited


@pytest.mark.parametrize(
    ("written", "text", "cited"),
    [
        ("The sky is blue [1].", "The sky is blue [1].", [1]),
        ("The sky is blue[1].", "The sky is blue[1].", [1]),
        ("The sky is blue.[1]", "The sky is blue.[1]", [1]),
        ("[2] The sky", "[2] The sky", [2]),
        ("blue [1, 3].", "blue [1][3].", [1, 3]),
        ("blue [1,3; 4].", "blue [1][3][4].", [1, 3, 4]),
        ("blue [1][2].", "blue [1][2].", [1, 2]),
        ("blue [2] [1].", "blue [2] [1].", [2, 1]),
        ("blue [1-3].", "blue [1][2][3].", [1, 2, 3]),
        ("blue [7–12].", "blue [7][8].", [7, 8]),
        ("blue [3-1].", "blue.", []),
        ("blue [^1].", "blue [1].", [1]),
        ("blue [Source 2].", "blue [2].", [2]),
        ("blue [sources 2, 3].", "blue [2][3].", [2, 3]),
        ("blue 【1】.", "blue [1].", [1]),
        ("blue【3†L1-L5】.", "blue[3].", [3]),
        ("蓝色［２］。", "蓝色[2]。", [2]),
        ("so (see [1]).", "so (see [1]).", [1]),
        ("**blue**[1]", "**blue**[1]", [1]),
        ("| blue [1] | green [2] |", "| blue [1] | green [2] |", [1, 2]),
        ("in 2024[1] and at 02:15[2]", "in 2024[1] and at 02:15[2]", [1, 2]),
    ],
)
def test_marker_that_names_a_source_is_shown(written: str, text: str, cited: list[int]) -> None:
    assert shown(written) == (text, cited)


@pytest.mark.parametrize(
    ("written", "text", "cited"),
    [
        ("blue [12].", "blue.", []),
        ("blue[12].", "blue.", []),
        ("blue [12] and green", "blue and green", []),
        ("[12] The sky", "The sky", []),
        ("- [9] one\n- [1] two", "- one\n- [1] two", [1]),
        ("blue [1, 12].", "blue [1].", [1]),
        ("see [12][1].", "see [1].", [1]),
        ("see [1][12].", "see [1].", [1]),
        ("blue 【999】.", "blue.", []),
        ("blue [99-120].", "blue.", []),
    ],
)
def test_marker_that_names_no_source_is_dropped(written: str, text: str, cited: list[int]) -> None:
    assert shown(written) == (text, cited)


@pytest.mark.parametrize(
    "written",
    [
        "a[0] = 1",
        "list[0]",
        "x[12]",
        "row_ids[3]",
        "items[3].name",
        "grid[1] = 5",
        "m[0][1]",
        "the interval [0, 1]",
        "in [2024]",
        "`values[1]`",
        "``a ` b[12]``",
        "```python\nx = rows[1]\n\ny = [12]\n```",
        "~~~\n[1]\n~~~",
        "```rows[12]```",
        "[1](http://example.test/)",
        "[link](http://example.test/)",
        "[x] done",
        "[]",
        "[1",
        "[1.5]",
        "[-1, 1]",
        "[a1]",
        "[1\n]",
    ],
)
def test_what_is_no_marker_stays_as_it_is(written: str) -> None:
    assert shown(written) == (written, [])


@pytest.mark.parametrize(
    ("written", "text", "cited"),
    [
        ("`a[12]` does it [1].", "`a[12]` does it [1].", [1]),
        ("```\na[12]\n```\nso [2] [12]", "```\na[12]\n```\nso [2]", [2]),
        ("```a[12]``` so [2] [12]", "```a[12]``` so [2]", [2]),
        ("a ``` in a line\nso [2] [12]", "a ``` in a line\nso [2]", [2]),
        ("the user`s [12]\nso [2] [12]", "the user`s [12]\nso [2]", [2]),
        ("~~struck~~ [12] [1]", "~~struck~~ [1]", [1]),
        ("`code`[1] and `code`[12]", "`code`[1] and `code`", [1]),
    ],
)
def test_code_ends_where_it_is_closed(written: str, text: str, cited: list[int]) -> None:
    assert shown(written) == (text, cited)


WRITTEN = st.lists(
    st.sampled_from(
        [
            *"[]【】［］0123９,-–^#†`~\n .(=_ax",
            "Source ",
            "```",
            "~~~",
            "[1]",
            "[12]",
            "[1, 3]",
            "[1-3]",
            "  ",
            " [9]",
            "word",
        ]
    ),
    max_size=40,
).map("".join)


@st.composite
def chopped(draw: st.DrawFn) -> list[str]:
    text = draw(WRITTEN)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(pieces=chopped())
@example(pieces=["[", "1", "]", ".", "n"])
@example(pieces=[" " * 5, " " * 5, "[12]"])
@example(pieces=["`" * 60, "`" * 10, "[12]"])
def test_pieces_show_what_the_whole_shows(pieces: list[str]) -> None:
    assert shown(*pieces) == shown("".join(pieces))
    assert shown(*"".join(pieces)) == shown("".join(pieces))


@given(text=WRITTEN)
def test_only_real_sources_are_cited_and_none_twice(text: str) -> None:
    _, cited = shown(text)
    assert set(cited) <= set(range(1, SOURCES + 1))
    assert len(set(cited)) == len(cited)


@given(text=st.text(alphabet="ab .,\n`~*#()", max_size=80))
def test_text_without_brackets_is_shown_as_it_came(text: str) -> None:
    assert shown(text) == (text, [])


@pytest.mark.parametrize("filler", [" ", "`", "[", "[1", "~", "\n", "[Source ", "a"])
def test_little_is_held_back_whatever_comes(filler: str) -> None:
    markers = Markers(SOURCES)
    given_characters = shown_characters = 0
    for _ in range(500):
        shown_characters += len(markers.feed(filler))
        given_characters += len(filler)
        assert given_characters - shown_characters <= 100, filler


@pytest.mark.parametrize(
    "pieces",
    [
        [NOT_IN_SOURCES],
        ["NOT_IN", "_SOURCES"],
        [*NOT_IN_SOURCES],
        ["**NOT_IN_SOURCES**\n\nNothing is said of it."],
        ["The sources do not say. ", "NOT_IN_", "SOURCES"],
    ],
)
def test_refusal_is_seen_and_its_word_never_shown(pieces: list[str]) -> None:
    draft = Draft(SOURCES)
    text = "".join([*(draft.feed(piece) for piece in pieces), draft.finish()])
    assert draft.is_refusal
    assert "NOT_IN" not in text


@pytest.mark.parametrize("pieces", [["NOT", "_FOUND [1]"], ["It is NOT", " there [1]"], ["NOT_IN_SOURCE"], ["a N"]])
def test_what_only_begins_like_a_refusal_is_shown(pieces: list[str]) -> None:
    draft = Draft(SOURCES)
    text = "".join([*(draft.feed(piece) for piece in pieces), draft.finish()])
    assert (text, draft.is_refusal, draft.text) == ("".join(pieces), False, text)


def test_character_that_comes_in_halves_is_joined_and_a_lone_half_replaced() -> None:
    draft = Draft(SOURCES)
    text = "".join([draft.feed("smile \ud83d"), draft.feed("\ude00 [1] \ud83d"), draft.feed("x"), draft.finish()])
    assert text == "smile 😀 [1] \N{REPLACEMENT CHARACTER}x"
    last = Draft(SOURCES)
    assert last.feed("end \ud83d") + last.finish() == "end \N{REPLACEMENT CHARACTER}"


def test_claim_is_what_stands_before_its_markers() -> None:
    assert claims("The sky is blue [1]. Grass is green [2][3].\n- Snow is white. [1]") == {
        1: "The sky is blue - Snow is white.",
        2: ". Grass is green",
        3: ". Grass is green",
    }


def test_earlier_answer_loses_its_markers() -> None:
    assert unmarked("The sky is blue [1][2]. `a[1]`") == "The sky is blue. `a[1]`"
