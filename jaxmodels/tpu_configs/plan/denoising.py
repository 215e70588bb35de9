"""What a denoiser takes and how fast it can be on a TPU slice, from its configuration alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from jaxmodels.layers.partition import MESH_AXES, leading_axes
from jaxmodels.layers.spec import walk
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.text import Text
from jaxmodels.tpu_configs.denoisers import DenoiserWorkload
from jaxmodels.tpu_configs.plan.advice import largest, smallest_slices
from jaxmodels.tpu_configs.plan.held import Holding
from jaxmodels.tpu_configs.plan.mesh_sizes import checked, divisors
from jaxmodels.tpu_configs.plan.roofline import Bound, Roofline, roofline
from jaxmodels.tpu_configs.plan.working import Beside, of_canvas
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.slices import Slice


class CostedDenoiser(Denoiser, Protocol):
    """A denoiser that knows its cost, as those of all families do."""

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""


@dataclass(frozen=True, kw_only=True)
class DenoiserMemory:
    """Bytes in the memory of one device.

    Attributes:
        parameters: tile padding not counted.
        run: what the whole loop takes beside them.
        usable: what the compiler lets programs have.
    """

    parameters: int
    run: Beside
    usable: int

    @property
    def parts(self) -> dict[str, int]:
        """What `total` is made of."""
        return {"parameters": self.parameters, "working": self.run.working, "code": self.run.code}

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.usable

    @property
    def missing(self) -> int:
        """Bytes by which it does not fit; 0 where it does."""
        return max(0, self.total - self.usable)


@dataclass(frozen=True, kw_only=True)
class DenoiserPlan:
    """A denoiser on a slice: of a pipeline neither its text encoders nor its autoencoder.

    Attributes:
        slice: what it runs on.
        mesh: how it is spread over its devices, sizes above 1 only.
        rules: by which sharding rules.
        workload: the shapes that it is planned for.
        memory: of one device.
        step: one call of the model for all canvases, on one device.
        advice: what to change where it does not fit, the least first; empty where it does.
    """

    slice: Slice
    mesh: Mapping[str, int]
    rules: Rules
    workload: DenoiserWorkload
    memory: DenoiserMemory
    step: Roofline
    advice: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all steps, for all images."""
        return self.workload.steps * self.step.seconds

    @property
    def times(self) -> dict[str, float]:
        """Least seconds of a step, and of all."""
        return {"each step": self.step.seconds, "all steps": self.seconds}

    @property
    def bound(self) -> Bound:
        """What takes longest of a step."""
        return self.step.bound

    @property
    def throughput(self) -> float:
        """Images per second."""
        return self.workload.batch / self.seconds


def plan_denoiser(
    denoiser: CostedDenoiser,
    on: Slice,
    workload: DenoiserWorkload,
    *,
    sizes: Mapping[str, int] | None = None,
    rules: Rules = DEFAULT_RULES,
) -> DenoiserPlan:
    """The plan of a denoiser on a slice, spread over `sizes` or over the mesh with the fastest step.

    Raises:
        ValueError: the mesh does not have the slice's devices or does not divide the model, or no mesh does.
    """
    found = _planned(denoiser, on, workload, sizes, rules)
    if found.memory.fits:
        return found

    def fits(on: Slice, workload: DenoiserWorkload, sizes: Mapping[str, int] | None) -> bool:
        try:
            return _planned(denoiser, on, workload, sizes, rules).memory.fits
        except ValueError:
            return False

    batch = largest(workload.batch, lambda count: fits(on, replace(workload, batch=count), sizes))
    fewer = (f"--batch {batch} fits on {on.name}",) if batch else ()
    return replace(found, advice=(*fewer, *smallest_slices(on, lambda it: fits(it, workload, None))))


def _planned(
    denoiser: CostedDenoiser,
    on: Slice,
    workload: DenoiserWorkload,
    sizes: Mapping[str, int] | None,
    rules: Rules,
) -> DenoiserPlan:
    """The plan without advice."""
    if sizes is not None:
        return _on_mesh(denoiser, on, workload, checked(sizes, on), rules)
    plans, refusal = [], None
    for candidate in _meshes(on):
        try:
            plans.append(_on_mesh(denoiser, on, workload, candidate, rules))
        except ValueError as error:
            refusal = refusal or error
    if not plans:
        raise ValueError(
            f"{on.name}: no mesh of its {on.devices} devices divides the model; {refusal}"
        ) from refusal
    return min(plans, key=lambda it: (it.memory.missing, it.step.seconds))


def _meshes(on: Slice) -> Iterator[dict[str, int]]:
    """Heads and features over as many devices as divide them, canvases over the rest."""
    for tensor in divisors(on.devices):
        yield {"data": on.devices // tensor, "tensor": tensor}


def _on_mesh(
    denoiser: CostedDenoiser, on: Slice, workload: DenoiserWorkload, sizes: Mapping[str, int], rules: Rules
) -> DenoiserPlan:
    full = {axis: sizes.get(axis, 1) for axis in MESH_AXES}
    held = Holding(dtype=workload.dtype, quantization=None, rules=rules, sizes=full)
    parameters = sum(held.parameter(f"parameter {path!r}", it) for path, it in walk(denoiser.spec()))
    canvases = workload.batch * workload.canvases
    rows = canvases // math.prod(full[axis] for axis in leading_axes(canvases, rules.axes("batch"), full))
    side, text = workload.canvas(denoiser)[0], tokens_of_text(denoiser, workload)
    tokens = (side // denoiser.projections.patch) ** 2 + text
    blocks, shared = denoiser.named_blocks(), held.cut(("heads",))
    # Behind each block's attention and its feed-forward, in bfloat16, as a ring sends it.
    sums = 2 * len(blocks) * rows * tokens * 2 * denoiser.projections.d_model
    return DenoiserPlan(
        slice=on,
        mesh={axis: size for axis, size in sizes.items() if size > 1},
        rules=rules,
        workload=workload,
        memory=DenoiserMemory(
            parameters=parameters,
            run=of_canvas(denoiser, rows, tokens, full["tensor"]),
            usable=on.chip.usable_bytes,
        ),
        step=roofline(
            on.chip,
            workload.dtype,
            rows * denoiser.flops(side, side, text) / shared,
            parameters,
            sums * 2 * (full["tensor"] - 1) / full["tensor"],
        ),
    )


def tokens_of_text(denoiser: Denoiser, workload: DenoiserWorkload) -> int:
    """Tokens of a text that each canvas is denoised with; none of a model that reads none."""
    return workload.text if isinstance(denoiser.abstract_condition(1, 1), Text) else 0
