"""Where the noise of a run comes from."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.arguments import MOST_SEEDS


class Noise(Protocol):
    """A pytree that gives unit noise."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the canvases, [B, H, W, C]."""

    def first(self) -> Float[Array, "B H W C"]:
        """What the canvases begin with."""

    def fresh(self, call: Int[Array, ""]) -> Float[Array, "B H W C"]:
        """What a sampler adds at this call of the model."""

    def check(self, calls: int) -> None:
        """Raises ValueError where there is none to add in a run of so many calls."""


@struct.dataclass
class Drawn:
    """Noise drawn by a key for each image, so that an image is that of its key, whatever is drawn beside it.

    Attributes:
        keys: [B], one for each image.
        canvas: height, width and channels.
    """

    keys: jax.Array
    canvas: tuple[int, int, int] = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `Noise.shape`."""
        return self.keys.shape[0], *self.canvas

    def first(self) -> Float[Array, "B H W C"]:
        """See `Noise.first`."""
        return self._draw(0)

    def fresh(self, call: Int[Array, ""]) -> Float[Array, "B H W C"]:
        """See `Noise.fresh`."""
        return self._draw(1 + call)

    def check(self, calls: int) -> None:
        """See `Noise.check`: there is always some."""

    def _draw(self, number: int | Int[Array, ""]) -> Float[Array, "B H W C"]:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), self.canvas))(
            self.keys
        )


@struct.dataclass
class Injected:
    """Noise that was drawn elsewhere, as for a comparison with another program.

    Attributes:
        start: f[B, H, W, C], what the canvases begin with: unit noise, which the sampler scales.
        added: f[N, B, H, W, C], for samplers that add some at each of N calls of the model; None for others.
    """

    start: jax.Array
    added: Any = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `Noise.shape`."""
        batch, height, width, channels = self.start.shape
        return batch, height, width, channels

    def first(self) -> Float[Array, "B H W C"]:
        """See `Noise.first`."""
        return jnp.asarray(self.start, jnp.float32)

    def fresh(self, call: Int[Array, ""]) -> Float[Array, "B H W C"]:
        """See `Noise.fresh`."""
        return jnp.asarray(self.added, jnp.float32)[call]

    def check(self, calls: int) -> None:
        """Raises ValueError unless noise is added at so many calls."""
        wanted = (calls, *self.start.shape)
        given = None if self.added is None else self.added.shape
        if given != wanted:
            got = "none" if given is None else str(list(given))
            raise ValueError(f"noise: the sampler adds noise {list(wanted)}, got {got}")


def drawn(seed: int, count: int, canvas: tuple[int, int, int]) -> Drawn:
    """The noise of `count` images of [H, W, C]: that of image i depends on `seed` and i alone.

    Raises:
        ValueError: `seed` or `count` is no whole number in range.
    """
    key = jax.random.key(whole("seed", seed, high=MOST_SEEDS))
    numbers = jnp.arange(whole("count", count, low=1), dtype=jnp.uint32)
    return Drawn(jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), canvas)
