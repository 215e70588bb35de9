"""Key/value heads that are fewer than the devices that share the query heads, repeated until they are enough.

Cut over fewer devices than the queries, keys and values would be moved between devices for every token; whole
on every device, each would hold the whole cache. Repeated, each device has the one head that its queries
read. The model computes the same.
"""

import dataclasses
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.spec import Param, Params, unflatten, walk
from jaxmodels.models.costs import Specified

Config = TypeVar("Config", bound=Specified)


def with_repeated_kv_heads(config: Config, devices: int) -> Config:
    """The model with as many key/value heads (key heads, of a delta rule) as `devices` divide.

    A layer whose query heads that many do not divide stays as it is.
    """
    return _repeated(config, devices) if devices > 1 else config


def repeated_params(config: Specified, wider: Specified, params: Params) -> Params:
    """The parameters of `config` as those of `wider`, which `with_repeated_kv_heads` gave for it.

    Arrays that do not differ are shared.
    """
    leaves, before, after = dict(walk(params)), dict(walk(config.spec())), dict(walk(wider.spec()))
    changed = {
        path: _widened(leaves[path], before[path], after[path], _heads(before, path))
        for path in leaves
        if before[path].shape != after[path].shape
    }
    return unflatten({**leaves, **changed}, params)


def _repeated(value: Any, devices: int) -> Any:
    """A part of a configuration, with all layers in it repeated."""
    if isinstance(value, tuple):
        parts = tuple(_repeated(part, devices) for part in value)
        return value if all(map(_same, parts, value)) else parts
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    if isinstance(value, Attention):
        count = _enough(value.num_heads, value.num_kv_heads, devices)
        norms = {
            name: dataclasses.replace(norm, dim=norm.dim // value.num_kv_heads * count)
            for name in ("key_norm", "value_norm")
            if value.norm_across_heads and hasattr(norm := getattr(value, name), "dim")
        }
        unchanged = count == value.num_kv_heads
        return value if unchanged else dataclasses.replace(value, num_kv_heads=count, **norms)
    if isinstance(value, GatedDeltaMixer):
        count = _enough(value.num_heads, value.num_key_heads, devices)
        return value if count == value.num_key_heads else dataclasses.replace(value, num_key_heads=count)
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    parts_by_name = {name: _repeated(part, devices) for name, part in fields.items()}
    changed = {name: part for name, part in parts_by_name.items() if not _same(part, fields[name])}
    return dataclasses.replace(value, **changed) if changed else value


def _same(a: Any, b: Any) -> bool:
    return a is b


def _enough(heads: int, kv_heads: int, devices: int) -> int:
    """As few key/value heads as `devices` divide; as many as there are where the query heads do not allow."""
    count = math.lcm(kv_heads, devices)
    return kv_heads if heads % count else count


def _heads(spec: dict[str, Param], path: str) -> int:
    """The key/value heads of the layer that a parameter below ``.../mixer`` or the like is part of."""
    while "/" in path:
        path = path.rpartition("/")[0]
        if f"{path}/w_k" in spec:
            return spec[f"{path}/w_k"].shape[0]
    raise ValueError(f"{path!r} belongs to no layer with keys")


def _widened(leaf: jax.Array, before: Param, after: Param, heads: int) -> jax.Array:
    if math.prod(before.shape) == math.prod(after.shape):
        return leaf.reshape(after.shape)  # value heads, by the key head that serves them
    (axis,) = (i for i, (a, b) in enumerate(zip(before.shape, after.shape, strict=True)) if a != b)
    times = after.shape[axis] // before.shape[axis]
    by_head = leaf.reshape(*leaf.shape[:axis], heads, -1, *leaf.shape[axis + 1 :])
    return jnp.repeat(by_head, times, axis=axis).reshape(after.shape)
