"""Estimates: numbers that are not negative, or none."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.query.progress import Progress, show

COUNTS = st.integers(0, 2**31 - 1)
SOME = st.none() | COUNTS


@given(
    st.builds(
        Progress,
        version_id=st.just(1),
        state=st.sampled_from(["parsing", "embedding"]),
        staged=COUNTS,
        page=SOME,
        char_end=SOME,
        embedded=COUNTS,
        per_second=st.none() | st.floats(),
        page_count=SOME,
        character_count=SOME,
        parsing_seconds=st.floats(1, 1e9),
    )
)
def test_whatever_lies_in_the_tables_what_is_shown_makes_sense(progress: Progress) -> None:
    shown = show(progress)
    assert shown.done >= 0
    assert shown.total is None or shown.done <= shown.total
    for number in (shown.per_second, shown.seconds_left):
        assert number is None or (math.isfinite(number) and number >= 0)
    if shown.total is not None and shown.done == shown.total:
        assert shown.seconds_left == 0


def embedding(done: int, per_second: float | None) -> Progress:
    return Progress(1, "embedding", 100, None, None, done, per_second, None, None, 1.0)


def test_time_left_is_what_is_left_at_the_pace_of_the_last_minute() -> None:
    shown = show(embedding(40, 2.5))
    assert (shown.unit, shown.done, shown.total, shown.per_second, shown.seconds_left) == ("chunks", 40, 100, 2.5, 24.0)


def test_time_left_is_unknown_while_nothing_moves() -> None:
    assert show(embedding(40, None)).seconds_left is None
    assert show(embedding(40, 0.0)).seconds_left is None
    assert show(embedding(100, None)).seconds_left == 0
