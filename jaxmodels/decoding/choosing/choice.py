"""What a rule that chooses among the samples of a prompt is shown, and asked."""

from typing import Protocol

import jax
from flax import struct
from jaxtyping import Array, Bool, Int


@struct.dataclass
class Candidates:
    """The samples of each prompt so far.

    Attributes:
        lengths: i32[B, n], tokens, stop token included.
        done: bool[B, n], whether it has ended.
        stuck: bool[B, n], whether it ended because there was no token to choose.
        log_prob: f32[B, n], of its tokens together, under the model itself.
    """

    lengths: jax.Array
    done: jax.Array
    stuck: jax.Array
    log_prob: jax.Array


class Choice(Protocol):
    """A rule. A pytree: its numbers are data."""

    def decided(self, candidates: Candidates) -> Bool[Array, "B"]:
        """Whether a prompt's samples need not go on."""

    def best(self, candidates: Candidates) -> Int[Array, "B"]:
        """The sample that is the prompt's answer, where it is decided."""
