"""A monitor of how often thinking takes a turn of late, compared with how often it did before."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.decoding.thinking.moments import EveryTokens, Moments
from jaxmodels.decoding.thinking.policy import Thought
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Turns:
    """The turns that each row's thinking took.

    Attributes:
        recent: bool[B, W], at the last tokens, in the order of a ring.
        total: i32[B], at all tokens.
        seen: i32[B], how many tokens that are.
    """

    recent: jax.Array
    total: jax.Array
    seen: jax.Array


@dataclass(frozen=True, kw_only=True)
class PathDeviation:
    """Reasoning Path Deviation Monitoring: thinking is left where turns have become much more frequent.

    A token is a turn where the entropy of the model's distribution for the next one exceeds `entropy`. The
    score is the share of turns among the last `window` tokens of the segment over their share among all of
    them, 0 where there was none; there is none before so many tokens. Source:
    https://arxiv.org/abs/2603.14251, from its abstract; that the index is the local frequency over the
    global one is how others describe it. Inferred is that entropy alone makes a turn, without a list of
    words, and that the distribution is the one behind the token, not the one it was drawn from.

    Attributes:
        threshold: the ratio that must be exceeded. It is never above ``tokens / window``. Data.
        entropy: in nats, of the model's own distribution, whatever the temperature. Data.
        window: tokens, at least 1.
        moments: the tokens behind which thinking may be left, such as the ends of sentences.

    Raises:
        ValueError: a value outside its range.
    """

    threshold: Array | float
    entropy: Array | float
    window: int
    moments: Moments = EveryTokens()

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", whole("window", self.window, low=1))
        check_policy("moments", self.moments, "__call__", "AtTokens((5, 9))")
        if not is_traced(self.threshold) and jnp.ndim(self.threshold) == 0:
            number("threshold", self.threshold, low=0.0)
        if not is_traced(self.entropy):
            number("entropy", self.entropy, low=0.0)

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, batch: int) -> Turns:
        zeros = jnp.zeros((batch,), jnp.int32)
        return Turns(recent=jnp.zeros((batch, self.window), bool), total=zeros, seen=zeros)

    def look(self, thought: Thought, notes: Turns) -> tuple[Float[Array, "B"], Turns]:
        scores = jax.nn.log_softmax(thought.logits.astype(jnp.float32), axis=-1)
        p = jnp.exp(scores)
        turn = -jnp.where(p > 0, p * scores, 0.0).sum(-1) > self.entropy
        slot = jnp.arange(self.window) == (notes.seen % self.window)[:, None]
        notes = Turns(
            recent=jnp.where(slot, turn[:, None], notes.recent),
            total=notes.total + turn,
            seen=notes.seen + 1,
        )
        local, overall = notes.recent.mean(-1), notes.total / notes.seen
        index = jnp.where(notes.total > 0, local / jnp.maximum(overall, 1e-9), 0.0)
        asked = (notes.seen >= self.window) & self.moments(thought)
        return jnp.where(asked, index, -jnp.inf), notes


register_dataclass(PathDeviation, ["threshold", "entropy", "moments"], ["window"])
