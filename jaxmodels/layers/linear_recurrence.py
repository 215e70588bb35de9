"""Elementwise linear recurrences with decays that depend on the data, over windows of any length.

    h_t = decay_t * h_{t-1} + input_t            decay in [0, 1], all three of the state's shape
    y_t = read(h_t, tokens_t)

A layer gives its recurrence as two functions. ``expand(tokens) -> (decay, input)`` makes, of the small arrays
that describe some tokens, arrays as large as the state; it is called for one chunk at a time, so that they
never exist for a whole window. ``read(h, tokens)`` makes the output. Both must accept any leading dimensions.
Tokens are any pytree of ``[B, S, ...]`` arrays of which zeros stand for a token that leaves the state alone:
``expand`` of zeros is decay 1 and input 0. Padding and rejected tokens are expressed so.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.mapped import scan
from jaxmodels.layers.sequence_parts import parts_of, recurrence_in_parts

State: TypeAlias = Float[Array, "B ..."]
Tokens: TypeAlias = Any
Expand: TypeAlias = Callable[[Tokens], tuple[Array, Array]]
Read: TypeAlias = Callable[[Array, Tokens], Any]


def recur(tokens: Tokens, state: State, expand: Expand, read: Read, chunk: int) -> tuple[Any, State]:
    """The outputs ``[B, S, ...]`` of a window and the state behind it.

    At most `chunk` decays and inputs are alive at once; a gradient also keeps one state per chunk.

    One token is one step. On CPU, where a scan's steps cost little and its state stays in the inner caches,
    longer windows are steps as well; elsewhere they are chunks of logarithmic depth.
    """
    size = jax.tree.leaves(tokens)[0].shape[1]
    if parts_of(size) > 1:
        return recurrence_in_parts(
            tokens,
            state,
            window=lambda tokens, state: recur(tokens, state, expand, read, chunk),
            summary=lambda tokens, like: _decay_and_sum(tokens, like, expand, chunk),
            advance=lambda made, state: made[0] * state + made[1],
        )
    if size == 1:
        token = jax.tree.map(lambda a: a[:, 0], tokens)
        state = _advance(state, token, expand)
        return jax.tree.map(lambda a: a[:, None], read(state, token)), state
    outputs, state = RECURRENCE.given(expand=expand, read=read, chunk=chunk)(tokens, state)
    return outputs, state


def recur_in_steps(tokens: Tokens, state: State, expand: Expand, read: Read, chunk: int) -> tuple[Any, State]:
    """`recur`, token by token. A gradient keeps one state per chunk and recomputes the ones between."""

    def step(h: State, token: Tokens) -> tuple[State, Any]:
        h = _advance(h, token, expand)
        return h, read(h, token)

    return _over_chunks(lambda h, part: scan(step, h, part), tokens, state, chunk)


def recur_in_chunks(
    tokens: Tokens, state: State, expand: Expand, read: Read, chunk: int
) -> tuple[Any, State]:
    """`recur` by an associative scan inside each chunk: no division, no exponential of a positive number."""

    def one_chunk(h: State, part: Tokens) -> tuple[State, Any]:
        decay, inputs = lax.associative_scan(_combined, expand(part), axis=0)
        states = decay * h + inputs
        return states[-1], read(states, part)

    return _over_chunks(one_chunk, tokens, state, chunk)


RECURRENCE = ByBackend(portable=recur_in_chunks, cpu=recur_in_steps)


def replay(tokens: Tokens, state: State, n: Int[Array, "B"], expand: Expand, chunk: int) -> State:
    """The state after the first `n` tokens of a window; with 0 it is `state`, bit for bit."""
    size = jax.tree.leaves(tokens)[0].shape[1]
    taken = keep_only(tokens, jnp.arange(size)[None, :] < n[:, None])
    return recur(taken, state, expand, lambda h, token: None, chunk)[1]


def recur_tree(
    tokens: Tokens, state: State, ancestors: Bool[Array, "B S S"], expand: Expand, read: Read
) -> Any:
    """Outputs ``[B, S, ...]`` of a window whose tokens form a tree: each follows its parent's state.

    ``ancestors[b, i, j]`` says that j is i or an ancestor of i; roots follow `state`. Tokens are visited by
    depth, parents before children. All states are kept, so the window should be a handful of drafted tokens.
    """
    batch, size = ancestors.shape[:2]
    depth = ancestors.sum(-1)
    order = jnp.argsort(depth, axis=-1)
    is_parent = ancestors & (depth[:, None, :] == depth[:, :, None] - 1)
    # Behind the window's slots stands one for the history, the parent of roots.
    parent = jnp.where(is_parent.any(-1), jnp.argmax(is_parent, axis=-1), size)
    rows = jnp.arange(batch)

    def visit(states: Array, token: Int[Array, "B"]) -> tuple[Array, Any]:
        own = jax.tree.map(lambda a: a[rows, token], tokens)
        h = _advance(states[rows, parent[rows, token]], own, expand)
        return states.at[rows, token].set(h), read(h, own)

    empty = jnp.zeros((batch, size, *state.shape[1:]), state.dtype)
    _, visited = scan(visit, jnp.concatenate([empty, state[:, None]], axis=1), order.T)
    place = jnp.argsort(order, axis=-1)
    return jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1)[rows[:, None], place], visited)


def keep_only(tokens: Tokens, keep: Bool[Array, "B S"]) -> Tokens:
    """The tokens, with those that leave the state alone in place of what is not kept."""

    def neutralise(a: Float[Array, "B S ..."]) -> Float[Array, "B S ..."]:
        return jnp.where(keep.reshape(*keep.shape, *(1,) * (a.ndim - 2)), a, 0)

    return jax.tree.map(neutralise, tokens)


def _advance(h: State, token: Tokens, expand: Expand) -> State:
    decay, inputs = expand(token)
    return decay * h + inputs


def _combined(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """What some tokens, and others behind them, multiply a state by together, and what they add to it."""
    return left[0] * right[0], right[0] * left[1] + right[1]


def _decay_and_sum(tokens: Tokens, like: State, expand: Expand, chunk: int) -> tuple[State, State]:
    """What a window multiplies a state by, and what it adds to it."""

    def one_chunk(made: tuple[State, State], part: Tokens) -> tuple[tuple[State, State], None]:
        tokens = lax.associative_scan(_combined, expand(part), axis=0)
        return _combined(made, jax.tree.map(lambda a: a[-1], tokens)), None

    nothing = jnp.ones_like(like), jnp.zeros_like(like)
    made: tuple[State, State] = _over_chunks(one_chunk, tokens, nothing, chunk)[1]
    return made


def _over_chunks(
    one_chunk: Callable[[Any, Tokens], tuple[Any, Any]], tokens: Tokens, state: Any, chunk: int
) -> tuple[Any, Any]:
    """Passes the state through chunks of at most `chunk` tokens, which `one_chunk` gets tokens first."""
    size = jax.tree.leaves(tokens)[0].shape[1]
    num_chunks = -(-size // chunk)
    length = -(-size // num_chunks)  # even chunks: the least padding

    def split(a: Float[Array, "B S ..."]) -> Float[Array, "C Q B ..."]:
        padded = jnp.pad(a, [(0, 0), (0, num_chunks * length - size)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(padded, 0, 1).reshape(num_chunks, length, a.shape[0], *a.shape[2:])

    def join(y: Float[Array, "C Q B ..."]) -> Float[Array, "B S ..."]:
        return jnp.moveaxis(y.reshape(num_chunks * length, *y.shape[2:])[:size], 0, 1)

    remembered = jax.checkpoint(one_chunk, prevent_cse=False)
    state, outputs = scan(remembered, state, jax.tree.map(split, tokens))
    return jax.tree.map(join, outputs), state
