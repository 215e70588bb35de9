"""Blocks whose parts are filled in one after the other."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class SubBlocks:
    """Blocks of `length` places, of which only the first `inner` that hold an unknown one are filled in, then
    the next.

    Source: Wu et al. 2025 (Fast-dLLM v2, https://arxiv.org/abs/2509.26328).

    Attributes:
        length: places of a block.
        inner: places of a sub-block.

    Raises:
        ValueError: a value below 1, or `inner` that does not divide `length`; when run, as `FixedBlocks`.
    """

    length: int = 32
    inner: int = 8

    def __post_init__(self) -> None:
        for name in ("length", "inner"):
            object.__setattr__(self, name, whole(f"SubBlocks: {name}", getattr(self, name), low=1))
        if self.length % self.inner:
            raise ValueError(f"SubBlocks: inner={self.inner} must divide length={self.length}")

    def check(self, alignment: int, max_new_tokens: int) -> None:
        FixedBlocks(self.length).check(alignment, max_new_tokens)

    def end(self, seen: Seen) -> Int[Array, "B"]:
        return jnp.full(seen.step.shape, self.length, jnp.int32)

    def candidates(self, seen: Seen) -> Bool[Array, "B L"]:
        first = jnp.argmax(seen.masked, axis=1)[:, None] // self.inner
        return seen.masked & (jnp.arange(self.length) // self.inner == first)


register_dataclass(SubBlocks, [], ["length", "inner"])
