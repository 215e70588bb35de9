"""What a model family is: a config translation, its inverse, and one table of weights."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange

from jaxmodels.layers.spec import Param, walk
from jaxmodels.models.decoder import Decoder


@dataclass(frozen=True)
class Weight:
    """One row of a family's table: our parameter, their tensor, and how the axes are arranged.

    ours: parameter path; ``{i}`` stands for the layer index. theirs: tensor name with the same placeholder.
    axes: an einops pattern from their axes to ours, such as ``"(n h) d -> d n h"``; read backwards it
    exports. None where both have the same axes. Rows whose parameter a configuration lacks do not apply.
    """

    ours: str
    theirs: str
    axes: str | None = None

    def at(self, layer: int) -> "Weight":
        """The row for one layer."""
        index = str(layer)
        return Weight(self.ours.replace("{i}", index), self.theirs.replace("{i}", index), self.axes)

    def load(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Their tensor with our axes; `shape` is our parameter's."""
        if self.axes is None:
            return tensor
        return rearrange(tensor, self.axes, **self._sizes(shape))

    def export(self, array: np.ndarray) -> np.ndarray:
        """Our array with their axes."""
        if self.axes is None:
            return array
        theirs, ours = self.axes.split("->")
        return rearrange(array, f"{ours} -> {theirs}", **self._sizes(array.shape))

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape their tensor must have for our parameter to have `shape`."""
        if self.axes is None:
            return shape
        sizes = {**self._sizes(shape), "1": 1}
        theirs = self.axes.split("->")[0]
        return tuple(
            math.prod(sizes[name] for name in axis.strip("()").split())
            for axis in re.findall(r"\([^)]*\)|\S+", theirs)
        )

    def _sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        assert self.axes is not None
        names = self.axes.split("->")[1].split()
        return dict(zip(names, shape, strict=True))


@dataclass(frozen=True)
class Family:
    """How checkpoints of one `model_type` are read and written.

    read_config and write_config are inverse to each other up to inert keys. weights is the table. unused
    holds regular expressions of tensors that checkpoints may carry and the model does not need.
    """

    model_type: str
    summary: str
    read_config: Callable[[Mapping[str, Any]], Decoder]
    write_config: Callable[[Decoder], dict[str, Any]]
    weights: tuple[Weight, ...]
    unused: tuple[str, ...] = ()

    def rows(self, config: Decoder) -> Iterator[tuple[Weight, Param]]:
        """Every parameter of `config` once, with the row that fills it.

        Raises KeyError where the table lacks a parameter, which is an error in the family's file.
        """
        spec = dict(walk(config.spec()))
        expanded = [
            row.at(i)
            for row in self.weights
            for i in (range(len(config.blocks)) if "{i}" in row.ours else [0])
        ]
        by_path = {row.ours: row for row in expanded if row.ours in spec}
        for path, param in spec.items():
            if path not in by_path:
                raise KeyError(f"family {self.model_type!r} has no weight row for parameter {path!r}")
            yield by_path[path], param

    def is_unused(self, name: str) -> bool:
        """Whether a tensor of this name may be left unread."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)
