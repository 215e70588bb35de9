"""Ways to one vector for a whole text: at which of its tokens it stands."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Pooling(Protocol):
    """Says which token of each text stands for it. Implementations are hashable frozen dataclasses."""

    def index(self, tokens: Int[Array, "B S"]) -> Int[Array, " B"]:
        """The place of that token in each row."""


@dataclass(frozen=True)
class AtToken:
    """The first token with this id, the one that ends texts; the first of all where there is none."""

    token: int

    def index(self, tokens: Int[Array, "B S"]) -> Int[Array, " B"]:
        return jnp.argmax(tokens == self.token, axis=-1)


@dataclass(frozen=True)
class AtHighestId:
    """The token with the highest id, the first of several: the one that ends texts in CLIP's vocabulary,
    whose published configurations name another."""

    def index(self, tokens: Int[Array, "B S"]) -> Int[Array, " B"]:
        return jnp.argmax(tokens, axis=-1)


def pooled(pooling: Pooling, hidden: Float[Array, "B S D"], tokens: Int[Array, "B S"]) -> Float[Array, "B D"]:
    """The vector of each row's token."""
    index = pooling.index(tokens)
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]
