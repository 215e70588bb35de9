"""What a format of numbers in few bits is."""

from typing import Any, Protocol

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


class NumberFormat(Protocol):
    """Numbers in few bits, with a scale for each block of them. Implementations are frozen dataclasses.

    Attributes:
        name: for messages.
        groups: how many inputs share a scale, sizes in order of preference; none for all of an output.
        numbers: the dtype of the numbers.
    """

    @property
    def name(self) -> str: ...
    @property
    def groups(self) -> tuple[int, ...]: ...
    @property
    def numbers(self) -> Any: ...

    def scale_dtype(self, dtype: DTypeLike) -> Any:
        """The dtype of the scales of a weight that would be in `dtype`."""

    def scales(self, largest: Float[Array, "*blocks"], dtype: DTypeLike) -> Shaped[Array, "*blocks"]:
        """The scales of blocks whose largest magnitudes these are."""

    def rounded(self, w: Float[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """The nearest numbers of the format to a weight that has been divided by its scales."""


def in_normal_range(scales: Float[Array, "*blocks"], dtype: DTypeLike) -> Float[Array, "*blocks"]:
    """Scales in `dtype`, none of them so small that their inverse overflows."""
    return jnp.maximum(scales, jnp.finfo(dtype).tiny).astype(dtype)
