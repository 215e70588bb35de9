"""What users pass to `Model.generate` and `Model.stream` beside prompts: made plain, or refused by name."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxmodels.checks import is_whole, shown, whole
from jaxmodels.decoding.strategy import Strategy

# Counts of tokens and slots: positions are int32, and no bucket may go beyond them.
MOST_TOKENS = 2**30
MOST_SEEDS = 2**63 - 1


def check_strategy(strategy: Any) -> Strategy:
    """`strategy`, if it is one.

    Raises ValueError for a class, a name, or anything without the methods of a strategy.
    """
    if isinstance(strategy, type):
        raise ValueError(
            f"strategy must be an instance, got the class {strategy.__name__}; write {strategy.__name__}(...)"
        )
    if not all(hasattr(strategy, name) for name in ("prefill", "step", "lookahead", "prefill_window")):
        raise ValueError(
            f"strategy must be one of jaxmodels.decoding, such as Autoregressive(), got {shown(strategy)}"
        )
    return strategy


def stop_ids(stop_tokens: Any) -> tuple[int, ...]:
    """Token ids from one id or several.

    Raises ValueError for anything else, texts for instance.
    """
    several: Iterable[Any]
    if is_whole(stop_tokens):
        several = [stop_tokens]
    elif isinstance(stop_tokens, np.ndarray | jax.Array):
        several = np.asarray(stop_tokens).reshape(-1)
    elif isinstance(stop_tokens, Sequence | set | frozenset) and not isinstance(stop_tokens, str | bytes):
        several = stop_tokens
    else:
        raise ValueError(
            f"stop_tokens must be a token id or a list of them, got {shown(stop_tokens)}; "
            "texts go to stop_strings"
        )
    ids = []
    for token in several:
        if not is_whole(token):
            raise ValueError(
                f"stop_tokens must hold integer token ids, got {shown(token)}; texts go to stop_strings"
            )
        ids.append(int(token))
    return tuple(ids)


def check_sizes(max_new_tokens: Any, seed: Any, capacity: Any) -> tuple[int, int, int | None]:
    """The three as Python integers.

    Raises ValueError naming the one that is of another kind or out of range.
    """
    return (
        whole("max_new_tokens", max_new_tokens, low=1, high=MOST_TOKENS),
        whole("seed", seed, high=MOST_SEEDS),
        None if capacity is None else whole("capacity", capacity, low=1, high=MOST_TOKENS),
    )


def stop_texts(given: Any) -> tuple[str, ...]:
    """Stop strings from one text or several.

    Raises:
        ValueError: something else, or an empty text, which every text holds.
    """
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, Iterable) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"stop_strings must be texts, none of them empty, got {shown(given)}")
    return tuple(texts)
