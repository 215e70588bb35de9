"""Guidance whose unconditional output is fitted to the conditional one, behind steps that do nothing."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.diffusion.guidance.cfg import set_number
from jaxmodels.decoding.diffusion.guidance.guidance import Outputs, away
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Row:
    """A call's scale, and what the result is multiplied by: 0 in the first calls, then 1."""

    scale: np.ndarray
    factor: np.ndarray


@dataclass(frozen=True)
class ZeroStar:
    """``a u + scale * (c - a u)`` with the `a` that brings ``a u`` closest to c, for each image; the first
    calls give zero. CFG-Zero* (Fan et al. 2025, https://arxiv.org/abs/2503.18886), for models of flow.

    Attributes:
        scale: see `CFG`.
        zero_calls: how many calls of the model give zero.

    Raises:
        ValueError: a number outside its range. When run: the model predicts something else than a flow.
    """

    scale: float
    zero_calls: int = 1

    def __post_init__(self) -> None:
        set_number(self, "scale")
        if not is_traced(self.zero_calls):
            object.__setattr__(self, "zero_calls", whole("zero_calls", self.zero_calls))

    def rows(self, plan: Plan) -> Row:
        """Scale and factor, for each call."""
        factor = np.arange(plan.calls) >= self.zero_calls
        return Row(np.full(plan.calls, self.scale), factor.astype(np.float64))

    def __call__(self, outputs: Outputs, row: Row) -> Predicted:
        """See `Guidance`.

        Raises:
            ValueError: the outputs are no velocities of flow: zero is then no step that stands still.
        """
        if outputs.kind not in (Prediction.FLOW, Prediction.FLOW_TO_DATA):
            raise ValueError(
                f"guidance=ZeroStar(...) is for models that predict a flow, but the sampler takes the "
                f"predictions for {outputs.kind.value!r}"
            )
        conditional, unconditional = outputs.pair()
        axes = (1, 2, 3)
        product = jnp.sum(conditional * unconditional, axis=axes, keepdims=True)
        fitted = unconditional * product / (jnp.sum(unconditional**2, axis=axes, keepdims=True) + 1e-8)
        factor, scale = jnp.asarray(row.factor), jnp.asarray(row.scale)
        return outputs.read(factor * away(conditional, fitted, scale))


register_dataclass(ZeroStar, ["scale", "zero_calls"], [])
