"""What the TPU compiler says of a planned model's programs, from models of few layers.

Layers are compiled one by one, so that a deep model takes long, and each layer more costs the same. A model
with one layer of each kind is compiled, and for each kind one with a layer more; the rest is arithmetic.
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
from jaxmodels.layers.spec import walk
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.compiler import AotError, slice_devices
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.plan.planning import Plan
from jaxmodels.tpu_configs.programs import ProgramName
from jaxmodels.tpu_configs.reports import ProgramReport, measured
from jaxmodels.tpu_configs.shardings import Placement

# What of a report grows with the layers. Working memory is handed from layer to layer.
_SUMMED = (
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
        base: one layer of each kind.
        deeper: for each kind that the model has more of, the base with one more, and how many are missing.
    """

    base: Decoder
    deeper: tuple[tuple[Decoder, int], ...]

    @property
    def models(self) -> tuple[Decoder, ...]:
        return self.base, *(model for model, _ in self.deeper)

    def extrapolated(self, figures: Sequence[float]) -> float:
        """The sum over all layers of a figure of `models`; never below theirs."""
        base, *more = figures
        missing = (times for _, times in self.deeper)
        return max(*figures, base + sum(n * (it - base) for n, it in zip(missing, more, strict=True)))


def depths(config: Decoder) -> Depths:
    """The models that stand for `config`, with its layers in their order."""
    kinds = [_kind(block) for block in config.blocks]
    firsts = {kind: kinds.index(kind) for kind in dict.fromkeys(kinds)}
    counts = Counter(kinds)

    def of(indices: Sequence[int]) -> Decoder:
        return replace(config, blocks=tuple(config.blocks[i] for i in sorted(indices)))

    one_of_each = list(firsts.values())
    deeper = (
        (of([*one_of_each, kinds.index(kind, first + 1)]), counts[kind] - 1)
        for kind, first in firsts.items()
        if counts[kind] > 1
    )
    return Depths(base=of(one_of_each), deeper=tuple(deeper))


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
            traces.append(program_traces(model, workload, strategy, places)[program]())
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(partial(_compiled, program, plan), traces))
        figures: dict[str, Any] = {name: few.extrapolated([one[name] for one in found]) for name in _SUMMED}
        yield ProgramReport(
            program=program,
            topology=plan.slice.name,
            workload=workload,
            param_bytes=plan.memory.parameters,
            cache_bytes=plan.memory.cache,
            cache_buffers=len(jax.tree.leaves(config.cache_spec(1, 1))),
            host_transfers=tuple(sorted({it for one in found for it in one["host_transfers"]})),
            seconds=time.perf_counter() - began,
            temp_bytes=max(one["temp_bytes"] for one in found),
            **figures,
        )


def _compiled(program: str, plan: Plan, traced: jax.stages.Traced) -> dict[str, Any]:
    try:
        return measured(traced.lower().compile())
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise AotError(f"{program} does not compile for {plan.slice.name}: {reason}") from error


def _kind(block: DecoderBlock) -> Hashable:
    """What two blocks must have in common to cost the same: their layers' types and arrays."""
    state = jax.tree.leaves(block.state_spec(1, 4096))
    return (
        type(block), type(block.mixer), type(block.ffn),
        tuple((path, param.shape) for path, param in walk(block.spec())),
        tuple(buffer.shape for buffer in state),
    )  # fmt: skip
