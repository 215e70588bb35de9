"""Experts that are spread over the devices of a mesh: tokens travel to them, weights never do.

The devices along the mesh axis "expert" share the experts of a mixture, those along "tensor" the inner
features of each. Left to the compiler, all weights would be gathered, since any token may choose any expert.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.mapped import varying_like
from jaxmodels.layers.moe.dispatch import DenseAbove, Dispatch, Dropless
from jaxmodels.layers.moe.experts import Experts
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.partition import axis_size, row_axes
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.packed import PackedStack
from jaxmodels.layers.spec import Params, unflatten, walk


def dispatched(
    dispatch: Dispatch, experts: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing
) -> Float[Array, "B S D"]:
    """``dispatch(experts, params, x, routing)`` on the mesh that the program is traced for.

    Where rows are spread over the devices that share the experts and `dispatch` is `Dropless`, each token is
    sent to the devices that hold its experts, and what those give comes back: two exchanges between all of
    them. Otherwise each device adds up what its own experts give to all rows, and one sum over the devices
    follows.
    """
    if isinstance(dispatch, DenseAbove):
        dispatch = dispatch.of_window(x)
    split = _Split.of_mesh(dispatch, experts, params, x.shape[0])
    if split.experts == split.features == 1:
        return dispatch(experts, params, x, routing)
    mine = dataclasses.replace(  # type: ignore[type-var]
        experts, num_experts=experts.num_experts // split.experts, d_ff=experts.d_ff // split.features
    )

    def on_device(params: Params, x: Array, routing: Routing) -> Array:
        params = _with_one_bias(params, split)
        if split.exchanges:
            return _exchanged(mine, params, x, routing, split)
        if split.experts > 1:
            routing = _of_device(routing, mine.num_experts)
        y = dispatch(mine, params, x, routing)
        return lax.psum(y, split.summed_over)

    rows = PartitionSpec(split.rows or None)
    specs = (split.param_specs(experts, params), rows, rows)
    return jax.shard_map(on_device, in_specs=specs, out_specs=rows)(params, x, routing)


@dataclass(frozen=True, kw_only=True)
class _Split:
    """How a mixture is spread over a mesh.

    Attributes:
        experts: how many devices share the experts.
        features: how many share the inner features of each.
        rows: the mesh axes that rows are spread over.
        exchanges: whether rows are spread over the devices that share the experts, too.
    """

    experts: int
    features: int
    rows: tuple[str, ...]
    exchanges: bool

    @classmethod
    def of_mesh(cls, dispatch: Dispatch, experts: Experts, params: Params, batch: int) -> "_Split":
        """The axes of the mesh in use that divide the experts, their features, the groups of features that
        share a scale, and the rows."""
        by_expert, by_feature = axis_size("expert"), axis_size("tensor")
        by_expert = 1 if experts.num_experts % by_expert else by_expert
        rows = row_axes(batch)
        exchanges = by_expert > 1 and "expert" in rows and isinstance(dispatch, Dropless)
        return cls(
            experts=by_expert,
            features=1 if experts.d_ff % by_feature or _groups(params) % by_feature else by_feature,
            rows=rows if exchanges or by_expert == 1 else tuple(a for a in rows if a != "expert"),
            exchanges=exchanges,
        )

    @property
    def summed_over(self) -> tuple[str, ...]:
        """The mesh axes along which each device has a part of a sum."""
        sizes = {"expert": 1 if self.exchanges else self.experts, "tensor": self.features}
        return tuple(axis for axis, size in sizes.items() if size > 1)

    def param_specs(self, experts: Experts, params: Params) -> Params:
        """How the parameters are cut, of quantised ones the scales as the numbers where there are several."""
        cut = {"experts": self.experts > 1 and "expert", "mlp": self.features > 1 and "tensor"}
        spec = experts.spec()
        axes = {path: tuple(cut.get(axis) or None for axis in p.axes) for path, p in walk(spec)}
        return unflatten({path: _partition(axes[path], leaf) for path, leaf in walk(params)}, spec)


def _partition(axes: tuple[str | None, ...], leaf: Any) -> Any:
    """The partition of a parameter; of a quantised one those of its numbers and scales."""
    numbers = PartitionSpec(*axes)
    if isinstance(leaf, PackedStack):
        return dataclasses.replace(leaf, rows=numbers)  # type: ignore[arg-type]
    if not isinstance(leaf, QuantizedArray):
        return numbers
    several = (axis if count > 1 else None for axis, count in zip(axes, leaf.scales.shape, strict=True))
    return QuantizedArray(numbers, PartitionSpec(*several), leaf.dtype)  # type: ignore[arg-type]


def _groups(params: Params) -> int:
    """How many groups of inner features share a scale in the experts' last projection, or lie in one block of
    bytes; 0 for no groups."""
    down = params.get("w_down")
    if isinstance(down, PackedStack):
        return down.blocks
    groups = down.scales.shape[-2] if isinstance(down, QuantizedArray) else 1
    return 0 if groups == 1 else groups


def _with_one_bias(params: Params, split: _Split) -> Params:
    """The parameters, the bias behind the sum over features on one of the devices alone."""
    if split.features == 1 or "b_down" not in params:
        return params
    return {**params, "b_down": jnp.where(lax.axis_index("tensor") == 0, params["b_down"], 0)}


def _of_device(routing: Routing, count: int) -> Routing:
    """The routing to the `count` experts of this device; slots of others' are empty."""
    local = routing.experts - count * lax.axis_index("expert")
    is_here = (local >= 0) & (local < count)
    return dataclasses.replace(routing, experts=jnp.where(is_here, local, routing.num_experts))


