"""`jaxmodels tpu plan`: what a model takes and how fast it can be on TPU slices, before one is rented."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxmodels.cli.common import AsJson, ConfigName, DType, Quantize, Revision, TextOnly, print_json
from jaxmodels.cli.options import with_groups
from jaxmodels.cli.strategies import StrategyOptions, described_strategy
from jaxmodels.cli.summaries import print_lines
from jaxmodels.cli.tpu_denoiser import denoiser_lines, denoiser_values
from jaxmodels.cli.tpu_report import as_values, comparison, plan_lines, report_line

if TYPE_CHECKING:
    from jaxmodels import Model
    from jaxmodels.decoding import Strategy
    from jaxmodels.models.decoder import Decoder
    from jaxmodels.tpu_configs.reports import ProgramReport
    from jaxmodels.tpu_configs.rules import Rules
    from jaxmodels.tpu_configs.slices import Slice

DEFAULT_SLICE = "v5e-1"
# Slices that --compare shows where none is named: those of up to so many chips.
MOST_COMPARED = 16
# Tokens of prompt and answer where nothing is said.
CONTEXT, NEW_TOKENS = 2048, 128


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
    batch: Annotated[int, typer.Option(min=1, help="Rows that are decoded at once, or images.")] = 1,
    context: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of each row's prompt, 2048 by default; of an image model's text, 128."
        ),
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that each row may be given; 128 by default.")
    ] = None,
    latents: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width of an image model's latents; by default as trained."),
    ] = None,
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
        typer.Option("--compile", help="Ask the TPU compiler too, about one program after another."),
    ] = False,
    as_json: AsJson = False,
    text_only: TextOnly = False,
    revision: Revision = None,
) -> None:
    """Show memory per chip, whether a model fits, and the shortest times to the first and further tokens.

    Read is its config.json alone; of a pipeline of images its denoiser is planned, for as many --steps as it
    takes. Times are lower bounds: arithmetic, memory and interconnect at the chip's peaks. With --compile,
    each program is compiled with few layers of each kind; what the compiler says of these gives the whole
    model's. The exit status is 1 where the model does not fit; what to change is printed.
    """
    from jaxmodels.tpu_configs.compiler import without_tpu
    from jaxmodels.tpu_configs.mesh import mesh_sizes
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
    known = DEFAULT_RULES if rules is None else rules_from_json(rules)
    asked = _Asked(
        context=context, new_tokens=new_tokens, batch=batch, dtype=dtype.value, rules=known,
        quantize=quantize, text_only=text_only, strategy=strategy, latents=latents,
    )  # fmt: skip
    planner = _denoiser(model, revision, asked) or _language_model(model, revision, asked)
    if compare:
        all_small = [it for it in SLICES.values() if it.chips <= MOST_COMPARED]
        _compare(planner, named or all_small, plot, as_json)
        return
    (on,) = named or [find_slice(DEFAULT_SLICE)]
    _tell(planner, planner.plan(on, sizes=None if mesh is None else mesh_sizes(mesh)), compiled, as_json)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The options that say what is planned; see `plan`."""

    context: int | None
    new_tokens: int | None
    batch: int
    dtype: str
    rules: "Rules"
    quantize: str | None
    text_only: bool
    strategy: StrategyOptions
    latents: int | None


@dataclass(frozen=True, kw_only=True)
class _Planner:
    """What plans one kind of model, and tells of it.

    Attributes:
        file: where its configuration is.
        plan: the plan for a slice, and for `sizes` of a mesh.
        unit: of its throughput.
        lines, values: a plan as lines and as JSON values.
        reports: what the compiler says of a plan's programs, one after another.
    """

    file: Path
    plan: "Callable[..., Any]"
    unit: str
    lines: "Callable[[Any], list[tuple[str, str]]]"
    values: "Callable[[Any], dict[str, Any]]"
    reports: "Callable[[Any], Iterator[ProgramReport]]"


