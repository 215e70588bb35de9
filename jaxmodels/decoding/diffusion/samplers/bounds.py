"""What predicted clean data are held to before a step uses them."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number


class Bound(Protocol):
    """Holds clean data to a range. Implementations are hashable."""

    def __call__(self, clean: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]: ...


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Values cut at -`most` and `most`.

    Raises:
        ValueError: `most` is not above 0.
    """

    most: float = 1.0

    def __post_init__(self) -> None:
        number("most", self.most, low=0.0, low_included=False)

    def __call__(self, clean: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return jnp.clip(clean, -self.most, self.most)


@dataclass(frozen=True, kw_only=True)
class DynamicThreshold:
    """Values cut at a quantile of their sizes in each image, and divided by it (Saharia et al. 2022).

    Attributes:
        ratio: the quantile, 0 to 1.
        most: what the quantile is at most taken for, >= 1; it is at least taken for 1.

    Raises:
        ValueError: a number outside its range.
    """

    ratio: float = 0.995
    most: float = 1.0

    def __post_init__(self) -> None:
        number("ratio", self.ratio, low=0.0, high=1.0)
        number("most", self.most, low=1.0)

    def __call__(self, clean: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        sizes = jnp.abs(clean).reshape(clean.shape[0], -1)
        threshold = jnp.clip(jnp.quantile(sizes, self.ratio, axis=1), 1.0, self.most)
        threshold = threshold.reshape(-1, *(1 for _ in clean.shape[1:]))
        return jnp.clip(clean, -threshold, threshold) / threshold
