"""`jaxmodels bench parallel`: what decoding many tokens at once costs in right answers."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmodels.cli.common import (
    MODEL_HELP,
    AsJson,
    DType,
    Revision,
    check_plot,
    print_json,
    tell,
    told_of_option,
)

if TYPE_CHECKING:
    from jaxmodels.parallel_bench.measure import Exam, Trial

FILLER = "tiny-llada-lists"
TWIN = "tiny-llama-lists"


def parallel(
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}; one that fills in masks.")] = FILLER,
    twin: Annotated[
        str, typer.Option(help="An autoregressive model to compare with; an empty name leaves it out.")
    ] = TWIN,
    tasks: Annotated[str, typer.Option(help="Names of tasks with commas, or 'all'.")] = "all",
    rules: Annotated[
        str, typer.Option(help="Names of rules of unmasking with commas, or 'all'.")
    ] = "confidence,random,threshold,factor,entropy_bounded",
    items: Annotated[int, typer.Option(help="Words of each list; the bundled models know lists of 6.")] = 6,
    questions: Annotated[int, typer.Option(help="Questions of each task.")] = 100,
    temperature: Annotated[
        float, typer.Option(help="At which tokens are drawn; 0 takes the most probable ones.")
    ] = 1.0,
    canvas: Annotated[
        int | None, typer.Option(help="Places of an answer; by default as many as the longest needs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the questions and of the draws.")] = 0,
    dtype: Annotated[DType, typer.Option(help="Of the parameters.")] = DType.FLOAT32,
    plot: Annotated[Path | None, typer.Option(help="Draw the trials into this file (matplotlib).")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the trials as comma-separated values.")] = None,
    as_json: AsJson = False,
    revision: Revision = None,
) -> None:
    """Measure what parallel decoding costs, on list tasks whose optimum is known (ParallelBench).

    Every rule of unmasking is taken over a range of its knob. Beside the share of right answers stands the
    most that is reached in as many calls of a model of exact probabilities, by rules that choose places
    before they draw: tokens of one call are drawn independently, which tasks like shuffling forgive least.
    """
    from jaxmodels.parallel_bench.measure import Exam
    from jaxmodels.parallel_bench.rules import RULES, check_rules
    from jaxmodels.parallel_bench.tasks import TASKS, check_tasks

    chosen = list(TASKS) if tasks == "all" else tasks.split(",")
    with told_of_option("tasks"):
        check_tasks(chosen)
    by = list(RULES) if rules == "all" else rules.split(",")
    with told_of_option("rules"):
        check_rules(by)
    check_plot(plot)
    exam = Exam(
        tasks=tuple(chosen), count=questions, length=items, temperature=temperature, canvas=canvas, seed=seed
    )
    trials = _sit(exam, model, twin, by, dtype, revision)
    _show(trials, items, as_json)
    if csv is not None:
        from jaxmodels.parallel_bench.report import write_csv

        write_csv(trials, items, csv)
    if plot is not None:
        from jaxmodels.parallel_bench.plot import plot as draw

        draw(trials, items, plot)


def _sit(
    exam: "Exam", model: str, twin: str, rules: list[str], dtype: DType, revision: str | None
) -> list["Trial"]:
    """The trials of the model, and of its twin in front of them, told as they come."""
    import jaxmodels as jm
    from jaxmodels.parallel_bench.measure import Candidate

    filler = Candidate(model=jm.load(model, dtype=dtype.value, revision=revision), exam=exam)
    trials: list[Trial] = []
    if twin:
        trials += Candidate(model=jm.load(twin, dtype=dtype.value), exam=exam).continue_text()
    for rule in rules:
        tell(f"{rule} ...")
        trials += filler.fill(rule)
    return trials


def _show(trials: list["Trial"], items: int, as_json: bool) -> None:
    from jaxmodels.parallel_bench.report import rows, table

    if as_json:
        print_json({"trials": [asdict(row) for row in rows(trials, items)]})
        return
    from rich.console import Console

    Console().print(table(trials, items))
