"""Any text becomes storable and comparable."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.text import REPLACEMENT, embedded_text, one_line, sha256, storable

_ANY = st.text(st.characters() | st.sampled_from("\x00\ud800\udfff\udc80"), max_size=60)
_STORABLE = _ANY.map(lambda text: storable(text)[0])


@settings(max_examples=200)
@given(_ANY)
def test_storable_text_keeps_every_place(text: str) -> None:
    stored, replaced = storable(text)
    assert len(stored) == len(text)
    assert replaced == sum(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text)
    for before, after in zip(text, stored, strict=True):
        assert after == before or (after == REPLACEMENT and (before == "\x00" or "\ud800" <= before <= "\udfff"))
    assert stored.encode().decode() == stored
    assert storable(stored) == (stored, 0)


@settings(max_examples=200)
@given(st.lists(_STORABLE, min_size=1, max_size=4), st.lists(_STORABLE, min_size=1, max_size=4))
def test_hashes_are_equal_only_when_all_parts_are(one: list[str], other: list[str]) -> None:
    assert (sha256(*one) == sha256(*other)) == (one == other)


def test_parts_with_other_borders_have_other_hashes() -> None:
    assert len({sha256("ab", "c"), sha256("a", "bc"), sha256("abc"), sha256("abc", ""), sha256("", "abc")}) == 5


def test_hash_of_one_text_is_its_sha256() -> None:
    assert sha256("é") == hashlib.sha256("é".encode()).digest()


def test_chunk_without_a_prefix_is_embedded_as_it_is() -> None:
    assert embedded_text("", "body") == "body"
    assert embedded_text("Title > Part", "body") == "Title > Part\nbody"


@settings(max_examples=200)
@given(st.text(max_size=80), st.integers(1, 40))
def test_reasons_are_one_line_of_bounded_length(text: str, length_max: int) -> None:
    line = one_line(text, length_max)
    assert len(line) <= length_max
    assert len(line.splitlines()) <= 1
    assert line.removesuffix("…") in " ".join(text.split())


def test_reason_that_is_cut_says_so() -> None:
    assert one_line("a  b\n\tc", 5) == "a b c"
    assert one_line("abcdef", 5) == "abcd…"
