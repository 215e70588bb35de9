"""Which training steps a run of fewer steps visits."""

from enum import StrEnum

import numpy as np

from jaxmodels.decoding.diffusion.samplers.sampler import whole_steps


class Spacing(StrEnum):
    """The three ways of Lin et al. 2024, table 2. Only `TRAILING` starts a run of one step from pure
    noise."""

    LINSPACE = "linspace"  # from the last training step to the first, evenly
    LEADING = "leading"  # multiples of T // steps, plus an offset
    TRAILING = "trailing"  # the last training step, and every T / steps before it


def spaced_times(spacing: Spacing, steps: int, count: int, offset: int = 0) -> np.ndarray:
    """f64[steps], falling: the training steps among `count` that a run visits.

    Only `LINSPACE` gives broken numbers, which are as float32 has them; what must index a table rounds them.
    For a few numbers of steps, such as 61, rounding lets `diffusers` append a last time of -1 to `TRAILING`;
    that is left out.

    Raises:
        ValueError: more steps than training steps, or an offset that leads beyond the last of these.
    """
    steps = whole_steps(steps, count)
    match spacing:
        case Spacing.LINSPACE:
            return np.linspace(0, count - 1, steps, dtype=np.float32)[::-1].astype(np.float64)
        case Spacing.TRAILING:
            return np.round(np.arange(count, 0, -count / steps))[:steps] - 1
        case Spacing.LEADING:
            return _within(np.arange(steps)[::-1] * float(count // steps) + offset, offset, count)


def whole_times(spacing: Spacing, steps: int, count: int, offset: int = 0) -> np.ndarray:
    """i64[steps]: the same, rounded to whole training steps as tables need them."""
    return np.round(spaced_times(spacing, steps, count, offset)).astype(np.int64)


def solver_times(
    spacing: Spacing, steps: int, count: int, offset: int = 0, last: int | None = None
) -> np.ndarray:
    """i64[steps]: the training steps that multistep solvers visit: one is spaced more, and the end left out.

    Args:
        spacing: the way.
        steps: how many.
        count: training steps.
        offset: added to the times of leading spacing.
        last: how many training steps are used, `count` if None. Trailing spacing begins at the last of them
            with distances as if all were, so that it may give fewer times.

    Raises:
        ValueError: as `spaced_times`.
    """
    last = count if last is None else last
    steps = whole_steps(steps, last if spacing is Spacing.TRAILING else last - 1)
    match spacing:
        case Spacing.LINSPACE:
            return np.linspace(0, last - 1, steps + 1).round()[:0:-1].astype(np.int64)
        case Spacing.TRAILING:
            return np.arange(last, 0, -count / steps)[:steps].round().astype(np.int64) - 1
        case Spacing.LEADING:
            return _within(np.arange(steps, 0, -1) * (last // (steps + 1)) + offset, offset, count)


def _within(times: np.ndarray, offset: int, count: int) -> np.ndarray:
    if times[0] >= count:
        raise ValueError(
            f"{len(times)} steps of leading spacing with offset={offset} begin at training step "
            f"{int(times[0])}, but the noise schedule has count={count}: 0 to {count - 1}"
        )
    return times
