"""`eval`: how well retrieval and answers do on a collection with known answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from services.console.commands.output import AsJson, print_json
from shared.exit_codes import EXIT_FAILURE

app = typer.Typer()
LIMIT_MAX = 1_000_000
Word = TypeVar("Word", bound=str)


@app.command("eval")
def eval_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="corpus.jsonl, queries.jsonl and qrels.tsv; or corpora/*.md and questions.jsonl.",
        ),
    ],
    split: Annotated[str, typer.Option(help="test, or train: queries_train.jsonl and qrels_train.tsv.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, max=LIMIT_MAX, help="Ask so many questions of each kind, by chance.")
    ] = None,
    seed: Annotated[int, typer.Option(help="What chance begins with.")] = 1,
    arm: Annotated[str, typer.Option(help="Whose ranking the figures are of: hybrid, dense or lexical.")] = "hybrid",
    answers: Annotated[bool, typer.Option(help="Ask for answers as well.")] = True,
    home: Annotated[
        Path | None, typer.Option(help="Keep database and vectors here, and use them again; else all is removed.")
    ] = None,
    embedders: Annotated[int, typer.Option(min=1, max=64, help="How many embedders to run.")] = 1,
    per_query: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the figures of every question here, for --compare.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="What --per-query wrote: a paired bootstrap over the questions."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ingest a collection into a database of its own, ask its questions, and print how good the answers are.

    Exit code 1 when a document could not be read, or a citation is not what stands in its document.
    """
    from services.console.evaluation import comparison, report
    from services.console.evaluation.collection import SPLITS, NoCollection
    from services.console.evaluation.evaluate import Options, evaluate
    from services.console.evaluation.home import NoHome
    from services.console.evaluation.progress import Progress
    from services.console.evaluation.ranking import ARMS
    from services.console.evaluation.settings import EvaluationSettings

    if per_query is not None and not per_query.absolute().parent.is_dir():
        raise typer.BadParameter(f"{per_query.parent} is no folder", param_hint="--per-query")
    options = Options(
        _one_of(SPLITS, split, "--split"), limit, seed, _one_of(ARMS, arm, "--arm"), answers, home, embedders
    )
    try:
        other = comparison.read_other(compare) if compare else None
        outcome = evaluate(EvaluationSettings.read(), folder, options, Progress())
    except (NoCollection, NoHome, comparison.BadComparison) as error:
        raise typer.BadParameter(str(error)) from None
    found = report.figures(outcome)
    questions = report.per_question(outcome)
    if per_query is not None:
        _write(per_query, {"figures": found, "per_query": questions})
    is_comparable = other is not None and not questions.keys().isdisjoint(other)
    if other is not None and is_comparable:
        found["comparison"] = report.compared(comparison.compare(questions, other, seed=seed))
    print_json(found) if as_json else print(report.render(found))
    if other is not None and not is_comparable:
        raise comparison.BadComparison(
            f"{compare} shares no question with this run: another collection, split or limit"
        )
    if found["findings"]:
        raise typer.Exit(EXIT_FAILURE)


def _one_of(allowed: Sequence[Word], given: str, option: str) -> Word:
    for word in allowed:
        if word == given:
            return word
    raise typer.BadParameter(f"one of {', '.join(allowed)} is wanted", param_hint=option)


def _write(path: Path, value: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}", param_hint="--per-query") from None
