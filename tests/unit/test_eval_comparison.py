"""Paired bootstrap over questions."""

import json
from pathlib import Path

import pytest

from services.console.evaluation import comparison
from services.console.evaluation.comparison import BadComparison, compare, read_other


def of(values: list[float], figure: str = "ndcg@10") -> dict[str, dict[str, float]]:
    return {f"q{number}": {figure: value} for number, value in enumerate(values)}


def test_equal_runs_do_not_differ() -> None:
    (found,) = compare(of([0.1, 0.9, 0.5]), of([0.1, 0.9, 0.5]), seed=1)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_gain_on_every_question_is_sure() -> None:
    (found,) = compare(of([0.6] * 50), of([0.5] * 50), seed=1)
    assert found.difference == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.p < 0.001


def test_gains_and_losses_that_cancel_out_are_not() -> None:
    (found,) = compare(of([0.0, 1.0] * 25), of([1.0, 0.0] * 25), seed=1)
    assert found.difference == 0
    assert found.low < -0.1
    assert found.high > 0.1
    assert found.p > 0.5


def test_interval_is_that_of_the_mean() -> None:
    # The standard error of the mean of a fair coin over 400 questions is 0.025.
    (found,) = compare(of([1.0, 0.0] * 200), of([0.0] * 400), seed=3)
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_one_seed_gives_one_answer_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    this, other = of([0.1, 0.5, 0.9, 0.3]), of([0.2, 0.4, 0.8, 0.1])
    backwards = dict(reversed(list(this.items())))
    assert compare(this, other, seed=7) == compare(backwards, other, seed=7)
    before = compare(this, other, seed=7)
    monkeypatch.setattr(comparison, "_DRAWS_MAX", 100)  # in many blocks
    (blocked,), (whole,) = compare(this, other, seed=7), before
    assert (blocked.low, blocked.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_only_questions_and_figures_that_both_have_are_compared() -> None:
    this = {"a": {"ndcg@10": 1.0, "refused": 0.0}, "b": {"ndcg@10": 0.0}}
    (found,) = compare(this, {"a": {"ndcg@10": 0.5}, "c": {"ndcg@10": 1.0}}, seed=1)
    assert (found.questions, found.this, found.other) == (1, 1.0, 0.5)
    with pytest.raises(BadComparison, match="share no question"):
        compare(this, {"z": {"ndcg@10": 1.0}}, seed=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "no JSON"),
        ("[]", "no figures of each question"),
        ("{}", "no figures of each question"),
        ('{"per_query": {"a": 1}}', "question 'a' are no numbers"),
        ('{"per_query": {"a": {"x": "1"}}}', "question 'a' are no numbers"),
        ('{"per_query": {"a": {"x": NaN}}}', "question 'a' are no numbers"),
    ],
)
def test_file_that_is_no_run_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadComparison, match=reason):
        read_other(path)


def test_what_a_run_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"per_query": {"a": {"ndcg@10": 1}}}), encoding="utf-8")
    assert read_other(path) == {"a": {"ndcg@10": 1}}
