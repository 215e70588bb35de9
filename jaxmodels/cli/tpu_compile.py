"""`jaxmodels tpu compile`: programs of a model as files, for this machine, a slice or several platforms."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from jaxmodels.cli.common import MODEL_HELP, DType, ExpertsIn, Quantize, Revision, TextOnly, tell
from jaxmodels.cli.options import with_groups
from jaxmodels.cli.sampling import Sampling
from jaxmodels.cli.strategies import StrategyOptions, described_strategy
from jaxmodels.cli.summaries import scaled

if TYPE_CHECKING:
    from jaxmodels.decoding import Strategy
    from jaxmodels.models.decoder import Decoder
    from jaxmodels.tpu_configs.programs import Workload
    from jaxmodels.tpu_configs.shardings import Placement

DEFAULT_PROMPTS = (128,)


class ProgramChoice(StrEnum):
    """What --program takes."""

    PREFILL = "prefill"
    DECODE = "decode"
    GENERATE = "generate"


class PlatformChoice(StrEnum):
    """What --platform takes."""

    CPU = "cpu"
    CUDA = "cuda"
    TPU = "tpu"
    ROCM = "rocm"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What programs are compiled for."""

    on_slice: Annotated[
        str | None,
        typer.Option(
            "--slice", help="A TPU slice, such as v5e-8, that need not be there; else this machine."
        ),
    ] = None
    mesh: Annotated[
        str | None,
        typer.Option(
            help="How the model is spread over devices, as tensor=4,expert=2; on a slice by default as is "
            "fastest, see `jaxmodels tpu plan`."
        ),
    ] = None
    rules: Annotated[
        Path | None, typer.Option(help="Sharding rules as a JSON file, in place of the default ones.")
    ] = None

    def placement(
        self, config: "Decoder", workload: "Workload", strategy: "Strategy", quantize: str | None
    ) -> "Placement | None":
        """The devices and how a model is spread over them; None for one device of this machine.

        Raises:
            ValueError: no such slice, a mesh that does not have its devices or does not divide the model, or
                rules without a mesh.
        """
        from jaxmodels.tpu_configs.compiler import slice_devices
        from jaxmodels.tpu_configs.mesh import make_mesh, mesh_sizes
        from jaxmodels.tpu_configs.plan import plan
        from jaxmodels.tpu_configs.rules import DEFAULT_RULES, rules_from_json
        from jaxmodels.tpu_configs.shardings import Placement
        from jaxmodels.tpu_configs.slices import find_slice

        if self.on_slice is None and self.mesh is None:
            if self.rules is not None:
                raise ValueError("--rules say how a model is spread over a mesh; give --mesh too")
            return None
        rules = DEFAULT_RULES if self.rules is None else rules_from_json(self.rules)
        sizes: dict[str, Any] | None = None if self.mesh is None else mesh_sizes(self.mesh)
        if self.on_slice is None:
            return Placement(mesh=make_mesh(**(sizes or {})), rules=rules)
        found = plan(
            config, find_slice(self.on_slice), workload, strategy, sizes=sizes, rules=rules, quantize=quantize
        )
        devices = slice_devices(found.slice)
        return Placement(mesh=make_mesh(**found.mesh, devices=devices), rules=found.rules)


