"""What came of an evaluation: one object of figures, figures of every question, and a text to read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from services.console.evaluation.answering import QUOTES_READ, Answered
from services.console.evaluation.comparison import Difference
from services.console.evaluation.measures import mean, percentiles, separation
from services.console.evaluation.ranking import ARMS, Arm, Ranked

FALSE_REFUSALS = 0.05
DIGITS = 4
FAILURES_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Absences:
    """Answers to questions of articles that are there, and of those that are not."""

    present: Sequence[Answered]
    absent: Sequence[Answered]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that an evaluation saw."""

    collection: str
    split: str
    arm: Arm
    documents: int
    chunks: int
    failures: Sequence[str]
    is_reused: bool
    settings: Mapping[str, Any]
    ranked: Sequence[Ranked]
    answerable: Sequence[Answered]
    impossible: Sequence[Answered]
    absences: Absences | None

    @property
    def answered(self) -> list[Answered]:
        """Every answer."""
        absences = [*self.absences.present, *self.absences.absent] if self.absences else []
        return [*self.answerable, *self.impossible, *absences]

    def findings(self) -> list[str]:
        """Return what must not be: documents that could not be read, hits and citations that are not what stands there."""
        counts = {
            "documents could not be read": len(self.failures),
            "hits are not what stands in their documents": sum(ranked.wrong_hits for ranked in self.ranked),
            "citations are invalid": sum(answered.invalid for answered in self.answered),
            "quotes are not verbatim": sum(answered.not_verbatim for answered in self.answered),
        }
        return [f"{count} {what}" for what, count in counts.items() if count]


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return the figures: those of the chosen arm by their names, and all that stands behind them."""
    arms = {arm: _means(ranked.figures[arm] for ranked in outcome.ranked) for arm in ARMS}
    empty = {
        arm: _rounded(mean(float(arm in ranked.empty) for ranked in outcome.ranked)) for arm in ("dense", "lexical")
    }
    return {
        "collection": outcome.collection,
        "split": outcome.split,
        "arm": outcome.arm,
        "documents": outcome.documents,
        "chunks": outcome.chunks,
        "questions": len(outcome.ranked),
        **arms[outcome.arm],
        "zero_results": empty,
        "latency_ms": _latency(ranked.latency_ms for ranked in outcome.ranked),
        "arms": {arm: arms[arm] for arm in ARMS if arm != outcome.arm},
        "answers": _answers(outcome) if outcome.answered else None,
        "settings": dict(outcome.settings),
        "failures": list(outcome.failures[:FAILURES_SHOWN_MAX]),
        "findings": outcome.findings(),
    }


def _answers(outcome: Outcome) -> dict[str, Any]:
    answered = outcome.answered
    judged = [answer for answer in outcome.answerable if answer.held]
    found: dict[str, Any] = {
        "asked": len(answered),
        "with_answers": len(judged),
        **{
            f"answer_in_top_{count}": _rounded(mean(float(answer.held[count]) for answer in judged))
            for count in QUOTES_READ
        },
        "citations": sum(answer.citations for answer in answered),
        "invalid_citations": sum(answer.invalid for answer in answered),
        "not_verbatim": sum(answer.not_verbatim for answer in answered),
        "refused": {"answerable": _refused(outcome.answerable), "impossible": _refused(outcome.impossible)},
        "latency_ms": _latency(answer.latency_ms for answer in answered),
    }
    if outcome.absences is not None:
        found["off_corpus"] = _off_corpus(outcome.absences)
    return found


def _off_corpus(absences: Absences) -> dict[str, Any]:
    found: dict[str, Any] = {
        "present": len(absences.present),
        "absent": len(absences.absent),
        "refused": {"present": _refused(absences.present), "absent": _refused(absences.absent)},
    }
    told = separation(_confidences(absences.present), _confidences(absences.absent), FALSE_REFUSALS)
    if told is not None:
        found |= {
            "refused_at_5_percent_false": _rounded(told.refused),
            "threshold_at_5_percent_false": _rounded(told.threshold),
            "auroc": _rounded(told.auroc),
        }
    return found


def per_question(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Return the figures of every question, by its name, for a comparison."""
    found = {ranked.question: dict(ranked.figures[outcome.arm]) for ranked in outcome.ranked}
    for answer in outcome.answerable:
        mine = found.setdefault(answer.question, {})
        mine |= {f"answer_in_top_{count}": float(is_held) for count, is_held in answer.held.items()}
        mine["refused"] = float(answer.is_refused)
    return found


