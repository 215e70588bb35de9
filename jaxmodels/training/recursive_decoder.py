"""A decoder that passes its tokens through one block again and again, and the router that says how often."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.depth.recursions import ExpertChoiceRecursions, recursed
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Pass, Walk
from jaxmodels.models.depth_forward import forward_by_depth


@dataclass(frozen=True, kw_only=True)
class RecursiveDecoder:
    """A `Trainable`: a decoder and the router of its `ExpertChoiceRecursions`, in one tree of parameters.

    Attributes:
        decoder: the model.
        shared: the number of the block that is passed again.
        recursions: the most passes through it.
        alpha: see `ExpertChoiceRecursions`.
    """

    decoder: Decoder
    shared: int
    recursions: int
    alpha: float

    def spec(self) -> ParamTree:
        router = Param((self.recursions, self.decoder.d_model), ("layers", "embed"), Normal(0.02))
        return {"decoder": self.decoder.spec(), "router": router}

    def policy(self, params: Params) -> ExpertChoiceRecursions:
        """What the decoder is to be decoded with."""
        return ExpertChoiceRecursions(router=params["router"], shared=self.shared, alpha=self.alpha)

    def forward(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """Logits as in decoding: each token alone is asked whether it is in a recursion."""
        return forward_by_depth(self.decoder, params["decoder"], tokens, self.policy(params))[0]

    def forward_choosing(
        self, params: Params, tokens: Int[Array, "B S"], shares: Float[Array, "B R"]
    ) -> tuple[Float[Array, "B S V"], Float[Array, ""]]:
        """Logits where each recursion chooses its best tokens, which looks at later tokens, too.

        Args:
            shares: of a row's tokens, how many are in each recursion: rounded down, but at least one.

        Returns:
            (logits, the binary cross-entropy of the choices under the router's scores: nats per token in
            front of a recursion, summed over recursions).
        """
        choosing = _Choosing(self.policy(params), shares)
        logits, walk = forward_by_depth(self.decoder, params["decoder"], tokens, choosing)
        return logits, walk.notes[1]


@dataclass(frozen=True)
class _Choosing:
    """A `Depth`: recursions that choose so many tokens of a row. It notes the tokens that are in the last
    recursion so far, and the cross-entropy of all choices."""

    policy: ExpertChoiceRecursions
    shares: Float[Array, "B R"]

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        return self.policy.most_passes(blocks)

    def begin(self, walk: Walk) -> Walk:
        return replace(self.policy.begin(walk), notes=(walk.window.is_valid, jnp.zeros(())))

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.index != self.policy.shared:
            return self.policy.through(offered, stream, walk)
        inside, nats = walk.notes
        logits = self.policy.logits(offered.repeat, stream)
        count = jnp.maximum(self.shares[:, offered.repeat] * walk.window.valid, 1).astype(jnp.int32)
        tokens = best(logits, inside, count)
        errors = jax.nn.softplus(logits) - jnp.where(tokens, logits, 0)
        nats += jnp.where(inside, errors, 0).sum() / jnp.maximum(inside.sum(), 1)
        read, written = offered.write_tokens(stream, tokens)
        stream = recursed(tokens, self.policy.gates(offered.repeat, stream), read, stream)
        return stream, written, replace(walk, depth=walk.depth + tokens, notes=(tokens, nats))


def best(
    scores: Float[Array, "B S"], among: Bool[Array, "B S"], count: Int[Array, "B"]
) -> Bool[Array, "B S"]:
    """Of each row's tokens `among` which is chosen the `count` of the highest scores; of equals the first."""
    order = jnp.argsort(jnp.where(among, -jax.lax.stop_gradient(scores), jnp.inf), axis=1, stable=True)
    return among & (jnp.argsort(order, axis=1) < count[:, None])
