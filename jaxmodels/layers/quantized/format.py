"""What a format of numbers in few bits is."""

from typing import Any, Protocol

import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float, Shaped


class NumberFormat(Protocol):
    """Numbers in few bits, with a scale for each block of them. Implementations are frozen dataclasses.

    Attributes:
        name: for messages.
        groups: how many inputs share a scale, sizes in order of preference; none for all of an output.
        numbers: the dtype of the numbers.
        factors: the dtype of the scales.
    """

    @property
    def name(self) -> str: ...
    @property
    def groups(self) -> tuple[int, ...]: ...
    @property
    def numbers(self) -> Any: ...

    @property
    def factors(self) -> Any: ...

    def scales(self, largest: Float[Array, "*blocks"]) -> Shaped[Array, "*blocks"]:
        """The scales of blocks whose largest magnitudes these are."""

    def rounded(self, w: Float[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """The nearest numbers of the format to a weight that has been divided by its scales."""


def rounded_scales(scales: Float[Array, "*blocks"]) -> BFloat16[Array, "*blocks"]:
    """Scales in bfloat16, none of them so small that their inverse overflows.

    They are as good as more precise ones, since numbers are rounded after the division by them, and their
    products with numbers are exact in float32: a weight that is read from its products, and quantised again,
    has the same numbers and scales.
    """
    return jnp.maximum(scales, jnp.finfo(jnp.bfloat16).tiny).astype(jnp.bfloat16)
