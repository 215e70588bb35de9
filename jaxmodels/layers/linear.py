"""The product of activations with a weight matrix, or with a number."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Below this many weights a product is over before a second thread has begun.
_WORTH_SPLITTING = 2**16


def linear(x: Float[Array, "... D"], w: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """``x @ w``.

    For a single token, which is a matrix-vector product and bound by reading `w`, XLA's CPU backend runs
    one thread, and one thread does not saturate the memory. There the contraction is cut into two halves, a
    batch that it runs on two threads: 20 instead of 14 GB/s for 768 x 1536 on two cores. Decided when the
    program is lowered; other backends get the plain product.
    """
    d_in = w.shape[0]
    if math.prod(x.shape[:-1]) != 1 or d_in % 2 or w.size < _WORTH_SPLITTING:
        return x @ w
    return lax.platform_dependent(x, w, cpu=_in_halves, default=jnp.matmul)


def scaled(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """``factor * x`` in x's dtype; x itself where the factor is 1."""
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def _in_halves(x: Float[Array, "... D"], w: Float[Array, "D F"]) -> Float[Array, "... F"]:
    d_in, d_out = w.shape
    halves = jnp.einsum(
        "kd,kdf->kf",
        x.reshape(2, d_in // 2),
        w.reshape(2, d_in // 2, d_out),
        preferred_element_type=jnp.float32,
    )
    return halves.sum(0).astype(jnp.result_type(x, w)).reshape(*x.shape[:-1], d_out)
