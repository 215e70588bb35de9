"""Which tokens are masked: draws spread evenly over a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def spread(key: jax.Array, count: int) -> Float[Array, " count"]:
    """Numbers in [0, 1) at equal distances, around the end: each by itself is uniform, together they leave no
    gaps (the low-discrepancy sampler of https://arxiv.org/abs/2107.00630, appendix I)."""
    return (jnp.arange(count) / count + jax.random.uniform(key)) % 1


def choose(key: jax.Array, candidates: Bool[Array, "B S"], count: Int[Array, " B"]) -> Bool[Array, "B S"]:
    """`count` of each row's candidates, all sets of that size alike."""
    order = jnp.where(candidates, jax.random.uniform(key, candidates.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(order, axis=-1), axis=-1)
    return candidates & (rank < count[:, None])


def behind_prefix(key: jax.Array, candidates: Bool[Array, "B S"], share: float) -> Bool[Array, "B S"]:
    """The candidates without those of a prefix, which a `share` of the rows gets: of any length that leaves
    at least a quarter of the row."""
    rows, length = jax.random.split(key)
    batch, size = candidates.shape
    has_prefix = jax.random.uniform(rows, (batch,)) < share
    prefix = jax.random.randint(length, (batch,), 1, max(size * 3 // 4, 1) + 1)
    return candidates & (jnp.arange(size) >= jnp.where(has_prefix, prefix, 0)[:, None])
