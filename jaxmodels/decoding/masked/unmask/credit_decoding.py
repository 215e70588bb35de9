"""Unmasking with credit for tokens that a place has proposed before."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.seen import Remembering, Seen, Unmask
from jaxmodels.decoding.masked.unmask.threshold import Threshold
from jaxmodels.decoding.samplers import check_number
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class CreditDecoding:
    """An `Unmask` that remembers which tokens were the most probable ones of each unknown place, and makes
    them more probable before another rule chooses.

    In each step of a block all credits shrink by the factor `decay`, the most probable token of each unknown
    place gains its probability to the power of `power`, and ``weight * log(1 + credit)`` is added to the
    logits. The memory is f32[B, L, V]. Source: Wang et al. 2025 (CreditDecoding,
    https://arxiv.org/abs/2510.06133), by dInfer's program, whose constants these are.

    Attributes:
        then: the rule that chooses, by the logits with credit.
        weight: how much credit counts (alpha).
        decay: what is left of credit after a step, 0 <= decay <= 1 (beta).
        power: below 1, raises the credit of what is still improbable (gamma).

    Raises:
        ValueError: a value outside its range, or a rule that has a memory of its own.
    """

    then: Unmask = Threshold()
    weight: float = 0.7
    decay: float = 0.8
    power: float = 0.2

    def __post_init__(self) -> None:
        check_policy("then", self.then, "__call__", "Threshold(0.9)")
        if isinstance(self.then, Remembering):
            raise ValueError(
                f"then: {type(self.then).__name__} has a memory of its own; give a rule that goes by the "
                "step alone, such as Threshold(0.9)"
            )
        check_number("weight", self.weight, low=0.0)
        check_number("decay", self.decay, low=0.0, high=1.0)
        check_number("power", self.power, low=0.0)

    def begin(self, batch: int, length: int, vocab: int) -> Float[Array, "B L V"]:
        return jnp.zeros((batch, length, vocab), jnp.float32)

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], Float[Array, "B L V"]]:
        likeliest = jnp.argmax(seen.logits, axis=-1)
        gained = jnp.exp(self.power * (seen.logits.max(-1) - jax.nn.logsumexp(seen.logits, axis=-1)))
        is_likeliest = jnp.arange(seen.logits.shape[-1]) == likeliest[:, :, None]
        gained = jnp.where(is_likeliest, jnp.where(seen.masked, gained, 0.0)[:, :, None], 0.0)
        credit = self.decay * seen.memory + gained
        return seen.logits + self.weight * jnp.log1p(credit), credit

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        return self.then(replace(seen, memory=None))


register_dataclass(CreditDecoding, ["then", "weight", "decay", "power"], [])
