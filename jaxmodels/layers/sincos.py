"""Fixed embeddings of positions on a grid, made on the host in float64."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def sincos_grid(
    d_model: int, rows: int, columns: int, *, base: int, interpolation_scale: float = 1.0
) -> Float[Array, "S D"]:
    """Float32 embeddings of the patches of a grid, row by row: half of the features tell the column, the
    other half the row.

    Each half is ``[sin(x f), cos(x f)]``, ``f_i = 10000 ** (-i / (d_model / 4))``, where x is the number of
    the column or row times ``base / (size * interpolation_scale)``: grids of every size span the same stretch
    of `base`, that of the size trained on. As `diffusers` has it (``get_2d_sincos_pos_embed``), which rounds
    x, but neither f nor the angles, to float32. A program holds one table for columns and one for rows, and
    not that of all patches.

    Raises:
        ValueError: `d_model` is no multiple of 4.
    """
    if d_model % 4:
        raise ValueError(f"sincos_grid: d_model must be a multiple of 4, got {d_model}")
    across, down = (_sincos(size, base, interpolation_scale, d_model // 2) for size in (columns, rows))
    shape = (rows, columns, d_model // 2)
    halves = [jnp.broadcast_to(across, shape), jnp.broadcast_to(down[:, None], shape)]
    return jnp.concatenate(halves, axis=-1).reshape(rows * columns, d_model)


def _sincos(size: int, base: int, interpolation_scale: float, dim: int) -> Float[np.ndarray, "N F"]:
    numbers = np.arange(size, dtype=np.float32)
    x = numbers / np.float32(size / base) / np.float32(interpolation_scale)
    frequencies = 10000.0 ** (-np.arange(dim // 2) / (dim / 2))
    angles = x.astype(np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class SincosPositions:
    """Initial value of a stored table [rows, columns, D] of positions: `sincos_grid`. See `Initializer`."""

    base: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        rows, columns, d_model = shape
        return sincos_grid(d_model, rows, columns, base=self.base).reshape(shape).astype(dtype)
