"""Blocks of one length."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class FixedBlocks:
    """Blocks of `length` tokens; any of a block's places may be filled in at any step.

    Raises:
        ValueError: `length` is no whole number of at least 1; when run, it does not divide the answer, or is
            no multiple of the model's own blocks.
    """

    length: int

    def __post_init__(self) -> None:
        whole("FixedBlocks: length", self.length, low=1)

    def check(self, alignment: int, max_new_tokens: int) -> None:
        if self.length % alignment:
            raise ValueError(
                f"blocks of {self.length} tokens do not fit the model, which sees blocks of {alignment}; use "
                f"FixedBlocks({alignment}) or a multiple of it"
            )
        if alignment == 1 and max_new_tokens % self.length:
            fitting = -(-max_new_tokens // self.length) * self.length
            raise ValueError(
                f"max_new_tokens={max_new_tokens} is no multiple of the blocks of {self.length} tokens; use "
                f"{fitting}, or blocks=FixedBlocks(n) of a length that divides it"
            )

    def end(self, seen: Seen) -> Int[Array, "B"]:
        return jnp.full(seen.step.shape, self.length, jnp.int32)

    def candidates(self, seen: Seen) -> Bool[Array, "B L"]:
        return seen.masked


register_dataclass(FixedBlocks, [], ["length"])
