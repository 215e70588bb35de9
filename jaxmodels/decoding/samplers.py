"""Samplers: policies that pick each row's next token from its logits."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.bisection import least_float, least_int
from jaxmodels.pytrees import register_dataclass


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
    """A random token after temperature and filters, applied in the order of the attributes.

    That is the order of `transformers`, and each filter sees the probabilities that the ones before it leave.
    None leaves a filter out. Changing a number compiles nothing, except for `top_k`, which is a shape.
    Sources of typical, epsilon and eta sampling: Meister et al. 2022; Hewitt et al. 2022.

    Attributes:
        temperature: divides the logits, > 0.
        top_k: keep the k most probable tokens; of equals those with the lowest ids.
        top_p: keep the smallest set of most probable tokens whose probabilities reach p, 0 < p <= 1; of
            equals those with the lowest ids.
        min_p: keep tokens at least min_p times as probable as the most probable one, 0 <= min_p <= 1.
        typical_p: keep the tokens whose surprise is nearest to the entropy, until their probabilities reach
            p, 0 < p <= 1.
        epsilon_cutoff: keep tokens of at least this probability, and the most probable, 0 <= cutoff <= 1.
        eta_cutoff: the same with the cutoff ``min(eta, sqrt(eta) * exp(-entropy))``, 0 <= eta <= 1.

    Raises:
        ValueError: a value outside its range or not finite.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, low=0.0, low_included=False)
        for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            value = getattr(self, name)
            if value is not None:
                above_zero = name in ("top_p", "typical_p")
                check_number(name, value, low=0.0, low_included=not above_zero, high=1.0)
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
        if self.top_k is None or self.top_k >= vocab:
            return kept.reshape(logits.shape)  # they are in place: a scatter takes a CPU as long as a layer
        rows = jnp.arange(ids.shape[0])[:, None]
        return jnp.zeros((ids.shape[0], vocab), jnp.float32).at[rows, ids].set(kept).reshape(logits.shape)

    def candidates(self, logits: Float[Array, "B V"]) -> tuple[Int[Array, "B C"], Float[Array, "B C"]]:
        """Token ids and their filtered logits (-inf where dropped): the `top_k`, most probable first, or all
        tokens by id."""
        logits = logits.astype(jnp.float32) / self.temperature
        vocab = logits.shape[-1]
        if self.top_k is None or self.top_k >= vocab:
            ids = jnp.broadcast_to(jnp.arange(vocab), logits.shape)
        else:
            logits, ids = jax.lax.top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = jnp.where(most_probable(logits, self.top_p), logits, -jnp.inf)
        if self.min_p is not None:
            best = logits.max(-1, keepdims=True)
            logits = jnp.where(logits >= best + jnp.log(self.min_p), logits, -jnp.inf)
        if self.typical_p is not None:
            logits = _typical(logits, self.typical_p)
        if self.epsilon_cutoff is not None:
            logits = _probable(logits, self.epsilon_cutoff)
        if self.eta_cutoff is not None:
            cutoff = jnp.sqrt(self.eta_cutoff) * jnp.exp(-_entropy(logits))
            logits = _probable(logits, jnp.minimum(self.eta_cutoff, cutoff))
        return ids, logits


register_dataclass(Greedy, [], [])
register_dataclass(
    Sample, ["temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"], ["top_k"]
)


def check_number(
    name: str, value: Any, *, low: float, low_included: bool = True, high: float = math.inf
) -> None:
    """Raises ValueError where a value is no number or lies outside its range; traced values pass."""
    if not is_traced(value):
        number(name, value, low=low, high=high, low_included=low_included)


def most_probable(logits: Float[Array, "B C"], mass: Float[Array, ""] | float) -> Bool[Array, "B C"]:
    """Which tokens are the fewest whose probabilities reach `mass`; of equally likely ones the first are.

    A token belongs to them if the tokens before it, by falling logit, fall short of `mass`. The last one's
    probability is found by bisection, then, among tokens of this probability, its logit and its place.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    mass = jnp.where(
        jnp.asarray(mass) >= 1.0, jnp.inf, mass
    )  # rounded sums may reach 1 before the last token
    by_tile = _by_tile(probabilities)

    def before(last: Float[Array, "B 1"]) -> Float[Array, "B 1"]:
        return jnp.where(by_tile > last[..., None], by_tile, 0.0).sum((-2, -1))[:, None]

    highest = probabilities.max(-1, keepdims=True)
    each = least_float(jnp.zeros_like(highest), highest, lambda last: before(last) < mass)
    equal, reached = probabilities == each, before(each)

    def in_front(these: Bool[Array, "B C"]) -> Float[Array, "B 1"]:
        return reached + each * (equal & these).sum(-1, keepdims=True)

    low = jnp.where(equal, logits, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(equal, logits, -jnp.inf).max(-1, keepdims=True)
    last = least_float(low, high, lambda last: in_front(logits > last) < mass)
    index, is_last = jnp.arange(logits.shape[-1]), equal & (logits == last)
    first = jnp.where(is_last, index, index[-1]).min(-1, keepdims=True)
    final = jnp.where(is_last, index, 0).max(-1, keepdims=True)

    def is_in(final: Int[Array, "B 1"]) -> Bool[Array, "B C"]:
        return (logits > last) | (index <= final)

    final = least_int(first, final, lambda final: in_front(is_in(final)) >= mass)
    return (probabilities > each) | (equal & (logits >= last) & is_in(final))


def _by_tile(x: Float[Array, "B C"]) -> Float[Array, "B 8 C/8"]:
    """Each row as several, padded with zeros: a TPU computes with 8 rows in the time that one takes."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[-1] % 8))).reshape(x.shape[0], 8, -1)


def _typical(logits: Float[Array, "B C"], mass: Float[Array, ""] | float) -> Float[Array, "B C"]:
    """The tokens nearest to the entropy in surprise that reach `mass`, and those as near as the last."""
    scores = jax.nn.log_softmax(logits, axis=-1)
    distance, probabilities = jnp.abs(-scores - _entropy(logits)), jnp.exp(scores)

    by_tile, weights = _by_tile(distance), _by_tile(probabilities)

    def reach(farthest: Float[Array, "B 1"]) -> Bool[Array, "B 1"]:
        return jnp.where(by_tile <= farthest[..., None], weights, 0.0).sum((-2, -1))[:, None] >= mass

    highest = distance.max(-1, keepdims=True)
    farthest = least_float(jnp.zeros_like(highest), highest, reach)
    return jnp.where(distance <= farthest, logits, -jnp.inf)


def _probable(logits: Float[Array, "B C"], cutoff: Float[Array, "..."] | float) -> Float[Array, "B C"]:
    """The tokens of at least the probability `cutoff`, and the most probable."""
    is_best = logits == logits.max(-1, keepdims=True)
    return jnp.where(is_best | (jax.nn.softmax(logits, axis=-1) >= cutoff), logits, -jnp.inf)


def _entropy(logits: Float[Array, "B C"]) -> Float[Array, "B 1"]:
    scores = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.where(jnp.isneginf(scores), 0.0, scores * jnp.exp(scores)).sum(-1, keepdims=True)
