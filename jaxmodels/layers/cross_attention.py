"""Attention of one sequence to another, its context: a text, for example."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.uncached_attention import SEQUENCE_FIELDS, attend_seen, check_defaults
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """Softmax attention whose keys and values are made of a context, without a history.

    Attributes:
        attention: the projections, norms and scores; its queries are made of the stream.
        d_context: width of the context.

    Raises:
        ValueError: `attention` has a rotary embedding, or anything else that needs a single sequence.
    """

    attention: Attention
    d_context: int

    def __post_init__(self) -> None:
        check_defaults("CrossAttention", self.attention, (*SEQUENCE_FIELDS, "rope", "adapter_rank"))

    def spec(self) -> ParamTree:
        of_context = replace(self.attention, input_dim=self.d_context).spec()
        return {**self.attention.spec(), "w_k": of_context["w_k"], "w_v": of_context["w_v"]}

    def flops(self, tokens: int, context: int) -> int:
        """FLOPs of `tokens` queries that see `context` keys, keys and values included."""
        a = self.attention
        own = 2 * a.num_heads * a.head_dim * (a.d_in + a.d_model) + 4 * a.num_heads * a.head_dim * context
        return tokens * own + context * 4 * a.num_kv_heads * a.head_dim * self.d_context

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: Float[Array, "B T C"],
        window: Window,
        seen: Bool[Array, "B T"] | None = None,
    ) -> Float[Array, "B S D"]:
        """The layer over a whole sequence. seen: which tokens of the context are real, by default all.

        A row whose context has no real token gets the output bias alone. (`diffusers` adds -10,000 to the
        logits of the others instead, which for such a row attends to all of them.)
        """
        if seen is None:
            seen = jnp.ones(context.shape[:2], bool)
        return self.read(params, x, *self.keys_and_values(params, context), window, seen)

    def keys_and_values(
        self, params: Params, context: Float[Array, "B T C"]
    ) -> tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """What is made of the context alone, and so once for all steps that see it."""
        return self.attention.keys_and_values(params, context)

    def read(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        window: Window,
        seen: Bool[Array, "B T"],
    ) -> Float[Array, "B S D"]:
        """`forward` with `keys_and_values` made before."""
        out = attend_seen(self.attention, self.attention.queries(params, x, window), k, v, seen)
        return self.attention.output(params, out, None)
