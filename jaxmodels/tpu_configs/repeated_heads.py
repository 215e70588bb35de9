"""Heads that are fewer than the devices that share a layer, repeated until they are enough.

Such are the key/value heads of attention, the key heads of a delta rule and the groups of a state space
layer: several query or value heads read each of them. Cut over fewer devices than those, they would be moved
between devices for every token; whole on every device, each would hold the whole cache. Repeated, each device
has the one that its heads read. The model computes the same.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.spec import Param, Params, unflatten, walk
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.costs import Specified

Config = TypeVar("Config", bound=Specified)

# The logical axes of what is repeated.
_REPEATED = ("kv_heads", "ssm_groups")


def with_repeated_kv_heads(config: Config, devices: int) -> Config:
    """The model with as many key/value heads, key heads and groups in each layer as `devices` divide.

    A layer whose query or value heads that many do not divide stays as it is.
    """
    return _repeated(config, devices) if devices > 1 else config


def repeated_params(config: Specified, wider: Specified, params: Params) -> Params:
    """The parameters of `config` as those of `wider`, which `with_repeated_kv_heads` gave for it.

    Arrays that do not differ are shared.
    """
    return _changed(config, wider, params, _repeat)


def unrepeated_params(config: Specified, wider: Specified, params: Params) -> Params:
    """The inverse of `repeated_params`: of each head the first of its repetitions."""
    return _changed(config, wider, params, _first)


def _changed(
    config: Specified, wider: Specified, params: Params, change: Callable[["_Repetition", Array], Array]
) -> Params:
    """The parameters, those changed whose shapes differ between the two models."""
    leaves, before, after = dict(walk(params)), dict(walk(config.spec())), dict(walk(wider.spec()))
    changed = {
        path: _of_parts(change, _Repetition.between(before, path, after[path]), leaves[path])
        for path in leaves
        if before[path].shape != after[path].shape
    }
    return unflatten({**leaves, **changed}, params)


def _of_parts(change: Callable[["_Repetition", Array], Array], how: "_Repetition", leaf: Any) -> Any:
    """The parameter changed; of a quantised one both parts, which differ in the last dimension alone."""

    def changed(part: Array) -> Array:
        before, after = ((*shape[:-1], part.shape[-1]) for shape in (how.before, how.after))
        return change(dataclasses.replace(how, before=before, after=after), part)

    return jax.tree.map(changed, leaf) if isinstance(leaf, QuantizedArray) else change(how, leaf)


@dataclass(frozen=True, kw_only=True)
class _Repetition:
    """How a parameter has heads.

    Attributes:
        before, after: its shapes.
        axis: the dimension that heads are repeated along; None where they are grouped differently instead.
        heads: how many there were.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    axis: int | None
    heads: int

    @classmethod
    def between(cls, spec: dict[str, Param], path: str, after: Param) -> "_Repetition":
        before = spec[path]
        if math.prod(before.shape) == math.prod(after.shape):  # value heads, by the key head that serves them
            return cls(before=before.shape, after=after.shape, axis=None, heads=1)
        sizes = zip(before.shape, after.shape, strict=True)
        (axis,) = (axis for axis, (old, new) in enumerate(sizes) if old != new)
        # The norm of all heads of a token has their features in one dimension.
        heads = before.shape[axis] if before.axes[axis] in _REPEATED else _key_heads(spec, path)
        return cls(before=before.shape, after=after.shape, axis=axis, heads=heads)


def _repeat(how: _Repetition, leaf: Array) -> Array:
    if how.axis is None:
        return leaf.reshape(how.after)
    times = how.after[how.axis] // how.before[how.axis]
    return jnp.repeat(_by_head(how, leaf, 1), times, axis=how.axis + 1).reshape(how.after)


def _first(how: _Repetition, leaf: Array) -> Array:
    if how.axis is None:
        return leaf.reshape(how.before)
    times = how.after[how.axis] // how.before[how.axis]
    return jnp.take(_by_head(how, leaf, times), 0, axis=how.axis + 1).reshape(how.before)


def _by_head(how: _Repetition, leaf: Array, times: int) -> Array:
    """The parameter with dimensions of its own for heads and for their repetitions."""
    assert how.axis is not None
    return leaf.reshape(*leaf.shape[: how.axis], how.heads, times, -1, *leaf.shape[how.axis + 1 :])


def _key_heads(spec: dict[str, Param], path: str) -> int:
    """The key heads of the attention layer that a norm's parameter is part of."""
    return spec[f"{path.rsplit('/', 2)[0]}/w_k"].shape[0]


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
    if isinstance(value, SSDMixer):
        count = _enough(value.num_heads, value.num_groups, devices)
        return value if count == value.num_groups else dataclasses.replace(value, num_groups=count)
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    parts_by_name = {name: _repeated(part, devices) for name, part in fields.items()}
    changed = {name: part for name, part in parts_by_name.items() if not _same(part, fields[name])}
    return dataclasses.replace(value, **changed) if changed else value


def _same(a: Any, b: Any) -> bool:
    return a is b


def _enough(heads: int, kv_heads: int, devices: int) -> int:
    """As few repetitions as `devices` divide; the heads as they are where what reads them does not allow."""
    count = math.lcm(kv_heads, devices)
    return kv_heads if heads % count else count