def _exchanged(
    mine: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing, split: _Split
) -> Float[Array, "B S D"]:
    """What all experts give to the rows of this device, which has those of `mine`.

    Every device is told the routing of all others' tokens, which is small, and from it knows what each sends
    to each. A token that chose several experts of a device is sent there once.
    """
    tokens, slots = x.shape[0] * x.shape[1], routing.experts.shape[-1]
    here = lax.axis_index("expert")
    all_chosen, all_weights = _told_to_all(routing, tokens, slots)
    sent = _destinations(all_chosen, mine.num_experts, split.experts)
    order, counts = jnp.argsort(~sent, axis=1, stable=True), sent.sum(1, dtype=jnp.int32)

    buffers = x.reshape(tokens, -1)[order[here].T]
    received = SWAP(buffers, counts[here], counts[:, here])
    theirs = order[:, :, here, None]
    is_real = jnp.arange(tokens)[:, None] < counts[:, here, None, None]
    there = dataclasses.replace(
        routing,
        experts=jnp.where(is_real, jnp.take_along_axis(all_chosen, theirs, axis=1), routing.num_experts),
        weights=jnp.take_along_axis(all_weights, theirs, axis=1),
        valid=None,
        max_pairs=split.experts * tokens * min(slots, mine.num_experts),
    )
    y = Dropless()(mine, params, received, _of_device(there, mine.num_experts))
    back = SWAP(y, counts[:, here], counts[here])
    places = jnp.where(sent[here], jnp.cumsum(sent[here], axis=0) - 1, 0)
    parts = back[jnp.arange(split.experts), places].astype(jnp.float32)
    summed = jnp.where(sent[here][..., None], parts, 0.0).sum(1).astype(x.dtype).reshape(x.shape)
    return lax.psum(summed, split.summed_over) if split.summed_over else summed


def _told_to_all(
    routing: Routing, tokens: int, slots: int
) -> tuple[Int[Array, "E T K"], Float[Array, "E T K"]]:
    """What each device's tokens chose, and with what weights, in one gather: float32 holds the numbers of
    experts exactly."""
    own = jnp.concatenate([routing.experts.astype(jnp.float32), routing.weights], -1)
    told = lax.all_gather(own.reshape(tokens, 2 * slots), "expert")
    return told[..., :slots].astype(jnp.int32), told[..., slots:]


def _destinations(chosen: Int[Array, "E T K"], count: int, devices: int) -> Array:
    """Which of each device's tokens, bool[devices, T, devices], go to each device with `count` experts."""
    return (chosen[..., None] // count == jnp.arange(devices)).any(2)


def swap(rows: Float[Array, "E T D"], sends: Int[Array, "E"], receives: Int[Array, "E"]) -> Array:
    """What all devices along "expert" have for this one: from each, T rows, of which the first
    ``receives[e]`` were sent. ``rows[e]``, of which the first ``sends[e]`` count, go to device e.

    Here all T are sent, whatever they hold.
    """
    return lax.all_to_all(rows, "expert", split_axis=0, concat_axis=0, tiled=True)


def ragged_swap(rows: Float[Array, "E T D"], sends: Int[Array, "E"], receives: Int[Array, "E"]) -> Array:
    """`swap` that sends no more than what counts, which CPUs cannot."""
    devices, size, width = rows.shape
    flat = rows.reshape(devices * size, width)
    first = size * jnp.arange(devices, dtype=jnp.int32)
    own = jnp.full(devices, size * lax.axis_index("expert"), jnp.int32)
    empty = varying_like(jnp.zeros_like(flat), flat, own)
    swapped = lax.ragged_all_to_all(flat, empty, first, sends, own, receives, axis_name="expert")
    return swapped.reshape(rows.shape)


SWAP = ByBackend(portable=ragged_swap, cpu=swap)
