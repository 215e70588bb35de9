"""What the TPU compiler says of a planned denoiser's programs, from one with few of its blocks."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.tpu_configs.compiler import slice_devices
from jaxmodels.tpu_configs.denoisers import DENOISER_PROGRAMS, DenoiserProgram, trace_denoiser
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.plan.compiled import AT_ONCE, SUMMED, figures_of
from jaxmodels.tpu_configs.plan.denoising import DenoiserPlan
from jaxmodels.tpu_configs.reports import ProgramReport
from jaxmodels.tpu_configs.shardings import Placement


@dataclass(frozen=True, kw_only=True)
class FewBlocks:
    """The denoisers of few blocks that stand for a deep one.

    Attributes:
        base: one block of each kind, in their order.
        deeper: for each kind that there is more of, the base with one more, and how many are missing.
    """

    base: Denoiser
    deeper: tuple[tuple[Denoiser, int], ...]

    @property
    def models(self) -> tuple[Denoiser, ...]:
        return self.base, *(model for model, _ in self.deeper)

    def extrapolated(self, figures: Sequence[float]) -> float:
        """The sum over all blocks of a figure of `models`; never below theirs."""
        base, *more = figures
        missing = (times for _, times in self.deeper)
        return max(*figures, base + sum(n * (it - base) for n, it in zip(missing, more, strict=True)))


def few_blocks(denoiser: Any) -> FewBlocks:
    """The denoisers that stand for this one; itself where its blocks depend on one another."""
    stacks = {
        field.name: Counter(value)
        for field in fields(denoiser)
        if isinstance(value := getattr(denoiser, field.name), tuple)
        and value
        and all(hasattr(block, "module_names") for block in value)
    }

    def with_stacks(**more: Any) -> Any:
        kept = {name: tuple(kinds) for name, kinds in stacks.items()}
        return replace(denoiser, **(kept | more))

    try:
        base = with_stacks()
        deeper = tuple(
            (with_stacks(**{name: _repeated(kinds, kind)}), times - 1)
            for name, kinds in stacks.items()
            for kind, times in kinds.items()
            if times > 1
        )
    except ValueError:
        return FewBlocks(base=denoiser, deeper=())
    return FewBlocks(base=base, deeper=deeper)


def compiled_denoiser_programs(
    denoiser: Denoiser, plan: DenoiserPlan, programs: Sequence[DenoiserProgram] = DENOISER_PROGRAMS
) -> Iterator[ProgramReport]:
    """Each program of a planned denoiser as the compiler estimates it, as soon as it is known. Of one device.

    Loops are counted once.

    Raises:
        AotError: there is no compiler, or it refuses a program.
    """
    placement = Placement(mesh=make_mesh(**plan.mesh, devices=slice_devices(plan.slice)), rules=plan.rules)
    whole = NamedSharding(placement.mesh, PartitionSpec())
    few = few_blocks(denoiser)
    traces = [trace_denoiser(model, plan.workload, whole, placement) for model in few.models]
    for program in programs:
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            one_by_one = pool.map(
                partial(figures_of, program, plan.slice.name), [it[program] for it in traces]
            )
            found = list(one_by_one)
        figures: dict[str, Any] = {name: few.extrapolated([one[name] for one in found]) for name in SUMMED}
        yield ProgramReport(
            program=program,
            topology=plan.slice.name,
            workload=plan.workload,
            param_bytes=plan.memory.parameters,
            cache_bytes=0,
            cache_buffers=0,
            host_transfers=tuple(sorted({it for one in found for it in one["host_transfers"]})),
            seconds=time.perf_counter() - began,
            temp_bytes=max(one["temp_bytes"] for one in found),
            **figures,
        )


def _repeated(kinds: Sequence[Any] | Counter[Any], kind: Any) -> tuple[Any, ...]:
    """One block of each kind, and two of this one."""
    return tuple(block for it in kinds for block in ((it, it) if it == kind else (it,)))
