"""Ahead-of-time compilation for TPUs on a machine without one.

    python -m jaxmodels.tpu_configs.aot --config config.json --topology v5e:2x2 --json

The real TPU compiler of the `libtpu` wheel compiles a language model's three programs (see `programs`), or
one step and the whole loop of a denoiser (see `denoisers`), from shapes alone. Needs the extra
``jaxmodels[aot]``. Where libtpu is installed, jax looks for a TPU when it starts: run this as a module, or in
a process as `compiler` describes it.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.masked import MaskedDiffusion
from jaxmodels.decoding.masked.caches import BY_NAME
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.tpu_configs.compiler import AotError, topology_device, without_tpu
from jaxmodels.tpu_configs.denoisers import (
    DENOISER_PROGRAMS,
    DenoiserWorkload,
    is_denoiser,
    trace_denoiser,
)
from jaxmodels.tpu_configs.programs import (
    PROGRAMS,
    ProgramName,
    Workload,
    abstract_arguments,
    trace_programs,
)
from jaxmodels.tpu_configs.reports import ProgramReport, report_of


def compile_for(
    topology: str,
    config: LanguageModel,
    workload: Workload,
    strategy: Strategy | None = None,
    programs: Sequence[ProgramName] = PROGRAMS,
) -> list[ProgramReport]:
    """Compiles a model's programs for one device of `topology`, and reports on each in the order given.

    The strategy is by default what the model was trained for, see `default_strategy`.

    Raises:
        AotError: as `topology_device`, an unknown program, or one that the compiler refuses, most often
            because it needs more memory than the device has.
    """
    if unknown := set(programs) - set(PROGRAMS):
        raise AotError(f"programs {sorted(unknown)} are not known; known are {', '.join(PROGRAMS)}")
    sharding = jax.sharding.SingleDeviceSharding(topology_device(topology))
    if strategy is None:
        strategy = default_strategy(config, workload.new_tokens)
    given = abstract_arguments(config, workload, strategy, sharding)
    traced = trace_programs(config, workload, strategy, sharding)
    return [
        report_of(traced[program], program, topology, workload, given.params, given.cache)
        for program in programs
    ]


def compile_denoiser_for(
    topology: str, denoiser: Denoiser, workload: DenoiserWorkload
) -> list[ProgramReport]:
    """Compiles a denoiser's programs for one device of `topology`, and reports on each.

    Raises:
        AotError: as `topology_device`, or a program that the compiler refuses.
        ValueError: the model takes no latents of the workload's size.
    """
    sharding = jax.sharding.SingleDeviceSharding(topology_device(topology))
    params = abstract_params(denoiser.spec(), jnp.dtype(workload.dtype))
    traced = trace_denoiser(denoiser, workload, sharding)
    return [
        report_of(traced[program], program, topology, workload, params, ()) for program in DENOISER_PROGRAMS
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see ``--help``. Returns the exit status."""
    without_tpu()
    options = _parser().parse_args(arguments)
    try:
        configs = {path: json.loads(path.read_text()) for path in options.config}
        _check_given(options, [is_denoiser(values) for values in configs.values()])
        for path, values in configs.items():
            of_kind = _denoiser_reports if is_denoiser(values) else _language_model_reports
            for report in of_kind(values, options):
                print(_as_json(path, report) if options.json else _as_text(path, report), flush=True)
    except (AotError, OSError, ValueError) as error:
        print(f"aot: {error}", file=sys.stderr)
        return 1
    return 0


def _check_given(options: argparse.Namespace, are_denoisers: Sequence[bool]) -> None:
    """Raises ValueError where an option was given that is of another kind than all models, and fills in the
    values of those that were not."""
    for own, of_denoisers, kind, others in (
        (_OF_LANGUAGE_MODELS, False, "language models", "a denoiser"),
        (_OF_DENOISERS, True, "denoisers", "a language model"),
    ):
        for name, default in own.items():
            if getattr(options, name) is None:
                setattr(options, name, default)
            elif of_denoisers not in are_denoisers:
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{option} is of {kind}, and each --config is of {others}; leave it out")


