"""The product of activations with a weight matrix, or with a number."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Below this many weights a product is over before a second thread has begun.
_WORTH_SPLITTING = 2**16
# Most pieces of a contraction, and the fewest rows of weights in one.
_MOST_PIECES, _LEAST_ROWS = 8, 96


def linear(x: Float[Array, "... D"], w: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """``x @ w``.

    For a single token, which is a matrix-vector product and bound by reading `w`, XLA's CPU backend runs
    one thread, and one thread does not saturate the memory. There the contraction is cut into pieces, a
    batch that it runs on all threads: 35 instead of 27 GB/s for 1536 x 768 on two cores. Decided when the
    program is lowered; other backends get the plain product.
    """
    if math.prod(x.shape[:-1]) != 1 or w.size < _WORTH_SPLITTING:
        return x @ w
    return lax.platform_dependent(x, w, cpu=vector_matrix, default=jnp.matmul)


def scaled(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """``factor * x`` in x's dtype; x itself where the factor is 1."""
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def vector_matrix(x: Float[Array, "... D"], w: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """``x @ w`` for a single vector x, by pieces of the contraction."""
    d_in, d_out = w.shape
    pieces = _MOST_PIECES
    while pieces > 1 and (d_in % pieces or d_in // pieces < _LEAST_ROWS):
        pieces //= 2
    if pieces == 1:
        return x @ w
    products = jnp.einsum(
        "kd,kdf->kf",
        x.reshape(pieces, -1),
        w.reshape(pieces, -1, d_out),
        preferred_element_type=jnp.float32,
    )
    return products.sum(0).astype(jnp.result_type(x, w)).reshape(*x.shape[:-1], d_out)
