"""Confidences that are learned: small classifiers of the stream behind a block, each block with its own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced
from jaxmodels.decoding.depth.confidence.confidence import Passed
from jaxmodels.pytrees import register_dataclass


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
        check_model("LinearConfidence", "weight", self.weight, passed)
        hidden = passed.after.hidden.astype(jnp.float32)
        return jax.nn.sigmoid(hidden @ self.weight[passed.index] + self.bias[passed.index])


@dataclass(frozen=True, kw_only=True, eq=False)
class MLPConfidence:
    """A learned classifier with one hidden layer: behind block i
    ``sigmoid(w_out[i] . relu(w_in[i] u + b_in[i]) + b_out[i])``, where u is the stream divided by its root
    mean square, which grows from block to block.

    Attributes:
        w_in: f32[L, D, H]. b_in: f32[L, H].
        w_out: f32[L, H]. b_out: f32[L].

    Raises:
        ValueError: they do not fit each other; when traced, a model of another number of blocks or width.
    """

    w_in: jax.Array
    b_in: jax.Array
    w_out: jax.Array
    b_out: jax.Array

    def __post_init__(self) -> None:
        parts = (self.w_in, self.b_in, self.w_out, self.b_out)
        if any(map(is_traced, parts)):
            return
        w_in, *others = (jnp.shape(part) for part in parts)
        if len(w_in) != 3 or others != [(w_in[0], w_in[2]), (w_in[0], w_in[2]), w_in[:1]]:
            raise ValueError(
                "MLPConfidence: w_in must be [L, D, H], b_in and w_out [L, H] and b_out [L] for a model of L "
                f"blocks, got {', '.join(str(list(shape)) for shape in (w_in, *others))}"
            )

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        check_model("MLPConfidence", "w_in", self.w_in, passed)
        i, hidden = passed.index, passed.after.hidden.astype(jnp.float32)
        unit = hidden * jax.lax.rsqrt(jnp.square(hidden).mean(-1, keepdims=True) + 1e-6)
        inside = jax.nn.relu(unit @ self.w_in[i] + self.b_in[i])
        return jax.nn.sigmoid(inside @ self.w_out[i] + self.b_out[i])


def check_model(kind: str, name: str, weight: jax.Array, passed: Passed) -> None:
    """Raises ValueError where a weight [L, D, ...] is for another number of blocks or width."""
    expected = (passed.blocks, passed.after.hidden.shape[-1])
    if weight.shape[:2] != expected:
        raise ValueError(
            f"{kind}: {name} {list(weight.shape)} is for another model: this one has {expected[0]} blocks of "
            f"width {expected[1]}"
        )


def check_blocks(kind: str, name: str, made_for: int, blocks: int) -> None:
    """Raises ValueError where a weight is for another number of blocks."""
    if made_for != blocks:
        raise ValueError(f"{kind}: {name} is for a model of {made_for} blocks, and this one has {blocks}")


register_dataclass(LinearConfidence, ["weight", "bias"], [])
register_dataclass(MLPConfidence, ["w_in", "b_in", "w_out", "b_out"], [])
