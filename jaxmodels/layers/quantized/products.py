"""Products with weights in few bits.

Where a scale belongs to an output, the numbers are multiplied as they are and the result scaled: compilers
for TPU and GPU convert numbers as they read them. Where outputs have several scales, one for each group of
inputs, a TPU would write the weight out in full before it multiplied; see `by_masked_rows`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.quantized.array import QuantizedArray, dequantized, factors

# A product of rows [..., D] with a weight [*F, D], in the dtype that is asked for.
PlainProduct: TypeAlias = Callable[[Array, Array, Any], Array]

# Most rows, times groups, for which `by_masked_rows` takes less time than writing the weight out.
_MOST_MASKED_ROWS = 1024


def quantized_product(
    plain: PlainProduct, x: Float[Array, "... D"], w: QuantizedArray, dtype: DTypeLike | None
) -> Float[Array, "..."]:
    """``x @ w.T`` for `w` [*F, D], rounded once to `dtype`, by default that of the product of arrays.

    plain: the product of arrays.
    """
    wide = jnp.result_type(x.dtype, w.dtype)
    x, wanted = x.astype(wide), wide if dtype is None else dtype
    groups = w.scales.shape[-1]
    if groups == 1:
        y = plain(x, w.numbers.astype(wide), jnp.float32) * factors(w.scales)[..., 0]
        return y.astype(wanted)
    if x.size // x.shape[-1] * groups > _MOST_MASKED_ROWS:
        return plain(x, dequantized(w, wide), wanted)

    def whole(x: Array, numbers: Array, scales: Array) -> Array:
        return plain(x, dequantized(QuantizedArray(numbers, scales, w.dtype), wide), wanted)

    def masked(x: Array, numbers: Array, scales: Array) -> Array:
        return by_masked_rows(plain, x, numbers, scales).astype(wanted)

    y = ByBackend(portable=whole, tpu=masked)(x, w.numbers, w.scales)
    return y


def by_masked_rows(
    plain: PlainProduct,
    x: Float[Array, "... D"],
    numbers: Shaped[Array, "*F D"],
    scales: Shaped[Array, "*F G"],
) -> Float[Array, "..."]:
    """``x @ w.T`` in float32 with each row of x once for each of the G groups, all but the group masked.

    The matrix unit takes as long for many rows as for one while it waits for the weight, and this form reads
    it once, as it is held.
    """
    outputs, groups = numbers.shape[:-1], scales.shape[-1]
    mine = jnp.eye(groups, dtype=x.dtype)[:, :, None]
    rows = (x.reshape(-1, 1, groups, x.shape[-1] // groups) * mine).reshape(-1, x.shape[-1])
    y = plain(rows, numbers.astype(x.dtype), jnp.float32).reshape(-1, groups, *outputs)
    return (y * jnp.moveaxis(factors(scales), -1, 0)).sum(1).reshape(*x.shape[:-1], *outputs)


def quantized_einsum(
    pattern: str, x: Float[Array, "..."], w: QuantizedArray, dtype: DTypeLike | None
) -> Float[Array, "..."]:
    """``jnp.einsum(pattern, x, w)``, rounded once to `dtype`, by default that of the einsum of arrays.

    Scales go to the result or to x, where it has their dimensions; else the weight is written out.
    """
    wide = jnp.result_type(x.dtype, w.dtype)
    wanted = wide if dtype is None else dtype
    names, out = pattern.split("->")
    of_x, of_w = names.split(",")
    varying = [name for name, count in zip(of_w, w.scales.shape, strict=True) if count > 1]
    alone = all(count in (1, size) for count, size in zip(w.scales.shape, w.shape, strict=True))
    scales = factors(w.scales)
    if alone and set(varying) <= set(out):
        y = jnp.einsum(pattern, x, w.numbers.astype(wide), preferred_element_type=jnp.float32)
        return (y * _laid_out(scales, of_w, out)).astype(wanted)
    if alone and set(varying) <= set(of_x):
        scaled = (x * _laid_out(scales, of_w, of_x)).astype(wide)
        return jnp.einsum(pattern, scaled, w.numbers.astype(wide), preferred_element_type=wanted)
    return jnp.einsum(pattern, x, dequantized(w, wide), preferred_element_type=wanted)


def _laid_out(scales: Float[Array, "..."], names: str, like: str) -> Float[Array, "..."]:
    """Scales, whose dimensions have these names, in a shape that broadcasts against dimensions named `like`,
    of which an ellipsis stands for those in front."""
    behind = like.removeprefix("...")
    kept = [name for name in behind if name in names]
    dropped = tuple(i for i, name in enumerate(names) if name not in kept)
    moved = jax.lax.transpose(
        scales.squeeze(dropped), [[n for n in names if n in kept].index(name) for name in kept]
    )
    return jnp.expand_dims(moved, [i for i, name in enumerate(behind) if name not in names])
