"""What a model family is: a config translation, its inverse, and one table of weights."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from einops import rearrange

from jaxmodels.layers.spec import Param, ParamTree, walk
from jaxmodels.models.hf_config import ConfigReader


@dataclass(frozen=True)
class Weight:
    """One row of a family's table: our parameter, their tensor, and how the axes are arranged.

    Rows whose parameter a configuration lacks do not apply. Rows that name the same tensor are parts of it,
    joined in the table's order.

    Attributes:
        ours: parameter path; ``{i}`` stands for the layer index.
        theirs: tensor name with the same placeholder. Where it has the placeholder ``{e}``, our parameter's
            leading axis stacks one of their tensors per expert, and `axes` arranges a single one.
        axes: an einops pattern from their axes to ours, such as ``"(n h) d -> d n h"``; read backwards it
            exports. None where both have the same axes.
        along: the axis of the tensor along which its parts are joined.
        per: an axis of the pattern, that of heads say: parts are joined for each of its entries, and those
            follow one another. None joins them once.
        mixer: where layers of several kinds have parameters of one name, the class of those the row is for.
        after: the path of another stacked parameter, behind whose experts these are numbered.
    """

    ours: str
    theirs: str
    axes: str | None = None
    along: int = 0
    per: str | None = None
    mixer: type | None = None
    after: str | None = None

    def at(self, layer: int) -> "Weight":
        """The row for one layer."""
        index = str(layer)
        return replace(
            self,
            ours=self.ours.replace("{i}", index),
            theirs=self.theirs.replace("{i}", index),
            after=None if self.after is None else self.after.replace("{i}", index),
        )

    def load(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Their tensor with our axes; `shape` is our parameter's, or one expert's share of it."""
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

    def stretches(self, shape: tuple[int, ...]) -> int:
        """How often the parts of their tensor follow one another; `shape` is our parameter's."""
        return 1 if self.per is None else self._sizes(shape)[self.per]

    def _sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        assert self.axes is not None
        names = self.axes.split("->")[1].split()
        return dict(zip(names, shape, strict=True))


@dataclass(frozen=True)
class Part:
    """One parameter's share of a tensor.

    Attributes:
        row: the layer's row.
        param: the whole parameter.
        expert: index along its leading axis where it stacks the tensors of all experts.
        start, size: the share's extent along the tensor's axis ``row.along``, in each of its `stretches`.
        stretches: how often the tensor repeats its parts along that axis.
    """

    row: Weight
    param: Param
    expert: int | None
    start: int
    size: int
    stretches: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what the tensor fills, with our axes."""
        return self.param.shape if self.expert is None else self.param.shape[1:]

    def cut(self, tensor: Any) -> Any:
        """The share of their tensor, still with their axes."""
        axis, shape = self.row.along, tensor.shape
        if self.size * self.stretches == shape[axis]:
            return tensor
        index = (*(slice(None),) * (axis + 1), slice(self.start, self.start + self.size))
        return _stretched(tensor, axis, self.stretches)[index].reshape(*shape[:axis], -1, *shape[axis + 1 :])


def _stretched(tensor: Any, axis: int, stretches: int) -> Any:
    """The tensor with an axis of its stretches in front of `axis`."""
    return tensor.reshape(*tensor.shape[:axis], stretches, -1, *tensor.shape[axis + 1 :])


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint and the parameters that are in it, most often one."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    def export(self, leaves: Mapping[str, Any]) -> np.ndarray:
        """The tensor, from our parameters by path."""
        arrays = []
        for part in self.parts:
            leaf = leaves[part.row.ours]
            leaf = np.asarray(leaf if part.expert is None else leaf[part.expert])
            arrays.append(_stretched(part.row.export(leaf), part.row.along, part.stretches))
        joined = np.concatenate(arrays, axis=self.parts[0].row.along + 1).reshape(self.shape)
        return np.ascontiguousarray(joined)


class Layered(Protocol):
    """A configuration that a family can be of: a decoder, a denoiser."""

    @property
    def blocks(self) -> tuple[Any, ...]:
        """One for each layer; the class of a block's `mixer` decides which rows of the table are its."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""


Config = TypeVar("Config", bound=Layered)


