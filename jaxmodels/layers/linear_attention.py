"""Linear attention in both directions: a sum over all tokens in place of the softmax."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import rotated
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.uncached_attention import SEQUENCE_FIELDS, check_defaults
from jaxmodels.layers.window import Window


def relu_attention(
    q: Float[Array, "B S N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N I"],
    seen: Bool[Array, "B T"],
    eps: float = 1e-15,
) -> Float[Array, "B S N I"]:
    """``sum_t relu(q).relu(k_t) v_t / (sum_t relu(q).relu(k_t) + eps)`` over the keys that are seen, float32.

    The sums over t are taken first, so that the work grows with S + T and not with their product.
    """
    q, k = jax.nn.relu(q.astype(jnp.float32)), jax.nn.relu(k.astype(jnp.float32))
    k = jnp.where(seen[:, :, None, None], k, 0.0)
    state = jnp.einsum("btnh,btni->bnhi", k, v.astype(jnp.float32))
    weighted = jnp.einsum("bsnh,bnhi->bsni", q, state)
    total = jnp.einsum("bsnh,bnh->bsn", q, k.sum(1))
    return weighted / (total[..., None] + eps)


@dataclass(frozen=True, kw_only=True)
class ReLUAttention:
    """`relu_attention` of a sequence with itself, the mixer of Sana (https://arxiv.org/abs/2410.10629).

    It keeps no history: every token sees every other. Padding is not seen.

    Attributes:
        attention: the projections and norms.
        eps: keeps a token whose weights are all 0 from dividing by 0.

    Raises:
        ValueError: `attention` has groups of query heads, or anything that belongs to a softmax or a history.
    """

    attention: Attention
    eps: float = 1e-15

    def __post_init__(self) -> None:
        check_defaults("ReLUAttention", self.attention, (*SEQUENCE_FIELDS, "softcap", "scale"))
        if self.attention.num_kv_heads != self.attention.num_heads:
            raise ValueError(
                f"ReLUAttention: num_kv_heads={self.attention.num_kv_heads} must equal "
                f"num_heads={self.attention.num_heads}"
            )

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        """What the layer asks a window to rotate by."""
        return self.attention.ropes

    def spec(self) -> ParamTree:
        return self.attention.spec()

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token; the same for every `context` above 0, and 0 counts the weights alone."""
        a = self.attention
        return a.flops_per_token(0) + (4 * a.num_heads * a.head_dim**2 if context else 0)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        new = rotated(self.attention.heads, self.attention.project(params, x, window), window)
        out = relu_attention(new.q, new.k, new.v, window.is_valid, self.eps)
        return self.attention.output(params, out.astype(x.dtype), None)
