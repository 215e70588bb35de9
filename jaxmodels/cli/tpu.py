"""`jaxmodels tpu plan`: what a model takes and how fast it can be on TPU slices, before one is rented."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxmodels.cli.common import AsJson, ConfigName, DType, Quantize, Revision, TextOnly, print_json
from jaxmodels.cli.options import with_groups
from jaxmodels.cli.strategies import StrategyOptions, described_strategy
from jaxmodels.cli.summaries import print_lines
from jaxmodels.cli.tpu_report import as_values, comparison, plan_lines, report_line

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.decoding import Strategy
    from jaxmodels.models.decoder import Decoder
    from jaxmodels.tpu_configs.plan import Plan
    from jaxmodels.tpu_configs.reports import ProgramReport
    from jaxmodels.tpu_configs.slices import Slice

DEFAULT_SLICE = "v5e-1"
# Slices that --compare shows where none is named: those of up to so many chips.
MOST_COMPARED = 16


@with_groups
def plan(
    model: ConfigName,
    strategy: StrategyOptions,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", help=f"Such as v5e-8; {DEFAULT_SLICE} by default. Repeatable with --compare."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are decoded at once.")] = 1,
    context: Annotated[int, typer.Option(min=1, help="Tokens of the prompt of each row.")] = 2048,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens that each row may be given.")] = 128,
    dtype: Annotated[DType, typer.Option(help="Of the parameters and the cache.")] = DType.BFLOAT16,
    quantize: Quantize = None,
    mesh: Annotated[
        str | None,
        typer.Option(help="How it is spread over devices, as tensor=4,expert=2; by default as is fastest."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="Sharding rules as a JSON file, in place of the default ones.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help=f"Several slices: those named, or all of {MOST_COMPARED} chips.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="With --compare: draw times and memory of the slices to this file.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Ask the TPU compiler too, about decoding, then about the prefill."),
    ] = False,
    as_json: AsJson = False,
    text_only: TextOnly = False,
    revision: Revision = None,
) -> None:
    """Show memory per chip, whether a model fits, and the shortest times to the first and further tokens.

    Read is its config.json alone. Times are lower bounds: arithmetic, memory and interconnect at the chip's
    peaks. With --compile, each program is compiled with one layer of each kind by itself, and with two of
    the commonest; what the compiler says of these gives the whole model's. The exit status is 1 where the
    model does not fit; what to change is printed.
    """
    from jaxmodels.cli.common import read_config
    from jaxmodels.tpu_configs.compiler import without_tpu
    from jaxmodels.tpu_configs.mesh import mesh_sizes
    from jaxmodels.tpu_configs.plan import plan as plan_of
    from jaxmodels.tpu_configs.programs import Workload
    from jaxmodels.tpu_configs.rules import DEFAULT_RULES, rules_from_json
    from jaxmodels.tpu_configs.slices import SLICES, find_slice

    without_tpu()
    if plot is not None and not compare:
        raise ValueError("--plot draws what --compare compares; give that too, or leave it out")
    if compiled and compare:
        raise ValueError("--compile is for one slice; leave out --compare")
    if slices is not None and len(slices) > 1 and not compare:
        raise ValueError("--slice is given more than once; give --compare too, or one slice")
    named = [find_slice(name) for name in slices or ()]
    config, file = read_config(model, revision, text_only=text_only)
    workload = Workload(batch=batch, prompt=context, new_tokens=new_tokens, dtype=dtype.value)
    chosen = _strategy(config, strategy, new_tokens)
    known = DEFAULT_RULES if rules is None else rules_from_json(rules)
    planned = functools.partial(
        plan_of, config, workload=workload, strategy=chosen, rules=known, quantize=quantize
    )
    if compare:
        all_small = [it for it in SLICES.values() if it.chips <= MOST_COMPARED]
        _compare(planned, named or all_small, plot, as_json)
        return
    (on,) = named or [find_slice(DEFAULT_SLICE)]
    found = planned(on, sizes=None if mesh is None else mesh_sizes(mesh))
    if not as_json:
        print_lines(plan_lines(found))
    reports = []
    for report in _compiled(config, found, chosen) if compiled and found.memory.fits else ():
        reports.append(report)
        if not as_json:
            print(f" {report_line(report)}", flush=True)
    if as_json:
        print_json({"config": str(file), **as_values(found), "compiled": [asdict(it) for it in reports]})
    if not found.memory.fits:
        raise typer.Exit(1)


def _compiled(config: "Decoder", found: "Plan", strategy: "Strategy") -> "Iterator[ProgramReport]":
    """What the compiler says of each program of a plan, as soon as it is known."""
    from jaxmodels.tpu_configs.compiler import AotError
    from jaxmodels.tpu_configs.plan.compiled import compiled_programs

    try:
        yield from compiled_programs(config, found, strategy)
    except AotError as error:
        raise ValueError(str(error)) from error


def _compare(
    planned: "Callable[[Slice], Plan]", slices: "list[Slice]", plot: Path | None, as_json: bool
) -> None:
    """Plans of several slices side by side; those that no mesh divides the model on are named with why."""
    plans, refused = [], {}
    for on in slices:
        try:
            plans.append(planned(on))
        except ValueError as error:
            refused[on.name] = str(error)
    if not plans:
        raise ValueError(next(iter(refused.values())))
    if plot is not None:
        from jaxmodels.tpu_configs.plan.chart import draw

        draw(plans, plot)
    if as_json:
        print_json({"plans": [as_values(it) for it in plans], "refused": refused})
    else:
        comparison(plans, refused)


def _strategy(config: "Decoder", options: StrategyOptions, new_tokens: int) -> "Strategy":
    """The strategy that is named, of a model whose weights are not read.

    Raises:
        ValueError: a strategy that needs weights: a draft model, or trials.
    """
    from jaxmodels.decoding import Autoregressive

    def no_weights(name: str) -> "Model":
        raise ValueError(f"--draft {name}: a plan reads no weights; plan the draft model by itself")

    return described_strategy(config, options, Autoregressive(), no_weights, new_tokens)
