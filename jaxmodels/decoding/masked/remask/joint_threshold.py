"""Edits of single tokens that avoid repetitions."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.masked.remask.token_edits import check_known_places, check_passes, edited
from jaxmodels.decoding.masked.seen import Edited, Seen, Stop
from jaxmodels.decoding.samplers import check_number
from jaxmodels.models.filling import MaskFilling
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class JointThreshold:
    """A `Remask`: `TokenEdits` where every place, before proposals are made, is kept from repeating the token
    in front of it.

    Source: sglang's ``JointThreshold`` for LLaDA2.1, which unmasks by ``StrictThreshold(0.5)``.

    Attributes:
        threshold: exceeded by the probability of an edit; 0 edits every change.
        passes: steps of a block that begin with every place known, at most.
        penalty: taken off the logit of the token that stands one place before, inside the block.

    Raises:
        ValueError: a value outside its range; when run, a model without a mask token.
    """

    threshold: float = 0.0
    passes: int = 16
    penalty: float = 0.0

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_passes(self.passes)
        check_number("penalty", self.penalty, low=0.0)

    def check(self, filling: MaskFilling, stop: Stop | None) -> None:
        check_known_places("JointThreshold", filling)

    def begin(self, batch: int, length: int, vocab: int) -> tuple[()]:
        return ()

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], tuple[()]]:
        before = jnp.pad(seen.tokens, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        repeats = jnp.arange(seen.logits.shape[-1]) == before[:, :, None]
        return seen.logits - jnp.where(repeats, self.penalty, 0.0), ()

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Edited:
        return edited(seen, tokens, seen.probability, self.threshold, self.passes)


register_dataclass(JointThreshold, ["threshold", "passes", "penalty"], [])
