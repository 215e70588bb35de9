"""How sure a model is of each place: what rules that go by rank order places by, the highest first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import entropy, top_two
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import checked_ids, padded
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.pytrees import register_dataclass


class Confidence(Protocol):
    """How sure the model is of each place. Implementations are pytrees."""

    def __call__(self, seen: Seen) -> Float[Array, "B L"]: ...


@dataclass(frozen=True)
class Probability:
    """That of the proposed token under the softmax of the logits (LLaDA's ``low_confidence``)."""

    def __call__(self, seen: Seen) -> Float[Array, "B L"]:
        return seen.probability


@dataclass(frozen=True)
class Random:
    """A uniform number, whatever the model says (LLaDA's ``random``)."""

    def __call__(self, seen: Seen) -> Float[Array, "B L"]:
        return jax.vmap(lambda key: jax.random.uniform(key, seen.masked.shape[1:]))(seen.keys)


@dataclass(frozen=True)
class Margin:
    """By how much the most probable token leads the next, in probability (Kim et al. 2025, top-k margin;
    Dream's ``topk_margin``)."""

    def __call__(self, seen: Seen) -> Float[Array, "B L"]:
        first, second = top_two(seen.logits)
        total = jax.nn.logsumexp(seen.logits, axis=-1)
        return jnp.exp(first - total) - jnp.exp(second - total)


@dataclass(frozen=True)
class NegativeEntropy:
    """That of the softmax of the logits, in nats (Dream's ``entropy``)."""

    def __call__(self, seen: Seen) -> Float[Array, "B L"]:
        return -entropy(seen.logits)


@dataclass(frozen=True)
class AsSampled:
    """Another confidence, measured on what the sampler chose from: behind its temperature and filters.

    Attributes:
        by: the confidence; `Probability` becomes that with which the token was drawn.
    """

    by: Confidence = Probability()

    def __post_init__(self) -> None:
        check_confidence(self.by)

    def __call__(self, seen: Seen) -> Float[Array, "B L"]:
        drawn = jnp.take_along_axis(seen.distribution, seen.proposed[:, :, None], axis=2)[:, :, 0]
        return self.by(replace(seen, logits=jnp.log(seen.distribution), probability=drawn))


@dataclass(frozen=True)
class EndsLast:
    """The probability of the proposed token with some tokens ruled out, which is 0 for these themselves.

    Where they end answers, no place is given to an end while another token is left to be filled in: LLaDA's
    ``confidence_eos_eot_inf`` at temperature 0. With a temperature the released code rules out
    ``<|eot_id|>`` alone. To never propose a token at all (``logits_eos_inf``) give the strategy the processor
    `jaxmodels.decoding.processors.Suppress`.

    Attributes:
        tokens: their ids; LLaDA's are (126081, 126348).

    Raises:
        ValueError: no ids, or none of a vocabulary.
    """

    tokens: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", checked_ids("tokens", self.tokens))

    def named_tokens(self) -> Iterable[int]:
        return self.tokens

    def __call__(self, seen: Seen) -> Float[Array, "B L"]:
        vocab = jnp.arange(seen.logits.shape[-1])
        is_end = (vocab[:, None] == jnp.asarray(self.tokens)).any(1)
        logits = jnp.where(is_end, -jnp.inf, seen.logits)
        proposed = jnp.take_along_axis(logits, seen.proposed[:, :, None], axis=2)[:, :, 0]
        return jnp.exp(proposed - jax.nn.logsumexp(logits, axis=-1))


def check_confidence(by: object) -> None:
    """Raises ValueError unless it is a confidence."""
    check_policy("by", by, "__call__", "Probability()")


def check_share(by: object) -> None:
    """Raises ValueError unless it is a confidence between 0 and 1, which a threshold can be set for."""
    check_confidence(by)
    if isinstance(by, NegativeEntropy) or (isinstance(by, AsSampled) and isinstance(by.by, NegativeEntropy)):
        raise ValueError(
            f"by: {by} is never above 0, so that no place would reach a threshold; use "
            "EntropyThreshold(0.5), whose threshold is one of entropy"
        )


for plain in (Probability, Random, Margin, NegativeEntropy):
    register_dataclass(plain, [], [])
register_dataclass(AsSampled, ["by"], [])
register(EndsLast, "tokens", lambda tokens: padded([tokens])[0])
