"""Checks of what callers hand to a tokenizer: texts and token ids."""

import re
from collections.abc import Sequence, Set
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxmodels.checks import MOST_INT32, shown, whole

TokenIds: TypeAlias = int | Sequence[int] | np.ndarray | jax.Array


def as_ids(ids: TokenIds, name: str = "token ids") -> list[int]:
    """Token ids as Python integers, from a flat sequence or array of them, or from a single one.

    Raises:
        ValueError: one is no integer, negative, or beyond int32; the message names its place.
    """
    values = list(ids) if isinstance(ids, Sequence) else np.atleast_1d(np.asarray(ids)).tolist()
    return [
        value
        if type(value) is int and 0 <= value <= MOST_INT32
        else whole(f"{name}: the one at position {place}", value)
        for place, value in enumerate(values)
    ]


def hidden_ids(hidden: Any) -> frozenset[int]:
    """The argument `hidden` of decoding as a set.

    Raises:
        ValueError: as for `as_ids`.
    """
    return frozenset(as_ids(tuple(hidden) if isinstance(hidden, Set) else hidden, "hidden"))


def check_text(text: object, name: str) -> None:
    """Refuses what is no text that has a UTF-8 form.

    Raises:
        ValueError: it is not a string, or has half of a surrogate pair; the message says where.
    """
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string, got {shown(text)}")
    if (half := _SURROGATE.search(text)) is not None:
        raise ValueError(
            f"{name} has half of a surrogate pair, {half.group()!a}, at position {half.start()}, which is no "
            "character; remove it, or read the text with errors='replace'"
        )


_SURROGATE = re.compile("[\ud800-\udfff]")
