"""Next-token cross-entropy: the objective of autoregressive models."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.training.loss import language_model_loss, next_token_nats
from jaxmodels.training.objectives.objective import Score, Windows


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """See `language_model_loss`. It is its own estimator, and exact.

    Attributes:
        z_loss: see `language_model_loss`; of the loss alone.


    Raises:
        ValueError: `z_loss` is negative.
    """

    z_loss: float = 0.0

    draws = 1

    def __post_init__(self) -> None:
        number("NextToken: z_loss", self.z_loss, low=0)

    @property
    def estimator(self) -> "NextToken":
        return self

    def check(self, model: Any) -> None:
        """It suits every causal model."""

    def prepare(self, windows: Windows, key: jax.Array) -> Windows:
        return windows

    def loss(self, score: Score, example: Windows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        logits = score(example.tokens)
        return language_model_loss(logits, example.tokens, example.predicted, z_loss=self.z_loss)

    def nats(self, score: Score, example: Windows) -> Float[Array, "B S-1"]:
        nats = next_token_nats(score(example.tokens), example.tokens)
        return jnp.where(example.predicted[:, 1:], nats, 0.0)
