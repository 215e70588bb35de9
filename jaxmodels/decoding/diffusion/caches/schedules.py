"""Schedules of caches: which steps of a run are computed, checked against the run that they are used in."""

from typing import Any

import numpy as np

from jaxmodels.checks import is_traced, shown


def flags(name: str, given: Any) -> np.ndarray:
    """A schedule that a user wrote: bool[N], from True and False or from 1 and 0.

    Raises:
        ValueError: it is something else, or leaves out the first step, which has nothing to reuse.
    """
    if is_traced(given):
        return given
    array = np.asarray(given)
    if array.ndim != 1 or not array.size or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be one of 0 and 1 for each step, got {shown(given)}")
    if not array[0]:
        raise ValueError(
            f"{name} must compute the first step, which has nothing to reuse, got {shown(given)}"
        )
    return array.astype(bool)


def check_steps(name: str, scheduled: int, calls: int) -> None:
    """Refuses what was made for another number of steps.

    Raises:
        ValueError: `scheduled` is not `calls`, the calls of the model in the run.
    """
    if scheduled != calls:
        raise ValueError(f"{name} is made for {scheduled} steps, but the run has {calls} calls of the model")


def check_within(name: str, needed: int, calls: int) -> None:
    """Refuses a schedule that is longer than the run.

    Raises:
        ValueError: `needed` is more than `calls`, the calls of the model in the run.
    """
    if needed > calls:
        raise ValueError(
            f"{name}: the schedule needs {needed} steps, but the run has {calls} calls of the model"
        )


def since_computed(fresh: np.ndarray) -> np.ndarray:
    """i[N]: how many steps ago the last computed one was: 0 where a step is computed itself."""
    steps = np.arange(len(fresh))
    return steps - np.maximum.accumulate(np.where(fresh, steps, 0))
