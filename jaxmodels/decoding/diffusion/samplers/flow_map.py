"""Flow maps: models of two times, which give the mean velocity of the path between them."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FlowLevels, FlowSchedule
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


class SecondTime(StrEnum):
    """What a model is shown beside the time of the canvas."""

    END = "end"  # the time to jump to
    SPAN = "span"  # how far the jump leads, as in MeanFlow (Geng et al. 2025)
    HALVINGS = (
        "halvings"  # log2 of the steps that make up the path, as in shortcut models (Frans et al. 2024)
    )


@dataclass(frozen=True, kw_only=True)
class FlowMapEuler(FirstOrder):
    """Jumps from time to time by mean velocities.

    With the time to jump to it is `diffusers.FlowMapEulerDiscreteScheduler`; with spans over times from 1 to
    0, the sampling of MeanFlow; with halvings over times from 0, noise, to 1, that of shortcut models, whose
    velocity leads to the data.

    Attributes:
        schedule: the noise levels.
        prediction: what the model's output is.
        second: what the model is shown beside the time of the canvas.
        renoises: whether each call jumps to the data, from where fresh noise leads back to the next level.
            This is the consistency sampling of alpha-Flow (Zhang et al. 2025).

    Raises:
        ValueError: `renoises` with halvings, which know no jumps of unequal length.
    """

    schedule: FlowSchedule = field(default_factory=lambda: FlowSchedule(levels=FlowLevels.EVEN))
    prediction: Prediction = Prediction.FLOW
    second: SecondTime = SecondTime.END
    renoises: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "second", SecondTime(self.second))
        if self.renoises and self.second is SecondTime.HALVINGS:
            raise ValueError(
                "renoises=True jumps to the data from every level, but with second='halvings' a model "
                "knows only jumps of equal length"
            )

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = np.append(self.schedule.sigmas(steps, tokens), 0.0)
        now, then = sigmas[:-1], sigmas[1:]
        none = np.zeros(steps)
        second = self._second(now, none if self.renoises else then)
        return Plan(
            times=np.stack([self.schedule.times(now), second], axis=1),
            input_scale=np.ones(steps),
            alpha=1 - now,
            sigma=now,
            rows=Level(
                alpha=1 - then,
                sigma=none if self.renoises else then,
                fresh=then if self.renoises else none,
            ),
            start=np.ones(()),
            draws=self.renoises,
        )

    def _second(self, now: np.ndarray, then: np.ndarray) -> np.ndarray:
        """f64[N]: the second times, of jumps from and to these levels."""
        if self.second is SecondTime.END:
            return self.schedule.times(then)
        if self.second is SecondTime.SPAN:
            return np.abs(self.schedule.times(now) - self.schedule.times(then))
        halvings = math.log2(len(now))
        if not halvings.is_integer() or not np.allclose(now - then, 1 / len(now)):
            raise ValueError(
                f"a model with second='halvings' takes equal steps whose number is a power of 2, got "
                f"steps={len(now)}, from noise levels {now.round(4).tolist()}"
            )
        return np.full(len(now), halvings)
