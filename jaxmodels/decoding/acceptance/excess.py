"""What rules compute with: how much more probable tokens are under the model than under the draft."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.trees import Tree


def ratios(
    target: Float[Array, "B S V"], draft: Float[Array, "B S V"], drafted: Int[Array, "B S"]
) -> Float[Array, "B S"]:
    """``p / q`` of the drafted tokens; 0 where a token has no probability under the draft."""
    p, q = (
        jnp.take_along_axis(distribution, drafted[:, :, None], axis=2)[:, :, 0]
        for distribution in (target, draft)
    )
    return jnp.where(q > 0, p / jnp.where(q > 0, q, 1.0), 0.0)


def offered(
    i: Int[Array, ""] | int,
    left: Float[Array, "B S V"],
    draft: Float[Array, "B G V"],
    drafted: Int[Array, "B G"],
    tree: Tree,
) -> tuple[Int[Array, "B"], Float[Array, "B V"], Float[Array, "B V"], Float[Array, "B"]]:
    """Drafted token i of a tree: its parent, p and q behind the parent, and their ratio as of `ratios`.

    Rules that go through a tree token by token touch one distribution in each step. Parents stand before
    their children, and siblings in the order in which they are tried.

    left: what is left of the model's distribution behind each window token.
    """
    parent, q = tree.parents[:, i], draft[:, i]
    p = left[jnp.arange(parent.shape[0]), parent]
    return parent, p, q, ratios(p[:, None], q[:, None], drafted[:, i, None])[:, 0]


def normalised(excess: Float[Array, "... V"]) -> Float[Array, "... V"]:
    """The distribution with these proportions; zeros where all are zero."""
    total = excess.sum(-1, keepdims=True)
    return excess / jnp.where(total > 0, total, 1.0)


def share(room: Float[Array, "..."], kept: Float[Array, "..."]) -> Float[Array, "..."]:
    """``room / (room + 1 - kept)``, and 1 where both of its parts are zero.

    Of a prefix that is kept with probability `kept`, the continuations that a draft proposes take up all but
    `room`. Where the draft has failed, which happens with probability ``room + 1 - kept``, this is the
    probability with which the prefix is still to be kept.
    """
    whole = room + 1.0 - kept
    return jnp.where(whole > 0, room / jnp.where(whole > 0, whole, 1.0), 1.0)
