"""A draw from the outcomes of a rule."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def draw(
    outcomes: Float[Array, "B G+1 V"], keys: Array, most: int = 0
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """One outcome per row: the last window token that is accepted, and the token that follows it.

    most: tokens that windows have at most. With the same number, windows of any size give the same draws.
    """
    beyond = max(most - outcomes.shape[1], 0)

    def one(outcomes: Float[Array, "G+1 V"], key: Array) -> tuple[Array, Array]:
        key_n, key_v = jax.random.split(key)
        n = jax.random.categorical(key_n, jnp.log(jnp.pad(outcomes.sum(-1), (0, beyond))))
        return n, jax.random.categorical(key_v, jnp.log(outcomes[n]))

    n, token = jax.vmap(one)(outcomes, keys)
    return n.astype(jnp.int32), token.astype(jnp.int32)
