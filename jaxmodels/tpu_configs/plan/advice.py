"""What to change of something that does not fit a slice."""

from collections.abc import Callable, Iterator

from jaxmodels.tpu_configs.slices import SLICES, Slice, larger_slices


def largest(below: int, fits: Callable[[int], bool]) -> int:
    """The largest number under `below` that fits, by bisection; 0 for none."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def smallest_slices(here: Slice, fits: Callable[[Slice], bool]) -> Iterator[str]:
    """The smallest slice of each generation that fits, that of `here` first and larger than it."""
    others = [it for it in SLICES.values() if it.chip != here.chip]
    seen: set[str] = set()
    for candidate in (*larger_slices(here), *others):
        generation = candidate.chip.generation
        if generation not in seen and fits(candidate):
            seen.add(generation)
            yield f"--slice {candidate.name} is the smallest {generation} slice that holds it"