def _language_model(name: str, revision: str | None, asked: _Asked) -> _Planner:
    from jaxmodels.cli.common import read_config
    from jaxmodels.tpu_configs.plan import plan as plan_of
    from jaxmodels.tpu_configs.plan.compiled import compiled_programs
    from jaxmodels.tpu_configs.programs import Workload

    if asked.latents is not None:
        raise ValueError(f"--latents is of image models, and {name} is a language model; leave it out")
    config, file = read_config(name, revision, text_only=asked.text_only)
    workload = Workload(
        batch=asked.batch, prompt=asked.context or CONTEXT, new_tokens=asked.new_tokens or NEW_TOKENS,
        dtype=asked.dtype,
    )  # fmt: skip
    strategy = _strategy(config, asked.strategy, workload.new_tokens)
    return _Planner(
        file=file,
        plan=functools.partial(
            plan_of, config, workload=workload, strategy=strategy, rules=asked.rules, quantize=asked.quantize
        ),
        unit="token/s",
        lines=plan_lines,
        values=as_values,
        reports=lambda found: compiled_programs(config, found, strategy),
    )


def _denoiser(name: str, revision: str | None, asked: _Asked) -> _Planner | None:
    """None for a language model.

    Raises:
        ValueError: an option of language models.
    """
    from jaxmodels.cli.tpu_denoiser import image_run
    from jaxmodels.tpu_configs.plan.compiled_denoiser import compiled_denoiser_programs
    from jaxmodels.tpu_configs.plan.denoising import plan_denoiser

    found = image_run(name, revision)
    if found is None:
        return None
    of_others = {
        "new-tokens": asked.new_tokens, "quantize": asked.quantize, "text-only": asked.text_only or None,
        "strategy": asked.strategy.name,
    }  # fmt: skip
    for option, given in of_others.items():
        if given is not None:
            raise ValueError(f"--{option} is of language models, and {name} is an image model; leave it out")
    run, file = found
    workload = run.workload(
        batch=asked.batch, side=asked.latents, text=asked.context, steps=asked.strategy.steps,
        dtype=asked.dtype,
    )  # fmt: skip
    return _Planner(
        file=file,
        plan=functools.partial(plan_denoiser, run.config, workload=workload, rules=asked.rules),
        unit="image/s",
        lines=functools.partial(denoiser_lines, config=run.config),
        values=denoiser_values,
        reports=lambda plan: compiled_denoiser_programs(run.config, plan),
    )


def _tell(planner: _Planner, found: Any, compiled: bool, as_json: bool) -> None:
    """Prints a plan, and behind it what the compiler says of each program as soon as it is known.

    Raises:
        Exit: with status 1 where the model does not fit.
    """
    from jaxmodels.tpu_configs.compiler import AotError

    if not as_json:
        print_lines(planner.lines(found))
    reports = []
    try:
        for report in planner.reports(found) if compiled and found.memory.fits else ():
            reports.append(report)
            if not as_json:
                print(f" {report_line(report)}", flush=True)
    except AotError as error:
        raise ValueError(str(error)) from error
    if as_json:
        told = [asdict(it) for it in reports]
        print_json({"config": str(planner.file), **planner.values(found), "compiled": told})
    if not found.memory.fits:
        raise typer.Exit(1)


def _compare(planner: _Planner, slices: "list[Slice]", plot: Path | None, as_json: bool) -> None:
    """Plans of several slices side by side; those that no mesh divides the model on are named with why."""
    plans, refused = [], {}
    for on in slices:
        try:
            plans.append(planner.plan(on))
        except ValueError as error:
            refused[on.name] = str(error)
    if not plans:
        raise ValueError(next(iter(refused.values())))
    if plot is not None:
        from jaxmodels.tpu_configs.plan.chart import draw

        draw(plans, plot)
    if as_json:
        print_json({"plans": [planner.values(it) for it in plans], "refused": refused})
    else:
        comparison(plans, refused, planner.unit)


def _strategy(config: "Decoder", options: StrategyOptions, new_tokens: int) -> "Strategy":
    """The strategy that is named, of a model whose weights are not read.

    Raises:
        ValueError: a strategy that needs weights: a draft model, or trials.
    """
    from jaxmodels.decoding import Autoregressive

    def no_weights(name: str) -> "Model":
        raise ValueError(f"--draft {name}: a plan reads no weights; plan the draft model by itself")

    return described_strategy(config, options, Autoregressive(), no_weights, new_tokens)
