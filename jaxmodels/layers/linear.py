"""The products of activations with weights, or with a number.

Weights are stored ``[out, in]``, the layout of checkpoints, so that loading moves nothing. This file alone
knows how such a product is best computed, `layers.quantized.products` what becomes of it where the weight is
held in few bits. Layers multiply with their weights by `linear`, or by `contract` where a weight has another
layout.
"""

import functools
import math
import os
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.layers.backends import TPU_TILE_ROWS, ByBackend
from jaxmodels.layers.partition import axis_size
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.products import quantized_einsum, quantized_product

Weight: TypeAlias = Float[Array, "..."] | QuantizedArray

# Below this many weights a product is over on a CPU before a second thread has begun.
_WORTH_CARE = 2**16
# With more rows than this, XLA's CPU backend does as well with the plain product.
_MOST_ROWS = 128
# Rows are multiplied in multiples of this.
_ROWS_TOGETHER = 4
# Fewest outputs in one piece, and fewest pieces.
_LEAST_OUTPUTS, _LEAST_PIECES = 32, 8


def linear(
    x: Float[Array, "... D"],
    w: Weight,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "..."]:
    """``x @ w.T`` for a `w` [*F, D]: its output axes, one or several, take the place of x's last axis.

    The result is rounded to `dtype` once, to that of the operands if None. `precision` is that of
    `jax.lax.dot`: TPUs multiply float32 in one pass of bfloat16 unless it is asked for.

    With few rows, as in decoding, the product is bound by reading `w`, and backends differ in which form of
    it reads `w` fastest: see `on_cpu` and `on_tpu`. Where devices share its outputs, `w` keeps its axes: cut
    along one of them, it would have to be gathered to become a matrix.
    """
    shared = axis_size("tensor") > 1
    rows = functools.partial(_shared if shared else _alone, precision=precision)
    matrix = w if shared else w.reshape(-1, w.shape[-1])
    if isinstance(matrix, QuantizedArray):
        y = quantized_product(rows, x, matrix, dtype)
    else:
        y = rows(x, matrix, dtype)
    return y.reshape(*x.shape[:-1], *w.shape[:-1])


def contract(
    pattern: str, x: Float[Array, "..."], w: Weight, dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """``jnp.einsum(pattern, x, w)`` for a weight with another layout than `linear`'s, rounded to `dtype`
    once."""
    if isinstance(w, QuantizedArray):
        return quantized_einsum(pattern, x, w, dtype)
    return jnp.einsum(pattern, x, w, preferred_element_type=dtype)


def _shared(
    x: Float[Array, "... D"], w: Float[Array, "*F D"], dtype: DTypeLike | None, precision: lax.PrecisionLike
) -> Float[Array, "..."]:
    y: Array = SHARED.given(dtype=dtype, precision=precision)(x, w)
    return y


def _alone(
    x: Float[Array, "... D"], w: Float[Array, "F D"], dtype: DTypeLike | None, precision: lax.PrecisionLike
) -> Float[Array, "... F"]:
    if 0 < math.prod(x.shape[:-1]) <= _MOST_ROWS:
        y: Array = _few_rows(x, w, dtype, precision)
        return y
    return product(x, w, dtype, precision)


def scaled(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """``factor * x`` in x's dtype; x itself where the factor is 1."""
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def product(
    x: Float[Array, "... D"],
    w: Float[Array, "*F D"],
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "..."]:
    """``x @ w.T`` as it is written."""
    return jnp.tensordot(x, w, (-1, -1), precision=precision, preferred_element_type=dtype)


def on_cpu(
    x: Float[Array, "... D"],
    w: Float[Array, "F D"],
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "... F"]:
    """``x @ w.T`` for up to `_MOST_ROWS` rows.

    XLA's CPU backend runs one thread for a single row, and for a few repacks `w` at half the speed of weights
    that are stored ``[in, out]``. `by_outputs` and `weights_first` take as much processor time as those, from
    1 to 128 rows of 1536 x 768, 4096 x 1024 and the like.
    """
    if w.size < _WORTH_CARE:
        return product(x, w, dtype, precision)
    return (by_outputs if x.size == x.shape[-1] else weights_first)(x, w, dtype, precision)


def on_tpu(
    x: Float[Array, "... D"],
    w: Float[Array, "*F D"],
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "..."]:
    """``x @ w.T`` in the matrix unit, for a single row as for several.

    The TPU compiler gives a product with one row to the vector unit, which takes three times as long as
    reading `w` and rounds every product to bfloat16. It does so whenever it can see that the other rows are
    padding, hence the barrier. A tile of rows takes as long as two do.
    """
    if x.size > x.shape[-1]:
        return product(x, w, dtype, precision)
    rows = jnp.pad(x.reshape(1, -1), ((0, TPU_TILE_ROWS - 1), (0, 0)))
    y = product(lax.optimization_barrier(rows), w, dtype, precision)
    return y[0].reshape(*x.shape[:-1], *w.shape[:-1])


def by_outputs(
    x: Float[Array, "... D"],
    w: Float[Array, "F D"],
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "... F"]:
    """``x @ w.T`` for a single row, by pieces of the outputs: a batch, which runs on all threads."""
    d_out, d_in = w.shape
    pieces = max(_LEAST_PIECES, 2 ** math.ceil(math.log2(os.cpu_count() or 1)))
    while pieces > 1 and (d_out % pieces or d_out // pieces < _LEAST_OUTPUTS):
        pieces //= 2
    if pieces == 1:
        return product(x, w, dtype, precision)
    repeated, by_piece = jnp.broadcast_to(x.reshape(d_in), (pieces, d_in)), w.reshape(pieces, -1, d_in)
    y = jnp.einsum("kd,kfd->kf", repeated, by_piece, precision=precision, preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], d_out)


def weights_first(
    x: Float[Array, "... D"],
    w: Float[Array, "F D"],
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Float[Array, "... F"]:
    """``x @ w.T`` for few rows, as ``(w @ x.T).T``, which needs `w` as it lies in memory."""
    rows = x.reshape(-1, x.shape[-1])
    columns = jnp.pad(rows.T, ((0, 0), (0, -len(rows) % _ROWS_TOGETHER)))
    # Without the barriers XLA would undo the transpositions, and find no fast product for what results.
    y = jnp.matmul(w, lax.optimization_barrier(columns), precision=precision, preferred_element_type=dtype)
    y = lax.optimization_barrier(y)
    return y[:, : len(rows)].T.reshape(*x.shape[:-1], w.shape[0])


FEW_ROWS = ByBackend(portable=product, cpu=on_cpu, tpu=on_tpu)
SHARED = ByBackend(portable=product, tpu=on_tpu)


# A model's layers repeat the same few products: each is traced once, and leaves no trace of the jit.
@functools.partial(jax.jit, inline=True, static_argnames=("dtype", "precision"))
def _few_rows(
    x: Float[Array, "... D"],
    w: Float[Array, "F D"],
    dtype: DTypeLike | None,
    precision: lax.PrecisionLike,
) -> Float[Array, "... F"]:
    y: Array = FEW_ROWS.given(dtype=dtype, precision=precision)(x, w)
    return y