@dataclass(frozen=True, kw_only=True)
class Table(Generic[Config]):
    """How the tensors of a kind of checkpoint fill a module's parameters.

    model_type names the kind, in messages. weights has a row for each parameter. unused holds regular
    expressions of tensors that checkpoints may carry and the module does not need. renamed holds pairs of a
    regular expression and what to put in its place, which turn names that some checkpoints have into those
    of the table. named_weights gives the rows, without placeholders, whose names depend on more of the module
    than a layer's index.
    """

    model_type: str
    weights: tuple[Weight, ...]
    unused: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    named_weights: Callable[[Config], tuple[Weight, ...]] = lambda config: ()

    def rows(self, config: Config) -> Iterator[tuple[Weight, Param]]:
        """Every parameter of `config` once, with the row that fills it.

        Raises KeyError where the table lacks a parameter, which is an error in the family's file.
        """
        spec = dict(walk(config.spec()))
        by_path = {row.ours: row for row in self.table(config) if row.ours in spec}
        for path, param in spec.items():
            if path not in by_path:
                raise KeyError(f"family {self.model_type!r} has no weight row for parameter {path!r}")
            yield by_path[path], param

    def tensors(self, config: Config) -> dict[str, Tensor]:
        """Every tensor of a checkpoint of `config`, by name.

        Raises KeyError as `rows` does.
        """
        return tensors_of(self.table(config), {row.ours: param for row, param in self.rows(config)})

    def name_in_table(self, name: str) -> str:
        """The name under which the table knows a checkpoint's tensor."""
        for pattern, name_here in self.renamed:
            name = re.sub(pattern, name_here, name)
        return name

    def is_unused(self, name: str) -> bool:
        """Whether a tensor of this name may be left unread."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def table(self, config: Config) -> list[Weight]:
        """The table with a row per layer."""
        layers = [block.mixer for block in config.blocks]
        by_layer = [
            row.at(i)
            for row in self.weights
            for i, mixer in enumerate(layers if "{i}" in row.ours else [None])
            if row.mixer is None or isinstance(mixer, row.mixer)
        ]
        return [*by_layer, *self.named_weights(config)]


@dataclass(frozen=True, kw_only=True)
class Family(Table[Config]):
    """How checkpoints of one `model_type`, or class of `diffusers`, are read and written.

    read_config and write_config are inverse to each other up to inert keys. inert names keys of the family's
    configurations, beside those of all families, that do not change a forward pass. claims tells the family's
    configurations where their `model_type` is missing or that of another family. For the rest see `Table`.
    """

    summary: str
    read_config: Callable[[ConfigReader], Config]
    write_config: Callable[[Config], dict[str, Any]]
    inert: tuple[str, ...] = ()
    claims: Callable[[Mapping[str, Any]], bool] = lambda values: False

    @property
    def embedding_name(self) -> str:
        """The table's name of the tensor that holds the token embeddings."""
        return self._name_of("embed/weight")

    @property
    def head_name(self) -> str:
        """The table's name of the head, which some store though it is tied."""
        return self._name_of("head/weight")

    def _name_of(self, path: str) -> str:
        return next(row.theirs for row in self.weights if row.ours == path)


def tensors_of(table: Iterable[Weight], params: Mapping[str, Param]) -> dict[str, Tensor]:
    """Every tensor that holds some of `params`, which are named by path, as the rows of a table say."""
    tensors: dict[str, Tensor] = {}
    for row in table:
        if row.ours not in params:
            continue
        param = params[row.ours]
        experts = range(param.shape[0]) if "{e}" in row.theirs else [None]
        for expert in experts:
            first = 0 if row.after is None else params[row.after].shape[0]
            name = row.theirs if expert is None else row.theirs.replace("{e}", str(first + expert))
            ours = param.shape if expert is None else param.shape[1:]
            shape, stretches = row.their_shape(ours), row.stretches(ours)
            before = tensors.get(name)
            start = 0 if before is None else before.shape[row.along]
            part = Part(row, param, expert, start // stretches, shape[row.along] // stretches, stretches)
            if before is not None:
                shape = tuple(n + start if axis == row.along else n for axis, n in enumerate(shape))
            tensors[name] = Tensor(name, shape, (part,) if before is None else (*before.parts, part))
    return tensors


def for_mixer(mixer: type, *rows: Weight) -> tuple[Weight, ...]:
    """The rows, of layers whose mixer is of this class."""
    return tuple(replace(row, mixer=mixer) for row in rows)
