"""What every recurrent mixer keeps of a history and of a window, and how a window is settled.

A mixer computes its projections, its convolution and its recurrence; what happens to a window afterwards is
the same for all of them and stands here. The state behind the window's valid tokens falls out of the
computation (`pend`). The state behind any other number of its tokens, or behind a path through them, is
replayed from the window's small inputs (`settle`): no state per token is ever kept.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv import last_inputs
from jaxmodels.layers.window import Window, accepted

# ``replay(*tokens, state, n)``: the state after the first n[b] tokens of a window that follows `state`.
Replay: TypeAlias = Callable[..., Any]


@struct.dataclass
class RecurrentState:
    """All that a row's history leaves behind; its size does not depend on the history's length.

    Attributes:
        state: f32[B, ...], the recurrence's; None for a layer that is a convolution alone.
        conv: [B, W-1, F], the convolution's last inputs, or a tree of such; None without a convolution.
    """

    state: Any
    conv: Any = None


@struct.dataclass
class WindowInputs:
    """A window's small inputs, one entry per token.

    Attributes:
        tokens: trees of [B, S, ...], what the recurrence adds to its state and how the state decays. Empty
            for a layer that is a convolution alone.
        conv: the convolution's inputs [B, S, F], without the history's; the same tree as that of the state.
    """

    tokens: tuple[Any, ...]
    conv: Any = None


@struct.dataclass
class RecurrentPending:
    """A window that is not history yet.

    Attributes:
        before, settled: the states before the window and after its valid tokens.
        inputs: the window's, from which the state after any of its tokens is replayed.
        constants: what the replay needs beside them and is the same for all tokens, such as decay rates that
            are parameters, which `commit` does not see.
    """

    before: RecurrentState
    settled: RecurrentState
    inputs: WindowInputs
    constants: Any = None


def pend(
    before: RecurrentState, state: Any, inputs: WindowInputs, window: Window, constants: Any = None
) -> RecurrentPending:
    """The pending of a window that follows `before`; `state` is the recurrence's after its valid tokens."""
    settled = RecurrentState(state, conv_after(before.conv, inputs.conv, window.valid))
    return RecurrentPending(before, settled, inputs, constants)


def settle(
    pending: RecurrentPending,
    replay: Replay | None,
    n: Int[Array, "B"] | None = None,
    path: Int[Array, "B P"] | None = None,
) -> RecurrentState:
    """The state once the first `n` window tokens (of `path`, if given) are history; see `Mixer.commit`.

    `replay` None: the layer is a convolution alone. With `n` 0 the state is `before`, bit for bit.
    """
    if n is None and path is None:
        return pending.settled
    before = pending.before
    inputs, n = accepted(pending.inputs, n, path)
    state = None if replay is None else replay(*inputs.tokens, before.state, n)
    return RecurrentState(state, conv_after(before.conv, inputs.conv, n))


def chain(before: RecurrentState, last: RecurrentPending, inputs: WindowInputs) -> RecurrentPending:
    """The pending of one window whose tokens were shown in several windows, each settled before the next.

    A draft that proposes its tokens one by one has a pending for each; only the first state, the last pending
    and the small inputs need to be kept for the tokens to be settled or dropped together. A `lax.scan` over
    the tokens carries the state and gives out ``pending.inputs``.

    Args:
        before: the state in front of the first window.
        last: the pending of the last window.
        inputs: those of all windows, stacked along a new leading axis: [K, B, S, ...] for K windows.
    """
    return replace(last, before=before, inputs=jax.tree.map(joined, inputs))


def joined(a: Float[Array, "K B S ..."]) -> Float[Array, "B K*S ..."]:
    """The tokens of several windows as those of one."""
    return jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, *a.shape[3:])


def conv_after(history: Any, inputs: Any, n: Int[Array, "B"]) -> Any:
    """The convolution's last inputs behind the first `n` of the window's, in the history's dtype."""
    return jax.tree.map(lambda last, new: last_inputs(last, new, n), history, inputs)
