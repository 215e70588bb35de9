"""Source pruning: noise is not drawn in directions in which there are no data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.noise import Drawn


def pruning_axes(data: Float[np.ndarray, "N H W C"], most_cosine: float = 0.01) -> np.ndarray:
    """f32[M, H * W * C], unit vectors that no data point in the direction of: where `Pruned` draws no noise.

    They are those of the principal axes of the data, scaled to length 1, and of their opposites, whose cosine
    with any of the data is below `most_cosine` (Lee et al. 2025, and the code of SourceFM).

    Args:
        data: latents or images, as a model is trained on them; none of them all zeros.
        most_cosine: above it there are data in a direction.

    Raises:
        ValueError: no direction is as empty as that, or `data` hold one whose length is 0.
    """
    number("most_cosine", most_cosine, low=-1.0, high=1.0)
    flat = np.asarray(data, np.float64).reshape(len(data), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError(f"data: number {int(np.argmin(lengths))} is all zeros, which has no direction")
    flat /= lengths
    axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2]
    axes = np.concatenate([axes, -axes])
    nearest = (axes @ flat.T).max(1)
    if not (nearest < most_cosine).any():
        raise ValueError(
            f"every principal axis has data within a cosine of {nearest.min():.3g}, so that none is empty at "
            f"most_cosine={most_cosine}"
        )
    return axes[nearest < most_cosine].astype(np.float32)


@struct.dataclass
class Pruned:
    """Noise of `drawn` whose start points away from directions without data.

    A start is drawn again until its cosine with each of the axes is at most `most_cosine`. Where none of
    `tries` is, that of the least cosine is taken: a program cannot stop there as the published code does.
    Noise that is added later is that of `drawn`.

    Attributes:
        drawn: the noise, whose keys decide all of it.
        axes: f32[M, H * W * C], see `pruning_axes`.
        most_cosine: f[], 0.048 for the published CIFAR-10 model.
        length: f[], what starts are multiplied by. 1 for models trained with Gaussian noise; models trained
            with noise as long as the data have that ratio, 27.1981 / 55.4185 for the published one.
        tries: how often a start is drawn at most.
    """

    drawn: Drawn
    axes: jax.Array
    most_cosine: jax.Array
    length: jax.Array
    tries: int = struct.field(pytree_node=False, default=1000)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `Noise.shape`."""
        return self.drawn.shape

    def first(self) -> Float[Array, "B H W C"]:
        """See `Noise.first`."""
        return self.length * jax.vmap(self._start)(self.drawn.keys)

    def fresh(self, call: Int[Array, ""]) -> Float[Array, "B H W C"]:
        """See `Noise.fresh`."""
        return self.drawn.fresh(call)

    def check(self, calls: int) -> None:
        """See `Noise.check`: there is always some."""

    def _start(self, key: Array) -> Float[Array, "H W C"]:
        def draw(number: Any) -> tuple[Array, Array]:
            flat = jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, 0), number), self.axes.shape[1:]
            )
            return flat, (self.axes @ (flat / jnp.linalg.norm(flat))).max()

        def again(state: tuple[Array, Array, Array]) -> Array:
            return (state[0] < self.tries) & (state[2] > self.most_cosine)

        def another(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            number, flat, cosine = state
            other, its_cosine = draw(number)
            better = its_cosine < cosine
            return number + 1, jnp.where(better, other, flat), jnp.minimum(cosine, its_cosine)

        _, flat, _ = lax.while_loop(again, another, (jnp.int32(1), *draw(0)))
        return flat.reshape(self.drawn.canvas)


def pruned(
    drawn: Drawn, axes: np.ndarray, most_cosine: float = 0.048, length: float = 1.0, tries: int = 1000
) -> Pruned:
    """`Pruned` of checked numbers.

    Raises:
        ValueError: a number is out of range, or the axes are not of the canvases' size.
    """
    size = int(np.prod(drawn.canvas))
    if axes.ndim != 2 or axes.shape[1] != size:
        raise ValueError(
            f"axes must be [M, {size}] for canvases {list(drawn.canvas)}, got {list(axes.shape)}"
        )
    return Pruned(
        drawn=drawn,
        axes=jnp.asarray(axes, jnp.float32),
        most_cosine=jnp.float32(number("most_cosine", most_cosine, low=-1.0, high=1.0)),
        length=jnp.float32(number("length", length, low=0.0, low_included=False)),
        tries=whole("tries", tries, low=1),
    )
