"""Token ids as processors hold them: tuples as users give them, padded arrays in compiled programs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import shown, whole

# Numbers of tokens are padded to a multiple of this, so that one token more compiles nothing.
SLOTS = 8


@runtime_checkable
class NamesTokens(Protocol):
    """A policy whose settings name tokens of the vocabulary."""

    def named_tokens(self) -> Iterable[int]: ...


def check_vocabulary(policies: Any, vocab_size: int) -> None:
    """Raises ValueError where a policy in a pytree of them names a token that the vocabulary lacks."""
    for policy in jax.tree.leaves(policies, is_leaf=lambda node: isinstance(node, NamesTokens)):
        if not isinstance(policy, NamesTokens):
            continue
        for token in policy.named_tokens():
            if token >= vocab_size:
                raise ValueError(
                    f"{type(policy).__name__} names token {token}, which lies outside the vocabulary 0 to "
                    f"{vocab_size - 1}"
                )


def checked_ids(name: str, ids: Any, what: str = "token id") -> tuple[int, ...]:
    """A tuple of token ids, or of other whole numbers of at least 0 that `what` names.

    Raises:
        ValueError: `ids` is empty or no flat sequence of such numbers.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise ValueError(f"{name} must be a sequence of {what}s, got {shown(ids)}")
    checked = tuple(whole(f"{name}[{i}]", token) for i, token in enumerate(ids))
    if not checked:
        raise ValueError(f"{name} must be a sequence of at least one {what}, got {shown(ids)}")
    return checked


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """i32[N, L], both multiples of SLOTS: the rows flush right, -1 before and below them."""
    width = max(map(len, rows))
    table = np.full((_rounded(len(rows)), _rounded(width)), -1, np.int32)
    for row, ids in zip(table, rows, strict=False):
        row[len(row) - len(ids) :] = ids
    return table


def put(logits: Float[Array, "V"], ids: Int[Array, "N"] | Sequence[int], value: float) -> Float[Array, "V"]:
    """`logits` with `value` at the ids, of which -1 stands for none."""
    ids = jnp.asarray(ids)
    return logits.at[jnp.where(ids < 0, logits.shape[-1], ids)].set(value, mode="drop")


def _rounded(size: int) -> int:
    return -(-size // SLOTS) * SLOTS
