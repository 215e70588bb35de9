"""Whole sequences through a policy of depth without a cache: what the training of policies differentiates."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.spec import Params, filled
from jaxmodels.models.block import Stream
from jaxmodels.models.chosen_tokens import choose
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Depth, Pass, Repeating, Walk, halved, kept_by
from jaxmodels.models.inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class FreshPass(Pass):
    """A pass through a block that has no history, and gets none."""

    def write(
        self, stream: Stream, rows: Bool[Array, "B"] | None = None
    ) -> tuple[Callable[[Stream], Stream], Any]:
        return partial(self.block.forward, self.params, window=self.window), None

    def write_halves(
        self, stream: Stream, rows: Bool[Array, "B"] | None = None
    ) -> tuple[Callable[[Stream], Stream], Callable[[Stream], Stream], Any]:
        block = halved(self.block, self.index)
        return (
            partial(block.forward_mixer, self.params, window=self.window),
            partial(block.read_ffn, self.params, window=self.window),
            None,
        )

    def write_tokens(
        self, stream: Stream, tokens: Bool[Array, "B S"]
    ) -> tuple[Callable[[Stream], Stream], Any]:
        chosen = choose(self.window, tokens)
        return chosen.around(partial(self.block.forward, self.params, window=chosen.window)), None


def forward_by_depth(
    model: Decoder, params: Params, inputs: Inputs, depth: Depth
) -> tuple[Float[Array, "B S V"], Walk]:
    """Float32 logits of whole sequences that are read by `depth`, and the walk behind the last block.

    It is a window without a history: a block that is read in a row is shown all of that row. Differentiable
    in the parameters of the model and of the policy.

    Raises ValueError where inputs or policy do not fit the model.
    """
    stream, window = model.begin_forward(params, inputs)
    memory = filled(kept_by(depth, inputs.shape[0], model.d_model), stream.hidden.dtype)
    walk = depth.begin(model.begin_walk(params, window, memory))
    most = depth.most_passes(len(model.blocks)) if isinstance(depth, Repeating) else None
    for i, block in enumerate(model.blocks):
        for repeat in range(1 if most is None else most[i]):
            offered = FreshPass(
                index=i,
                repeat=repeat,
                block=block,
                params=model.block_params(params, i),
                state=None,
                window=window,
            )
            stream, _, walk = depth.through(offered, stream, walk)
    return model.logits(params, model.normalise(params, stream)), walk


def depths_of(walk: Walk) -> Float[Array, ""]:
    """The mean number of passes that the tokens of a walk were read in."""
    is_valid = walk.window.is_valid
    return jnp.where(is_valid, walk.depth, 0).sum() / jnp.maximum(is_valid.sum(), 1)
