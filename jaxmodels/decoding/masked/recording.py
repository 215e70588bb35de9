"""Log-probabilities of tokens that are not emitted yet."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.strategy import LogProbs, score_tokens

Tree = TypeVar("Tree")


def room(log_probs: LogProbs | None, size: int) -> LogProbs | None:
    """Room for those of `size` tokens per row, where an output records them."""
    return jax.tree.map(lambda a: jnp.zeros((a.shape[0], size, *a.shape[2:]), a.dtype), log_probs)


def recorded(
    found: LogProbs | None,
    tokens: Int[Array, "B L"],
    logits: Float[Array, "B L V"],
    changed: Bool[Array, "B L"],
) -> LogProbs | None:
    """What was found, with the log-probabilities of the tokens that changed."""
    if found is None:
        return None
    return in_rows(changed, score_tokens(tokens, logits, found.top.shape[-1]), found)


def in_rows(chosen: Bool[Array, "..."], new: Tree, old: Tree) -> Tree:
    """`new` where `chosen` holds of the leading axes, else `old`."""
    return jax.tree.map(
        lambda a, b: jnp.where(chosen.reshape(*chosen.shape, *(1,) * (b.ndim - chosen.ndim)), a, b), new, old
    )
