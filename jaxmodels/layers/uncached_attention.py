"""Attention without a history: every query sees all keys that are real, in whatever order."""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.attend import Allowed
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import attend_slots


def attend_seen(
    attention: Attention,
    q: Float[Array, "B S N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    seen: Bool[Array, "B T"],
) -> Float[Array, "B S N H"]:
    """What every query finds in the keys that are `seen`, with the layer's `Scores`; zeros where none is."""
    size = k.shape[1]
    return attend_slots(
        attention.heads,
        q,
        *(jnp.swapaxes(a, 1, 2) for a in (k, v)),
        allowed=_allowed(seen),
        key_range=lambda start, count: (0, size),
    )


def _allowed(seen: Bool[Array, "B T"]) -> Allowed:
    def allowed(
        query_start: int | Array, query_size: int, key_start: int | Array, key_size: int
    ) -> Bool[Array, "B S T"]:
        block = lax.dynamic_slice_in_dim(seen, key_start, key_size, axis=1)
        return jnp.broadcast_to(block[:, None], (seen.shape[0], query_size, key_size))

    return allowed


# What an `Attention` can be set to that only makes sense in a sequence with a history.
SEQUENCE_FIELDS = ("sliding_window", "chunk", "query_scale", "sink_logits", "output_gate", "cache")


def check_defaults(layer: str, attention: Attention, names: tuple[str, ...]) -> None:
    """Raises ValueError, with the value, where a field that `layer` would ignore is set."""
    defaults = {field.name: field.default for field in dataclasses.fields(attention)}
    for name in names:
        if getattr(attention, name) != defaults[name]:
            raise ValueError(
                f"{layer}: {name}={getattr(attention, name)!r} of its attention has no meaning here; leave "
                f"it at {defaults[name]!r}"
            )
