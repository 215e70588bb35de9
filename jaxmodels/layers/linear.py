"""The product of activations with a weight matrix, or with a number.

Weights are stored ``[out, in]``, the layout of checkpoints, so that loading moves nothing. This file alone
knows how such a product is best computed.
"""

import math
import os

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Below this many weights a product is over before a second thread has begun.
_WORTH_SPLITTING = 2**16
# With more rows than this, XLA's CPU backend does best with the whole product.
_MOST_ROWS = 32
# Fewest outputs in one piece.
_LEAST_OUTPUTS = 32


def linear(x: Float[Array, "... D"], w: Float[Array, "*F D"]) -> Float[Array, "..."]:
    """``x @ w.T``: the output axes of `w`, one or several, take the place of x's last axis.

    With few rows, as in decoding, the product is bound by reading `w`. XLA's CPU backend runs one thread for
    a single row, and up to 32 rows takes about half again as long as from weights stored ``[in, out]``.
    There the outputs are cut into pieces, a batch that it runs on all threads: as fast as from ``[in, out]``
    at every number of rows from 1 to 32, 1536 x 768 and 4096 x 1024 on two cores. Decided when the program is
    lowered; other backends get the plain product.
    """
    rows, matrix = math.prod(x.shape[:-1]), w.reshape(-1, w.shape[-1])
    if 0 < rows <= _MOST_ROWS and w.size >= _WORTH_SPLITTING:
        y = lax.platform_dependent(x, matrix, cpu=by_outputs, default=_product)
    else:
        y = _product(x, matrix)
    return y.reshape(*x.shape[:-1], *w.shape[:-1])


def scaled(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """``factor * x`` in x's dtype; x itself where the factor is 1."""
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def by_outputs(x: Float[Array, "... D"], w: Float[Array, "F D"]) -> Float[Array, "... F"]:
    """``x @ w.T`` for few rows, by pieces of the outputs."""
    d_out, d_in = w.shape
    rows = math.prod(x.shape[:-1])
    pieces = _pieces(rows)
    while pieces > 1 and (d_out % pieces or d_out // pieces < _LEAST_OUTPUTS):
        pieces //= 2
    if pieces == 1:
        return _product(x, w)
    repeated = jnp.broadcast_to(x.reshape(rows, d_in), (pieces, rows, d_in))
    products = jnp.einsum("kbd,kfd->kbf", repeated, w.reshape(pieces, -1, d_in))
    return products.swapaxes(0, 1).reshape(*x.shape[:-1], d_out)


def _product(x: Float[Array, "... D"], w: Float[Array, "F D"]) -> Float[Array, "... F"]:
    return jnp.einsum("...d,fd->...f", x, w)


def _pieces(rows: int) -> int:
    """One for each core, and more of them where rows are few: a power of two."""
    cores = 2 ** math.ceil(math.log2(os.cpu_count() or 1))
    return max(cores, 8 if rows == 1 else 4 if rows <= 8 else 2)
