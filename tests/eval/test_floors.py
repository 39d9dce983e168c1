"""The committed figures keep their floors."""

import copy
import json

import pytest

from tests.eval.__main__ import RESULTS
from tests.eval.floors import AT_LEAST, AT_MOST, violations

MEASURED = json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_committed_figures_keep_their_floors(name: str) -> None:
    assert list(violations(name, MEASURED[name])) == []


def test_figure_below_its_floor_and_one_that_is_missing_are_told() -> None:
    good = {
        "ndcg@10": 1.0,
        "recall@10": 1.0,
        "zero_results": {"dense": 0.0, "lexical": 0.01},
        "answers": {"invalid_citations": 0, "not_verbatim": 0},
    }
    assert list(violations("adi", good)) == []
    assert len(list(violations("adi", {}))) == len(AT_LEAST["adi"]) + len(AT_MOST)
    for name, value in (("ndcg@10", 0.49), ("zero_results", {"dense": 0.0, "lexical": 0.02})):
        bad = copy.deepcopy(good) | {name: value}
        assert len(list(violations("adi", bad))) == 1
