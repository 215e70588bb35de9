"""A weight in few bits: small numbers, and the scales that blocks of them are multiplied by."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxmodels.pytrees import register_dataclass

# Of a float32, in front of which its exponent is.
_MANTISSA_BITS = 23


@dataclass(frozen=True)
class QuantizedArray:
    """The array ``numbers * scales``, each scale of which counts for a block of numbers.

    Along each dimension there is one scale for all numbers, one for each, or one for every so many that
    follow one another. Stands where a layer's parameters have an array; both parts have the dimensions of
    that array, so that slices along a leading dimension, as of the experts of a stack, are slices of both.

    Attributes:
        numbers: in an integer or floating dtype of eight or four bits.
        scales: the factors, in a floating dtype; or uint8, and then the factors are ``2 ** (scales - 127)``.
        dtype: of the array that this stands for.
    """

    numbers: Shaped[Array, "*shape"]
    scales: Shaped[Array, "*blocks"]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.numbers.shape)

    @property
    def ndim(self) -> int:
        return self.numbers.ndim

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of both parts, numbers of four bits packed."""
        return sum(held_bytes(part.shape, part.dtype) for part in (self.numbers, self.scales))

    @property
    def mT(self) -> "QuantizedArray":
        """With the last two dimensions exchanged."""
        return QuantizedArray(self.numbers.mT, self.scales.mT, self.dtype)

    def reshape(self, *shape: int) -> "QuantizedArray":
        """With neighbouring dimensions merged; of `shape` one size may be -1.

        Raises:
            ValueError: dimensions are split, or blocks do not follow one another once they are merged.
        """
        merged = _merged(self.shape, shape)
        for first, last in merged:
            scales = self.scales.shape[first:last]
            whole = [scales[i] == self.shape[first + i] for i in range(len(scales))]
            alone = [count == 1 for count in scales]
            cut = next((i for i in range(len(scales)) if not whole[i]), len(scales))
            if not all(alone[cut + 1 :]):
                raise ValueError(
                    f"scales {list(self.scales.shape)} of numbers {list(self.shape)} do not lie in order "
                    f"once the dimensions {first} to {last - 1} are one"
                )

        def reshaped(part: Array) -> Array:
            return part.reshape([math.prod(part.shape[first:last]) for first, last in merged])

        return QuantizedArray(reshaped(self.numbers), reshaped(self.scales), self.dtype)

    def is_deleted(self) -> bool:
        """Whether a part was given away to a program that donates it."""
        return any(isinstance(a, jax.Array) and a.is_deleted() for a in (self.numbers, self.scales))


register_dataclass(QuantizedArray, ["numbers", "scales"], ["dtype"])


def dequantized(w: Any, dtype: DTypeLike | None = None) -> Float[Array, "..."]:
    """The array that a `QuantizedArray` stands for, rounded once to `dtype`, its own by default; an array
    stays as it is."""
    if not isinstance(w, QuantizedArray):
        return w  # type: ignore[no-any-return]
    whole = w.numbers.astype(jnp.float32) * spread(factors(w.scales), w.shape)
    return whole.astype(w.dtype if dtype is None else dtype)


def factors(scales: Shaped[Array, "*blocks"]) -> Float[Array, "*blocks"]:
    """What the numbers are multiplied by, in float32; see `QuantizedArray.scales`. An exponent of 0 would be
    below float32's normal numbers, which backends flush, and gives 0."""
    if scales.dtype == jnp.uint8:
        return lax.bitcast_convert_type(scales.astype(jnp.uint32) << _MANTISSA_BITS, jnp.float32)
    return scales.astype(jnp.float32)


def spread(blocks: Shaped[Array, "*blocks"], shape: tuple[int, ...]) -> Shaped[Array, "..."]:
    """Each entry of `blocks` repeated over its block of an array of this shape, or left to broadcast."""
    for axis, (count, size) in enumerate(zip(blocks.shape, shape, strict=True)):
        if count not in (1, size):
            blocks = jnp.repeat(blocks, size // count, axis=axis)
    return blocks


def take_rows(w: Any, index: Any) -> Float[Array, "..."]:
    """``w[index]``, of a table that may be quantised by rows."""
    if not isinstance(w, QuantizedArray):
        return w[index]  # type: ignore[no-any-return]
    return dequantized(QuantizedArray(w.numbers[index], w.scales[index], w.dtype))


def held_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Bytes of an array, entries of four bits packed two to a byte."""
    return math.ceil(math.prod(shape) * bits_of(dtype) / 8)


def bits_of(dtype: DTypeLike) -> int:
    """Bits of one entry."""
    dtype = jnp.dtype(dtype)
    return int((jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo)(dtype).bits)


def _merged(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[int, int]]:
    """For each dimension of `wanted` the range of dimensions of `shape` that it merges."""
    if wanted.count(-1) == 1:
        known = -math.prod(wanted)
        wanted = tuple(math.prod(shape) // known if size == -1 else size for size in wanted)
    ranges, first = [], 0
    for size in wanted:
        last, product = first, 1
        while last < len(shape) and (product < size or last == first):
            product *= shape[last]
            last += 1
        if product != size:
            raise ValueError(f"{list(shape)} is no {list(wanted)} with neighbouring dimensions merged")
        ranges.append((first, last))
        first = last
    while first < len(shape) and shape[first] == 1:
        ranges[-1] = (ranges[-1][0], first := first + 1)
    if first != len(shape):
        raise ValueError(f"{list(shape)} is no {list(wanted)} with neighbouring dimensions merged")
    return ranges