@with_groups
def compile_programs(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}, or a config.json.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A directory, or a file with --portable.")],
    *,
    target: Target,
    sampling: Sampling,
    strategy: StrategyOptions,
    prompt: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Tokens of a prompt at most; each repetition is a set of programs more."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens of an answer at most.")
    ] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Rows.")] = 1,
    capacity: Annotated[int | None, typer.Option(min=1, help="Cache slots per row.")] = None,
    dtype: Annotated[
        DType | None, typer.Option(help="Of the parameters; by default float32 on CPU, else bfloat16.")
    ] = None,
    quantize: Quantize = None,
    experts: ExpertsIn = "device",
    program: Annotated[
        list[ProgramChoice] | None,
        typer.Option(
            help="Streams need prefill and decode, --no-stream and --json generate; by default all."
        ),
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="One file that every platform compiles for itself.")
    ] = False,
    platform: Annotated[
        list[PlatformChoice] | None, typer.Option(help="With --portable; by default cpu, cuda and tpu.")
    ] = None,
    text_only: TextOnly = False,
    revision: Revision = None,
) -> None:
    """Write a model's compiled programs, from its config.json alone.

    `jaxmodels generate --compiled OUTPUT` starts from them and compiles nothing. They are for prompts and
    answers of these sizes, one decoding method, and the devices and versions that they were compiled with.
    """
    from jaxmodels.cli.common import experts_from, read_config
    from jaxmodels.tpu_configs.compiler import without_tpu
    from jaxmodels.tpu_configs.programs import Workload

    if platform and not portable:
        raise ValueError(
            "--platform is of --portable files; compiled programs are for --slice or this machine"
        )
    if portable and experts != "device":
        raise ValueError("--experts: portable programs have them on the device; leave one of them out")
    if portable or target.on_slice is not None:
        without_tpu()
    config, _ = read_config(model, revision, text_only=text_only)
    decoding = _strategy(config, sampling, strategy, max_new_tokens)
    held = dtype.value if dtype else _default_dtype(elsewhere=portable or target.on_slice is not None)
    workloads = [
        Workload(batch=batch, prompt=size, new_tokens=max_new_tokens, capacity=capacity, dtype=held)
        for size in prompt or DEFAULT_PROMPTS
    ]
    programs = [one.value for one in program or ProgramChoice]
    began = time.perf_counter()
    if portable:
        platforms = [one.value for one in platform or ()]
        _write_portable(output, config, workloads, decoding, quantize, programs, platforms)
        size = output.stat().st_size
    else:
        held_as = {"quantize": quantize, "experts": experts_from(experts)}
        _write_compiled(output, config, workloads, decoding, held_as, programs, target)
        size = sum(file.stat().st_size for file in output.glob("*.executable"))
    print(f"{output}: {scaled(size, 'B')} in {time.perf_counter() - began:.1f} s")


def _write_portable(
    output: Path,
    config: "Decoder",
    workloads: "Sequence[Workload]",
    strategy: "Strategy",
    quantize: str | None,
    programs: Sequence[str],
    platforms: Sequence[str],
) -> None:
    from jaxmodels.artefacts.portable import PLATFORMS, PortableName, write_portable

    if len(workloads) > 1:
        raise ValueError("--prompt is given more than once; a portable file is for one length of prompts")
    names = cast(Sequence[PortableName], ["begin", *programs])
    write_portable(
        output,
        config,
        workloads[0],
        strategy=strategy,
        quantize=quantize,
        platforms=platforms or PLATFORMS,
        programs=names,
    )


def _write_compiled(
    output: Path,
    config: "Decoder",
    workloads: "Sequence[Workload]",
    strategy: "Strategy",
    held_as: Mapping[str, Any],
    programs: Sequence[str],
    target: Target,
) -> None:
    from jaxmodels.artefacts.compiled import compile_programs
    from jaxmodels.tpu_configs.programs import ProgramName

    began = time.perf_counter()
    compile_programs(
        output,
        config,
        workloads,
        strategy,
        programs=cast(Sequence[ProgramName], programs),
        placement=target.placement(config, workloads[-1], strategy, held_as["quantize"]),
        **held_as,
        progress=lambda name: tell(f"{time.perf_counter() - began:6.1f} s  {name}"),
    )


def _default_dtype(*, elsewhere: bool) -> str:
    import jax

    return "float32" if jax.default_backend() == "cpu" and not elsewhere else "bfloat16"


def _strategy(
    config: "Decoder", sampling: Sampling, options: StrategyOptions, max_new_tokens: int
) -> "Strategy":
    """The strategy that `jaxmodels generate` would take with these options, of a model without weights.

    Raises:
        ValueError: one that needs weights or a checkpoint's settings.
    """
    base = sampling.asked_for()
    if base is None:
        raise ValueError("--recommended takes a checkpoint's settings, and only its config.json is read here")

    def load(name: str) -> Any:
        import jaxmodels as jm

        return jm.load(name)

    return described_strategy(config, options, base, load, max_new_tokens)
