"""Mixture-of-Recursions from scratch: recursions choose their tokens, and a router learns to foretell it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import number, whole
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Score, Windows
from jaxmodels.training.recursive_decoder import RecursiveDecoder


@struct.dataclass
class WindowsWithShares:
    """Windows of text, and how many of their tokens are in each recursion.

    Attributes:
        windows: the text.
        shares: f32[B, R], of a row's tokens.
    """

    windows: Windows
    shares: jax.Array


@dataclass(frozen=True, kw_only=True)
class Recursions:
    """Next-token cross-entropy of a decoder with `ExpertChoiceRecursions`, router and all, from scratch.

    Recursion r of R (from 0) takes the share ``1 - r / (R - 1) * (1 - last_share)`` of a row's tokens, those
    of the highest scores among the tokens of the recursion before. In the first steps all recursions take
    all, and the shares fall from there as half a wave of the cosine. The choice looks at later tokens, so
    that the router also learns by binary cross-entropy to give those that are chosen a probability of more
    than 1/2, and the others less: decoding asks for no more than that. The model is evaluated as it decodes.
    Source: Mixture-of-Recursions (https://arxiv.org/abs/2507.10524), expert choice with an auxiliary loss,
    and its released router; that the cross-entropies of the recursions are summed is inferred.

    Attributes:
        shared: the number of the block that is passed again.
        recursions: the most passes through it.
        last_share: of the tokens, how many are in the last recursion; 1 puts every token in all of them. The
            paper has one over `recursions`.
        warmup_steps: steps until the shares have fallen; 0 begins with the last ones.
        auxiliary: weight of the binary cross-entropy, beside that of the text.
        alpha: the most that a recursion's output is weighted with.

    Raises:
        ValueError: a field is out of range; when run, a model that has no such block, or is no `Decoder` that
            continues text.
    """

    shared: int = 1
    recursions: int = 3
    last_share: float = 1 / 3
    warmup_steps: int = 0
    auxiliary: float = 0.001
    alpha: float = 0.1

    def __post_init__(self) -> None:
        whole("Recursions: shared", self.shared, low=0)
        whole("Recursions: recursions", self.recursions, low=2)
        whole("Recursions: warmup_steps", self.warmup_steps, low=0)
        number("Recursions: last_share", self.last_share, low=0, high=1, low_included=False)
        number("Recursions: auxiliary", self.auxiliary, low=0)
        number("Recursions: alpha", self.alpha, low=0, low_included=False)

    @property
    def estimator(self) -> NextToken:
        return NextToken()

    def extended(self, model: Any) -> RecursiveDecoder:
        """The model with its router. Raises ValueError as the class says."""
        if not isinstance(model, Decoder):
            raise ValueError(
                f"recursions: a {type(model).__name__} has no block of its own to pass again; stack must be "
                "'unrolled'"
            )
        if model.filling is not None:
            raise ValueError("recursions: the model fills in masks, and is not decoded token by token")
        if self.shared >= len(model.blocks):
            raise ValueError(
                f"recursions: there is no block shared={self.shared}, the model has {len(model.blocks)}"
            )
        return RecursiveDecoder(
            decoder=model, shared=self.shared, recursions=self.recursions, alpha=self.alpha
        )

    def check(self, model: Any) -> None:
        if not isinstance(model, RecursiveDecoder):
            raise ValueError(
                f"recursions: a {type(model).__name__} has no router; train what `extended` gives"
            )

    def prepare(self, windows: Windows, key: jax.Array) -> WindowsWithShares:
        if windows.step is None:
            raise ValueError("recursions: the shares of recursions go by the step, which windows must name")
        return WindowsWithShares(windows=windows, shares=self.shares(windows.step))

    def shares(self, step: Float[Array, "B"]) -> Float[Array, "B R"]:
        """Of a row's tokens how many are in each recursion, at a step."""
        done = jnp.minimum(step / self.warmup_steps, 1.0) if self.warmup_steps else jnp.ones(step.shape)
        fallen = (1 - jnp.cos(jnp.pi * done)) / 2
        recursion = jnp.arange(self.recursions) / (self.recursions - 1)
        return 1 - fallen[:, None] * recursion * (1 - self.last_share)

    def loss(self, score: Score, example: WindowsWithShares) -> tuple[Float[Array, ""], Float[Array, ""]]:
        windows = example.windows
        logits, nats = score.with_recursions(windows.tokens, example.shares)
        mean, count = language_model_loss(logits, windows.tokens, windows.predicted)
        return mean + self.auxiliary * nats, count
