"""Steps left out by a mask that is known before the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.diffusion.caches.residuals import StepsByResidual
from jaxmodels.decoding.diffusion.caches.schedules import check_steps, flags
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass

# How many steps in a row are computed and left out, in turn. The published ones are for these numbers of
# steps: runs of other lengths take those of the next greater number, shortened, and runs of more than 28
# take those of 28, lengthened.
_Runs = tuple[tuple[int, ...], tuple[int, ...]]
_RUNS: Mapping[int, Mapping[str, _Runs]] = MappingProxyType(
    {
        28: {
            "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
            "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
            "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
            "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
        },
        15: {
            "slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
            "medium": ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
            "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
            "ultra": ((2, 1, 1, 1, 1), (1, 2, 3, 3)),
        },
        9: {
            "slow": ((5, 2, 1), (1,)),
            "medium": ((5, 1, 1), (1, 1)),
            "fast": ((4, 1, 1), (1, 2)),
            "ultra": ((3, 1, 1), (2, 2)),
        },
        8: {
            "slow": ((5, 1, 1), (1,)),
            "medium": ((4, 1, 1), (1, 1)),
            "fast": ((3, 1, 1), (1, 2)),
            "ultra": ((2, 1, 1), (2, 2)),
        },
        6: dict.fromkeys(("slow", "medium", "fast", "ultra"), ((3, 1), (2,))),
        4: dict.fromkeys(("slow", "medium", "fast", "ultra"), ((2, 1), (1,))),
    }
)
SPEEDS = tuple(_RUNS[28])


@dataclass(frozen=True, eq=False)
class StepMask(StepsByResidual):
    """A `StepCache` that computes the steps of a mask and gives the others by the last residual of all
    blocks.

    Attributes:
        compute: bool[N], whether each step is computed; or the same as 1 and 0.

    Raises:
        ValueError: it is no such mask, or leaves out the first step.
    """

    compute: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute", flags("compute", self.compute))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The mask.

        Raises:
            ValueError: it is for another number of calls than the plan has.
        """
        check_steps("compute: the mask", len(self.compute), plan.calls)
        return self.compute


@dataclass(frozen=True)
class PublishedMask(StepsByResidual):
    """`StepMask` with one of the four masks of https://github.com/vipshop/cache-dit, for any number of steps.

    Attributes:
        speed: "slow", "medium", "fast" or "ultra": of 28 steps they compute 18, 15, 11 and 8.

    Raises:
        ValueError: there is no such mask.
    """

    speed: str = "medium"

    def __post_init__(self) -> None:
        if self.speed not in SPEEDS:
            raise ValueError(f"speed must be one of {', '.join(SPEEDS)}, got {shown(self.speed)}")

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The mask for as many calls as the plan has."""
        return published_mask(self.speed, plan.calls)


def published_mask(speed: str, steps: int) -> np.ndarray:
    """bool[steps]: which steps the mask of this name computes. The last is always among them.

    Raises:
        ValueError: there is none for so few steps: 4, 6, and 8 or more have one.
    """
    steps = whole("steps", steps, low=1)
    if steps not in (4, 6) and steps < 8:
        raise ValueError(f"steps: there are masks for 4, 6, and 8 or more steps, not for {steps}")
    base = min((length for length in _RUNS if length >= min(steps, 28)), default=28)
    computed, left_out = (list(runs) for runs in _RUNS[base][speed])
    if steps > 28:
        _lengthen(computed, left_out, steps)
    _shorten(computed, left_out, steps)
    mask: list[bool] = []
    for run, gap in zip_longest(computed, left_out, fillvalue=0):
        mask += [True] * run + [False] * gap
    mask[-1] = True
    return np.array(mask)


def _lengthen(computed: list[int], left_out: list[int], steps: int) -> None:
    """Lets every run grow by half of its share, in turn, until there are enough steps."""
    grown = steps / 28 * 0.5
    originals = [(runs, i, runs[i]) for i in range(len(left_out)) for runs in (computed, left_out)]
    while True:
        for runs, i, original in originals:
            runs[i] += max(int(original * grown), 1)
            if sum(computed) + sum(left_out) >= steps:
                return
        computed[-1] += 1
        if sum(computed) + sum(left_out) >= steps:
            return


def _shorten(computed: list[int], left_out: list[int], steps: int) -> None:
    """Takes steps from the last run left out and the last computed, in turn, until there are `steps`."""
    while sum(computed) + sum(left_out) > steps:
        for runs in (left_out, computed):
            if runs and sum(computed) + sum(left_out) > steps:
                runs[-1] -= 1
                if not runs[-1]:
                    runs.pop()


register_dataclass(StepMask, ["compute"], [])
register_dataclass(PublishedMask, [], ["speed"])
