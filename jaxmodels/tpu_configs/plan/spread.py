"""What each device holds, reads and computes of a model that is spread over a mesh, from its axes alone."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from jaxmodels.layers.partition import MESH_AXES
from jaxmodels.layers.spec import Param, param_dtype, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.repeated_heads import with_repeated_kv_heads
from jaxmodels.tpu_configs.rules import Rules
from jaxmodels.tpu_configs.shardings import bytes_per_device, cache_shardings, param_shardings


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A model and a workload on a mesh. Everything is of one device.

    Attributes:
        config: the model, with its key/value heads repeated where the mesh asks for it.
        sizes: devices along each axis of the mesh.
        parameters, cache: bytes that it holds.
        read: bytes of parameters that a decoding step reads.
        history: bytes of the cache that a decoding step reads, with the prompt as the history.
        rows: rows of the batch that it computes the layers of; a fraction where rows are fewer than devices
            that share the experts.
        dense, routed: its share of the operations of a token: of all layers but experts, and of experts.
        all_rows: rows of the batch that its experts are chosen by.
    """

    config: Decoder
    sizes: Mapping[str, int]
    parameters: int
    cache: int
    read: int
    history: int
    rows: float
    all_rows: float
    dense: float
    routed: float


def spread(config: Decoder, workload: Workload, slots: int, sizes: Mapping[str, int], rules: Rules) -> Spread:
    """How a model lies on a mesh of these sizes, with `slots` cache slots per row.

    Raises:
        ValueError: the mesh does not divide the model; the message names the parameter, the axes and sizes.
    """
    mesh = AbstractMesh(
        tuple(sizes.get(axis, 1) for axis in MESH_AXES),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
    )
    full = dict(mesh.shape)
    fitted = with_repeated_kv_heads(config, _cut(("kv_heads",), rules, full))
    spec, dtype = fitted.spec(), workload.dtype
    parameters = bytes_per_device(spec, param_shardings(fitted, mesh, rules), dtype)
    rows = workload.batch / _dividing(workload.batch, rules.axes("batch"), full)
    idle = fitted.unread(workload.batch)
    active = _scalars(param for _, param in walk(spec)) - _scalars(fitted.unread(1))
    experts = [param for _, param in walk(spec) if "experts" in param.axes]
    chosen = _scalars(experts) - _scalars(it for it in fitted.unread(1) if "experts" in it.axes)
    without_experts = tuple(axis for axis in rules.axes("batch") if axis not in rules.axes("experts"))
    return Spread(
        config=fitted,
        sizes=full,
        parameters=parameters,
        cache=_cache(fitted, workload.batch, slots, dtype, mesh, rules),
        read=parameters - round(sum(_nbytes(param, dtype) / _cut(param.axes, rules, full) for param in idle)),
        history=_cache(fitted, workload.batch, workload.prompt, dtype, mesh, rules),
        rows=rows,
        all_rows=workload.batch / _dividing(workload.batch, without_experts, full),
        dense=(1 - chosen / active) / _cut(("heads",), rules, full),
        routed=chosen / active / _cut(("experts", "mlp"), rules, full),
    )


def _cache(config: Decoder, batch: int, slots: int, dtype: str, mesh: AbstractMesh, rules: Rules) -> int:
    shardings = cache_shardings(config, mesh, rules, batch, slots, dtype)
    return bytes_per_device(config.cache_spec(batch, slots), shardings, dtype)


def _cut(axes: Iterable[str | None], rules: Rules, sizes: Mapping[str, int]) -> int:
    """Devices that share an array with these logical axes."""
    used = {axis for logical in axes for axis in rules.axes(logical)}
    return math.prod(sizes[axis] for axis in used)


def _dividing(rows: int, axes: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    """Into how many parts a batch is cut: by as many of the axes, from the first on, as divide it."""
    counts = [math.prod(sizes[axis] for axis in axes[:n]) for n in range(len(axes) + 1)]
    return max(count for count in counts if rows % count == 0)


def _scalars(params: Iterable[Param]) -> int:
    return sum(math.prod(param.shape) for param in params)


def _nbytes(param: Param, dtype: Any) -> int:
    return math.prod(param.shape) * param_dtype(param, dtype).itemsize
