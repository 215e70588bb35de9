"""How sure a model is of each token behind a block: what early exits go by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced
from jaxmodels.models.block import Stream
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A block that was passed, as a confidence sees it.

    Attributes:
        index: the block's number. blocks: how many the model has.
        before, after: the stream on either side of it.
        head: float32[B, S, V] logits of a stream, as if the decoder ended there.
    """

    index: int
    blocks: int
    before: Stream
    after: Stream
    head: Callable[[Stream], Float[Array, "B S V"]]


class Confidence(Protocol):
    """How sure the model is of each token behind a block. Implementations are pytrees."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]: ...


@dataclass(frozen=True)
class MaxProbability:
    """The probability of the most probable token: one pass of the head per block that is asked about."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        logits = passed.head(passed.after)
        return jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))


@dataclass(frozen=True)
class ProbabilityGap:
    """By how much the most probable token leads the next, in probability (CALM's softmax response)."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        first, second = jnp.moveaxis(
            jax.lax.top_k(jax.nn.softmax(passed.head(passed.after), axis=-1), 2)[0], -1, 0
        )
        return first - second


@dataclass(frozen=True)
class Similarity:
    """The cosine between the streams before and behind the block (CALM's hidden-state saturation). Needs no
    head."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        before, after = (stream.hidden.astype(jnp.float32) for stream in (passed.before, passed.after))
        lengths = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
        return (before * after).sum(-1) / jnp.maximum(lengths, jnp.finfo(jnp.float32).tiny)


@dataclass(frozen=True, eq=False)
class LinearConfidence:
    """A learned classifier of the stream: ``sigmoid(weight[i] . hidden + bias[i])`` behind block i.

    Attributes:
        weight: f32[L, D], a row for each block; equal rows are CALM's one classifier for all.
        bias: f32[L].

    Raises:
        ValueError: the two do not fit each other; when traced, a model of another number of blocks or width.
    """

    weight: jax.Array
    bias: jax.Array

    def __post_init__(self) -> None:
        if is_traced(self.weight) or is_traced(self.bias):
            return
        weight, bias = jnp.shape(self.weight), jnp.shape(self.bias)
        if len(weight) != 2 or bias != weight[:1]:
            raise ValueError(
                "LinearConfidence: weight must be [L, D] and bias [L] for a model of L blocks, got "
                f"{list(weight)} and {list(bias)}"
            )

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        expected = (passed.blocks, passed.after.hidden.shape[-1])
        if self.weight.shape != expected:
            raise ValueError(
                f"LinearConfidence: weight {list(self.weight.shape)} is for another model: this one has "
                f"{expected[0]} blocks of width {expected[1]}"
            )
        hidden = passed.after.hidden.astype(jnp.float32)
        return jax.nn.sigmoid(hidden @ self.weight[passed.index] + self.bias[passed.index])


register_dataclass(MaxProbability, [], [])
register_dataclass(ProbabilityGap, [], [])
register_dataclass(Similarity, [], [])
register_dataclass(LinearConfidence, ["weight", "bias"], [])
