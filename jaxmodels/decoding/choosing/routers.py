"""Routers of `Arbitrage`: how much better the target's own step would be than the one that was drafted."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxmodels.pytrees import register_dataclass

FEATURES = ("draft mean", "draft least", "target mean", "target least", "regret", "tokens")


@struct.dataclass
class DraftedStep:
    """A step that the draft has written, and what both models make of it.

    Attributes:
        tokens: i32[B, L].
        count: i32[B], how many leading ones are there.
        draft: f32[B, L], their log-probabilities under the draft.
        target: f32[B, L], those under the target.
        best: f32[B, L], those of the tokens that the target finds most probable in their places.
        hidden: [B, D], the target's last hidden state in front of the step's last token.
    """

    tokens: jax.Array
    count: jax.Array
    draft: jax.Array
    target: jax.Array
    best: jax.Array
    hidden: jax.Array

    @property
    def is_there(self) -> Bool[Array, "B L"]:
        return jnp.arange(self.tokens.shape[1]) < self.count[:, None]

    def mean(self, values: Float[Array, "B L"]) -> Float[Array, "B"]:
        """Over the step's tokens."""
        return jnp.where(self.is_there, values, 0.0).sum(1) / jnp.maximum(self.count, 1)


class Router(Protocol):
    """A pytree; its numbers and parameters are data."""

    def advantage(self, step: DraftedStep) -> Float[Array, "B"]:
        """The quality to be expected of the target's own step, less that of the drafted one."""


@dataclass(frozen=True)
class Regret:
    """What the target loses in log-probability by a drafted token against its own first choice, in the mean.

    0 where the target would greedily write the same. Needs no training, and does not estimate a step's
    quality.
    """

    def advantage(self, step: DraftedStep) -> Float[Array, "B"]:
        return step.mean(step.best - step.target)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRouter:
    """``weights . features(step) + bias``, as `fit_router` finds them.

    Attributes:
        weights: f32[6], of `FEATURES`.
        bias: f32.
    """

    weights: Float[Array, "F"]
    bias: Float[Array, ""] | float = 0.0

    def advantage(self, step: DraftedStep) -> Float[Array, "B"]:
        return features(step) @ self.weights + self.bias


def features(step: DraftedStep) -> Float[Array, "B F"]:
    """What a trained router goes by, in the order of `FEATURES`."""

    def least(values: Float[Array, "B L"]) -> Float[Array, "B"]:
        return jnp.where(step.is_there, values, 0.0).min(1)

    columns = (
        step.mean(step.draft),
        least(step.draft),
        step.mean(step.target),
        least(step.target),
        step.mean(step.best - step.target),
        step.count.astype(jnp.float32),
    )
    return jnp.stack(columns, axis=1)


def fit_router(
    features: Float[np.ndarray, "M F"], advantages: Float[np.ndarray, "M"], ridge: float = 1e-3
) -> LinearRouter:
    """The router that predicts the `advantages` of M steps best, in the least squares.

    An oracle gives them: the quality of the target's step less that of the draft's, both written behind the
    same text. `ridge` times M is added for each weight's square, of features scaled to variance 1.

    Raises:
        ValueError: the two differ in M, or hold numbers that are not finite.
    """
    features, advantages = np.asarray(features, np.float64), np.asarray(advantages, np.float64)
    if features.ndim != 2 or features.shape[1] != len(FEATURES) or advantages.shape != features.shape[:1]:
        raise ValueError(
            f"features must be [M, {len(FEATURES)}] and advantages [M], got {list(features.shape)} and "
            f"{list(advantages.shape)}"
        )
    if not (np.isfinite(features).all() and np.isfinite(advantages).all()):
        raise ValueError("features and advantages must be finite")
    mean, spread = features.mean(0), features.std(0)
    scaled = (features - mean) / np.where(spread > 0, spread, 1.0)
    gram = scaled.T @ scaled + ridge * len(scaled) * np.eye(scaled.shape[1])
    weights = np.linalg.solve(gram, scaled.T @ (advantages - advantages.mean()))
    weights = weights / np.where(spread > 0, spread, 1.0)
    bias = advantages.mean() - mean @ weights
    return LinearRouter(weights=jnp.asarray(weights, jnp.float32), bias=jnp.asarray(bias, jnp.float32))


register_dataclass(Regret, [], [])
register_dataclass(LinearRouter, ["weights", "bias"], [])

REGRET = Regret()
