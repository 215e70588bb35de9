"""The compiled programs of a denoiser, traced from shapes alone: no weights, no devices.

step is one call of the model, run the whole loop of `Denoise` around such calls. With guidance, both call it
for two canvases per image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion import Asked, Denoise, Drawn
from jaxmodels.decoding.diffusion.driver import whole_run
from jaxmodels.decoding.diffusion.guidance import CFG
from jaxmodels.decoding.diffusion.samplers import DDIM, FlowMapEuler, Sampler
from jaxmodels.layers.spec import Params, abstract_params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.tpu_configs.mesh import in_use
from jaxmodels.tpu_configs.shardings import Placement, abstract_at

DenoiserProgram = Literal["step", "run"]
DENOISER_PROGRAMS: tuple[DenoiserProgram, ...] = ("step", "run")


@dataclass(frozen=True, kw_only=True)
class DenoiserWorkload:
    """The shapes that programs are made for.

    Attributes:
        batch: images.
        side: height and width of the latents; None for the model's `sample_size`.
        text: tokens of a text, in models that read one.
        steps: of the whole loop.
        canvases: that each call of the model has for an image: 2 with guidance, 1 without.
        dtype: of the parameters.

    Raises:
        ValueError: a size below 1, or more canvases than 2.
    """

    batch: int = 1
    side: int | None = None
    text: int = 128
    steps: int = 20
    canvases: int = 2
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("batch", "text", "steps"):
            whole(f"DenoiserWorkload: {name}", getattr(self, name), low=1)
        whole("DenoiserWorkload: canvases", self.canvases, low=1, high=2)
        if self.side is not None:
            whole("DenoiserWorkload: side", self.side, low=1)

    def canvas(self, denoiser: Denoiser) -> tuple[int, int, int]:
        """Height, width and channels of the latents."""
        side = denoiser.sample_size if self.side is None else self.side
        return side, side, denoiser.projections.in_channels


def is_denoiser(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` holding these values is that of a denoiser."""
    return values.get("_class_name") in DENOISERS


def trace_denoiser(
    denoiser: Denoiser,
    workload: DenoiserWorkload,
    sharding: Sharding | None = None,
    placement: Placement | None = None,
) -> dict[DenoiserProgram, jax.stages.Traced]:
    """The traces of both programs, ready to be lowered for the devices of `sharding`.

    With a `placement` parameters lie on its mesh, and `sharding` is that of all else.

    Raises:
        ValueError: the model takes no latents of the workload's size.
    """
    canvas, batch = workload.canvas(denoiser), workload.batch
    rows = workload.canvases * batch

    def placed(tree: Any) -> Any:
        if sharding is None:
            return tree
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    params = abstract_params(denoiser.spec(), jnp.dtype(workload.dtype))
    if placement is not None:
        params = placement.abstract(denoiser, params)
    elif sharding is not None:
        params = abstract_at(denoiser.spec(), params, sharding)
    x = jax.ShapeDtypeStruct((rows, *canvas), jnp.float32)
    times = (rows,) if denoiser.num_times == 1 else (rows, denoiser.num_times)
    t = jax.ShapeDtypeStruct(times, jnp.float32)
    step = placed((x, t, denoiser.abstract_condition(rows, workload.text)))
    keys: Any = jax.ShapeDtypeStruct((batch,), jax.eval_shape(jax.random.key, 0).dtype)
    condition = denoiser.abstract_condition(batch, workload.text)
    asked = placed(Asked(Drawn(keys, canvas), condition, condition))
    sampler: Sampler = DDIM() if denoiser.num_times == 1 else FlowMapEuler()
    guidance = CFG(4.0) if workload.canvases == 2 else None
    policy = Denoise(sampler=sampler, steps=workload.steps, guidance=guidance)
    tables = placed(policy.prepare(denoiser, asked))

    def call(params: Params, x: Array, t: Array, condition: Any) -> Float[Array, "B H W O"]:
        return denoiser.denoise(params, x, t, condition).prediction

    with in_use(None if placement is None else placement.mesh):
        return {
            "step": jax.jit(call).trace(params, *step),
            "run": whole_run.trace(policy, params, asked, tables, denoiser=denoiser),
        }
