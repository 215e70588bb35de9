"""Where a text thinks: between two sequences of tokens that a model was trained with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import is_whole
from jaxmodels.decoding.processors.token_ids import checked_ids
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Place:
    """Where each row's text stands.

    Attributes:
        recent: i32[B, R], its last tokens; -1 before the first.
        inside: bool[B], whether it thinks: a segment has begun and not ended.
        thought: i32[B], tokens behind the delimiter with which the segment began; 0 outside.
    """

    recent: jax.Array
    inside: jax.Array
    thought: jax.Array


@dataclass(frozen=True, kw_only=True)
class Delimiters:
    """The tokens around a segment of thinking, such as those of ``<think>`` and ``</think>``.

    A segment begins behind `begin`, in the prompt or in the answer, and ends behind `end`.

    Attributes:
        begin, end: a token id, or several that stand for one delimiter.
        closing: what is written where thinking is cut off; `end` must be part of it. By default it is `end`.

    Raises:
        ValueError: no token ids, the same ones at both ends, or a `closing` that does not end the segment.
    """

    begin: int | Sequence[int]
    end: int | Sequence[int]
    closing: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("begin", "end"):
            given = getattr(self, name)
            object.__setattr__(self, name, checked_ids(name, (given,) if is_whole(given) else given))
        if self.begin == self.end:
            raise ValueError(f"begin and end must differ, got {list(self.begins)} for both")
        closing = self.ends if self.closing is None else checked_ids("closing", self.closing)
        size = len(self.ends)
        if self.ends not in [closing[i : i + size] for i in range(len(closing) - size + 1)]:
            raise ValueError(
                f"closing must hold the tokens of end, {list(self.ends)}, in a row, got {list(closing)}"
            )
        object.__setattr__(self, "closing", closing)

    @property
    def begins(self) -> tuple[int, ...]:
        """`begin` as it is once checked."""
        return tuple(self.begin)  # type: ignore[arg-type]

    @property
    def ends(self) -> tuple[int, ...]:
        """`end` as it is once checked."""
        return tuple(self.end)  # type: ignore[arg-type]

    @property
    def closes(self) -> tuple[int, ...]:
        """`closing` as it is once checked."""
        return tuple(self.closing)  # type: ignore[arg-type]

    def named_tokens(self) -> Iterable[int]:
        return {*self.begins, *self.ends, *self.closes}

    def nowhere(self, batch: int) -> Place:
        """In front of the texts' first tokens."""
        size = max(len(self.begins), len(self.ends))
        return Place(
            recent=jnp.full((batch, size), -1, jnp.int32),
            inside=jnp.zeros((batch,), bool),
            thought=jnp.zeros((batch,), jnp.int32),
        )

    def follow(self, place: Place, token: Int[Array, "B"], is_text: Bool[Array, "B"]) -> Place:
        """Behind one more token of each row in which it is text; the others stay where they are."""
        recent = jnp.concatenate([place.recent[:, 1:], token[:, None]], axis=1)
        begun = ~place.inside & _ends_with(recent, self.begins)
        ended = place.inside & _ends_with(recent, self.ends)
        inside = (place.inside | begun) & ~ended
        thought = jnp.where(inside & ~begun, place.thought + 1, 0)
        return Place(
            recent=jnp.where(is_text[:, None], recent, place.recent),
            inside=jnp.where(is_text, inside, place.inside),
            thought=jnp.where(is_text, thought, place.thought),
        )

    def behind(self, tokens: Int[Array, "B S"], lengths: Int[Array, "B"]) -> tuple[Place, Place]:
        """Where texts padded on the right stand: behind the last token, and, leading with S, behind each."""

        def step(place: Place, seen: tuple[Array, Array]) -> tuple[Place, Place]:
            token, index = seen
            place = self.follow(place, token, index < lengths)
            return place, place

        batch, size = tokens.shape
        return lax.scan(step, self.nowhere(batch), (tokens.T, jnp.arange(size)))


def _ends_with(recent: Int[Array, "B R"], tokens: tuple[int, ...]) -> Bool[Array, "B"]:
    return (recent[:, -len(tokens) :] == jnp.asarray(tokens, jnp.int32)).all(-1)


register_dataclass(Delimiters, [], ["begin", "end", "closing"])
