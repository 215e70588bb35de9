"""The search of suffix decoding: what most often followed the newest tokens of a text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxmodels.decoding.drafters.matches import NO_TOKEN


class Scored(Protocol):
    """A draft for one row, a pytree."""

    @property
    def score(self) -> jax.Array:
        """f32, the sum of the probabilities of reaching each token, by the counts."""


Draft = TypeVar("Draft", bound=Scored)


@struct.dataclass
class Path:
    """A chain for one row.

    Attributes:
        tokens: i32[G].
        count: i32, how many there are.
        score: f32, the sum of the probabilities of reaching each, by the counts.
    """

    tokens: jax.Array
    count: jax.Array
    score: jax.Array


@dataclass(frozen=True, kw_only=True)
class Search:
    """The options of `SuffixDecoding`, which explains them. Built anew inside each trace."""

    size: int
    least: Array | int
    factor: Array | float
    offset: Array | float
    least_probability: Array | float

    def __call__(self, text: Int[Array, "T"], lengths: Int[Array, "T"], beside: int) -> Path:
        """The best chain of one row over all lengths of matches.

        Args:
            lengths: see `Matches`.
            beside: occurrences of the newest tokens behind which nothing stands.
        """
        nothing = Path(jnp.zeros((self.size,), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros(()))
        return self.best(lengths, lambda places, limit: self._path(text, places, beside, limit), nothing)

    def best(
        self,
        lengths: Int[Array, "T"],
        draft: Callable[[Bool[Array, "T"], Int[Array, ""]], Draft],
        nothing: Draft,
    ) -> Draft:
        """The draft of the greatest sum over all lengths of matches, `nothing` where there is none.

        Only the longest matches that share their places need to be looked at: shorter ones with the same
        places draft the same, and less of it. The longest come first, and none is looked at whose greatest
        possible sum, that of certain tokens, is not above the best.

        Args:
            lengths: see `Matches`.
            draft: of at most so many tokens behind the places where a match ends.
            nothing: a draft without tokens.
        """

        def worth_it(state: tuple[Array, Draft]) -> Array:
            longest, best = state
            return (longest >= self.least) & (self._limit(longest) > best.score)

        def look(state: tuple[Array, Draft]) -> tuple[Array, Draft]:
            longest, best = state
            found = draft(lengths >= longest, self._limit(longest))
            is_better = found.score > best.score
            best = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), found, best)
            return jnp.where(lengths < longest, lengths, 0).max(), best

        return lax.while_loop(worth_it, look, (lengths.max(), nothing))[1]

    def _limit(self, length: Int[Array, ""]) -> Int[Array, ""]:
        """How many tokens a match of this length drafts at most."""
        limit = jnp.floor(self.factor * length + self.offset + 1e-6).astype(jnp.int32)
        return jnp.clip(limit, 0, self.size)

    def _path(self, text: Array, places: Bool[Array, "T"], beside: int, limit: Array) -> Path:
        """The greedy draft behind these places."""
        padded = jnp.pad(text, (0, self.size), constant_values=NO_TOKEN)

        def goes_on(state: Any) -> Array:
            path, _, _, probability = state
            return (path.count < limit) & (probability >= self.least_probability)

        def step(state: Any) -> Any:
            path, places, total, probability = state
            following = lax.dynamic_slice(padded, (path.count,), text.shape)
            token, count = commonest(following, places & (following != NO_TOKEN))
            probability = jnp.where(count > 0, probability * count / total, -1.0)
            taken = probability >= self.least_probability
            path = Path(
                tokens=path.tokens.at[jnp.where(taken, path.count, self.size)].set(token, mode="drop"),
                count=path.count + taken,
                score=path.score + jnp.where(taken, probability, 0.0),
            )
            return path, places & (following == token), count, probability

        nothing = Path(jnp.zeros((self.size,), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros(()))
        state = nothing, places, places.sum(dtype=jnp.int32) + beside, jnp.ones(())
        return lax.while_loop(goes_on, step, state)[0]


def commonest(tokens: Int[Array, "T"], places: Bool[Array, "T"]) -> tuple[Array, Array]:
    """The token that stands most often at these places, the first of equals, and how often it does.

    Takes a turn for each token that is there, until the rest is too few to matter: mostly one.
    """

    def undecided(state: Any) -> Array:
        _, most, left = state
        return left.sum() > most

    def count(state: Any) -> Any:
        best, most, left = state
        token = tokens[jnp.argmax(left)]
        same = left & (tokens == token)
        number = same.sum(dtype=jnp.int32)
        is_more = number > most
        return jnp.where(is_more, token, best), jnp.maximum(number, most), left & ~same

    zero = jnp.zeros((), jnp.int32)
    token, most, _ = lax.while_loop(undecided, count, (zero, zero, places))
    return token, most