def _language_model_reports(values: dict[str, Any], options: argparse.Namespace) -> Iterator[ProgramReport]:
    config = config_from_hf(values)
    for topology, capacity in itertools.product(options.topology, options.capacity):
        workload = Workload(
            batch=options.batch, prompt=options.prompt, new_tokens=options.new_tokens,
            capacity=capacity, dtype=options.dtype,
        )  # fmt: skip
        strategy = _strategy(config, workload, options.canvas_cache)
        yield from compile_for(topology, config, workload, strategy, options.programs)


def _denoiser_reports(values: dict[str, Any], options: argparse.Namespace) -> Iterator[ProgramReport]:
    denoiser = denoiser_from_config(values)
    workload = DenoiserWorkload(
        batch=options.batch, side=options.latents, text=options.prompt, steps=options.steps,
        dtype=options.dtype,
    )  # fmt: skip
    for topology in options.topology:
        yield from compile_denoiser_for(topology, denoiser, workload)


def _strategy(config: LanguageModel, workload: Workload, canvas_cache: str | None) -> Strategy:
    """The model's default with a cache policy of masked generation in place of its own, if one is named.

    Raises ValueError where the policy does not fit the model.
    """
    strategy = default_strategy(config, workload.new_tokens)
    if canvas_cache is None:
        return strategy
    if not isinstance(strategy, MaskedDiffusion):
        raise ValueError(
            "--canvas-cache is for models that fill in masks, and this one decodes token by token"
        )
    strategy = replace(strategy, cache=BY_NAME[canvas_cache])
    strategy.check_model(config, workload.new_tokens)
    return strategy


# Options that one kind of model alone has, with what they are where they are not given.
_OF_LANGUAGE_MODELS: Mapping[str, Any] = {
    "programs": PROGRAMS,
    "new_tokens": 128,
    "capacity": (None,),
    "canvas_cache": None,
}
_OF_DENOISERS: Mapping[str, Any] = {"steps": 20, "latents": None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxmodels.tpu_configs.aot", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="config.json files")
    parser.add_argument("--topology", nargs="+", default=["v5e:2x2"], help="such as v5e:2x2 v6e:2x2")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, help="of language models; by default all")
    parser.add_argument("--batch", type=int, default=1, help="rows, or images of a denoiser")
    parser.add_argument(
        "--prompt", type=int, default=128, help="prompt slots per row, or tokens of a denoiser's text"
    )
    parser.add_argument("--steps", type=int, help="of a denoiser's loop; by default 20")
    parser.add_argument(
        "--latents", type=int, help="height and width of a denoiser's latents; by default as it was trained"
    )
    parser.add_argument("--new-tokens", type=int, help="output slots per row of a text; by default 128")
    parser.add_argument("--capacity", type=int, nargs="+", help="cache slots per row of a text")
    parser.add_argument("--dtype", default="bfloat16", help="of parameters and cache")
    parser.add_argument(
        "--canvas-cache",
        choices=BY_NAME,
        help="of models that fill in masks: what is kept between steps; by default what is exact",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line and program")
    return parser


def _as_json(path: Path, report: ProgramReport) -> str:
    return json.dumps({"config": str(path), **asdict(report), "device_bytes": report.device_bytes})


def _as_text(path: Path, report: ProgramReport) -> str:
    mebibyte = 2**20
    return (
        f"{path} {report.topology} {report.program:8s} device {report.device_bytes / mebibyte:.1f} MiB "
        f"(parameters {report.param_bytes / mebibyte:.1f}, cache {report.cache_bytes / mebibyte:.1f}, "
        f"temporary {report.temp_bytes / mebibyte:.1f}), {report.flops / 1e9:.3f} GFLOP, "
        f"{report.bytes_accessed / mebibyte:.1f} MiB accessed, compiled in {report.seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
