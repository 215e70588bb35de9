"""Windows that are split over devices: each has some consecutive tokens of every row, and all the parameters.

Under a mesh whose axis `SEQUENCE` has several devices (``jax.set_mesh``), a window that is long enough is cut
into as many parts. What is computed token by token needs nothing but `split` in front of the first layer: the
compiler then leaves every device its own tokens. What looks back along the sequence says how:

- attention leaves the queries where they are and brings all keys and values to them (`attend`), which every
  device keeps anyhow where there is a cache (`gathered`);
- a convolution is given the last inputs of the part before (`handed_over`);
- a recurrence is summed up by all devices at once, its state is then passed along from part to part
  (`passed_along`), and all devices compute their outputs at once again.

Results are those of one device, up to rounding. Windows that are short, or whose tokens the devices cannot
share evenly, are computed by all devices alike.
Source: KV-Runahead (https://arxiv.org/abs/2405.05329), in which the devices fill the cache of a prompt part
by part, and those of later parts are given shorter ones. Here they run in step, on parts of one length.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.checks import is_traced

State = TypeVar("State")
Tree = TypeVar("Tree")

SEQUENCE = "sequence"
# With fewer tokens for each device, handing anything on takes longer than computing it.
LEAST_TOKENS = 8


def parts_of(size: int) -> int:
    """How many devices share the tokens of a window of this size; 1 where they all compute the whole."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get(SEQUENCE) != AxisType.Auto:  # there is no such axis, or we are inside one of the parts
        return 1
    count: int = mesh.shape[SEQUENCE]
    return count if size % count == 0 and size // count >= LEAST_TOKENS else 1


def split(tree: Tree, axis: int = 1) -> Tree:
    """The arrays with the tokens along `axis` left to the devices that share them."""
    return _placed(tree, axis, SEQUENCE)


def gathered(tree: Tree, axis: int = 1) -> Tree:
    """The arrays with all tokens along `axis` on each of the devices that share a window."""
    return _placed(tree, axis, None)


def _placed(tree: Tree, axis: int, where: str | None) -> Tree:
    def place(a: Any) -> Any:
        if parts_of(a.shape[axis]) == 1 or not is_traced(a):
            return a
        free = PartitionSpec.UNCONSTRAINED
        spec = (where if i == axis else free for i in range(a.ndim))
        return lax.with_sharding_constraint(a, PartitionSpec(*spec))

    return jax.tree.map(place, tree)


def on_each_part(function: Callable[..., Any], given: Any, found: Any) -> Callable[..., Any]:
    """`function` of each device's part.

    `given` and `found` say of its arguments and of its results along which axis their tokens lie; None of
    what has none, and is the same on all devices.
    """

    def specs(axes: Any) -> Any:
        def spec(axis: int | None) -> PartitionSpec:
            return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, SEQUENCE)

        return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)

    return jax.shard_map(
        function, in_specs=specs(given), out_specs=specs(found), axis_names=frozenset({SEQUENCE})
    )


def number_of_part() -> jax.Array:
    """Which part of the window this device has, counted from 0; inside `on_each_part`."""
    return lax.axis_index(SEQUENCE)


def handed_over(first: jax.Array, last: jax.Array) -> jax.Array:
    """What the part before has as `last`, and for the first part `first`; inside `on_each_part`."""
    count = lax.axis_size(SEQUENCE)
    received = lax.ppermute(last, SEQUENCE, [(i, i + 1) for i in range(count - 1)])
    return jnp.where(number_of_part() == 0, first, received)


def passed_along(first: State, advance: Callable[[State], State]) -> tuple[State, State]:
    """The state in front of each part and the one behind all of them; inside `on_each_part`.

    `first` is the one in front of the first part, and `advance` makes of the state in front of a part the one
    behind it. The parts wait for each other here, so it should cost little.
    """
    count, number = lax.axis_size(SEQUENCE), number_of_part()
    state = first
    for sender in range(count - 1):
        received = jax.tree.map(
            lambda a, sender=sender: lax.ppermute(a, SEQUENCE, [(sender, sender + 1)]), advance(state)
        )
        state = _chosen(number == sender + 1, received, state)
    behind = jax.tree.map(
        lambda a: lax.psum(jnp.where(number == count - 1, a, jnp.zeros_like(a)), SEQUENCE), advance(state)
    )
    return state, behind


def _chosen(condition: jax.Array, yes: State, no: State) -> State:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def recurrence_in_parts(
    tokens: Any,
    state: State,
    *,
    window: Callable[[Any, State], tuple[Any, State]],
    summary: Callable[[Any, State], Any],
    advance: Callable[[Any, State], State],
) -> tuple[Any, State]:
    """A recurrence over a window whose tokens are shared: its outputs, and the state behind it.

    Args:
        tokens: arrays [B, S, ...], what the recurrence makes of the tokens.
        state: in front of the window; alike on all devices, as is the result's.
        window: ``(tokens, state) -> (outputs [B, S, ...], state)``, over one part.
        summary: ``(tokens, like) -> ...``, what `advance` goes by; states are of the type of `like`.
        advance: ``(summary, state)``, the state behind a part.
    """

    def part(tokens: Any, state: State) -> tuple[Any, State]:
        made = summary(tokens, state)
        before, behind = passed_along(state, lambda h: advance(made, h))
        return window(tokens, before)[0], behind

    found: tuple[Any, State] = on_each_part(part, (1, None), (1, None))(tokens, state)
    return found
