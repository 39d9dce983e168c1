"""The list of safeguards stays true, and one of them is removed in earnest."""

import pytest

from tests.crash.mutants import ROOT, apply, attempt, judge, missing, open_lanes, replaced_once
from tests.crash.mutants import Outcome as Run
from tests.crash.safeguards import MUTANTS

FAST = "keys: what is not yours looks absent"


def test_every_mutant_still_applies_and_its_tests_are_there():
    stale = {mutant.name: reason for mutant in MUTANTS if (reason := missing(mutant)) is not None}
    assert stale == {}
    assert all(mutant.tests for mutant in MUTANTS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len(MUTANTS) >= 60


@pytest.mark.timeout(240)
async def test_removed_safeguard_is_caught_by_a_copy_that_imports_itself(tmp_path):
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == FAST]
    async with open_lanes(tmp_path, 1) as (lane,):
        untouched = await lane.test(mutant.tests, seconds=120)
        assert untouched.passed, untouched.output
        assert not judge(mutant, untouched, 0).is_caught
        verdict = await attempt(lane, mutant)
        assert verdict.is_caught, verdict.reason
        for edit in mutant.edits:
            assert (lane.tree / edit.path).read_text() == (ROOT / edit.path).read_text()


@pytest.mark.parametrize(
    ("run", "is_caught"),
    [
        (Run(0, {"a": "assert 1 == 2"}, {}, True, ""), True),
        (Run(3, {}, {}, True, ""), False),
        (Run(0, {}, {"a": "collection failure"}, True, "ImportError"), False),
        (Run(0, {"a": "NameError: name 'x' is not defined"}, {}, True, ""), False),
        (Run(0, {"a": "asyncpg.exceptions.PostgresSyntaxError: syntax error"}, {}, True, ""), False),
        (Run(0, {"a": "Failed: Timeout (>60.0s) from pytest-timeout."}, {}, True, ""), False),
        (Run(0, {}, {}, False, ""), False),
    ],
)
def test_only_a_test_that_fails_for_a_reason_of_its_own_counts(run, is_caught):
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == FAST]
    assert judge(mutant, run, 1.0).is_caught == is_caught


def test_text_that_stands_twice_or_nowhere_is_told():
    for text in ("", "x x"):
        with pytest.raises(ValueError, match="not once"):
            replaced_once(text, "x", "y")
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == FAST]
    texts = {edit.path: (ROOT / edit.path).read_text(encoding="utf-8") for edit in mutant.edits}
    assert apply(mutant, texts) != texts
