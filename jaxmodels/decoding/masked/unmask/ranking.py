"""Choosing places of each row by how confident a model is of them."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def ranks(confidence: Float[Array, "B L"], among: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """Each place's number by falling confidence, from 0; of equals the first comes first.

    Places that are not `among` those to choose from follow all that are.
    """
    index = jnp.broadcast_to(jnp.arange(among.shape[1]), among.shape)
    *_, order = lax.sort((~among, -confidence, index), dimension=1, is_stable=True, num_keys=2)
    return jnp.argsort(order, axis=1).astype(jnp.int32)


def top(
    confidence: Float[Array, "B L"], among: Bool[Array, "B L"], count: Int[Array, "B"]
) -> Bool[Array, "B L"]:
    """The `count` places of each row with the highest confidence, or all there are to choose from."""
    return among & (ranks(confidence, among) < count[:, None])


def best(confidence: Float[Array, "B L"], among: Bool[Array, "B L"]) -> Bool[Array, "B L"]:
    """The place of each row with the highest confidence; none in rows without any to choose from."""
    highest = jnp.where(among, confidence, -jnp.inf).max(1, keepdims=True)
    is_highest = among & (confidence >= highest)
    first = jnp.argmax(jnp.where(is_highest.any(1, keepdims=True), is_highest, among), axis=1)
    return among & (jnp.arange(among.shape[1]) == first[:, None])


def top_two(values: Float[Array, "*N V"]) -> tuple[Float[Array, "*N"], Float[Array, "*N"]]:
    """The highest of the last axis and the next, which may be equal."""
    at = jnp.argmax(values, axis=-1, keepdims=True)
    first = jnp.take_along_axis(values, at, axis=-1)[..., 0]
    others = jnp.where(jnp.arange(values.shape[-1]) == at, -jnp.inf, values)
    return first, others.max(-1)


def entropy(logits: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """That of the softmax of the last axis, in nats."""
    shifted = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(shifted)
    total = weights.sum(-1)
    expected = jnp.where(weights > 0, weights * shifted, 0.0).sum(-1) / total
    return jnp.log(total) - expected