def compared(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Return differences as they are printed."""
    return [
        {name: _rounded(value) if isinstance(value, float) else value for name, value in asdict(difference).items()}
        for difference in differences
    ]


def render(found: Mapping[str, Any]) -> str:
    """Write the figures for people."""
    settings = found["settings"]
    counts = f"{found['documents']} documents, {found['chunks']} chunks, {found['questions']} questions"
    chunks = f"chunks of {settings['chunk_tokens']} tokens, dense weight {settings['dense_weight']}"
    lines = [
        f"{found['collection']} ({found['split']}): {counts}",
        f"  {settings['embedding_model']}, {chunks}; answers: {settings['llm_model'] or 'extractive'}",
    ]
    lines += _arm_lines(found)
    lines.append(f"  no result        {_each(found['zero_results'], _percent)}")
    lines.append(f"  search           {_each(found['latency_ms'], _ms)}")
    if found["answers"]:
        lines += _answer_lines(found["answers"])
    lines += [f"  FINDING: {finding}" for finding in found["findings"]]
    lines += [f"    {failure}" for failure in found["failures"]]
    if differences := found.get("comparison"):
        lines += _comparison_lines(differences)
    return "\n".join(lines)


def _arm_lines(found: Mapping[str, Any]) -> list[str]:
    others = found["arms"]
    names = list(next(iter(others.values())))
    arms = {found["arm"]: found} | others
    head = "  ".join(f"{name:>10}" for name in names)
    rows = [
        f"  {arm:<15}  " + "  ".join(f"{_figure(figures.get(name)):>{max(10, len(name))}}" for name in names)
        for arm, figures in arms.items()
    ]
    return [f"{'':<19}{head}", *rows] if names else []


def _answer_lines(answers: Mapping[str, Any]) -> list[str]:
    lines = [f"  answering        {_each(answers['latency_ms'], _ms)}, {answers['asked']} questions"]
    if answers["with_answers"]:
        tops = {f"top {count}": answers[f"answer_in_top_{count}"] for count in QUOTES_READ}
        lines.append(f"  answer quoted    {_each(tops, _figure)} of {answers['with_answers']} questions")
    lines.append(
        f"  citations        {answers['citations']}, invalid {answers['invalid_citations']}, not verbatim {answers['not_verbatim']}"
    )
    lines.append(f"  refused          {_each(answers['refused'], _percent)}")
    if off_corpus := answers.get("off_corpus"):
        lines.append(f"  half left out    refused: {_each(off_corpus['refused'], _percent)}")
        if "auroc" in off_corpus:
            lines.append(
                f"                   at 5 % false refusals {_percent(off_corpus['refused_at_5_percent_false'])} "
                f"(threshold {off_corpus['threshold_at_5_percent_false']}), AUROC {off_corpus['auroc']}"
            )
    return lines


def _comparison_lines(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"  compared over {differences[0]['questions']} questions: this, other, difference with its 95 % interval"]
    lines += [
        f"    {row['figure']:<24} {row['this']:.4f}  {row['other']:.4f}  {row['difference']:+.4f} "
        f"[{row['low']:+.4f}, {row['high']:+.4f}]  p {row['p']:.4f}"
        for row in differences
    ]
    return lines


def _means(of_questions: Iterable[Mapping[str, float]]) -> dict[str, float | None]:
    listed = list(of_questions)
    names = dict.fromkeys(name for figures in listed for name in figures)
    return {name: _rounded(mean(figures[name] for figures in listed if name in figures)) for name in names}


def _refused(answered: Sequence[Answered]) -> float | None:
    return _rounded(mean(float(answer.is_refused) for answer in answered))


def _confidences(answered: Sequence[Answered]) -> list[float]:
    return [answer.confidence for answer in answered if answer.confidence is not None]


def _latency(values: Iterable[float]) -> dict[str, float] | None:
    found = percentiles(values)
    return {name: round(value, 1) for name, value in found.items()} if found else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _each(values: Mapping[str, float | None] | None, write: Callable[[float | None], str]) -> str:
    return ", ".join(f"{name} {write(value)}" for name, value in (values or {}).items())


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
