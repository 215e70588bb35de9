"""What training a policy of depth differentiates: the parts that all kinds of policy share."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Depth


@dataclass(frozen=True)
class Frozen:
    """The model that a policy is trained for; it does not change."""

    model: Decoder
    params: Params

    def logits(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """Of all blocks: what a policy is to come near."""
        return jax.lax.stop_gradient(self.model.forward(self.params, tokens))


class PolicyTraining(Protocol):
    """One kind of policy with how it is trained. Implementations are frozen dataclasses."""

    def spec(self, model: Decoder) -> ParamTree:
        """The parameters that are trained. Raises ValueError where the policy is not for the model."""

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> Any:
        """What batches are taken of: a tree of arrays [N, ...], made of windows of text."""

    def loss(
        self, frozen: Frozen, params: Params, batch: Any, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What is differentiated, and what is told."""

    def policy(self, model: Decoder, params: Params) -> Depth:
        """What is shipped."""


def divergence(given: Float[Array, "B S V"], logits: Float[Array, "B S V"]) -> Float[Array, ""]:
    """The mean Kullback-Leibler divergence of `logits` from `given`, in nats per token."""
    p, q = jax.nn.log_softmax(given), jax.nn.log_softmax(logits)
    return jnp.mean((jnp.exp(p) * (p - q)).sum(-1))


def straight_through(scores: Float[Array, "..."], threshold: Float[Array, ""] | float) -> Float[Array, "..."]:
    """1 where a score reaches the threshold and else 0, with the gradient of the score itself."""
    choice = (scores >= threshold).astype(scores.dtype)
    return scores + jax.lax.stop_gradient(choice - scores)


def between(without: Stream, behind: Stream, gates: Float[Array, "B S"]) -> Stream:
    """The stream `behind` what is read where a gate is 1, that `without` it where it is 0, and else between
    them; gates [B, 1] are those of whole rows."""
    weight = gates[:, :, None].astype(behind.hidden.dtype)
    return replace(behind, hidden=without.hidden + weight * (behind.hidden - without.hidden))
