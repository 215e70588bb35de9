"""What the TPU compiler says of a planned model's programs, from models of few layers.

Layers are compiled one by one, so that a deep model takes long, and each layer more costs the same. A model
of one layer is compiled for each kind, and one of two layers of the commonest; the rest is arithmetic.
"""

import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from jaxmodels.artefacts.placed import Places, on_device, on_mesh, program_traces
from jaxmodels.decoding.strategy import Strategy
from jaxmodels.layers.quantized.quantization import find_quantization
from jaxmodels.layers.spec import walk
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.compiler import AotError, slice_devices
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.plan.planning import Plan
from jaxmodels.tpu_configs.plan.working import written_back
from jaxmodels.tpu_configs.programs import ProgramName
from jaxmodels.tpu_configs.reports import ProgramReport, measured
from jaxmodels.tpu_configs.shardings import Placement

# What of a report grows with the layers. Working memory is handed from layer to layer; of caches see
# `written_back`.
SUMMED = (
    "argument_bytes",
    "output_bytes",
    "alias_bytes",
    "aliased_buffers",
    "generated_code_bytes",
    "flops",
    "bytes_accessed",
)
# Decoding compiles soonest.
DEFAULT_PROGRAMS: tuple[ProgramName, ...] = ("decode", "prefill")
# The compiler uses about one processor for each program.
AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Depths:
    """The models of few layers that stand for a deep one.

    Attributes:
        singles: for each kind of layer a model of one, and how many the whole has. The kind that it has most
            of comes first.
        double: a model of two layers of the first kind; None where the whole has one layer.
    """

    singles: tuple[tuple[Decoder, int], ...]
    double: Decoder | None

    @property
    def models(self) -> tuple[Decoder, ...]:
        """Those of one layer, then the one of two."""
        singles = tuple(model for model, _ in self.singles)
        return singles if self.double is None else (*singles, self.double)

    def extrapolated(self, figures: Sequence[float]) -> float:
        """The sum over all layers of a figure of `models`; never below theirs.

        The second layer of the first kind says what a layer of it adds, and thereby what stands around the
        layers; that taken off, the others' single layers say what they add.
        """
        first, *_ = figures
        if self.double is None:
            return first
        around = 2 * first - figures[-1]
        counts = (count for _, count in self.singles)
        return max(*figures, around + sum(n * (it - around) for n, it in zip(counts, figures, strict=False)))


def depths(config: Decoder) -> Depths:
    """The models that stand for `config`."""
    kinds = [_kind(block) for block in config.blocks]
    counts = Counter(kinds).most_common()

    def of(*indices: int) -> Decoder:
        return replace(config, blocks=tuple(config.blocks[i] for i in indices))

    singles = tuple((of(kinds.index(kind)), count) for kind, count in counts)
    kind, count = counts[0]
    if len(kinds) == 1:
        return Depths(singles=singles, double=None)
    first = kinds.index(kind)
    return Depths(singles=singles, double=of(first, kinds.index(kind, first + 1) if count > 1 else first))


def one_of_each(config: Decoder) -> Decoder:
    """`config` with the first layer of each kind, in their order."""
    kinds = [_kind(block) for block in config.blocks]
    return replace(config, blocks=tuple(config.blocks[kinds.index(kind)] for kind in dict.fromkeys(kinds)))


def compiled_programs(
    config: Decoder,
    plan: Plan,
    strategy: Strategy,
    programs: Sequence[ProgramName] = DEFAULT_PROGRAMS,
) -> Iterator[ProgramReport]:
    """Each program of a planned model as the compiler estimates it, as soon as it is known. Of one device.

    Loops are counted once.

    Raises:
        AotError: there is no compiler, or it refuses a program.
    """
    devices = slice_devices(plan.slice)
    placement = Placement(mesh=make_mesh(**plan.mesh, devices=devices), rules=plan.rules)
    workload = replace(plan.workload, capacity=plan.workload.slots(strategy.lookahead))
    few = depths(placement.fitted(config))
    for program in programs:
        began = time.perf_counter()
        traces = []
        for model in few.models:
            places: Places = on_device(devices[0])
            if len(devices) > 1:
                places = on_mesh(placement, model, workload, workload.capacity or 0)
            traced = program_traces(model, workload, strategy, places, find_quantization(plan.quantize))
            traces.append(traced[program]())
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(partial(figures_of, program, plan.slice.name), traces))
        figures: dict[str, Any] = {name: few.extrapolated([one[name] for one in found]) for name in SUMMED}
        yield ProgramReport(
            program=program,
            topology=plan.slice.name,
            workload=workload,
            param_bytes=plan.memory.parameters,
            cache_bytes=plan.memory.cache,
            cache_buffers=len(jax.tree.leaves(config.cache_spec(1, 1))),
            host_transfers=tuple(sorted({it for one in found for it in one["host_transfers"]})),
            seconds=time.perf_counter() - began,
            temp_bytes=max(one["temp_bytes"] for one in found) + written_back(plan.memory.cache),
            **figures,
        )


def figures_of(program: str, slice_name: str, traced: jax.stages.Traced) -> dict[str, Any]:
    """Compiles a program; see `reports.measured`.

    Raises:
        AotError: the compiler refuses it.
    """
    try:
        return measured(traced.lower().compile())
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise AotError(f"{program} does not compile for {slice_name}: {reason}") from error


def _kind(block: DecoderBlock) -> Hashable:
    """What two blocks must have in common to cost the same: their layers' types and arrays."""
    state = jax.tree.leaves(block.state_spec(1, 4096))
    return (
        type(block), type(block.mixer), type(block.ffn),
        tuple((path, param.shape) for path, param in walk(block.spec())),
        tuple(buffer.shape for buffer in state),
    )  # fmt: skip
