"""Parameters that are spread over devices, each device's slice made from a checkpoint's tensors alone."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from jaxmodels.checkpoints.host_arrays import aligned_empty, copy_into
from jaxmodels.layers.memory_order import ordered
from jaxmodels.layers.spec import param_dtype
from jaxmodels.models.family import Part

# What JAX asks for of an array: a slice of each dimension.
Index: TypeAlias = tuple[slice, ...]


@dataclass(frozen=True)
class ShardedLeaves:
    """Parameters by path, as a checkpoint's tensors fill them.

    The tensors of a stack of experts are kept until all have come. Where they are mapped from files they are
    not in memory until a device of this process is given a slice of them.

    Attributes:
        dtype: of the model.
        threads: for what must be copied.
        shardings: where each parameter belongs.
        done: parameters on their devices.
        stacks: tensors of parameters that hold an expert in each slice, by expert.
    """

    dtype: DTypeLike
    threads: Executor
    shardings: Mapping[str, Sharding]
    done: dict[str, jax.Array] = field(default_factory=dict)
    stacks: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def fill(self, part: Part, tensor: np.ndarray) -> int:
        """Puts a part of a tensor where it belongs; gives its bytes."""
        path, shape, dtype = part.row.ours, part.param.shape, param_dtype(part.param, self.dtype)
        ours = part.row.load(part.cut(tensor), part.shape)
        if part.expert is None:
            self._finish(part, lambda index: self._copied([ours[index]], dtype)[0])
        else:
            stack = self.stacks.setdefault(path, {})
            stack[part.expert] = ours
            if len(stack) == shape[0]:
                del self.stacks[path]
                self._finish(part, lambda index: self._stacked(stack, index, dtype))
        return ours.size * dtype.itemsize

    def _stacked(self, stack: Mapping[int, np.ndarray], index: Index, dtype: np.dtype) -> np.ndarray:
        experts, inside = range(*index[0].indices(len(stack))), index[1:]
        return self._copied([stack[expert][inside] for expert in experts], dtype)

    def _copied(self, slices: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        """The slices as one new array. What JAX is given must not be part of a file that changes."""
        copy = aligned_empty((len(slices), *slices[0].shape), dtype)
        for target, source in zip(copy, slices, strict=True):
            copy_into(target, source, self.threads)
        return copy

    def _finish(self, part: Part, make: Any) -> None:
        # Waiting bounds the memory: several would be on their way.
        path = part.row.ours
        array = jax.make_array_from_callback(part.param.shape, self.shardings[path], make)
        self.done[path] = jax.block_until_ready(ordered(part.param, array))
