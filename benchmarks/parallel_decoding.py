"""What parallel decoding costs on list tasks whose optimum is known: rules of unmasking over their knobs.

    python -m benchmarks.parallel_decoding

The bundled model that fills in masks answers questions of ParallelBench's list tasks under every rule; its
autoregressive twin answers the same ones. `jaxmodels bench parallel` measures any other model so.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, publish
from jaxmodels.cli.bench_parallel import FILLER, TWIN
from jaxmodels.parallel_bench.measure import AUTOREGRESSIVE, Candidate, Exam, Trial
from jaxmodels.parallel_bench.report import optimum
from jaxmodels.parallel_bench.rules import RULES
from jaxmodels.parallel_bench.tasks import TASKS

LENGTH = 6
# Where a place of the answer follows from the prompt, speed must cost nothing.
TOLD = ("copy", "replace_index", "replace_all")
# One told task and three that leave a choice, on which all rules are compared.
COMPARED = ("copy", "replace_random", "remove_random", "shuffle")
CANVAS = 10
CANVASES = (10, 16, 24)


def on_every_task(filler: Candidate, twin: Candidate) -> list[Trial]:
    """One, two and all places per call, and a threshold, beside the twin."""
    careful = [*filler.fill("confidence", (1, 2, 16)), *filler.fill("threshold", (0.9,))]
    return [*twin.continue_text(), *careful]


def task_table(trials: Sequence[Trial]) -> Table:
    """A row per task: shares of right answers, and in brackets what is within reach."""
    found = {(it.task, it.rule, it.value): it for it in trials}

    def share(task: str, rule: str, value: float) -> str:
        it = found[task, rule, value]
        return f"{it.accuracy:.3f} ({optimum(task, LENGTH, it.canvas).at(it.calls):.3f})"

    return Table(
        caption="Share of right answers (within reach in as many calls)",
        columns=["task", "autoregressive", "one per call", "two per call", "all in one call",
                 "threshold 0.9", "its calls", "times fewer"],
        rows=[
            [
                task,
                f"{found[task, AUTOREGRESSIVE, None].accuracy:.3f}",
                *(share(task, "confidence", value) for value in (1, 2, 16)),
                share(task, "threshold", 0.9),
                found[task, "threshold", 0.9].calls,
                found[task, "confidence", 1].calls / found[task, "threshold", 0.9].calls,
            ]
            for task in dict.fromkeys(it.task for it in trials)
        ],
    )  # fmt: skip


def some_values(name: str) -> tuple[float, ...]:
    """Every other value of a rule's knob."""
    return RULES[name].values[::2]


def rule_table(trials: Sequence[Trial]) -> Table:
    """A row per rule and value of its knob: accuracy and calls on each of the compared tasks."""
    found = {(it.task, it.rule, it.value): it for it in trials}
    return Table(
        caption="Every rule: share of right answers at calls per answer",
        columns=["rule", "knob", *COMPARED],
        rows=[
            [name, f"{rule.knob} {value:g}"]
            + [
                f"{found[task, name, value].accuracy:.2f} at {found[task, name, value].calls:.1f}"
                for task in COMPARED
            ]
            for name, rule in RULES.items()
            for value in some_values(name)
        ],
    )


def canvas_table(filler: Candidate, twin: Candidate) -> Table:
    """Calls per answer of copying, by places of the canvas."""
    rows: list[list[str | float | None]] = []
    for canvas in CANVASES:
        exam = replace(filler.exam, tasks=("copy",), canvas=canvas)
        short = replace(filler, exam=exam)
        (alone,) = replace(twin, exam=exam).continue_text()
        (one,), (threshold,) = short.fill("confidence", (1,)), short.fill("threshold", (0.9,))
        rows.append([str(canvas), alone.calls, one.calls, threshold.calls, threshold.accuracy])
    return Table(
        caption=f"Calls per answer of {LENGTH} words, by places of the canvas",
        columns=["places", "autoregressive", "one per call", "threshold 0.9", "its accuracy"],
        rows=rows,
    )


def targets(trials: Sequence[Trial]) -> list[Target]:
    """A threshold against one place per call, on the tasks whose answers follow from the prompt."""
    found = {(it.task, it.rule, it.value): it for it in trials}
    made = []
    for task in TOLD:
        one, fast = found[task, "confidence", 1], found[task, "threshold", 0.9]
        saved, lost = one.calls / fast.calls, 100 * (one.accuracy - fast.accuracy)
        made += [
            Target(what=f"{task}: times fewer calls", measured=saved, sense="at least", aim=3),
            Target(what=f"{task}: points of accuracy lost", measured=lost, sense="at most", aim=1),
        ]
    return made


def _method(count: int) -> str:
    return (
        f"{FILLER} and {TWIN}, float32, {count} questions of each task about lists of {LENGTH} words, half "
        f"as many where all rules are compared; tokens drawn at temperature 1, canvas of {CANVAS} places. "
        "What is within reach is what a model of exact probabilities gets at most, by whatever rule, where "
        "the tokens of a call are drawn independently."
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    arguments = parser.parse_args()
    count = 4 if arguments.quick else arguments.questions
    filling, continuing = jm.load(FILLER, dtype="float32"), jm.load(TWIN, dtype="float32")

    def candidates(tasks: Sequence[str], count: int) -> tuple[Candidate, Candidate]:
        exam = Exam(tasks=tuple(tasks), count=count, length=LENGTH, canvas=CANVAS)
        return Candidate(model=filling, exam=exam), Candidate(model=continuing, exam=exam)

    everywhere = on_every_task(*candidates(list(TASKS), count))
    compared, _ = candidates(COMPARED, max(count // 2, 1))
    names = list(RULES)[:1] if arguments.quick else list(RULES)
    by_rule = [trial for name in names for trial in compared.fill(name, some_values(name))]
    tables = [task_table(everywhere), canvas_table(*candidates(["copy"], count))]
    if not arguments.quick:
        tables.insert(1, rule_table(by_rule))
    publish(
        Result(
            name="parallel_decoding",
            title="What parallel decoding costs",
            method=_method(count),
            values={
                "length": LENGTH,
                "every_task": [asdict(it) for it in everywhere],
                "every_rule": [asdict(it) for it in by_rule],
            },
            tables=tables,
            targets=targets(everywhere),
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
