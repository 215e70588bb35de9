"""Attention over two sequences at once, each with projections of its own: image and text of SD3 and Flux."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import rotated
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.uncached_attention import SEQUENCE_FIELDS, attend_seen, check_defaults
from jaxmodels.layers.window import Window, ropes_of

Padding = Literal["unseen", "empty_keys"]


@dataclass(frozen=True, kw_only=True)
class JointAttention:
    """Every token of the stream and of the context attends to all tokens of both, in one softmax
    (https://arxiv.org/abs/2403.03206).

    Neither has an order of its own but by its rotary embedding, so that it does not matter which comes first.

    Attributes:
        stream: projections, norms and rotary embedding of the stream.
        context: the same of the context.
        ends_context: the context is read here for the last time: it has no output projection.
        padding: what padding of the stream is: "unseen", or seen by all with "empty_keys", whose logits are
            0, and with its values (HiDream, https://arxiv.org/abs/2505.22705).

    Raises:
        ValueError: the two have different heads, or are set to what needs a single sequence, or `padding` is
            neither.
    """

    stream: Attention
    context: Attention
    ends_context: bool = False
    padding: Padding = "unseen"

    def __post_init__(self) -> None:
        if self.padding not in get_args(Padding):
            raise ValueError(
                f"JointAttention: padding must be one of {get_args(Padding)}, got {self.padding!r}"
            )
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

        Padding of the context is seen by no token, nor that of the stream but where `padding` says so; each
        window holds the rotations of its own sequence.
        """
        own = rotated(self.stream.heads, self.stream.project(params["stream"], x, window), window)
        projected = self.context.project(params["context"], context, context_window)
        other = rotated(self.context.heads, projected, context_window)
        own_keys, own_seen = own.k, window.is_valid
        if self.padding == "empty_keys":
            own_keys, own_seen = jnp.where(own_seen[:, :, None, None], own.k, 0), jnp.ones_like(own_seen)
        k, v = jnp.concatenate([own_keys, other.k], axis=1), jnp.concatenate([own.v, other.v], axis=1)
        seen = jnp.concatenate([own_seen, context_window.is_valid], axis=1)
        y = self.stream.output(params["stream"], attend_seen(self.stream, own.q, k, v, seen), None)
        if self.ends_context:
            return y, None
        found = attend_seen(self.context, other.q, k, v, seen)
        return y, self.context.output(params["context"], found, None)
