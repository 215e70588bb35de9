"""What each device holds, reads and computes of a model that is spread over a mesh, from its axes alone."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxmodels.layers.partition import MESH_AXES
from jaxmodels.layers.quantized.quantization import Quantization
from jaxmodels.layers.spec import Param, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.plan.held import Holding
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.repeated_heads import with_repeated_kv_heads
from jaxmodels.tpu_configs.rules import Rules


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
        copied: bytes of the embedding that are laid out anew in front of a program's loops; see `Holding`.
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
    copied: int


def spread(
    config: Decoder,
    workload: Workload,
    slots: int,
    sizes: Mapping[str, int],
    rules: Rules,
    quantization: Quantization | None = None,
) -> Spread:
    """How a model lies on a mesh of these sizes, with `slots` cache slots per row.

    Raises:
        ValueError: the mesh does not divide the model; the message names the parameter, the axes and sizes.
    """
    full = {axis: sizes.get(axis, 1) for axis in MESH_AXES}
    held = Holding(dtype=workload.dtype, quantization=quantization, rules=rules, sizes=full)
    fitted = _repeated(config, held.cut(("kv_heads",)))
    kinds = _kinds_of_parameters(fitted)
    parameters = sum(times * held.parameter(f"parameter {path!r}", it) for it, (path, times) in kinds)
    rows = workload.batch / _dividing(workload.batch, rules.axes("batch"), full)
    idle = fitted.unread(workload.batch)
    unread = fitted.unread(1)
    active = sum(times * _scalars(it) for it, (_, times) in kinds) - sum(map(_scalars, unread))
    experts = sum(times * _scalars(it) for it, (_, times) in kinds if "experts" in it.axes)
    chosen = experts - sum(_scalars(it) for it in unread if "experts" in it.axes)
    without_experts = tuple(axis for axis in rules.axes("batch") if axis not in rules.axes("experts"))
    return Spread(
        config=fitted,
        sizes=full,
        parameters=parameters,
        cache=_cache(fitted, workload.batch, slots, held),
        read=parameters - round(sum(map(held.unread, idle))),
        history=_cache(fitted, workload.batch, workload.prompt, held),
        rows=rows,
        all_rows=workload.batch / _dividing(workload.batch, without_experts, full),
        dense=(1 - chosen / active) / held.cut(("heads",)),
        routed=chosen / active / held.cut(("experts", "mlp")),
        copied=held.copied_table(_embedding(fitted)),
    )


# A mesh is one of many that are tried, and deep models have few kinds of parameters.
_repeated = functools.lru_cache(maxsize=64)(with_repeated_kv_heads)


@functools.lru_cache(maxsize=64)
def _kinds_of_parameters(config: Decoder) -> tuple[tuple[Param, tuple[str, int]], ...]:
    """Parameters that differ, each with the path of the first and how many there are."""
    kinds: dict[Param, tuple[str, int]] = {}
    for path, param in walk(config.spec()):
        first, times = kinds.get(param, (path, 0))
        kinds[param] = (first, times + 1)
    return tuple(kinds.items())


def _embedding(config: Decoder) -> Param:
    (table,) = (param for path, param in walk(config.spec()) if path == "embed/weight")
    return table


def _cache(config: Decoder, batch: int, slots: int, held: Holding) -> int:
    return sum(held.buffer("the cache", it) for it in jax.tree.leaves(config.cache_spec(batch, slots)))


def _dividing(rows: int, axes: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    """Into how many parts a batch is cut: by as many of the axes, from the first on, as divide it."""
    counts = [math.prod(sizes[axis] for axis in axes[:n]) for n in range(len(axes) + 1)]
    return max(count for count in counts if rows % count == 0)


def _scalars(param: Param) -> int:
    return math.prod(param.shape)
