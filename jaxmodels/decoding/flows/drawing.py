"""`FlowDrawing`: images drawn by running a flow backwards, as one compiled program."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.flows.inversion import SEQUENTIAL, Inversion
from jaxmodels.decoding.flows.reading import FlowGuidance, Reader
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.layers.spec import Params
from jaxmodels.models.flows.tarflow import TarFlow
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class FlowDrawing:
    """How images are drawn.

    Attributes:
        inversion: how a step is run backwards.
        guidance: towards the class; None for none.
    """

    inversion: Inversion = SEQUENTIAL
    guidance: FlowGuidance | None = None


@bounded_jit(static_argnames=("config",))
def draw(
    params: Params,
    noise: Float[Array, "B S C"],
    classes: Int[Array, "B"] | None,
    rule: FlowDrawing,
    *,
    config: TarFlow,
) -> tuple[Float[Array, "K B S C"], Int[Array, " K"]]:
    """The tokens in front of each step, in the order in which they are run backwards, the last of them those
    of images; and the passes that each took.

    Args:
        noise: unit noise.
        classes: of each image; -1, or None for all, for no class.

    Raises:
        ValueError: the inversion does not fit the flow.
    """
    rule.inversion.check(len(config.steps), config.places)
    x = begin(params, noise)
    behind, passes = [], []
    for number in reversed(range(len(config.steps))):
        x, taken = run_back(params, x, classes, rule, config=config, number=number)
        behind.append(x)
        passes.append(taken)
    return jnp.stack(behind), jnp.stack(passes)


def begin(params: Params, noise: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
    """The tokens that are run backwards first, of unit noise."""
    return noise.astype(jnp.float32) * jnp.sqrt(params["prior"]["variance"].astype(jnp.float32))


@bounded_jit(static_argnames=("config", "number"))
def run_back(
    params: Params,
    x: Float[Array, "B S C"],
    classes: Int[Array, "B"] | None,
    rule: FlowDrawing,
    *,
    config: TarFlow,
    number: int,
) -> tuple[Float[Array, "B S C"], Int[Array, ""]]:
    """The tokens in front of one step of the flow, of those behind it, and the passes that it took."""
    step = config.steps[number]
    reader = Reader(step=step, params=params["steps"][str(number)], classes=classes, guidance=rule.guidance)
    found, taken = rule.inversion.invert(reader, step.ordered(x), number)
    return step.ordered(found), taken


@bounded_jit(static_argnames=("config",))
def denoise(
    params: Params, images: Float[Array, "B H W C"], classes: Int[Array, "B"] | None, *, config: TarFlow
) -> Float[Array, "B H W C"]:
    """`TarFlow.denoised` as a program."""
    return config.denoised(params, images, classes)


register_dataclass(FlowDrawing, ["inversion", "guidance"], [])
