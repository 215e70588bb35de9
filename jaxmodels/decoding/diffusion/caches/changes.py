"""What dynamic caches decide by: how much a signal has changed since another step."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import shown
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.models.denoisers.denoiser import Streams


def change(now: Float[Array, "..."], before: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean absolute difference against the mean absolute value before, over all rows together."""
    now, before = now.astype(jnp.float32), before.astype(jnp.float32)
    return jnp.abs(now - before).mean() / jnp.abs(before).mean()


def run_front(step: Step, blocks: int) -> tuple[Streams, Float[Array, "B S D"]]:
    """The streams behind the first blocks, and what these added to the stream: a signal that costs no more
    than they do."""
    before = step.embed()
    behind = step.run(before, range(blocks))
    return behind, behind.hidden - before.hidden


def middle(step: Step, first: int, last: int = 0) -> range:
    """The blocks that may be left out, where so many first and last ones are always run.

    Raises:
        ValueError: there are none.
    """
    blocks = step.denoiser.num_blocks
    if first + last >= blocks:
        always = f"first={first}" + (f" and last={last}" if last else "")
        raise ValueError(f"{always}: no block is left to leave out, the model has {shown(blocks)}")
    return range(first, blocks - last)
