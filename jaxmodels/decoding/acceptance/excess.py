"""What rules compute with: how much more probable tokens are under the model than under the draft."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def ratios(
    target: Float[Array, "B S V"], draft: Float[Array, "B S V"], drafted: Int[Array, "B S"]
) -> Float[Array, "B S"]:
    """``p / q`` of the drafted tokens; 0 where a token has no probability under the draft."""
    p, q = (
        jnp.take_along_axis(distribution, drafted[:, :, None], axis=2)[:, :, 0]
        for distribution in (target, draft)
    )
    return jnp.where(q > 0, p / jnp.where(q > 0, q, 1.0), 0.0)


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
