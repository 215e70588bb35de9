"""Stacks of matrices in few bits as they lie in host memory: each matrix's numbers and scales in one block
of bytes, which is fetched whole."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped, UInt8

from jaxmodels.layers.quantized.array import QuantizedArray, bits_of
from jaxmodels.pytrees import register_dataclass

# Rows of a block are a multiple of the first and none of the second. In tiles of the second the TPU compiler
# holds arrays of bytes that such tiles divide, and it fetches matrices out of tiles of the first: it would
# copy the stack from one form to the other at every fetch.
_TILE, _LARGE_TILE = 8, 32


@dataclass(frozen=True)
class PackedStack:
    """A stack ``[E, D, F]`` of quantised matrices as bytes, each matrix in blocks of rows.

    A block has the numbers of as many of the D inputs as others have, then their scales, then rows that are
    filled up. Slices along the first dimension, and along the second between blocks, are slices of the stack.

    Attributes:
        rows: the bytes, ``[E, blocks * rows of a block, F]``; of one matrix without E.
        inputs: how many of the D inputs a block has.
        groups: for how many groups of them, which follow one another, it has a scale for each output.
        numbers: the dtype of the numbers.
        scales: that of the scales; see `QuantizedArray.scales`.
        dtype: of the array that this stands for.
    """

    rows: UInt8[Array, "*E R F"]
    inputs: int
    groups: int
    numbers: np.dtype
    scales: np.dtype
    dtype: np.dtype

    @property
    def blocks(self) -> int:
        """Blocks of each matrix."""
        size = _rows_of(self.inputs, self.numbers) + _rows_of(self.groups, self.scales)
        return int(self.rows.shape[-2]) // _filled_up(size)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.rows.shape[:-2], self.blocks * self.inputs, self.rows.shape[-1])

    @property
    def ndim(self) -> int:
        return self.rows.ndim

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes)

    def is_deleted(self) -> bool:
        """Whether it was given away to a program that donates it."""
        return isinstance(self.rows, jax.Array) and self.rows.is_deleted()


register_dataclass(PackedStack, ["rows"], ["inputs", "groups", "numbers", "scales", "dtype"])


def packed(w: QuantizedArray, blocks: int = 1) -> PackedStack:
    """A quantised stack ``[E, D, F]`` with scales ``[E, G, F]`` as bytes, each matrix in so many blocks.

    Raises:
        ValueError: they do not divide the inputs, or the groups of inputs that share a scale.
    """
    count, inputs, outputs = w.shape
    groups = w.scales.shape[-2]
    if inputs % blocks or (groups > 1 and groups % blocks):
        raise ValueError(f"{inputs} inputs with {groups} scales for each output are not {blocks} equal parts")
    scales = jnp.broadcast_to(w.scales, (count, max(groups, blocks), outputs))
    parts = [_as_bytes(part.reshape(count, blocks, -1, outputs)) for part in (w.numbers, scales)]
    size = sum(part.shape[-2] for part in parts)
    filling = jnp.zeros((count, blocks, _filled_up(size) - size, outputs), jnp.uint8)
    return PackedStack(
        rows=jnp.concatenate([*parts, filling], axis=-2).reshape(count, -1, outputs),
        inputs=inputs // blocks,
        groups=max(groups // blocks, 1),
        numbers=np.dtype(w.numbers.dtype),
        scales=np.dtype(w.scales.dtype),
        dtype=w.dtype,
    )


def unpacked(w: PackedStack) -> QuantizedArray:
    """The quantised matrix, or stack of them, that lies in these bytes, which are one block for each."""
    behind = _rows_of(w.inputs, w.numbers)
    scales = w.rows[..., behind : behind + _rows_of(w.groups, w.scales), :]
    return QuantizedArray(
        _of_bytes(w.rows[..., :behind, :], w.inputs, w.numbers),
        _of_bytes(scales, w.groups, w.scales),
        w.dtype,
    )


def _rows_of(count: int, dtype: DTypeLike) -> int:
    """Rows of bytes for so many rows of a dtype."""
    return math.ceil(count * bits_of(dtype) / 8)


def _filled_up(rows: int) -> int:
    whole = _TILE * math.ceil(rows / _TILE)
    return whole if whole % _LARGE_TILE else whole + _TILE


def _as_bytes(a: Shaped[Array, "... N F"]) -> UInt8[Array, "... R F"]:
    """The first bytes of all rows, then the second ones; of four bits the first half of the rows beside the
    second."""
    bits = bits_of(a.dtype)
    words = lax.bitcast_convert_type(a, _unsigned(bits))
    if bits == 4:
        half = _rows_of(a.shape[-2], a.dtype)
        low, high = words[..., :half, :].astype(jnp.uint8), words[..., half:, :].astype(jnp.uint8)
        none = [(0, 0)] * (a.ndim - 2)
        return low | (jnp.pad(high, (*none, (0, half - high.shape[-2]), (0, 0))) << 4)
    return jnp.concatenate([(words >> shift).astype(jnp.uint8) for shift in range(0, bits, 8)], axis=-2)


def _of_bytes(rows: UInt8[Array, "... R F"], count: int, dtype: np.dtype) -> Shaped[Array, "... N F"]:
    bits = bits_of(dtype)
    kind = _unsigned(bits)
    if bits == 4:
        both = jnp.concatenate([rows & 15, rows >> 4], axis=-2)[..., :count, :]
        return lax.bitcast_convert_type(both.astype(kind), dtype)
    words = jnp.zeros((*rows.shape[:-2], count, rows.shape[-1]), kind)
    for i, shift in enumerate(range(0, bits, 8)):
        words = words | (rows[..., i * count : (i + 1) * count, :].astype(kind) << shift)
    return lax.bitcast_convert_type(words, dtype)


def _unsigned(bits: int) -> Any:
    return {4: jnp.uint4, 8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bits]
