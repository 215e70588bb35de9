"""The TPU slices that people rent, one file per generation."""

import difflib

from jaxmodels.checks import shown
from jaxmodels.tpu_configs.slices import tpu7x, v4, v5e, v5p, v6e
from jaxmodels.tpu_configs.slices.slice import Chip, Slice

__all__ = ["SLICES", "Chip", "Slice", "find_slice", "larger_slices"]

_GENERATIONS = (v4, v5e, v5p, v6e, tpu7x)
SLICES: dict[str, Slice] = {it.name: it for generation in _GENERATIONS for it in generation.SLICES}
# Other spellings of a generation, as the Cloud TPU API and its users have them.
_ALSO = {"v5litepod": "v5e", "v7x": "tpu7x", "7x": "tpu7x"}


def find_slice(name: str) -> Slice:
    """The slice of this name, such as "v5e-8".

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    generation, dash, size = str(name).strip().lower().partition("-")
    spelled = f"{_ALSO.get(generation, generation)}{dash}{size}"
    if spelled in SLICES:
        return SLICES[spelled]
    of_generation = [it for it in SLICES if it.partition("-")[0] == spelled.partition("-")[0]]
    near = of_generation or difflib.get_close_matches(spelled, SLICES, n=4, cutoff=0.4) or list(SLICES)
    raise ValueError(f"slice {shown(name)} is not known; the nearest are {', '.join(near)}")


def larger_slices(than: Slice) -> tuple[Slice, ...]:
    """Slices of the same generation with more chips, the smallest first."""
    return tuple(it for it in SLICES.values() if it.chip == than.chip and it.chips > than.chips)
