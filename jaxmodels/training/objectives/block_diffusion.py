"""Block diffusion: blocks in order, the tokens of a block filled in from those of the blocks before it."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.layers.masks import Answer, BlockCausal, Places
from jaxmodels.pytrees import register_dataclass
from jaxmodels.training.loss import token_nats
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion, MaskedWindows, check_fills
from jaxmodels.training.objectives.objective import Score, Windows


@dataclass(frozen=True)
class NoisyAndClean:
    """A sequence that stands in the window twice: first with masks, then as it is, at the same positions.

    A masked block sees itself and the blocks before it as they are, which see one another as under
    `BlockCausal`. With ``block=2``, of four tokens::

        noisy    clean
        x x . .  . . . .
        x x . .  . . . .
        . . x x  x x . .
        . . x x  x x . .

        . . . .  x x . .
        . . . .  x x . .
        . . . .  x x x x
        . . . .  x x x x

    Attributes:
        block: positions of a block.
        size: tokens of the sequence, half of those of the window.
    """

    block: int
    size: int

    by_position = False

    def sees(self, queries: Places, keys: Places) -> Answer:
        ours, theirs = queries.positions // self.block, keys.positions // self.block
        noisy, noisy_key = queries.index < self.size, keys.index < self.size
        return (noisy & noisy_key & (ours == theirs)) | (
            ~noisy_key & ((theirs < ours) | (~noisy & (theirs == ours)))
        )

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return jnp.ones(keys.positions.shape, bool)

    def check(self, size: int, batch: int | None) -> None:
        if size != 2 * self.size:
            raise ValueError(f"mask: NoisyAndClean expected {2 * self.size} tokens, got {size}")


register_dataclass(NoisyAndClean, [], ["block", "size"])


@dataclass(frozen=True, kw_only=True)
class BlockDiffusion:
    """The bound of `MaskedDiffusion` for each block, given the blocks before it as they are (BD3-LM,
    https://arxiv.org/abs/2503.09573, equation 4).

    All blocks of a window are predicted in one pass, in which the window stands twice (`NoisyAndClean`): the
    loss is what separate passes block by block would give, each over known history. Where a model keeps the
    shift of an autoregressive one, a block's first token is predicted by the last one of the block before it
    as it is, which is how such models generate.

    Attributes:
        block: positions of a block, as in the model's `BlockCausal`.
        masking, least_ratio, complementary, weight_floor, draws: see `MaskedDiffusion`, of each block.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    block: int
    masking: str = "independent"
    least_ratio: float = 1e-3
    complementary: bool = False
    weight_floor: float = 0.0
    draws: int = 2

    def __post_init__(self) -> None:
        whole("BlockDiffusion: block", self.block, low=1)
        _ = self._within_a_block

    @property
    def _within_a_block(self) -> MaskedDiffusion:
        return MaskedDiffusion(
            masking=self.masking,
            least_ratio=self.least_ratio,
            complementary=self.complementary,
            weight_floor=self.weight_floor,
            draws=self.draws,
        )

    @property
    def estimator(self) -> "BlockDiffusion":
        """The same bound, unbiased, with as little variance as there is for two views of a window."""
        return replace(self, masking="counted", complementary=True, weight_floor=0.0)

    def check(self, model: Any) -> None:
        check_fills("block_diffusion", model)
        if model.mask != BlockCausal(self.block):
            raise ValueError(
                f"objective: block_diffusion with block={self.block} trains models whose tokens see whole "
                f"blocks of {self.block} and all earlier ones, and this one's mask is {model.mask}"
            )

    def prepare(self, windows: Windows, key: jax.Array) -> MaskedWindows:
        batch, size = windows.tokens.shape
        whole_blocks = -(-size // self.block) * self.block
        by_block = Windows(
            tokens=_padded(windows.tokens, whole_blocks).reshape(-1, self.block),
            predicted=_padded(windows.predicted, whole_blocks).reshape(-1, self.block),
        )
        drawn = self._within_a_block.prepare(by_block, key)
        masked, rest, weight = jax.tree.map(
            lambda leaf: leaf.reshape(batch, -1)[:, :size], (drawn.masked, drawn.rest, drawn.weight)
        )
        count = windows.predicted.sum(-1).astype(jnp.float32)
        return MaskedWindows(
            tokens=windows.tokens, masked=masked, rest=rest, weight=weight, count=count, valid=windows.valid
        )

    def loss(self, score: Score, example: MaskedWindows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        count = example.count.sum()
        return self.nats(score, example).sum() / jnp.maximum(count, 1.0), count

    def nats(self, score: Score, example: MaskedWindows) -> Float[Array, "B S"]:
        return example.weight * token_nats(self._logits(score, example), example.tokens)

    def _logits(self, score: Score, example: MaskedWindows) -> Float[Array, "B S V"]:
        """The logits that speak of each position, from the view that hides it."""
        assert score.filling is not None
        views, offset = example.views(score.filling), score.filling.offset
        size, place = example.tokens.shape[1], jnp.arange(example.tokens.shape[1])
        inputs = jnp.concatenate([jnp.concatenate([view, example.tokens], axis=1) for view in views])

        def pick(states: Float[Array, "R T D"]) -> Float[Array, "B S D"]:
            noisy, clean = (jnp.roll(half, offset, axis=1) for half in jnp.split(states, 2, axis=1))
            behind_a_block = (place % self.block < offset)[:, None]
            return example.from_view_that_hides(jnp.where(behind_a_block, clean, noisy))

        valid = None
        if example.valid is not None:
            valid = jnp.tile(place < example.valid[:, None], (len(views), 2))
        return score(
            inputs,
            mask=NoisyAndClean(self.block, size),
            valid=valid,
            positions=jnp.broadcast_to(jnp.tile(place, 2), inputs.shape),
            pick=pick,
        )


def _padded(array: Array, size: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, size - array.shape[1])))
