"""Guidance in a part of a run."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.diffusion.guidance.cfg import set_number
from jaxmodels.decoding.diffusion.guidance.guidance import Guidance, Outputs
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Row:
    """Whether a call is guided, and its row of the guidance."""

    guided: np.ndarray
    inside: Any


@dataclass(frozen=True)
class Interval:
    """Another guidance in a part of the calls; the others give the conditional output (Kynkäänniemi et al.
    2024, https://arxiv.org/abs/2404.07724).

    Attributes:
        guidance: that of the calls inside.
        start: the share of the calls in front, rounded down to whole ones, as in the guiders of `diffusers`.
        stop: the share up to the end, likewise.

    Raises:
        ValueError: `start` and `stop` are not from 0 to 1, in that order, or `guidance` is of another kind.
    """

    guidance: Guidance
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        check_policy("guidance", self.guidance, "rows", "CFG(4.0)")
        _set_ends(self, high=1.0)

    def rows(self, plan: Plan) -> Row:
        """Which calls are guided, and their rows."""
        calls = np.arange(plan.calls)
        first, end = int(self.start * plan.calls), int(self.stop * plan.calls)
        return Row((first <= calls) & (calls < end), self.guidance.rows(plan))

    def __call__(self, outputs: Outputs, row: Row) -> Predicted:
        """See `Guidance`."""
        return guided_where(self.guidance, outputs, row)


@dataclass(frozen=True)
class TimeInterval:
    """`Interval` by the times that the model is shown, as in the official code of DDT.

    Attributes:
        guidance: that of the calls inside.
        start: times above this are guided.
        stop: times below this are guided.

    Raises:
        ValueError: `start` and `stop` are not >= 0, in that order, or `guidance` is of another kind.
    """

    guidance: Guidance
    start: float
    stop: float

    def __post_init__(self) -> None:
        check_policy("guidance", self.guidance, "rows", "CFG(4.0)")
        _set_ends(self)

    def rows(self, plan: Plan) -> Row:
        """Which calls are guided, and their rows. Of two times the first counts."""
        times = plan.times.reshape(plan.calls, -1)[:, 0]
        return Row((self.start < times) & (times < self.stop), self.guidance.rows(plan))

    def __call__(self, outputs: Outputs, row: Row) -> Predicted:
        """See `Guidance`."""
        return guided_where(self.guidance, outputs, row)


def guided_where(guidance: Guidance, outputs: Outputs, row: Row) -> Predicted:
    """The guided output in calls that are guided, the conditional one in others."""
    guided, plain = guidance(outputs, row.inside), outputs.read(outputs.conditional)
    if guided.kind is not plain.kind:  # CFG++ gives clean data
        output = jnp.concatenate([plain.clean(), plain.extra()], axis=-1)
        plain = replace(plain, output=output, kind=Prediction.CLEAN)
    return jax.tree.map(lambda a, b: jnp.where(row.guided, a, b), guided, plain)


def _set_ends(interval: Interval | TimeInterval, *, high: float = math.inf) -> None:
    """Makes the ends floats; raises ValueError unless they are from 0 to `high`, in order."""
    set_number(interval, "start", low=0.0, high=high)
    set_number(interval, "stop", low=0.0, high=high)
    start, stop = interval.start, interval.stop
    if not (is_traced(start) or is_traced(stop)) and start > stop:
        raise ValueError(f"start must not lie behind stop, got {shown(start)} and {shown(stop)}")


register_dataclass(Interval, ["guidance", "start", "stop"], [])
register_dataclass(TimeInterval, ["guidance", "start", "stop"], [])
