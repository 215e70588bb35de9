"""Bytes that parameters and caches take in the memory of one device of a mesh."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import PartitionSpec

from jaxmodels.layers.quantized.array import held_bytes
from jaxmodels.layers.quantized.blocks import scale_shape
from jaxmodels.layers.quantized.format import NumberFormat
from jaxmodels.layers.quantized.quantization import Quantization
from jaxmodels.layers.spec import Buffer, Param, param_dtype
from jaxmodels.tpu_configs.rules import Rules
from jaxmodels.tpu_configs.shardings import scale_partition

LANES = 128  # numbers along the last axis of a tile


@dataclass(frozen=True, kw_only=True)
class Holding:
    """How arrays are held on a mesh. Sizes of arrays are bytes on one device.

    Tile padding is counted of stacks of experts alone, which are held row by row wherever they are: other
    arrays lie as they fill tiles best.

    Attributes:
        dtype: of what is held in no format of its own.
        quantization: of the weights, None where they are held in `dtype`.
        rules: how they are cut over the mesh.
        sizes: devices along each of its axes.
    """

    dtype: str
    quantization: Quantization | None
    rules: Rules
    sizes: Mapping[str, int]

    def parameter(self, name: str, param: Param) -> int:
        """Bytes of a parameter, in the format that it is quantised to.

        Raises:
            ValueError: the mesh does not divide it; the message has its `name`.
        """
        form = self._format(param)
        held = self.buffer(name, param) if form is None else self._quantized(name, param, form)
        return round(held * self._padding(param))

    def buffer(self, name: str, it: Param | Buffer) -> int:
        """Bytes of an array in `dtype`, or in the one that it has whatever the model's is.

        Raises:
            ValueError: as `parameter`.
        """
        shape = self._shard(it.shape, self._partition(name, it))
        return math.prod(shape) * param_dtype(it, self.dtype).itemsize

    def unread(self, param: Param) -> float:
        """Bytes of a part of a parameter that a step leaves unread: of one device, in the mean over them."""
        form, share = self._format(param), self._padding(param) / self.cut(param.axes)
        if form is None:
            return math.prod(param.shape) * param_dtype(param, self.dtype).itemsize * share
        (shape, numbers), (blocks, factors) = _parts(param, form)
        return (held_bytes(shape, numbers) + held_bytes(blocks, factors)) * share

    def copied_table(self, param: Param) -> int:
        """Bytes of the copy that libtpu makes of an embedding to read rows of it.

        It keeps the table column by column where that fills tiles better, which is where the model's width is
        no multiple of theirs, and lays it out row by row in front of the program's loop.
        """
        rows, width = self._shard(param.shape, self._partition("the embedding", param))
        if _padded(rows) * width >= rows * _padded(width):
            return 0
        return self.parameter("the embedding", param) // width * _padded(width)

    def cut(self, axes: Iterable[str | None]) -> int:
        """Devices that share an array with these logical axes."""
        used = {axis for logical in axes for axis in self.rules.axes(logical)}
        return math.prod(self.sizes[axis] for axis in used)

    def _padding(self, param: Param) -> float:
        """What a parameter takes in tiles, over its numbers alone."""
        if not param.is_expert_stack:
            return 1.0
        width = param.shape[-1] // self.cut(param.axes[-1:])
        return _padded(width) / width

    def _format(self, param: Param) -> NumberFormat | None:
        return None if self.quantization is None else self.quantization.format_of(param)

    def _quantized(self, name: str, param: Param, form: NumberFormat) -> int:
        (shape, numbers), (blocks, factors) = _parts(param, form)
        parts = self._partition(name, param)
        scales = scale_partition(parts, blocks, self.sizes)
        return held_bytes(self._shard(shape, parts), numbers) + held_bytes(
            self._shard(blocks, scales), factors
        )

    def _partition(self, name: str, it: Param | Buffer) -> PartitionSpec:
        return self.rules.partition(name, it.shape, it.axes, self.sizes)

    def _shard(self, shape: tuple[int, ...], parts: PartitionSpec) -> tuple[int, ...]:
        """The shape of an array's part on one device."""
        whole = (*parts, *(None,) * (len(shape) - len(parts)))
        over = ((part,) if isinstance(part, str) else part or () for part in whole)
        cuts = (math.prod(self.sizes[axis] for axis in axes) for axes in over)
        return tuple(size // cut for size, cut in zip(shape, cuts, strict=True))


def _padded(width: int) -> int:
    """A dimension as whole tiles have it."""
    return -(-width // LANES) * LANES


def _parts(param: Param, form: NumberFormat) -> tuple[tuple[tuple[int, ...], Any], ...]:
    """Shape and dtype of a quantised weight's numbers and scales."""
    blocks = scale_shape(param.shape, param.contracted, form.groups)
    assert blocks is not None, "a plan checks the formats of all weights first"
    return (param.shape, form.numbers), (blocks, form.factors)
