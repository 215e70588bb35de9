"""Images at other sizes, as `torch.nn.functional.interpolate` makes them: by one matrix for each axis.

`jax.image.resize` has another cubic kernel (a = -0.5; torch has a = -0.75), with which models that were
trained in torch go astray, and nothing of torch's "area".
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The slope of torch's cubic kernel at a distance of 1.
_A = -0.75


@functools.cache
def cubic_matrix(before: int, behind: int) -> Float[np.ndarray, "behind before"]:
    """What each of `behind` places takes from each of `before`, as torch's "bicubic" with corners not
    aligned has it; beyond the edge the outermost place counts again."""
    made = np.zeros((behind, before))
    for place in range(behind):
        at = (place + 0.5) * before / behind - 0.5
        first = int(np.floor(at))
        for step in range(-1, 3):
            source = min(max(first + step, 0), before - 1)
            made[place, source] += _cubic(abs(at - (first + step)))
    return made.astype(np.float32)


@functools.cache
def area_matrix(before: int, behind: int) -> Float[np.ndarray, "behind before"]:
    """What each of `behind` places takes from each of `before`, as torch's "area" has it: the mean of the
    places that it covers, those that it shares with its neighbours included."""
    made = np.zeros((behind, before))
    for place in range(behind):
        start, end = place * before // behind, -(-(place + 1) * before // behind)
        made[place, start:end] = 1 / (end - start)
    return made.astype(np.float32)


def resampled(x: Float[Array, "B H W C"], matrix: Float[np.ndarray, "P H"]) -> Float[Array, "B P P C"]:
    """A square image with both axes through `matrix`."""
    return jnp.einsum("ph,qw,bhwc->bpqc", matrix.astype(x.dtype), matrix.astype(x.dtype), x)


def _cubic(distance: float) -> float:
    if distance <= 1:
        return ((_A + 2) * distance - (_A + 3)) * distance * distance + 1
    if distance < 2:
        return ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return 0.0
