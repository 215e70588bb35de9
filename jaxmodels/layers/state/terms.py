"""Tokens of a linear recurrence as the terms that they add to its state.

With a decay per head or per key channel, the state behind the tokens is

    state = exp(total) * state_0 + sum_t (exp(after_t) * key_t) (outer) value_t

where ``after_t`` sums the decays of later tokens and ``total`` those of all. State space duality adds its B
and its scaled input, the gated delta rule its key and its update: both are kept here alike. What a token
reads of such a history needs no state in between, and neither does forgetting the last tokens.
"""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.delta import decay_after
from jaxmodels.layers.state.history import History, of_state


@struct.dataclass
class Terms:
    """What tokens add, each in a slot of its own.

    Attributes:
        keys: f32[B, G, T, R], of each group of heads.
        values: f32[B, N, T, P].
        log_decay: f32[B, N, T, 1 or R], never positive.
    """

    keys: Any
    values: Any
    log_decay: Any


def fold(state: Float[Array, "B N R P"], terms: Terms, count: Int[Array, "B"]) -> Float[Array, "B N R P"]:
    """The state behind the first `count` terms of each row."""
    after, total = _decays(terms, count)
    keys = jnp.where(_taken(terms, count), _per_head(terms) * jnp.exp(after), 0.0)
    added = jnp.einsum("bntr,bntp->bnrp", keys, terms.values)
    return jnp.exp(total)[..., None] * state + added


def of_terms(state: Float[Array, "B N R P"], terms: Terms, count: Int[Array, "B"]) -> History:
    """The history of a state and the first `count` terms behind it, without the state that they make."""
    after, total = _decays(terms, count)
    before = of_state(state)

    def read(readers: Float[Array, "B G Z R"], decay: Float[Array, "B N Z #R"]) -> Float[Array, "B N Z P"]:
        found = before(readers, decay * jnp.exp(total)[:, :, None])
        if after.shape[-1] == 1:
            scores = readers @ jnp.swapaxes(terms.keys, -1, -2)
            scores = jnp.repeat(scores, terms.values.shape[1] // scores.shape[1], axis=1)
            in_use = jnp.where(_taken(terms, count), jnp.exp(after), 0.0)
            return found + decay * ((scores * jnp.swapaxes(in_use, -1, -2)) @ terms.values)
        readers = jnp.repeat(readers, terms.values.shape[1] // readers.shape[1], axis=1)
        scores = (readers * decay) @ jnp.swapaxes(_per_head(terms) * jnp.exp(after), -1, -2)
        return found + jnp.where(jnp.swapaxes(_taken(terms, count), -1, -2), scores, 0.0) @ terms.values

    return read


def _taken(terms: Terms, count: Int[Array, "B"]) -> Bool[Array, "B 1 T 1"]:
    return (jnp.arange(terms.values.shape[2]) < count[:, None])[:, None, :, None]


def _decays(terms: Terms, count: Int[Array, "B"]) -> tuple[Float[Array, "B N T #R"], Float[Array, "B N #R"]]:
    """The decay from just after each of the first `count` terms to their end, and that of all."""
    log_decay = jnp.where(_taken(terms, count), terms.log_decay, 0.0)
    return decay_after(log_decay, axis=2), log_decay.sum(2)


def _per_head(terms: Terms) -> Float[Array, "B N T R"]:
    return jnp.repeat(terms.keys, terms.values.shape[1] // terms.keys.shape[1], axis=1)
