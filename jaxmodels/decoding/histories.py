"""Histories as values: prompts that are settled once and gone on from many times, in other programs, on other
meshes, or in other processes.

A history is what a prefill leaves behind, attention's keys and values and recurrent states alike. It is never
changed: a generation that goes on from it works on a copy. Prefill and decoding are so two programs that need
not run in one place, and a beginning that many prompts share is read once.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxmodels.checks import shown, whole
from jaxmodels.decoding import driver
from jaxmodels.decoding.buckets import prompt_bucket
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.prompts import PromptBatch
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.models.rows import take_rows

PREFILL_WINDOW = 2048


@dataclass(frozen=True, kw_only=True)
class History:
    """Settled tokens of a batch of rows.

    Attributes:
        cache: what the model keeps of them.
        tokens: of each row.
        capacity: slots per row.
    """

    cache: Cache = field(repr=False)
    tokens: tuple[tuple[int, ...], ...]
    capacity: int

    @property
    def lengths(self) -> np.ndarray:
        """i32[B], how many tokens each row has."""
        return np.array([len(row) for row in self.tokens], np.int32)

    def rows(self, numbers: Sequence[int]) -> "History":
        """The rows of these numbers in their order, each as often as it is named: branches of one history.

        Raises:
            ValueError: there is no such row, or none is named.
        """
        if not len(numbers):
            raise ValueError("numbers: got none; name at least one row")
        chosen = [
            whole(f"numbers[{i}]", number, high=len(self.tokens) - 1) for i, number in enumerate(numbers)
        ]
        return replace(
            self,
            cache=take_rows(self.cache, jnp.asarray(chosen, jnp.int32)),
            tokens=tuple(self.tokens[number] for number in chosen),
        )

    def branched(self, times: int) -> "History":
        """Each row `times` times, one behind the other.

        Raises:
            ValueError: `times` is no whole number >= 1.
        """
        times = whole("times", times, low=1)
        return self.rows([row for row in range(len(self.tokens)) for _ in range(times)])

    def check_continued(self, prompts: PromptBatch) -> None:
        """Raises ValueError, naming the row, unless every prompt begins with the row's tokens and goes on."""
        if len(prompts.tokens) != len(self.tokens):
            raise ValueError(
                f"history: it has {len(self.tokens)} rows, and there are {len(prompts.tokens)} prompts"
            )
        for row, settled in enumerate(self.tokens):
            asked = prompts.tokens[row, : prompts.lengths[row]].tolist()
            for place, (was, now) in enumerate(zip(settled, asked, strict=False)):
                if was != now:
                    raise ValueError(
                        f"history: row {row} has token {was} at {place}, and its prompt has {now}; a prompt "
                        "begins with what is settled"
                    )
            if len(asked) <= len(settled):
                raise ValueError(
                    f"history: row {row} has {len(settled)} tokens settled and its prompt {len(asked)}; a "
                    "prompt has at least one token more"
                )

    def unread(self, prompts: PromptBatch) -> PromptBatch:
        """What of the prompts is not settled yet."""
        lengths = prompts.lengths - self.lengths
        tokens = np.zeros((len(lengths), int(lengths.max())), np.int32)
        for row, (start, length) in enumerate(zip(self.lengths, lengths, strict=True)):
            tokens[row, :length] = prompts.tokens[row, start : start + length]
        return PromptBatch(tokens, lengths)


def settle(
    config: LanguageModel,
    params: Params,
    prompts: PromptBatch,
    *,
    capacity: int,
    window: int = PREFILL_WINDOW,
    placement: driver.PlacesCaches | None = None,
) -> History:
    """The history of prompts without the last token of each, which whoever goes on reads first.

    Args:
        prompts: a batch.
        capacity: slots per row, for what follows too.
        window: longest window in which they are fed.
        placement: where the cache lies; None for the default device.

    Raises:
        ValueError: prompts longer than the capacity, or a model whose tokens see later ones.
    """
    longest = prompts.tokens.shape[1]
    if longest > capacity:
        raise ValueError(f"capacity={capacity} cannot hold a prompt of {longest} tokens")
    lengths = np.asarray(prompts.lengths, np.int32) - 1
    slots = prompt_bucket(longest, window)
    tokens = np.zeros((len(lengths), min(slots, capacity) if slots <= window else slots), np.int32)
    tokens[:, :longest] = prompts.tokens
    cache = driver.allocate(
        config=config,
        batch=len(lengths),
        capacity=capacity,
        dtype=str(config.dtype_of(params)),
        placement=placement,
    )
    cache = _settled(params, *jax.device_put((tokens, lengths)), cache, config=config, window=window)
    rows = [tuple(row[:length].tolist()) for row, length in zip(prompts.tokens, lengths, strict=True)]
    return History(cache=cache, tokens=tuple(rows), capacity=capacity)


@bounded_jit(static_argnames=("config", "window"), donate_argnames=("cache",))
def _settled(
    params: Params,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    cache: Cache,
    *,
    config: LanguageModel,
    window: int,
) -> Cache:
    return prefill(config, params, tokens, lengths, cache, window)[1]


def moved(
    history: History,
    config: LanguageModel,
    target: LanguageModel,
    placement: driver.PlacesCaches | None = None,
) -> History:
    """The history on another mesh, or on the default device.

    Args:
        history: of the model `config`.
        target: the same model as the mesh has it, with other repetitions of key/value heads perhaps (see
            `tpu_configs.repeated_heads`).
        placement: where to.

    Raises:
        ValueError: the caches of the two models differ in more than repeated heads.
    """
    dtype = str(jax.tree.leaves(history.cache)[-1].dtype)
    batch = len(history.tokens)

    def described(model: Any) -> Any:
        return jax.eval_shape(functools.partial(model.init_cache, batch, history.capacity, jnp.float32))

    before, after = described(config), described(target)
    if jax.tree.structure(before) != jax.tree.structure(after):  # type: ignore[operator]
        raise ValueError("history: the caches of the two models are of different kinds")
    cache = jax.tree.map(lambda leaf, there: _as_shape(leaf, there.shape), history.cache, after)
    if placement is None:
        return replace(history, cache=jax.device_put(cache, jax.devices()[0]))
    return replace(
        history, cache=jax.device_put(cache, placement.cache(target, batch, history.capacity, dtype))
    )


def _as_shape(array: Array, shape: tuple[int, ...]) -> Array:
    """The array with heads repeated along an axis, or one of each repetition, until it has this shape."""
    for axis, (now, wanted) in enumerate(zip(array.shape, shape, strict=True)):
        if now != wanted:
            shared = int(np.gcd(now, wanted))
            first = jnp.take(array, jnp.arange(0, now, now // shared), axis=axis)
            array = jnp.repeat(first, wanted // shared, axis=axis)
    if array.shape != shape:
        raise ValueError(f"history: an array of shape {shown(array.shape)} is none of shape {shown(shape)}")
    return array
