"""From what users pass as prompts to a padded batch of token ids, checked on the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from jaxmodels.checks import is_whole, shown

Prompts: TypeAlias = (
    "str | int | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | jax.Array"
)


class Encoder(Protocol):
    """The part of a tokenizer that prompts need."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one batch.

    Attributes:
        tokens: i32[B, S], padded on the right with zeros.
        lengths: i32[B].
    """

    tokens: np.ndarray
    lengths: np.ndarray


def encode_prompts(prompts: Prompts, encoder: Encoder | None, vocab_size: int) -> PromptBatch:
    """A batch from a text, texts, one row of ids, rows of ids of any lengths, or an integer array [B, S].

    Raises:
        ValueError: no prompt, an empty prompt, ids that are no integers or lie outside the vocabulary, or
            text without a tokenizer; the message names the row.
    """
    rows = [_row(row, index, vocab_size) for index, row in enumerate(_rows(prompts, encoder))]
    if not rows:
        raise ValueError("prompts: got an empty batch; give at least one prompt")
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), int(lengths.max())), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return PromptBatch(tokens, lengths)


def _rows(prompts: Any, encoder: Encoder | None) -> list[Any]:
    """The rows of a batch, each a text's ids or what should be ids."""
    if isinstance(prompts, str):
        prompts = [prompts]
    if isinstance(prompts, np.ndarray | np.generic | jax.Array):
        array = np.asarray(prompts)
        if array.ndim > 2:
            raise ValueError(f"prompts: an array must be int[S] or int[B, S], got shape {list(array.shape)}")
        return list(np.atleast_2d(array))
    if is_whole(prompts):
        return [[prompts]]
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Sequence):
        raise ValueError(
            "prompts must be a text, a list of texts, token ids, a list of rows of them, or an integer "
            f"array, got {shown(prompts)}"
        )
    if prompts and all(map(is_whole, prompts)):
        return [list(prompts)]
    if not any(isinstance(item, str) for item in prompts):
        return list(prompts)
    if not all(isinstance(item, str) for item in prompts):
        raise ValueError("prompts: a batch must be all texts or all token ids, got a mixture")
    if encoder is None:
        raise ValueError(
            "prompts: got text, but this model has no tokenizer; pass token ids, "
            "or set one with dataclasses.replace(model, tokenizer=...)"
        )
    return [encoder.encode(str(text)) for text in prompts]


def _row(row: Any, index: int, vocab_size: int) -> np.ndarray:
    try:
        ids = np.asarray(row)
    except (ValueError, TypeError, OverflowError):  # rows within rows, of different lengths
        ids = np.asarray(None)
    if ids.size == 0:
        raise ValueError(f"prompts: row {index} is empty; a prompt needs at least one token")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"prompts: row {index} must be a flat list of token ids, got {shown(row)}")
    outside = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if outside.size:
        at = int(outside[0])
        raise ValueError(
            f"prompts: row {index} has token id {int(ids[at])} at position {at}; "
            f"the vocabulary has ids 0 to {vocab_size - 1}"
        )
    return ids
