"""Unmasking by logits that are sharpened from step to step."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.seen import Remembering, Seen, Unmask
from jaxmodels.decoding.masked.unmask.schedules import Annealing
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.pytrees import register_dataclass

LEAST = 1e-6


@dataclass(frozen=True)
class Tempered:
    """An `Unmask`: `rule`, of logits that are divided by the step's temperature, at least 1e-6.

    The proposals, and all other rules, go by those logits too; recorded log-probabilities do not. Source:
    `LinearTemperatureScheduleLogitsProcessor` of transformers (DiffusionGemma).

    Attributes:
        rule: which places are filled in.
        temperature: that of each step.
    """

    rule: Unmask
    temperature: Annealing

    def __post_init__(self) -> None:
        check_policy("rule", self.rule, "__call__", "EntropyBounded(0.1)")
        check_policy("temperature", self.temperature, "__call__", "FromTo(0.8, 0.4)")

    def begin(self, batch: int, length: int, vocab: int) -> Any:
        return self.rule.begin(batch, length, vocab) if isinstance(self.rule, Remembering) else ()

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], Any]:
        temperature = jnp.maximum(self.temperature(seen.step, seen.steps), LEAST)
        logits = seen.logits / temperature[:, None, None]
        if isinstance(self.rule, Remembering):
            return self.rule.fuse(replace(seen, logits=logits))
        return logits, seen.memory

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        return self.rule(seen)


register_dataclass(Tempered, ["rule", "temperature"], [])
