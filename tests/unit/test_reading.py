"""Hits become passages: joined where they follow one another, widened, each text once, spread over documents."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.query.citations import Hit
from services.query.reading import CHUNKS_JOINED_MAX, CHUNKS_OF_DOCUMENT_MAX, WIDENED_MAX, passages
from tests.unit.test_prompt import hit


def chunk(document_id: int, ordinal: int, text: str = "") -> Hit:
    text = text or f"Text {ordinal} of {document_id}."
    return replace(hit(text), document_id=document_id, ordinal=ordinal, chunk_id=100 * document_id + ordinal)


def beside_of(*chunks: Hit) -> dict[tuple[int, int], Hit]:
    return {(one.document_id, one.ordinal): one for one in chunks}


def shape(found) -> list[list[tuple[int, int]]]:
    return [[(part.document_id, part.ordinal) for part in passage.parts] for passage in found]


def test_hits_that_follow_one_another_are_one_passage_at_the_place_of_the_best() -> None:
    found = passages([chunk(1, 5), chunk(2, 0), chunk(1, 4), chunk(1, 8)], {})
    assert shape(found) == [[(1, 4), (1, 5)], [(2, 0)], [(1, 8)]]
    assert [passage.hit.ordinal for passage in found] == [5, 0, 8]


def test_the_best_are_read_with_what_stands_beside_them() -> None:
    hits = [chunk(document_id, 5) for document_id in range(1, WIDENED_MAX + 2)]
    around = beside_of(*(chunk(one.document_id, ordinal) for one in hits for ordinal in (4, 6)))
    found = passages(hits, around)
    assert shape(found)[:WIDENED_MAX] == [[(n, 4), (n, 5), (n, 6)] for n in range(1, WIDENED_MAX + 1)]
    assert shape(found)[WIDENED_MAX:] == [[(WIDENED_MAX + 1, 5)]]
    assert all(passage.found == (passage.hit,) for passage in found)


def test_same_text_is_read_once_with_its_other_places() -> None:
    first, twin = chunk(1, 0, "The same words."), chunk(2, 7, "The  same\nwords.")
    (passage,) = passages([first, twin], {})
    assert (passage.hit, passage.others) == (first, (twin,))


def test_one_document_does_not_take_the_places_of_others() -> None:
    long = [chunk(1, 10 * n) for n in range(CHUNKS_OF_DOCUMENT_MAX + 2)]
    found = passages([*long, chunk(2, 0)], {})
    assert [passage.hit.document_id for passage in found] == [1] * CHUNKS_OF_DOCUMENT_MAX + [2, 1, 1]


_HITS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12)), max_size=20, unique=True)


@given(_HITS, _HITS)
def test_every_hit_is_read_once_and_nothing_twice(places: list[tuple[int, int]], around: list[tuple[int, int]]) -> None:
    hits = [chunk(*place) for place in places]
    found = passages(hits, beside_of(*(chunk(*place) for place in around)))
    read = [part for passage in found for part in passage.parts]
    assert len(set(read)) == len(read)
    assert set(hits) <= set(read)
    assert {part for passage in found for part in passage.found} == set(hits)
    for passage in found:
        assert len(passage.parts) <= CHUNKS_JOINED_MAX + 2
        ordinals = [part.ordinal for part in passage.parts]
        assert ordinals == list(range(ordinals[0], ordinals[0] + len(ordinals))), "no gap within a passage"
