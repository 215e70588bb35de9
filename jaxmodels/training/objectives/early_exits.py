"""Training for early exits: the head reads the stream behind earlier blocks too, and blocks are dropped."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import number, whole
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.objectives.distillation import divergence
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Score, Windows


@struct.dataclass
class WindowsWithExits:
    """Windows of text, and where they leave the model.

    Attributes:
        windows: the text.
        exits: i32[B], blocks in front of each row's early exit.
        keys: one random key per row, for the blocks that it is not read in.
    """

    windows: Windows
    exits: jax.Array
    keys: jax.Array


@dataclass(frozen=True, kw_only=True)
class EarlyExits:
    """Next-token cross-entropy behind the last block, and the divergence of an early exit from it.

    So a model learns to draft for itself with its first blocks. Each row has one exit, drawn anew at every
    step, whose distribution is drawn to that behind the last block; and each of its blocks is dropped with a
    probability that rises from 0 at the first to `dropout` at the last, as ``2^(l / (L - 1)) - 1``. Source:
    LayerSkip (https://arxiv.org/abs/2404.16710), which takes the text's next token at the exits, too, and
    weights them by their depth: a draft's tokens are accepted by what the model itself would say.

    Attributes:
        deepest: exits are behind 1, 2, ... or so many blocks, each as often.
        weight: of the exits' divergence, beside the cross-entropy.
        dropout: probability with which the last block is dropped.

    Raises:
        ValueError: a field is out of range; when run, `deepest` is not less than the model's blocks, or the
            model is no `Decoder`.
    """

    deepest: int = 1
    weight: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole("EarlyExits: deepest", self.deepest, low=1)
        number("EarlyExits: weight", self.weight, low=0)
        number("EarlyExits: dropout", self.dropout, low=0, high=1)

    @property
    def estimator(self) -> NextToken:
        return NextToken()

    def check(self, model: Any) -> None:
        if not isinstance(model, Decoder):
            raise ValueError(
                f"early_exits: a {type(model).__name__} has no exits between its blocks; stack must be "
                "'unrolled'"
            )
        if self.deepest >= len(model.blocks):
            raise ValueError(
                f"early_exits: deepest={self.deepest} must be less than the model's {len(model.blocks)} "
                "blocks"
            )

    def prepare(self, windows: Windows, key: jax.Array) -> WindowsWithExits:
        batch = windows.tokens.shape[0]
        for_exits, for_blocks = jax.random.split(key)
        exits = jax.random.randint(for_exits, (batch,), 1, self.deepest + 1)
        return WindowsWithExits(windows=windows, exits=exits, keys=jax.random.split(for_blocks, batch))

    def loss(self, score: Score, example: WindowsWithExits) -> tuple[Float[Array, ""], Float[Array, ""]]:
        windows = example.windows
        last, early = score.with_exits(windows.tokens, example.exits, self._read(score.blocks, example.keys))
        mean, count = language_model_loss(last, windows.tokens, windows.predicted)
        apart, _ = divergence(last, early, windows)
        return mean + self.weight * apart, count

    def _read(self, blocks: int, keys: Array) -> Bool[Array, "B L"]:
        """The blocks that each row is read in."""
        dropped = self.dropout * (2 ** (jnp.arange(blocks) / (blocks - 1)) - 1)
        return jax.vmap(lambda key: jax.random.uniform(key, (blocks,)))(keys) >= dropped
