"""Blocks that end where the text has a delimiter."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import best
from jaxmodels.decoding.processors.token_ids import checked_ids
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class AdaBlocks:
    """Blocks that end with the most probable delimiter among the tokens proposed for their first `window`
    places in their first step, if its probability is at least `threshold`; else blocks of `default` places.

    Source: Lu et al. 2025 (AdaBlock-dLLM, https://arxiv.org/abs/2509.26432), whose window is a quarter of the
    answer and whose `default` is 32 in its evaluation, 16 in its demonstration.

    Attributes:
        default: places of a block without a probable delimiter.
        window: places in which one is looked for.
        threshold: probability from which a delimiter ends a block.
        delimiters: token ids; 198 is LLaDA's line break.

    Raises:
        ValueError: a value outside its range; when run, a model with blocks of its own.
    """

    default: int = 32
    window: int = 64
    threshold: float = 0.3
    delimiters: Sequence[int] = (198,)

    def __post_init__(self) -> None:
        for name in ("default", "window"):
            object.__setattr__(self, name, whole(f"AdaBlocks: {name}", getattr(self, name), low=1))
        check_number("AdaBlocks: threshold", self.threshold, low=0.0)
        if not is_traced(self.delimiters):
            object.__setattr__(self, "delimiters", checked_ids("delimiters", self.delimiters))

    @property
    def length(self) -> int:
        return max(self.default, self.window)

    def named_tokens(self) -> Sequence[int]:
        return self.delimiters

    def check(self, alignment: int, max_new_tokens: int) -> None:
        if alignment > 1:
            raise ValueError(
                f"AdaBlocks: the model sees blocks of {alignment} tokens, which end nowhere else; use "
                f"FixedBlocks({alignment})"
            )

    def end(self, seen: Seen) -> Int[Array, "B"]:
        index = jnp.arange(self.length)
        is_delimiter = (seen.proposed[:, :, None] == jnp.asarray(self.delimiters)).any(-1)
        among = is_delimiter & seen.masked & (index < self.window)
        chosen = best(seen.probability, among)
        is_sure = (chosen & (seen.probability >= self.threshold)).any(1)
        return jnp.where(is_sure, jnp.argmax(chosen, axis=1) + 1, self.default).astype(jnp.int32)

    def candidates(self, seen: Seen) -> Bool[Array, "B L"]:
        return seen.masked


register_dataclass(AdaBlocks, ["threshold"], ["default", "window", "delimiters"])
