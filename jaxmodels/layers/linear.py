"""The product of activations with a weight matrix, or with a number.

Weights are stored ``[out, in]``, the layout of checkpoints, so that loading moves nothing. This file alone
knows how such a product is best computed.
"""

import functools
import math
import os

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Below this many weights a product is over before a second thread has begun.
_WORTH_CARE = 2**16
# With more rows than this, XLA's CPU backend does as well with the plain product.
_MOST_ROWS = 128
# Rows are multiplied in multiples of this.
_ROWS_TOGETHER = 4
# Fewest outputs in one piece, and fewest pieces.
_LEAST_OUTPUTS, _LEAST_PIECES = 32, 8


def linear(
    x: Float[Array, "... D"], w: Float[Array, "*F D"], dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """``x @ w.T``: the output axes of `w`, one or several, take the place of x's last axis.

    The result is rounded to `dtype` once, to that of the operands if None.

    With few rows, as in decoding, the product is bound by reading `w`. XLA's CPU backend runs one thread for
    a single row, and for a few repacks `w` at half the speed of weights that are stored ``[in, out]``. There
    `by_outputs` and `weights_first` take as much processor time as those, from 1 to 128 rows of 1536 x 768,
    4096 x 1024 and the like. Decided when the program is lowered; other backends get the plain product.
    """
    rows, matrix = math.prod(x.shape[:-1]), w.reshape(-1, w.shape[-1])
    if 0 < rows <= _MOST_ROWS and w.size >= _WORTH_CARE:
        on_cpu = by_outputs if rows == 1 else weights_first
        y = lax.platform_dependent(
            x,
            matrix,
            cpu=functools.partial(on_cpu, dtype=dtype),
            default=functools.partial(product, dtype=dtype),
        )
    else:
        y = product(x, matrix, dtype)
    return y.reshape(*x.shape[:-1], *w.shape[:-1])


def scaled(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """``factor * x`` in x's dtype; x itself where the factor is 1."""
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def product(
    x: Float[Array, "... D"], w: Float[Array, "F D"], dtype: DTypeLike | None = None
) -> Float[Array, "... F"]:
    """``x @ w.T`` as it is written."""
    return jnp.einsum("...d,fd->...f", x, w, preferred_element_type=dtype)


def by_outputs(
    x: Float[Array, "... D"], w: Float[Array, "F D"], dtype: DTypeLike | None = None
) -> Float[Array, "... F"]:
    """``x @ w.T`` for a single row, by pieces of the outputs: a batch, which runs on all threads."""
    d_out, d_in = w.shape
    pieces = max(_LEAST_PIECES, 2 ** math.ceil(math.log2(os.cpu_count() or 1)))
    while pieces > 1 and (d_out % pieces or d_out // pieces < _LEAST_OUTPUTS):
        pieces //= 2
    if pieces == 1:
        return product(x, w, dtype)
    repeated = jnp.broadcast_to(x.reshape(d_in), (pieces, d_in))
    y = jnp.einsum("kd,kfd->kf", repeated, w.reshape(pieces, -1, d_in), preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], d_out)


def weights_first(
    x: Float[Array, "... D"], w: Float[Array, "F D"], dtype: DTypeLike | None = None
) -> Float[Array, "... F"]:
    """``x @ w.T`` for few rows, as ``(w @ x.T).T``, which needs `w` as it lies in memory."""
    rows = x.reshape(-1, x.shape[-1])
    columns = jnp.pad(rows.T, ((0, 0), (0, -len(rows) % _ROWS_TOGETHER)))
    # Without the barriers XLA would undo the transpositions, and find no fast product for what results.
    y = jnp.matmul(w, lax.optimization_barrier(columns), preferred_element_type=dtype)
    y = lax.optimization_barrier(y)
    return y[:, : len(rows)].T.reshape(*x.shape[:-1], w.shape[0])
