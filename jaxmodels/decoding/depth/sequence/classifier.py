"""Classification of whole sequences in as many blocks as each needs."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.layers.spec import Params
from jaxmodels.models.block import Stream
from jaxmodels.models.language_model import BlockByBlock
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class ExitHeads:
    """A linear classifier behind each of several blocks, of the normalised stream at a row's last token.

    Attributes:
        weight: f32[E, C, D], for C classes. bias: f32[E, C].
        exits: the blocks behind which they stand; the last is the model's last block.

    Raises:
        ValueError: they do not fit each other, or blocks that do not rise; when traced, heads of another
            model.
    """

    weight: jax.Array
    bias: jax.Array
    exits: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.exits, list | tuple) or not self.exits:
            raise ValueError(f"ExitHeads: exits must be numbers of blocks, got {shown(self.exits)}")
        exits = tuple(whole(f"ExitHeads: exits[{i}]", block) for i, block in enumerate(self.exits))
        if list(exits) != sorted(set(exits)):
            raise ValueError(f"ExitHeads: exits must rise, got {list(exits)}")
        object.__setattr__(self, "exits", exits)
        if is_traced(self.weight) or is_traced(self.bias):
            return
        weight, bias = jnp.shape(self.weight), jnp.shape(self.bias)
        if len(weight) != 3 or weight[0] != len(exits) or bias != weight[:2]:
            raise ValueError(
                f"ExitHeads: weight must be [{len(exits)}, C, D] and bias [{len(exits)}, C] for the exits "
                f"{list(exits)}, got {list(weight)} and {list(bias)}"
            )

    def check_model(self, config: BlockByBlock) -> None:
        """Raises ValueError where they are for another model."""
        expected = (len(config.blocks) - 1, config.d_model)
        if (self.exits[-1], self.weight.shape[-1]) != expected:
            raise ValueError(
                f"ExitHeads: heads up to block {self.exits[-1]} of width {self.weight.shape[-1]} are for "
                f"another model: this one's last block is {expected[0]}, of width {expected[1]}"
            )

    def logits(self, k: int, features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Of the exit number k."""
        return features.astype(jnp.float32) @ self.weight[k].T + self.bias[k]


@dataclass(frozen=True, kw_only=True)
class AtExit:
    """What a gate sees of an exit.

    Attributes:
        number: which of the exits it is, from 0. exits: how many there are.
        features: [B, D], see `ExitHeads`. before: those of the exit before, at the first 0.
        logits: f32[B, C] of its head.
    """

    number: int
    exits: int
    features: jax.Array
    before: jax.Array
    logits: jax.Array


class Gate(Protocol):
    """Says behind which exit a sequence is answered. Implementations are pytrees."""

    def begin(self, batch: int) -> Any:
        """What is noted in front of the first exit."""

    def leave(self, seen: AtExit, notes: Any) -> tuple[Bool[Array, "B"], Any]:
        """Which rows the exit answers, if none before has, and the notes. Not asked at the last exit."""


@struct.dataclass
class Classified:
    """The answers.

    Attributes:
        logits: f32[B, C], of the exit that each row left by.
        exits: i32[B], its number.
        blocks: i32[B], the blocks that each row needed.
    """

    logits: jax.Array
    exits: jax.Array
    blocks: jax.Array


@partial(jax.jit, static_argnums=0)
def classify(
    config: BlockByBlock,
    params: Params,
    heads: ExitHeads,
    gate: Gate,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
) -> Classified:
    """Reads sequences block by block until every row has been answered.

    Behind an exit, blocks that no row needs are not read; a row that was answered is read on where another
    needs it, which changes no answer.

    Args:
        tokens: padded on the right.
        lengths: of the rows, at least 1.

    Raises:
        ValueError: heads of another model.
    """
    heads.check_model(config)
    batch, count = tokens.shape[0], len(heads.exits)
    stream, window = config.begin_forward(params, tokens, valid=lengths)
    running, notes = jnp.ones((batch,), bool), gate.begin(batch)
    logits = jnp.zeros((batch, heads.bias.shape[-1]), jnp.float32)
    exits, blocks = jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.int32)
    before = jnp.zeros((batch, config.d_model), config.dtype_of(params))
    for i, block in enumerate(config.blocks):
        read = partial(block.forward, config.block_params(params, i), window=window)
        stream = lax.cond(running.any(), read, lambda stream: stream, stream) if i else read(stream)
        blocks = blocks + running
        if i not in heads.exits:
            continue
        k, features = heads.exits.index(i), _features(config, params, stream, lengths)
        found = heads.logits(k, features)
        leaves = jnp.ones((batch,), bool)
        if k + 1 < count:
            seen = AtExit(number=k, exits=count, features=features, before=before, logits=found)
            leaves, notes = gate.leave(seen, notes)
        answered, before = running & leaves, features
        logits = jnp.where(answered[:, None], found, logits)
        exits, running = jnp.where(answered, k, exits), running & ~leaves
    return Classified(logits=logits, exits=exits, blocks=blocks)


@partial(jax.jit, static_argnums=(0, 2))
def exit_features(
    config: BlockByBlock,
    params: Params,
    exits: tuple[int, ...],
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B E D"]:
    """What heads and gates see behind each of these blocks, of sequences that are read in full."""
    stream, window = config.begin_forward(params, tokens, valid=lengths)
    found = []
    for i, block in enumerate(config.blocks):
        stream = block.forward(config.block_params(params, i), stream, window)
        if i in exits:
            found.append(_features(config, params, stream, lengths))
    return jnp.stack(found, axis=1)


def _features(
    config: BlockByBlock, params: Params, stream: Stream, lengths: Int[Array, "B"]
) -> Float[Array, "B D"]:
    hidden = config.normalise(params, stream)
    return jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]


register_dataclass(ExitHeads, ["weight", "bias"], ["exits"])
