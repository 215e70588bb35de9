"""Jacobi forcing: a model learns to go on behind drafts of which the later ones are ever more wrong."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.objectives.branches import (
    Branches,
    at_places,
    choices_behind,
    score_branches,
    soft_nats,
)
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Score, Windows


@struct.dataclass
class DraftedWindows:
    """Windows of text, and the drafts i32[B, T, n] with which the iteration of their blocks begins."""

    windows: Windows
    drafts: jax.Array


@dataclass(frozen=True, kw_only=True)
class JacobiForcing:
    """The loss of Jacobi Forcing (https://arxiv.org/abs/2512.14681, with the numbers of its code).

    A window is a prompt and T blocks. Each block is iterated by itself behind the text, which gives its
    trajectory: tokens of the prompt at random, the model's verdicts of some passes, and the text. Block j
    takes the state in which the part from the first wrong token on is nearest to ratio j of an even series
    from 0 to 1, which starts anew every `ratios` blocks. In one pass the model then reads the window twice,
    as text and with all blocks as drafts, which see one another: behind drafts, from a block's first wrong
    token on, it learns to say what it says behind the text.

    The published trajectories are collected before, until they converge, on the model's own greedy answers.
    Here they are those of the model as it is, `passes` long, on whatever text there is;
    `training.draft_heads.own_text` writes the model's own.

    Attributes:
        block: n, tokens of a block.
        prompt: tokens of each window before the first block.
        ratios: numbers of the series.
        passes: over each block, for its trajectory.
        next_token_weight: of the mean cross-entropy of the next token, beside the mean over blocks of the
            mean cross-entropy of the draft tokens that count.

    Raises:
        ValueError: a field is out of range, or the windows of text are too short; the message names it.
    """

    block: int = 16
    prompt: int = 64
    ratios: int = 4
    passes: int = 4
    next_token_weight: float = 10.0

    def __post_init__(self) -> None:
        for name, low in (("block", 2), ("prompt", 1), ("ratios", 2), ("passes", 1)):
            whole(f"JacobiForcing: {name}", getattr(self, name), low=low)
        number("JacobiForcing: next_token_weight", self.next_token_weight, low=0)

    @property
    def estimator(self) -> NextToken:
        return NextToken()

    def check(self, model: Any) -> None:
        """It suits every causal model: drafts are branches of the text."""

    def prepare(self, windows: Windows, key: jax.Array) -> DraftedWindows:
        batch, size = windows.tokens.shape
        blocks = (size - self.prompt) // self.block
        if blocks < 1:
            raise ValueError(
                f"objective: jacobi_forcing with prompt={self.prompt} and block={self.block} needs windows "
                f"of at least {self.prompt + self.block} tokens, got sequence_length={size}"
            )
        places = jax.random.randint(key, (batch, blocks * self.block), 0, self.prompt)
        drafts = jnp.take_along_axis(windows.tokens, places, axis=1)
        return DraftedWindows(windows=windows, drafts=drafts.reshape(batch, blocks, self.block))

    def loss(self, score: Score, example: DraftedWindows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        windows, tokens = example.windows, example.windows.tokens
        batch, blocks, size = example.drafts.shape
        anchors = jnp.broadcast_to(self.prompt - 1 + size * jnp.arange(blocks), (batch, blocks))
        text = at_places(tokens, Branches(anchors=anchors, drafts=example.drafts).places)
        noisy = self._states(self._trajectory(score, tokens, anchors, example.drafts), text)
        chain = Branches(anchors=anchors[:, :1], drafts=noisy.reshape(batch, 1, -1))
        clean, drafted = score_branches(score, tokens, chain)
        nats = soft_nats(at_places(clean, chain.places), drafted).reshape(batch, blocks, size)
        counts = jnp.cumsum(noisy != text, axis=2) > 0
        inconsistency = (nats * counts).sum(2) / jnp.maximum(counts.sum(2), 1)
        next_token, count = language_model_loss(clean, tokens, windows.predicted)
        return inconsistency.mean() + self.next_token_weight * next_token, count

    def _trajectory(
        self, score: Score, tokens: Int[Array, "B S"], anchors: Int[Array, "B T"], drafts: Int[Array, "B T N"]
    ) -> Int[Array, "P B T N"]:
        """The states of the iteration, the first draft at the front."""
        states = [drafts]
        for _ in range(self.passes):
            branches = Branches(anchors=anchors, drafts=states[-1])
            said = choices_behind(*score_branches(score, tokens, branches), anchors)
            states.append(said[:, :, :-1])
        return jnp.stack(states)

    def _states(self, trajectory: Int[Array, "P B T N"], text: Int[Array, "B T N"]) -> Int[Array, "B T N"]:
        """Of each block the state, or the text, whose part that is wrong is nearest to the block's ratio."""
        states = jnp.concatenate([trajectory, text[None]])
        right = jnp.cumprod(states == text, axis=3).sum(3)
        ratios = jnp.linspace(0.0, 1.0, self.ratios)[jnp.arange(text.shape[1]) % self.ratios]
        chosen = nearest_state(right, text.shape[2], ratios)
        return jnp.take_along_axis(states, chosen[None, :, :, None], axis=0)[0]


def nearest_state(right: Int[Array, "P B T"], size: int, ratios: Float[Array, "T"]) -> Int[Array, "B T"]:
    """Which state of `size` tokens, of which the first `right` are right, is nearest to a block's ratio."""
    return jnp.argmin(jnp.abs((size - right) / size - ratios), axis=0)
