"""Samplers: policies that pick each row's next token from its logits."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number, whole


class Sampler(Protocol):
    """Picks one token per row. Implementations are pytrees: their numbers may be traced."""

    def __call__(self, logits: Float[Array, "B V"], keys: Array) -> Int[Array, "B"]: ...

    def probabilities(self, logits: Float[Array, "... V"]) -> Float[Array, "... V"]:
        """The distribution that tokens are picked from."""


@dataclass(frozen=True)
class Greedy:
    """The most probable token; the lowest id among equals."""

    def __call__(self, logits: Float[Array, "B V"], keys: Array) -> Int[Array, "B"]:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def probabilities(self, logits: Float[Array, "... V"]) -> Float[Array, "... V"]:
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A random token after temperature, top-k, top-p and min-p, applied in that order.

    temperature: divides the logits, > 0. top_k: keep the k most probable tokens. top_p: keep the smallest
    set of most probable tokens whose probabilities reach p, 0 < p <= 1. min_p: keep tokens at least min_p
    times as probable as the most probable one, 0 <= min_p <= 1. None leaves a filter out.

    Changing a number compiles nothing, except for `top_k`, which is a shape.

    Raises:
        ValueError: a value outside its range or not finite.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, low=0.0, low_included=False)
        check_number("top_p", self.top_p, low=0.0, low_included=False, high=1.0)
        check_number("min_p", self.min_p, low=0.0, high=1.0)
        if self.top_k is not None:  # static, so that it must be hashable
            object.__setattr__(self, "top_k", whole("top_k", self.top_k, low=1))

    def __call__(self, logits: Float[Array, "B V"], keys: Array) -> Int[Array, "B"]:
        ids, filtered = self.candidates(logits)
        picked = jax.vmap(jax.random.categorical)(keys, filtered)
        return jnp.take_along_axis(ids, picked[:, None], axis=1)[:, 0].astype(jnp.int32)

    def probabilities(self, logits: Float[Array, "... V"]) -> Float[Array, "... V"]:
        vocab = logits.shape[-1]
        ids, filtered = self.candidates(logits.reshape(-1, vocab))
        kept = jax.nn.softmax(filtered, axis=-1)
        rows = jnp.arange(ids.shape[0])[:, None]
        return jnp.zeros((ids.shape[0], vocab), jnp.float32).at[rows, ids].set(kept).reshape(logits.shape)

    def candidates(self, logits: Float[Array, "B V"]) -> tuple[Int[Array, "B C"], Float[Array, "B C"]]:
        """Token ids and their filtered logits (-inf where dropped), most probable first where sorted."""
        logits = logits.astype(jnp.float32) / self.temperature
        vocab = logits.shape[-1]
        if self.top_k is None and self.top_p is None:
            ids = jnp.broadcast_to(jnp.arange(vocab), logits.shape)
        else:
            logits, ids = jax.lax.top_k(logits, min(self.top_k or vocab, vocab))
        if self.top_p is not None:
            probabilities = jax.nn.softmax(logits, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            logits = jnp.where(before < self.top_p, logits, -jnp.inf)
        if self.min_p is not None:
            best = logits.max(-1, keepdims=True)
            logits = jnp.where(logits >= best + jnp.log(self.min_p), logits, -jnp.inf)
        return ids, logits


jax.tree_util.register_dataclass(Greedy, [], [])
jax.tree_util.register_dataclass(Sample, ["temperature", "top_p", "min_p"], ["top_k"])


def penalise_repetition(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: Float[Array, ""] | float
) -> Float[Array, "B V"]:
    """Divides positive and multiplies negative logits of tokens that occurred already by `penalty`.

    Source: Keskar et al. 2019 (CTRL), section 4.1, with the sign rule that `transformers` uses.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def mark_seen(
    seen: Bool[Array, "B V"], tokens: Int[Array, "B S"], valid: Bool[Array, "B S"]
) -> Bool[Array, "B V"]:
    """`seen` with each row's valid tokens marked."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    return seen.at[rows, jnp.where(valid, tokens, seen.shape[1])].set(True, mode="drop")


def check_number(
    name: str, value: Any, *, low: float, low_included: bool = True, high: float = math.inf
) -> None:
    """Raises ValueError where a number is none or lies outside its range; traced values and None pass."""
    if value is not None and not is_traced(value):
        number(name, value, low=low, high=high, low_included=low_included)
