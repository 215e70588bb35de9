"""An exit when the tokens of an answer are certain."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import top_two
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Prophet:
    """A `Stop`: the rest of a block is filled in when the mean logit margin of the places where its answer
    stands, the most probable token's lead over the next, is at least a threshold for the phase: the steps up
    to 0.33, up to 0.67, and beyond that share of the planned ones.

    Source: Li et al. 2025 (Prophet, https://arxiv.org/abs/2508.19982), ``generate_earlyexit.py``, where the
    block is as long as the text.

    Attributes:
        start: place where the answer begins, counted from the block's first that is not of the prompt.
        length: places of the answer; those behind the block do not count.
        early: threshold in the first phase.
        middle: threshold in the second phase.
        late: threshold in the third phase.
    """

    start: int
    length: int = 5
    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5

    def __post_init__(self) -> None:
        for name, low in (("start", 0), ("length", 1)):
            if not is_traced(getattr(self, name)):
                whole(name, getattr(self, name), low=low)
        for name in ("early", "middle", "late"):
            check_number(name, getattr(self, name), low=0.0)

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Bool[Array, "B"]:
        text = seen.masked | seen.editable
        place = jnp.cumsum(text, axis=1) - 1
        answer = text & (place >= self.start) & (place < self.start + self.length)
        first, second = top_two(seen.logits)
        places = answer.sum(1)
        margin = jnp.where(answer, first - second, 0.0).sum(1) / jnp.maximum(places, 1)
        progress = (seen.step + 1) / jnp.maximum(seen.steps, 1)
        threshold = jnp.where(progress < 0.33, self.early, jnp.where(progress < 0.67, self.middle, self.late))
        return seen.masked.any(1) & (places > 0) & (margin >= threshold)


register_dataclass(Prophet, ["start", "length", "early", "middle", "late"], [])
