"""Consistency: a model learns to say from a wrong draft what it says behind the right text."""

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
class AnchoredWindows:
    """Windows of text, and the places i32[B, N] behind which drafts begin."""

    windows: Windows
    anchors: jax.Array


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """The global consistency loss of CLLM (https://arxiv.org/abs/2403.00835) beside that of the next token.

    Behind each of `places` tokens of a window, drawn from those before a token that is to be predicted, the
    model decodes as `Jacobi` does, for some rounds: it is shown its own draft, which is the last round's
    verdict moved up by the tokens that were right. In each round it learns to say behind every draft token,
    from the first wrong one on, what it says itself at this place behind the text. So the drafts are always
    the model's own, of the moment, and nothing is collected beforehand. What is right is what the text says:
    where it is the model's own greedy answer, the rounds are those of decoding.

    The paper draws one state of a trajectory that was collected before, and takes all tokens of the state;
    here all states count, and tokens that follow a right draft are left out: there both sides are the same.

    Attributes:
        window: tokens that are scored at once in decoding, the newest included; see `Jacobi`.
        places: drafts of a row, at most one behind each token.
        rounds: Jacobi steps of each.
        next_token_weight: of the mean cross-entropy of the next token, beside the mean consistency loss of a
            draft token.
        decay: a draft token counts this times less than the one before it.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    window: int = 8
    places: int = 24
    rounds: int = 3
    next_token_weight: float = 10.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        whole("Consistency: window", self.window, low=2)
        whole("Consistency: places", self.places, low=1)
        whole("Consistency: rounds", self.rounds, low=1)
        number("Consistency: next_token_weight", self.next_token_weight, low=0)
        number("Consistency: decay", self.decay, low=0, high=1)

    @property
    def estimator(self) -> NextToken:
        return NextToken()

    def check(self, model: Any) -> None:
        """It suits every causal model: drafts are branches of the text."""

    def prepare(self, windows: Windows, key: jax.Array) -> AnchoredWindows:
        # behind an anchor there is a token to predict; where there are fewer such places, others are taken
        drawn = jax.random.uniform(key, windows.tokens.shape)
        is_followed = jnp.pad(windows.predicted[:, 1:], ((0, 0), (0, 1)))
        count = min(self.places, windows.tokens.shape[1])
        _, anchors = jax.lax.top_k(jnp.where(is_followed, drawn, drawn - 1.0), count)
        return AnchoredWindows(windows=windows, anchors=anchors.astype(jnp.int32))

    def loss(self, score: Score, example: AnchoredWindows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        windows, tokens = example.windows, example.windows.tokens
        branches = first_drafts(tokens, example.anchors, self.window - 1)
        total, next_token, count = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
        for i in range(self.rounds):
            text, drafts = score_branches(score, tokens, branches)
            if i == 0:
                next_token, count = language_model_loss(text, tokens, windows.predicted)
            total += self._inconsistency(windows, text, drafts, branches) / self.rounds
            branches = next_drafts(tokens, branches, choices_behind(text, drafts, branches.anchors))
        return total + self.next_token_weight * next_token, count

    def _inconsistency(
        self,
        windows: Windows,
        text: Float[Array, "B S V"],
        drafts: Float[Array, "B N G V"],
        branches: Branches,
    ) -> Float[Array, ""]:
        """The mean over draft tokens from the first wrong one on, where the text has a token to predict."""
        following = branches.places + 1
        counts = (jnp.cumsum(branches.wrong(windows.tokens), axis=2) > 0) & (following < text.shape[1])
        counts &= at_places(windows.predicted, following)
        weight = counts * self.decay ** jnp.arange(drafts.shape[2])
        nats = soft_nats(at_places(text, branches.places), drafts)
        return (weight * nats).sum() / jnp.maximum(weight.sum(), 1.0)


def first_drafts(tokens: Int[Array, "B S"], anchors: Int[Array, "B N"], size: int) -> Branches:
    """The newest token again and again, as `LastVerdict` begins."""
    newest = jnp.take_along_axis(tokens, anchors, axis=1)
    return Branches(anchors=anchors, drafts=jnp.repeat(newest[:, :, None], size, axis=2))


def next_drafts(tokens: Int[Array, "B S"], branches: Branches, choices: Int[Array, "B N G+1"]) -> Branches:
    """The next round's: the verdict behind what was right and the token that corrects it."""
    size = branches.drafts.shape[2]
    settled = 1 + jnp.cumprod(~branches.wrong(tokens), axis=2).sum(2, dtype=jnp.int32)
    following = jnp.minimum(settled[:, :, None] + jnp.arange(size), size)
    return Branches(
        anchors=branches.anchors + settled, drafts=jnp.take_along_axis(choices, following, axis=2)
    )
