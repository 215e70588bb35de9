"""What a model does with a text: the hidden attention of its recurrent layers and the load of its experts."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.layers.moe.report import LoadReport, load_report
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Window
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder


@runtime_checkable
class ReadsMore(Protocol):
    """A block whose mixer reads more of the stream than its normed hidden state."""

    def mixer_input(self, params: Params, stream: Stream, window: Window) -> Float[Array, "B S D"]:
        """What the mixer reads of a whole sequence."""


@runtime_checkable
class HiddenAttention(Protocol):
    """A recurrent mixer that can write out the matrix by which it mixes a sequence."""

    def hidden_attention(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> Float[Array, "B N S S"]:
        """What each token takes from each earlier one, per head or channel."""
        ...


def blocks_with_hidden_attention(config: Decoder) -> tuple[int, ...]:
    """The blocks that `hidden_attention` can show."""
    return tuple(i for i, block in enumerate(config.blocks) if isinstance(block.mixer, HiddenAttention))


def hidden_attention(
    config: Decoder, params: Params, tokens: Int[Array, "B S"], block: int
) -> Float[Array, "B N S S"]:
    """The dense matrix by which a state space block mixes these tokens, per head (Mamba-1: per channel).

    Entry (i, j) is ``C_i (product over j < k <= i of exp(dt_k A)) B_j dt_j``: with the recurrence unrolled,
    what token i takes from token j (Ali, Zimerman and Wolf 2024, "The Hidden Attention of Mamba Models").
    Memory is quadratic in S.

    Raises:
        ValueError: there is no such block, or its mixer has no such matrix.
    """
    able = blocks_with_hidden_attention(config)
    if block not in able:
        kind = type(config.blocks[block].mixer).__name__ if 0 <= block < len(config.blocks) else "none"
        raise ValueError(
            f"block {block} (mixer: {kind}) has no hidden attention; blocks that have: {list(able) or 'none'}"
        )
    return _hidden_attention(params, tokens, config=config, block=block)


@functools.partial(jax.jit, static_argnames=("config", "block"))
def _hidden_attention(params: Params, tokens: Array, *, config: Decoder, block: int) -> Array:
    stream, window = config.begin_forward(params, tokens)
    for i in range(block):
        stream = config.blocks[i].forward(config.block_params(params, i), stream, window)
    shown, weights = config.blocks[block], config.block_params(params, block)
    assert isinstance(shown.mixer, HiddenAttention)
    norm = getattr(shown, "mixer_norm", None)
    if isinstance(shown, ReadsMore):
        x = shown.mixer_input(weights, stream, window)
    else:
        x = stream.narrow() if norm is None else norm(weights["mixer_norm"], stream.narrow())
    return shown.mixer.hidden_attention(weights["mixer"], x, window)


def importance(matrix: Float[Array, "B N S S"]) -> np.ndarray:
    """The first row's matrix for plotting: magnitudes, each row of each head scaled to sum to 1, the mean of
    the heads. f32[S, S]."""
    magnitudes = jnp.abs(matrix[0])
    return np.asarray((magnitudes / jnp.maximum(magnitudes.sum(-1, keepdims=True), 1e-30)).mean(0))


def expert_loads(config: Decoder, params: Params, tokens: Int[Array, "B S"]) -> dict[str, LoadReport]:
    """How evenly each block that is a mixture of experts uses them on these tokens, by the block's index.

    Raises:
        ValueError: the model has no such block.
    """
    _, routings = _routings(params, tokens, config=config)
    if not routings:
        raise ValueError("the model has no mixture of experts whose load could be shown")
    return {name: load_report(routing) for name, routing in routings.items()}


@functools.partial(jax.jit, static_argnames=("config",))
def _routings(params: Params, tokens: Array, *, config: Decoder) -> tuple[Array, dict]:
    return config.forward_with_routing(params, tokens)
