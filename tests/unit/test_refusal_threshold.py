"""Below which confidence a question is refused, by how much there is to choose from."""

import pytest

from services.query.refusal import LARGE_CHUNKS, refusal_threshold


def test_large_collections_have_the_threshold_of_the_model():
    assert refusal_threshold(0.44, LARGE_CHUNKS) == refusal_threshold(0.44, 10**7) == 0.44


@pytest.mark.parametrize(("chunks", "threshold"), [(40, 0.263), (400, 0.39), (0, 0.22), (1, 0.22)])
def test_small_ones_have_a_lower_one(chunks: int, threshold: float):
    assert refusal_threshold(0.44, chunks) == pytest.approx(threshold, abs=0.001)


def test_threshold_never_falls_where_there_is_more():
    thresholds = [refusal_threshold(0.44, chunks) for chunks in range(2000)]
    assert thresholds == sorted(thresholds)
