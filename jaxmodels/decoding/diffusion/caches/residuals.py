"""Blocks that a step runs, or leaves out and adds what they added to the streams when they last ran."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.models.denoisers.denoiser import Streams


def residual(before: Streams, after: Streams) -> Streams:
    """What blocks added to the streams. Of what they write for later ones, into zeros, it is what they
    wrote."""
    context = None if after.context is None else after.context - before.context
    return replace(
        after,
        hidden=after.hidden - before.hidden,
        context=context,
        others=jax.tree.map(jnp.subtract, after.others, before.others),
    )


def added(before: Streams, kept: Streams) -> Streams:
    """The streams behind blocks that would add again what was kept of them."""
    return replace(
        before,
        hidden=before.hidden + kept.hidden,
        context=None if kept.context is None else before.context + kept.context,
        others=jax.tree.map(jnp.add, before.others, kept.others),
    )


def nothing_added(step: Step, blocks: range) -> Streams:
    """Zeros, of the shapes of the residual of these blocks."""

    def of_run(step: Step) -> Streams:
        before = step.run(step.embed(), range(blocks.start))
        return residual(before, step.run(before, blocks))

    return zeros_like(jax.eval_shape(of_run, step))


def zeros_like(shapes: Any) -> Any:
    """Arrays of zeros for a tree of shapes."""
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


def run_or_add(
    step: Step, before: Streams, blocks: range, fresh: Bool[Array, ""], kept: Streams
) -> tuple[Streams, Streams]:
    """The streams behind `blocks`, and the residual that they have now.

    Args:
        step: the step.
        before: the streams in front of the blocks.
        blocks: those that may be left out.
        fresh: whether they are run.
        kept: their residual of an earlier step.
    """

    def run(before: Streams, kept: Streams) -> tuple[Streams, Streams]:
        after = step.run(before, blocks)
        return after, residual(before, after)

    def add(before: Streams, kept: Streams) -> tuple[Streams, Streams]:
        return added(before, kept), kept

    return lax.cond(fresh, run, add, before, kept)


class StepsByResidual:
    """What caches inherit whose rows say of each step whether its blocks are run, all or none.

    Where they are not, the stream behind them is the one in front of them and their last residual.
    """

    def begin(self, step: Step) -> Streams:
        """No residual."""
        return nothing_added(step, range(step.denoiser.num_blocks))

    def denoise(
        self, step: Step, row: Bool[Array, ""], state: Streams
    ) -> tuple[Float[Array, "B H W C"], Streams, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        blocks = range(step.denoiser.num_blocks)
        streams, state = run_or_add(step, step.embed(), blocks, row, state)
        return step.finish(streams), state, jnp.where(row, float(len(blocks)), 0.0)
