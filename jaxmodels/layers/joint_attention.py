"""Attention over two sequences at once, each with projections of its own: image and text of SD3 and Flux."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import rotated
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.uncached_attention import SEQUENCE_FIELDS, attend_seen, check_defaults
from jaxmodels.layers.window import Window, ropes_of


@dataclass(frozen=True, kw_only=True)
class JointAttention:
    """Every token of the stream and of the context attends to all tokens of both, in one softmax
    (https://arxiv.org/abs/2403.03206).

    Neither has an order of its own but by its rotary embedding, so that it does not matter which comes first.

    Attributes:
        stream: projections, norms and rotary embedding of the stream.
        context: the same of the context.
        ends_context: the context is read here for the last time: it has no output projection.

    Raises:
        ValueError: the two have different heads, or are set to what needs a single sequence.
    """

    stream: Attention
    context: Attention
    ends_context: bool = False

    def __post_init__(self) -> None:
        for attention in (self.stream, self.context):
            check_defaults("JointAttention", attention, SEQUENCE_FIELDS)
        for name in ("num_heads", "num_kv_heads", "head_dim", "scale", "softcap"):
            ours, theirs = getattr(self.stream, name), getattr(self.context, name)
            if ours != theirs:
                raise ValueError(
                    f"JointAttention: stream has {name}={ours}, context {theirs}; they share heads"
                )

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        """What the layer asks windows to rotate by."""
        return ropes_of(self.stream, self.context)

    def spec(self) -> ParamTree:
        context = self.context.spec()
        if self.ends_context:
            context = {name: leaf for name, leaf in context.items() if name not in ("w_o", "b_o")}
        return {"stream": self.stream.spec(), "context": context}

    def flops(self, tokens: int, context: int) -> int:
        """FLOPs of `tokens` of the stream and `context` tokens of the context."""
        both = tokens + context
        last = 2 * self.context.d_model * self.context.num_heads * self.context.head_dim
        of_context = self.context.flops_per_token(0 if self.ends_context else both)
        return tokens * self.stream.flops_per_token(both) + context * (
            of_context - (last if self.ends_context else 0)
        )

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: Float[Array, "B T C"],
        window: Window,
        context_window: Window,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B T C"] | None]:
        """The outputs of stream and context, the latter None where the layer ends it.

        Padding of either is seen by no token; each window holds the rotations of its own sequence.
        """
        own = rotated(self.stream.heads, self.stream.project(params["stream"], x, window), window)
        projected = self.context.project(params["context"], context, context_window)
        other = rotated(self.context.heads, projected, context_window)
        k, v = jnp.concatenate([own.k, other.k], axis=1), jnp.concatenate([own.v, other.v], axis=1)
        seen = jnp.concatenate([window.is_valid, context_window.is_valid], axis=1)
        y = self.stream.output(params["stream"], attend_seen(self.stream, own.q, k, v, seen), None)
        if self.ends_context:
            return y, None
        found = attend_seen(self.context, other.q, k, v, seen)
        return y, self.context.output(params["context"], found, None)
