"""Greedy multi-path block verification: of several independent paths the best one is judged as a block."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.acceptance.blocks import BlockVerification
from jaxmodels.decoding.trees import Fork, Tree
from jaxmodels.pytrees import register_dataclass

NO_SHARE = 1e-30


@dataclass(frozen=True)
class MultiPathVerification:
    """Picks the best of several independent paths and verifies it as a block. Exact.

    Behind each token the next ones are ranked by ``p / q``, of equals by id, and of the K paths the one is
    picked whose tokens rank highest, the first token first. The picked path is as if drawn from a draft that
    is nearer to the model. With L the probability under q of all paths that rank below a prefix, and m its
    own, the prefix is picked with probability ``(L + m)^K - L^K``. From this come the distributions of the
    picked tokens, given those before them, which take the place of q in `BlockVerification`. Only the picked
    path is accepted from. A trunk that all paths share is verified together with it.

    It is for drafts of independent paths (`PathsDrafter`), and for chains, where it is `BlockVerification`;
    for other trees, of which nobody knows how they were drawn, `outcomes` raises ValueError.

    Source: greedy multi-path block verification (GBV, https://arxiv.org/abs/2602.16961), which says that a
    greedy choice among paths induces a skewed draft that a block is verified against. The ranking and the
    formula are inferred; that they are exact is shown by enumeration.
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        if tree is None:
            return BlockVerification().outcomes(target, draft, drafted)
        if tree.fork is None:
            raise ValueError(
                f"acceptance=MultiPathVerification() verifies paths that were drawn independently, and the "
                f"draft is a tree of {tree.size - 1} tokens with up to {tree.siblings} siblings; use "
                "TraversalVerification() or TokenVerification()"
            )
        path, picked = _pick(target, draft, drafted, tree.fork)
        nodes = jnp.pad(path + 1, ((0, 0), (1, 0)))
        rows = jnp.arange(drafted.shape[0])[:, None]
        of_path = BlockVerification().outcomes(target[rows, nodes], picked, drafted[rows, path])
        return jnp.zeros_like(target).at[rows, nodes].set(of_path)


def _pick(
    target: Float[Array, "B G+1 V"], draft: Float[Array, "B G V"], drafted: Int[Array, "B G"], fork: Fork
) -> tuple[Int[Array, "B L"], Float[Array, "B L V"]]:
    """The drafted tokens of the picked path, and the distributions that they are as if drawn from."""
    batch, rows = drafted.shape[0], jnp.arange(drafted.shape[0])
    trunk = range(fork.trunk)
    path = [jnp.full((batch,), i) for i in trunk]
    picked = [draft[:, i] for i in trunk]
    is_there = jnp.take_along_axis(draft, drafted[:, :, None], axis=2)[:, :, 0] > 0
    runs = jnp.ones((batch, fork.paths), bool)  # paths that begin as the picked one
    share = jnp.ones_like(target[:, 0, 0])  # m / (L + m)
    node = jnp.full((batch,), fork.trunk)  # the window token that the next level follows
    for level in range(fork.length):
        at = fork.level(level)
        tokens = drafted[:, at]
        first = jnp.argmax(runs, axis=1)
        q = draft[rows, at.start + first]
        above = _mass_above(target[rows, node], q)
        rank = jnp.where(runs, -jnp.take_along_axis(above, tokens, axis=1), -jnp.inf)
        best = jnp.argmax(rank, axis=1)
        token = tokens[rows, best]
        # A level of which some paths have no token is none: its tokens are not the best of as many.
        is_level = is_there[:, at].all(-1)
        picked.append(jnp.where(is_level[:, None], _best_of(q, above, share, fork.paths), 0.0))
        path.append(at.start + best)
        outside = 1.0 - share * above[rows, token]
        share = jnp.where(outside > 0, share * q[rows, token] / jnp.where(outside > 0, outside, 1.0), 1.0)
        share = jnp.minimum(share, 1.0)
        runs = runs & (tokens == token[:, None])
        node = path[-1] + 1
    return jnp.stack(path, axis=1), jnp.stack(picked, axis=1)


def _mass_above(p: Float[Array, "B V"], q: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """The probability under q of all tokens that rank higher by ``p / q``, of equals by id."""
    ratio = jnp.where(q > 0, p / jnp.where(q > 0, q, 1.0), -1.0)
    order = jnp.argsort(-ratio, axis=-1, stable=True)
    ranked = jnp.take_along_axis(q, order, axis=-1)
    rows = jnp.arange(q.shape[0])[:, None]
    return jnp.zeros_like(q).at[rows, order].set(jnp.cumsum(ranked, axis=-1) - ranked)


def _best_of(
    q: Float[Array, "B V"], above: Float[Array, "B V"], share: Float[Array, "B"], paths: int
) -> Float[Array, "B V"]:
    """The distribution of the best path's next token behind a prefix that this path has.

    In terms of L and m of the prefix, and the probability ``above`` of higher tokens, it is
    ``((L + m (1 - above))^K - (L + m (1 - above - q))^K) / ((L + m)^K - L^K)``. Divided by ``(L + m)^K`` both
    differences are of the kind ``1 - (1 - x)^K``, which keep their digits however small x is.

    Args:
        share: ``m / (L + m)``.
        paths: K.
    """
    share = share[:, None]
    outside = jnp.maximum(1.0 - share * above, 0.0)
    part = jnp.minimum(share * q / jnp.where(outside > 0, outside, 1.0), 1.0)
    best = outside**paths * _any_of(part, paths) / _any_of(jnp.maximum(share, NO_SHARE), paths)
    return jnp.where(share > NO_SHARE, best, q)  # no second path has a prefix as improbable as that


def _any_of(chance: Float[Array, "..."], times: int) -> Float[Array, "..."]:
    """The probability that what happens with `chance` happens at least once in so many times."""
    return -jnp.expm1(times * jnp.log1p(-chance))


register_dataclass(MultiPathVerification, [], [])
