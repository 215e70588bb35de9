"""Prefill by groups of layers, so that other work gets its turn between them (Layered Prefill).

A long prompt that is fed in pieces of tokens reads all weights, those of all experts too, once per piece. Fed
in groups of layers it reads each once, and a server still has the device back after every group.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxmodels.checks import whole
from jaxmodels.decoding import driver
from jaxmodels.decoding.buckets import bucket
from jaxmodels.decoding.histories import History
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.prompts import PromptBatch
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Window, next_window
from jaxmodels.models.block import Stream, peek
from jaxmodels.models.cache import Cache
from jaxmodels.models.language_model import BlockStack


def settle_by_layers(
    config: BlockStack,
    params: Params,
    prompts: PromptBatch,
    *,
    capacity: int,
    layers: int,
    placement: driver.PlacesCaches | None = None,
) -> Iterator[History | None]:
    """`histories.settle`, one group of `layers` blocks at a time; `Model.prefill` with `layers`.

    Yields None after each group but the last, whose end is the history. Groups of equal blocks at other
    depths are programs of their own.

    Raises:
        ValueError: `layers` below 1, a model that is not made of blocks, prompts longer than the capacity, or
            a model whose histories are encoded anew within it.
    """
    layers = whole("layers", layers, low=1)
    if not isinstance(config, BlockStack):
        raise ValueError(f"config is a {type(config).__name__}, which has no blocks to settle in groups")
    stack: Any = config
    longest = prompts.tokens.shape[1]
    if longest > capacity:
        raise ValueError(f"capacity={capacity} cannot hold a prompt of {longest} tokens")
    lengths = np.asarray(prompts.lengths, np.int32) - 1
    tokens = np.zeros((len(lengths), min(bucket(longest), capacity)), np.int32)
    tokens[:, :longest] = prompts.tokens
    dtype = str(stack.dtype_of(params))
    cache = driver.allocate(
        config=stack, batch=len(lengths), capacity=capacity, dtype=dtype, placement=placement
    )
    if cache.transcript is not None:
        raise ValueError(
            f"capacity={capacity}: the model encodes histories of more than {stack.recode_beyond} tokens "
            "anew; settle them whole"
        )
    fed = jax.device_put((tokens, lengths))
    stream = _begin(params, *fed, cache.length, config=config)
    settled: list[Any] = []
    for first in range(0, len(config.blocks), layers):
        last = min(first + layers, len(config.blocks))
        of_group = [stack.block_params(params, i) for i in range(first, last)]
        states = cache.layers[first:last]
        stream, states = _pass(
            of_group, stream, states, *fed, cache.length, config=config, blocks=config.blocks[first:last]
        )
        settled += states
        if last < len(config.blocks):
            yield None
    rows = tuple(tuple(row[:n].tolist()) for row, n in zip(prompts.tokens, lengths, strict=True))
    cache = Cache(length=jax.device_put(lengths), layers=tuple(settled))
    yield History(cache=cache, tokens=rows, capacity=capacity)


def _window(config: Any, tokens: Any, lengths: Any, start: Any) -> Window:
    window = next_window(tokens, start, valid=lengths, known=lengths, mask=config.mask)
    return window.with_rotations(config.ropes)


@bounded_jit(static_argnames=("config",))
def _begin(params: Params, tokens: Any, lengths: Any, start: Any, *, config: Any) -> Stream:
    """The stream in front of the first block."""
    return config.embed(params, tokens, _window(config, tokens, lengths, start))


@bounded_jit(static_argnames=("config", "blocks"), donate_argnames=("states",))
def _pass(
    params: Any,
    stream: Stream,
    states: Any,
    tokens: Any,
    lengths: Any,
    start: Any,
    *,
    config: Any,
    blocks: tuple[Any, ...],
) -> tuple[Stream, list[Any]]:
    """The stream behind a group of blocks, and their states."""
    window, after = _window(config, tokens, lengths, start), []
    for block, own, state in zip(blocks, params, states, strict=True):
        stream, pending = peek(block, own, stream, state, window)
        after.append(block.commit(pending))
    return stream, after
