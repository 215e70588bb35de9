"""Pyramid attention broadcast: the outputs of attentions are kept for a few steps in the middle of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.outputs import (
    Outputs,
    kind,
    no_outputs,
    parts_named,
    predict_choosing,
)
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass

# By the kinds of parts, the option that says how often each is computed.
ATTENTIONS = MappingProxyType({"mixer": "mixer", "second": "mixer", "cross": "cross"})


@dataclass(frozen=True, eq=False)
class PAB:
    """A `StepCache` that computes the attentions of one step of every few, and repeats their outputs in
    those between them, between two times (https://arxiv.org/abs/2408.12588), as
    `PyramidAttentionBroadcastConfig` of `diffusers` does.

    Attributes:
        mixer: of so many steps the self-attention is computed in one.
        cross: the same for cross-attention; 1 computes all.
        within: the times between which outputs are repeated, ends left out, in the units of the model: those
            published are of models whose times go to 1000.

    Raises:
        ValueError: an option outside its range.
    """

    mixer: int = 2
    cross: int = 1
    within: tuple[float, float] = (100.0, 800.0)

    def __post_init__(self) -> None:
        for name in ("mixer", "cross"):
            if not is_traced(getattr(self, name)):
                object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        if not isinstance(self.within, list | tuple) or len(self.within) != 2:
            raise ValueError(f"within must be two times, got {shown(self.within)}")
        if not any(map(is_traced, self.within)):
            low, high = (number("within", time) for time in self.within)
            object.__setattr__(self, "within", (low, high))

    def rows(self, denoiser: Denoiser, plan: Plan) -> Mapping[str, np.ndarray]:
        """The masks of the two kinds of attention.

        Raises:
            ValueError: no step's time lies between the two, as where a model's times go from 0 to 1.
        """
        times = plan.times if plan.times.ndim == 1 else plan.times[:, 0]
        low, high = self.within
        if not ((low < times) & (times < high)).any():
            raise ValueError(
                f"within: no step has a time between {low:g} and {high:g}, those of the run go from "
                f"{times.max():g} to {times.min():g}"
            )
        intervals = {"mixer": self.mixer, "cross": self.cross}
        return {kind: pab_mask(times, interval, self.within) for kind, interval in intervals.items()}

    def begin(self, step: Step) -> Outputs:
        """No outputs.

        Raises:
            ValueError: the model has no attention.
        """
        return no_outputs(step, parts_named(step.denoiser, tuple(ATTENTIONS)))

    def denoise(
        self, step: Step, row: Mapping[str, Bool[Array, ""]], state: Outputs
    ) -> tuple[Float[Array, "B H W C"], Outputs, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        return predict_choosing(step, {name: row[ATTENTIONS[kind(name)]] for name in state}, state)


def pab_mask(times: np.ndarray, interval: int, within: tuple[Any, Any]) -> np.ndarray:
    """bool[N], the steps that are computed."""
    low, high = within
    step = np.arange(len(times))
    return (step % interval == 0) | ~((low < times) & (times < high))


register_dataclass(PAB, ["mixer", "cross", "within"], [])
