"""What a policy of thinking is: behind each token of the segment it scores how much speaks for leaving."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.thinking.delimiters import Place


@struct.dataclass
class Thought:
    """What a policy sees of each row behind the newest token of its thinking.

    Attributes:
        token: i32[B].
        count: i32[B], tokens of the segment so far, this one included.
        logits: f32[B, V], the model's for the next token, before any processor.
        streams: [B, D] each, the model's own at this token, by the names of the policy's `taps`.
    """

    token: jax.Array
    count: jax.Array
    logits: jax.Array
    streams: dict[str, jax.Array]


class ThinkingPolicy(Protocol):
    """Thinking is left where a score exceeds the threshold. A pytree: the threshold and parameters are data.

    What it returns for rows that do not think is not looked at.
    """

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the model's streams that it looks at."""

    @property
    def threshold(self) -> Array | float:
        """A number, or f32[B]."""

    def begin(self, batch: int) -> Any:
        """Notes of rows that have not thought yet: a pytree whose arrays lead with B."""

    def look(self, thought: Thought, notes: Any) -> tuple[Float[Array, "B"], Any]:
        """Each row's score, minus infinity where it must go on thinking, and the notes behind this token."""


def watch(
    policy: ThinkingPolicy,
    place: Place,
    token: Int[Array, "B"],
    logits: Float[Array, "B V"],
    streams: dict[str, Array],
    notes: Any,
) -> tuple[Float[Array, "B"], Any]:
    """The policy's scores behind the rows' newest tokens, minus infinity where a row does not think, and its
    notes. With the first token of a segment notes begin anew."""
    thinks = place.inside & (place.thought > 0)
    notes = _where_rows(place.thought == 1, policy.begin(token.shape[0]), notes)
    thought = Thought(token=token, count=place.thought, logits=logits, streams=streams)
    score, noted = policy.look(thought, notes)
    return jnp.where(thinks, score, -jnp.inf), _where_rows(thinks, noted, notes)


def _where_rows(rows: Bool[Array, "B"], true: Any, false: Any) -> Any:
    """Of two pytrees whose arrays lead with B, the first in some rows and the second in the others."""

    def pick(one: Array, other: Array) -> Array:
        return jnp.where(rows.reshape(rows.shape + (1,) * (one.ndim - 1)), one, other)

    return jax.tree.map(pick, true, false)
