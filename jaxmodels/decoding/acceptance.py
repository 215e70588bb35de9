"""Acceptance rules: which of a draft's tokens become output, and what follows them.

A rule is a function from probabilities to probabilities, without randomness of its own. For a chain or tree
of G drafted tokens it gives the joint distribution of its outcomes "the tokens on the path to window token n
are accepted and v comes after them". A draw from it is a step of speculative decoding; summed over all drafts
it must be what the model itself would have said, which tests check by enumeration.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.trees import Tree, depths
from jaxmodels.pytrees import register_dataclass


class Acceptance(Protocol):
    """A rule. Implementations are pytrees."""

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        """Probability of accepting what leads to window token n and then emitting v, for a given draft.

        target: the model's distribution behind each window token, the newest token first.
        draft: the distributions that the tokens in `drafted` were drawn from, given their parents and those
            of their siblings that stand before them. A token to which it gives no probability is not there:
            it is never accepted and leaves the others as they are.
        tree: which token follows which; None where each follows the one before.

        Where every distribution is certain (one-hot), what is accepted is what equals. Greedy decoding counts
        on it, and does not ask the rule; see `longest_agreement`.
        """


@dataclass(frozen=True)
class TokenVerification:
    """Accepts token by token, each with probability ``min(1, p / q)``; the first that fails is replaced.

    The replacement comes from the normalised excess ``max(p - q, 0)``; where all are accepted, one more
    token comes from p. Source: Leviathan et al. 2023; Chen et al. 2023.

    In a tree the children of a token are tried one after another. Each that fails leaves the excess as the p
    for the next, and the last one's excess is what the replacement comes from. It is exact whatever each q
    depends on among the siblings before: children drawn independently of one another (SpecInfer's multi-step
    speculative sampling, https://arxiv.org/abs/2305.09781, algorithm 2), without replacement (recursive
    rejection sampling, https://arxiv.org/abs/2402.14160), or chosen without chance, with a one-hot q.
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        draft, drafted = jnp.pad(draft, ((0, 0), (0, 1), (0, 0))), jnp.pad(drafted, ((0, 0), (0, 1)))
        if tree is None:
            ratio = jnp.minimum(1.0, _ratio(target, draft, drafted))
            reached = jnp.pad(jnp.cumprod(ratio[:, :-1], axis=1), ((0, 0), (1, 0)), constant_values=1.0)
            ended = reached * (1.0 - ratio)
            return ended[:, :, None] * _normalised(jnp.maximum(target - draft, 0.0))
        p, none_taken = target, jnp.ones(target.shape[:2])
        taken = jnp.ones(target.shape[:2])  # of each window token, once its parent has been accepted
        rows = jnp.arange(target.shape[0])[:, None]
        for rank in range(tree.siblings):
            child = tree.children(rank)
            q = jnp.take_along_axis(draft, child[:, :, None], axis=1)
            ratio = jnp.minimum(1.0, _ratio(p, q, jnp.take_along_axis(drafted, child, axis=1)))
            # Where there is no child, its window index is one beyond the window's end.
            taken = taken.at[rows, child + 1].set(none_taken * ratio, mode="drop")
            none_taken = none_taken * (1.0 - ratio)
            p = _normalised(jnp.maximum(p - q, 0.0))
        reached = jnp.where(tree.ancestors(), taken[:, None, :], 1.0).prod(-1)
        return (reached * none_taken)[:, :, None] * p


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
        ratio = _ratio(target[:, :-1], draft, drafted)
        kept = [jnp.ones_like(ratio[:, 0])]
        for i in range(ratio.shape[1]):
            kept.append(jnp.minimum(1.0, kept[-1] * ratio[:, i]))
        b = jnp.stack(kept, axis=1)
        # Nothing was drafted behind the last token: there the excess is the whole of p.
        excess = jnp.maximum(b[:, :, None] * target - jnp.pad(draft, ((0, 0), (0, 1), (0, 0))), 0.0)
        room = excess[:, :-1].sum(-1)
        whole = room + 1.0 - b[:, :-1]
        acceptable = jnp.where(whole > 0, room / jnp.where(whole > 0, whole, 1.0), 1.0)
        acceptable = _appended(acceptable.at[:, 0].set(1.0), b[:, -1])
        none_longer = jnp.cumprod((1.0 - acceptable)[:, ::-1], axis=1)[:, ::-1]
        taken = acceptable * _appended(none_longer[:, 1:], 1.0)
        return taken[:, :, None] * _normalised(excess)


def draw(outcomes: Float[Array, "B G+1 V"], keys: Array) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """One outcome per row: the last window token that is accepted, and the token that follows it."""

    def one(outcomes: Float[Array, "G+1 V"], key: Array) -> tuple[Array, Array]:
        key_n, key_v = jax.random.split(key)
        n = jax.random.categorical(key_n, jnp.log(outcomes.sum(-1)))
        return n, jax.random.categorical(key_v, jnp.log(outcomes[n]))

    n, token = jax.vmap(one)(outcomes, keys)
    return n.astype(jnp.int32), token.astype(jnp.int32)


def longest_agreement(
    choices: Int[Array, "B G+1"],
    drafted: Int[Array, "B G"],
    count: Int[Array, "B"],
    tree: Tree | None = None,
) -> Int[Array, "B"]:
    """Greedy acceptance: the window token at the end of the longest path that the model would have chosen.

    choices: the model's choice behind each window token. count: how many drafted tokens are there.
    """
    there = jnp.arange(drafted.shape[1]) < count[:, None]
    if tree is None:
        return jnp.cumprod(there & (drafted == choices[:, :-1]), axis=1).sum(1, dtype=jnp.int32)
    agrees = there & (drafted == jnp.take_along_axis(choices, tree.parents, axis=1))
    agrees = jnp.pad(agrees, ((0, 0), (1, 0)), constant_values=True)
    ancestors = tree.ancestors()
    accepted = (~ancestors | agrees[:, None, :]).all(-1)
    return jnp.argmax(jnp.where(accepted, depths(ancestors), -1), axis=-1).astype(jnp.int32)


for _rule in (TokenVerification, BlockVerification):
    register_dataclass(_rule, [], [])


def _ratio(
    target: Float[Array, "B S V"], draft: Float[Array, "B S V"], drafted: Int[Array, "B S"]
) -> Float[Array, "B S"]:
    """``p / q`` of the drafted tokens; 0 where a token has no probability under the draft."""
    p, q = (
        jnp.take_along_axis(distribution, drafted[:, :, None], axis=2)[:, :, 0]
        for distribution in (target, draft)
    )
    return jnp.where(q > 0, p / jnp.where(q > 0, q, 1.0), 0.0)


def _appended(values: Float[Array, "B G"], last: Array | float) -> Float[Array, "B G+1"]:
    last = jnp.broadcast_to(last, values.shape[:1])
    return jnp.concatenate([values, last[:, None]], axis=1)


def _normalised(excess: Float[Array, "B S V"]) -> Float[Array, "B S V"]:
    total = excess.sum(-1, keepdims=True)
    return excess / jnp.where(total > 0, total, 1.0)
