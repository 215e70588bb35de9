"""Block verification: the longest prefix of a chain that all its probabilities allow together."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.acceptance.excess import normalised, ratios, share
from jaxmodels.decoding.trees import Tree
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class BlockVerification:
    """Accepts the longest prefix that the whole block's probabilities allow; never fewer than by tokens.

    With ``b_0 = 1`` and ``b_i = min(1, b_{i-1} p(x_i) / q(x_i))``, a prefix of i < G tokens is acceptable
    with probability ``r_i / (r_i + 1 - b_i)`` where ``r_i = sum_v max(b_i p_i(v) - q_i(v), 0)``, the whole
    with ``b_G``, each independently; the longest acceptable one is taken, and followed by a token of the
    normalised excess ``max(b_i p - q, 0)``. Source: Sun et al. 2024 (arXiv 2403.10444).

    It is for chains alone: `outcomes` raises ValueError for a tree.
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        if tree is not None:
            raise ValueError(
                f"acceptance=BlockVerification() verifies chains, and the draft is a tree of {tree.size - 1} "
                f"tokens with up to {tree.siblings} siblings; use TokenVerification()"
            )
        ratio = ratios(target[:, :-1], draft, drafted)
        kept = [jnp.ones_like(ratio[:, 0])]
        for i in range(ratio.shape[1]):
            kept.append(jnp.minimum(1.0, kept[-1] * ratio[:, i]))
        b = jnp.stack(kept, axis=1)
        # Nothing was drafted behind the last token: there the excess is the whole of p.
        excess = jnp.maximum(b[:, :, None] * target - jnp.pad(draft, ((0, 0), (0, 1), (0, 0))), 0.0)
        room = excess[:, :-1].sum(-1)
        acceptable = _appended(share(room, b[:, :-1]).at[:, 0].set(1.0), b[:, -1])
        none_longer = jnp.cumprod((1.0 - acceptable)[:, ::-1], axis=1)[:, ::-1]
        taken = acceptable * _appended(none_longer[:, 1:], 1.0)
        return taken[:, :, None] * normalised(excess)


register_dataclass(BlockVerification, [], [])


def _appended(values: Float[Array, "B G"], last: Array | float) -> Float[Array, "B G+1"]:
    last = jnp.broadcast_to(last, values.shape[:1])
    return jnp.concatenate([values, last[:, None]], axis=1)
