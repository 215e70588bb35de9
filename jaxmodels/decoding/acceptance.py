"""Acceptance rules: which of a draft's tokens become output, and what follows them.

A rule is a function from probabilities to probabilities, without randomness of its own. For a window of G
drafted tokens it gives the joint distribution of its outcomes "the first n drafted tokens are accepted and v
comes after them". A draw from it is a step of speculative decoding; summed over all drafts it must be what
the model itself would have said, which tests check by enumeration.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Acceptance(Protocol):
    """A rule. Implementations are pytrees."""

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
    ) -> Float[Array, "B G+1 V"]:
        """Probability of accepting exactly n drafted tokens and then emitting v, for a given draft.

        target: the model's distribution behind each window token, the newest token first.
        draft: the distributions that the tokens in `drafted` were drawn from.
        """


@dataclass(frozen=True)
class TokenVerification:
    """Accepts token by token, each with probability ``min(1, p / q)``; the first that fails is replaced.

    The replacement comes from the normalised excess ``max(p - q, 0)``; where all are accepted, one more
    token comes from p. With one-hot distributions this is greedy verification. Source: Leviathan et al. 2023;
    Chen et al. 2023.
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
    ) -> Float[Array, "B G+1 V"]:
        ratio = jnp.minimum(1.0, _ratio(target, draft, drafted))
        reached = _padded(jnp.cumprod(ratio, axis=1))
        stopped = reached * (1.0 - _appended(ratio, 0.0))
        return stopped[:, :, None] * _normalised(jnp.maximum(target - _padded_draft(draft), 0.0))


@dataclass(frozen=True)
class BlockVerification:
    """Accepts the longest prefix that the whole block's probabilities allow; never fewer than by tokens.

    With ``b_0 = 1`` and ``b_i = min(1, b_{i-1} p(x_i) / q(x_i))``, a prefix of i < G tokens is acceptable
    with probability ``r_i / (r_i + 1 - b_i)`` where ``r_i = sum_v max(b_i p_i(v) - q_i(v), 0)``, the whole
    with ``b_G``, each independently; the longest acceptable one is taken, and followed by a token of the
    normalised excess ``max(b_i p - q, 0)``. Source: Sun et al. 2024 (arXiv 2403.10444).
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
    ) -> Float[Array, "B G+1 V"]:
        ratio = _ratio(target, draft, drafted)
        kept = [jnp.ones_like(ratio[:, 0])]
        for i in range(ratio.shape[1]):
            kept.append(jnp.minimum(1.0, kept[-1] * ratio[:, i]))
        b = jnp.stack(kept, axis=1)
        excess = jnp.maximum(b[:, :, None] * target - _padded_draft(draft), 0.0)
        room = excess[:, :-1].sum(-1)
        whole = room + 1.0 - b[:, :-1]
        acceptable = jnp.where(whole > 0, room / jnp.where(whole > 0, whole, 1.0), 1.0)
        acceptable = _appended(acceptable.at[:, 0].set(1.0), b[:, -1])
        none_longer = jnp.cumprod((1.0 - acceptable)[:, ::-1], axis=1)[:, ::-1]
        taken = acceptable * _appended(none_longer[:, 1:], 1.0)
        return taken[:, :, None] * _normalised(excess)


def draw(outcomes: Float[Array, "B G+1 V"], keys: Array) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """One outcome per row: how many drafted tokens are accepted, and the token that follows them."""

    def one(outcomes: Float[Array, "G+1 V"], key: Array) -> tuple[Array, Array]:
        key_n, key_v = jax.random.split(key)
        n = jax.random.categorical(key_n, jnp.log(outcomes.sum(-1)))
        return n, jax.random.categorical(key_v, jnp.log(outcomes[n]))

    n, token = jax.vmap(one)(outcomes, keys)
    return n.astype(jnp.int32), token.astype(jnp.int32)


for _rule in (TokenVerification, BlockVerification):
    jax.tree_util.register_dataclass(_rule, [], [])


def _ratio(
    target: Float[Array, "B G+1 V"], draft: Float[Array, "B G V"], drafted: Int[Array, "B G"]
) -> Float[Array, "B G"]:
    """``p / q`` of the drafted tokens; 1 where a token has no probability under the draft."""
    p, q = (
        jnp.take_along_axis(distribution, drafted[:, :, None], axis=2)[:, :, 0]
        for distribution in (target[:, :-1], draft)
    )
    return jnp.where(q > 0, p / jnp.where(q > 0, q, 1.0), 1.0)


def _padded(reached: Float[Array, "B G"]) -> Float[Array, "B G+1"]:
    return jnp.pad(reached, ((0, 0), (1, 0)), constant_values=1.0)


def _appended(values: Float[Array, "B G"], last: Array | float) -> Float[Array, "B G+1"]:
    last = jnp.broadcast_to(last, values.shape[:1])
    return jnp.concatenate([values, last[:, None]], axis=1)


def _padded_draft(draft: Float[Array, "B G V"]) -> Float[Array, "B G+1 V"]:
    """Nothing was drafted behind the last token: there the excess is the whole of p."""
    return jnp.pad(draft, ((0, 0), (0, 1), (0, 0)))


def _normalised(excess: Float[Array, "B G+1 V"]) -> Float[Array, "B G+1 V"]:
    total = excess.sum(-1, keepdims=True)
    return excess / jnp.where(total > 0, total, 1.0)
