"""No sequence of n tokens twice."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register


@dataclass(frozen=True)
class NoRepeatNGram:
    """Rules out tokens that would complete a sequence of `size` tokens that prompt and answer hold already.

    `no_repeat_ngram_size` of `transformers`. Source: Paulus et al. 2017, section 2.5.

    Attributes:
        size: tokens of a sequence, at least 1. It is data: another size compiles nothing.

    Raises:
        ValueError: a value below 1.
    """

    size: int
    positional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not is_traced(self.size):
            whole("size", self.size, low=1)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        tokens, length, vocab = context.tokens, context.length, logits.shape[-1]
        index = jnp.arange(tokens.shape[0])

        def agree(back: Array, matches: Bool[Array, "T"]) -> Bool[Array, "T"]:
            newest = lax.dynamic_index_in_dim(tokens, length - back, keepdims=False)
            return matches & (jnp.roll(tokens, back) == newest)

        # Places whose predecessors are the text's last size - 1 tokens.
        is_whole = (index >= self.size - 1) & (index < length)
        follows = lax.fori_loop(1, self.size, agree, is_whole)
        return logits.at[jnp.where(follows, tokens, vocab)].set(-jnp.inf, mode="drop")


register(NoRepeatNGram, "size")
