"""MagCache: steps are left out as long as the residual of all blocks should not have changed in size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.diffusion.caches.residuals import StepsByResidual
from jaxmodels.decoding.diffusion.caches.schedules import check_steps
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass

# Of FLUX.1, over 28 steps (https://github.com/Zehong-Ma/MagCache).
FLUX_RATIOS = (
    *(1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125),
    *(1.02344, 0.98047, 1.01562, 1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0),
    *(0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359, 0.89062),
)


@dataclass(frozen=True, eq=False)
class MagCache(StepsByResidual):
    """A `StepCache` that gives a step by the last residual of all blocks while the sizes of residuals say so
    (https://arxiv.org/abs/2506.09045).

    From step to step the tokens' residuals change their length by a ratio that is measured once for a model,
    by `jaxmodels.decoding.diffusion.caches.calibration`. The errors ``|1 - product of ratios|`` of the steps
    left out in a row are summed.

    Attributes:
        ratios: f[N], how long residuals are against those of the step before, for each step; the first is
            not read. `resampled` makes those of another number of steps.
        threshold: how much error may add up before a step is computed again.
        most_in_a_row: the most steps that are left out one after the other.
        warmup: the share of the run, from its beginning, that is always computed.

    Raises:
        ValueError: an option outside its range.
    """

    ratios: Any
    threshold: float = 0.06
    most_in_a_row: int = 3
    warmup: float = 0.2

    def __post_init__(self) -> None:
        if is_traced(self.threshold):
            return
        ratios = np.asarray(self.ratios)
        if ratios.ndim != 1 or not ratios.size or ratios.dtype.kind not in "fiu":
            raise ValueError(f"ratios must be a number for each step, got {shown(self.ratios)}")
        if not (np.isfinite(ratios).all() and (ratios > 0).all()):
            raise ValueError(f"ratios must be finite numbers > 0, got {shown(self.ratios)}")
        object.__setattr__(self, "ratios", ratios.astype(np.float32))
        object.__setattr__(self, "threshold", number("threshold", self.threshold, low=0.0))
        object.__setattr__(self, "most_in_a_row", whole("most_in_a_row", self.most_in_a_row))
        object.__setattr__(self, "warmup", number("warmup", self.warmup, low=0.0, high=1.0))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The mask.

        Raises:
            ValueError: the ratios are those of another number of calls than the plan has.
        """
        check_steps("ratios: the calibration", len(self.ratios), plan.calls)
        return magcache_mask(self.ratios, self.threshold, self.most_in_a_row, self.warmup)


def magcache_mask(
    ratios: np.ndarray, threshold: float = 0.06, most_in_a_row: int = 3, warmup: float = 0.2
) -> np.ndarray:
    """bool[N], the steps that are computed. Errors are summed in float32, as `diffusers` sums them."""
    first = max(1, int(warmup * len(ratios) + 0.5))
    mask = np.ones(len(ratios), bool)
    product, error, count = np.float32(1), np.float32(0), 0
    for i in range(first, len(ratios)):
        product, count = product * np.float32(ratios[i]), count + 1
        error += abs(np.float32(1) - product)
        if error <= np.float32(threshold) and count <= most_in_a_row:
            mask[i] = False
        else:
            product, error, count = np.float32(1), np.float32(0), 0
    return mask


def resampled(ratios: Sequence[float], steps: int) -> np.ndarray:
    """f32[steps]: the ratio of the nearest step of the calibrated run, whose ends are those of this one."""
    steps = whole("steps", steps, low=1)
    given = np.asarray(ratios, np.float32)
    if steps == 1:
        return given[-1:]
    places = np.arange(steps, dtype=np.float32) * np.float32((len(given) - 1) / (steps - 1))
    return given[np.round(places).astype(int)]


register_dataclass(MagCache, ["ratios", "threshold", "most_in_a_row", "warmup"], [])
