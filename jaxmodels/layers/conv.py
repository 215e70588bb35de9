"""Causal depthwise convolution over the sequence, with its last inputs as state."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.sequence_parts import (
    SEQUENCE,
    handed_over,
    number_of_part,
    on_each_part,
    parts_of,
)
from jaxmodels.layers.window import Window


def extended(history: Float[Array, "B H *F"], inputs: Float[Array, "B S *F"]) -> Float[Array, "B H+S *F"]:
    """A window's inputs behind the history's last ``H = W - 1``."""
    return jnp.concatenate([history.astype(inputs.dtype), inputs], axis=1)


def causal_conv(
    extended: Float[Array, "B E *F"], weight: Float[Array, "W *F"], bias: Float[Array, "*F"] | None
) -> Float[Array, "B S *F"]:
    """Depthwise convolution of each channel with its own `W` taps.

    `extended` is the history's last ``W - 1`` inputs followed by the window's ``S`` inputs, so
    ``E = W - 1 + S``; output token ``i`` sees inputs ``i - W + 1 .. i``, the last tap on input ``i``.
    Channels may have several axes. Written as W shifted products: XLA fuses them into one pass on every
    backend.
    """
    width = weight.shape[0]
    size = extended.shape[1] - width + 1
    weight = weight.astype(jnp.float32)
    taps = [extended[:, k : k + size].astype(jnp.float32) * weight[k] for k in range(width)]
    y = functools.reduce(jnp.add, taps)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(extended.dtype)


def last_inputs(
    history: Float[Array, "B H *F"], inputs: Float[Array, "B S *F"], n: Int[Array, "B"]
) -> Float[Array, "B H *F"]:
    """The last inputs behind the first `n` of a window's, as many as `history` has, in its dtype."""
    keep = history.shape[1]
    if not _are_in_parts(history, inputs):
        return conv_tail(extended(history, inputs), n, keep + 1).astype(history.dtype)

    def of_part(history: Array, inputs: Array, n: Array) -> Array:
        size, number = inputs.shape[1], number_of_part()
        place = n[:, None] - keep + jnp.arange(keep) - number * size  # in this part or outside it
        found = jnp.take_along_axis(inputs, _over(jnp.clip(place, 0, size - 1), inputs), axis=1)
        found = jnp.where(_over((place >= 0) & (place < size), inputs), found.astype(history.dtype), 0)
        older = jnp.take_along_axis(history, _over(jnp.clip(place + keep, 0, keep - 1), history), axis=1)
        is_older = (place < 0) & (number == 0)
        return lax.psum(jnp.where(_over(is_older, history), older, found), SEQUENCE)

    tail: Array = on_each_part(of_part, (None, 1, None), None)(history, inputs, n)
    return tail


def _are_in_parts(history: Float[Array, "B H *F"], inputs: Float[Array, "B S *F"]) -> bool:
    """Whether devices share the window's tokens, and have enough of them to give the next one its history."""
    parts = parts_of(inputs.shape[1])
    return parts > 1 and inputs.shape[1] // parts >= history.shape[1]


def conv_tail(
    extended: Float[Array, "B E *F"], n: Int[Array, "B"], width: int
) -> Float[Array, "B {width}-1 *F"]:
    """The last ``width - 1`` inputs after the first `n` window tokens."""
    keep = width - 1
    if extended.shape[1] == keep + 1:
        return jnp.where(_over(n, extended) > 0, extended[:, 1:], extended[:, :keep])
    return jax.vmap(lambda row, start: lax.dynamic_slice_in_dim(row, start, keep))(extended, n)


def window_conv(
    history: Float[Array, "B H *F"],
    inputs: Float[Array, "B S *F"],
    weight: Float[Array, "W *F"],
    bias: Float[Array, "*F"] | None,
    window: Window,
) -> Float[Array, "B S *F"]:
    """The convolution over a window behind `history`, whose tokens follow one another or form a tree."""
    if window.ancestors is None and _are_in_parts(history, inputs):

        def of_part(history: Array, inputs: Array, weight: Array, bias: Array | None) -> Array:
            before = handed_over(history.astype(inputs.dtype), inputs[:, -history.shape[1] :])
            return causal_conv(extended(before, inputs), weight, bias)

        shared: Array = on_each_part(of_part, (None, 1, None, None), 1)(history, inputs, weight, bias)
        return shared
    both = extended(history, inputs)
    if window.ancestors is None:
        return causal_conv(both, weight, bias)
    return causal_conv_tree(both, weight, bias, window.ancestors)


def causal_conv_tree(
    extended: Float[Array, "B E *F"],
    weight: Float[Array, "W *F"],
    bias: Float[Array, "*F"] | None,
    ancestors: Bool[Array, "B S S"],
) -> Float[Array, "B S *F"]:
    """The convolution where each window token follows its ancestors instead of its neighbours.

    ``ancestors[b, i, j]`` says that token j is token i itself or one of its ancestors. Beyond the root of
    the tree the history's inputs follow, nearest first.
    """
    width = weight.shape[0]
    depth = ancestors.sum(-1) - 1
    y = jnp.zeros((), jnp.float32)
    for back in range(width):
        target = depth - back  # the depth of the ancestor that this tap reads; negative: history
        is_ancestor = ancestors & (depth[:, None, :] == target[:, :, None])
        index = jnp.where(target >= 0, width - 1 + jnp.argmax(is_ancestor, axis=-1), width - 1 + target)
        taken = jnp.take_along_axis(extended, _over(jnp.maximum(index, 0), extended), axis=1)
        y = y + taken.astype(jnp.float32) * weight[width - 1 - back].astype(jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(extended.dtype)


def _over(a: Int[Array, "B ..."], inputs: Float[Array, "B E *F"]) -> Int[Array, "B ..."]:
    """`a` with an axis of one for each further axis of `inputs`."""
    return a.reshape(*a.shape, *(1,) * (inputs.ndim - a.ndim))
