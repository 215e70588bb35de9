"""What a router decides for a window of tokens."""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.spec import Params


@struct.dataclass
class Routing:
    """Which experts each token is sent to, and with what weight. E counts all experts of the router.

    Attributes:
        experts: i32[..., S, k], E where a slot is empty.
        weights: f32[..., S, k], 0 in empty slots.
        logits: f32[..., S, E], the router's raw outputs.
        scores: f32[..., S, E], what they became: probabilities or gates.
        valid: bool[..., S], which tokens are real; None if all are.
        max_pairs: the most slots that can be filled in all, where the router bounds them below S * k.
    """

    experts: jax.Array
    weights: jax.Array
    logits: jax.Array
    scores: jax.Array
    valid: jax.Array | None = None
    max_pairs: int | None = struct.field(pytree_node=False, default=None)

    @property
    def num_experts(self) -> int:
        return self.logits.shape[-1]

    def drop_padding(self) -> "Routing":
        """The routing with the slots of tokens that are not real emptied."""
        if self.valid is None:
            return self
        real = self.valid[..., None]
        return replace(
            self,
            experts=jnp.where(real, self.experts, self.num_experts),
            weights=jnp.where(real, self.weights, 0.0),
        )

    def assigned(self) -> Float[Array, "... S E"]:
        """1 where the token is sent to the expert."""
        return jax.nn.one_hot(self.experts, self.num_experts, dtype=jnp.float32).sum(-2)

    def dense_weights(self) -> Float[Array, "... S E"]:
        """The weight of every expert for every token, 0 where it was not chosen."""
        chosen = jax.nn.one_hot(self.experts, self.num_experts, dtype=self.weights.dtype)
        return jnp.einsum("...ke,...k->...e", chosen, self.weights, precision=lax.Precision.HIGHEST)


@struct.dataclass
class RouterContext:
    """What a router is told of a window besides its features.

    Attributes:
        previous: f32[..., S, E], the logits of the router before this one, for routers that look at them;
            None where there is none.
        valid: bool[..., S], which tokens are real, so that the others take no place from them; None if all
            are.
    """

    previous: jax.Array | None = None
    valid: jax.Array | None = None


ALONE = RouterContext()


def expert_load(routing: Routing) -> Int[Array, "*layers E"]:
    """How many slots of real tokens each expert fills, over all rows and tokens."""
    return routing.drop_padding().assigned().sum((-3, -2)).astype(jnp.int32)


@runtime_checkable
class KeepsExperts(Protocol):
    """A feed-forward that may keep experts on the device whose parameters lie in host memory.

    What it keeps belongs to no row and no token, and changes no result.
    """

    def begin_kept(self, params: Params) -> Any:
        """What it keeps in front of the first window: a pytree; None where it keeps nothing."""

    def ask(
        self, params: Params, x: Float[Array, "B S D"], context: RouterContext, kept: Any, before: Array
    ) -> tuple[Any, Array]:
        """Asks for experts that a window may need, ahead of it: (what comes, or None; before).

        x: about what the feed-forward will be given. before: what is computed with meanwhile.
        """

    def routed_with(
        self, params: Params, x: Float[Array, "B S D"], context: RouterContext, kept: Any, coming: Any
    ) -> tuple[Float[Array, "B S D"], Routing, Any]:
        """`RoutedFeedForward.routed`, and what it keeps behind the window."""


@runtime_checkable
class RoutedFeedForward(Protocol):
    """A feed-forward that sends tokens to experts and can tell which."""

    @property
    def causal(self) -> bool:
        """Whether a token's output depends on itself alone."""

    @property
    def carried_logits(self) -> int | None:
        """How many router logits per token it reads from the mixture before it; None: it reads none."""

    def routed(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: RouterContext = ALONE,
    ) -> tuple[Float[Array, "B S D"], Routing]:
        """The output and the routing behind it."""
