"""Rotary embeddings of positions along several axes: row and column of an image, time of a video."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.layers.rope import RopeStyle, Rotations, check_style

Series = Literal["per_axis", "whole", "alternating"]


@dataclass(frozen=True, kw_only=True)
class AxesRope:
    """Rotary embedding in which each axis of a position turns a stretch of the pairs of features.

    Attributes:
        axes: features for each axis, in order; twice its pairs. Flux has (16, 56, 56), for a number that is 0
            everywhere, the row and the column.
        theta: the lowest frequency is about ``1 / theta``.
        style: which features form a pair, see `Rope`. Flux has "interleaved", Qwen2-VL "half_split".
        series: "per_axis": each axis has a series of frequencies of its own, ``theta ** (-2 i / features)``
            (Flux, https://github.com/black-forest-labs/flux). "whole": one series over all features, cut into
            the axes' stretches (multimodal rotary embedding of https://arxiv.org/abs/2409.12191).
            "alternating": the series of "per_axis", but the axes take turns, a pair of features each, in
            place of stretches (https://github.com/MCG-NJU/DDT).

    Raises:
        ValueError: an axis has no features or an odd number, `theta` is not more than 1, `style` or `series`
            is unknown, or axes that alternate differ in size.
    """

    axes: tuple[int, ...]
    theta: float = 10000.0
    style: RopeStyle = "interleaved"
    series: Series = "per_axis"

    def __post_init__(self) -> None:
        if not self.axes or any(size < 2 or size % 2 for size in self.axes):
            raise ValueError(f"AxesRope: axes must be positive even numbers, got {self.axes}")
        if not self.theta > 1:
            raise ValueError(f"AxesRope: theta must be more than 1, got {self.theta}")
        if self.series not in get_args(Series):
            raise ValueError(f"AxesRope: series must be one of {get_args(Series)}, got {self.series!r}")
        if self.series == "alternating" and len(set(self.axes)) > 1:
            raise ValueError(f"AxesRope: axes that alternate must have the same size, got {self.axes}")
        check_style(self.style)

    @property
    def rotary_dim(self) -> int:
        """Features that are rotated."""
        return sum(self.axes)

    def rotations(
        self, positions: Int[Array, "B S"], lengths: Int[Array, " B"] | Int[Array, "B S"]
    ) -> Rotations:
        """The rotations of tokens whose position is the same along all axes, as text has it."""
        return self.at(jnp.broadcast_to(positions[..., None], (*positions.shape, len(self.axes))))

    def at(self, positions: Any) -> Rotations:
        """The rotations at ``[B, S, A]`` positions, one number for each axis.

        Positions of numpy, those of an image of known size, are turned into a table in float64 as in
        Flux's code; those of a traced program are multiplied in float32.

        Raises:
            ValueError: the positions have another number of axes.
        """
        if positions.ndim != 3 or positions.shape[-1] != len(self.axes):
            raise ValueError(
                f"AxesRope: expected positions [B, S, {len(self.axes)}], one for each of axes={self.axes}, "
                f"got {list(positions.shape)}"
            )
        axis_of_pair = self._axis_of_pair()
        frequencies = self._frequencies()
        if isinstance(positions, np.ndarray):
            angles = positions.astype(np.float64)[..., axis_of_pair] * frequencies
            return Rotations(
                cos=jnp.asarray(np.cos(angles), jnp.float32), sin=jnp.asarray(np.sin(angles), jnp.float32)
            )
        angles = positions.astype(jnp.float32)[..., axis_of_pair] * frequencies.astype(np.float32)
        return Rotations(cos=jnp.cos(angles), sin=jnp.sin(angles))

    def _frequencies(self) -> Float[np.ndarray, " P"]:
        sizes = (sum(self.axes),) if self.series == "whole" else self.axes
        made = [self.theta ** (-np.arange(0, size, 2) / size) for size in sizes]
        return np.stack(made, axis=-1).ravel() if self.series == "alternating" else np.concatenate(made)

    def _axis_of_pair(self) -> Int[np.ndarray, " P"]:
        axes, pairs = np.arange(len(self.axes)), [size // 2 for size in self.axes]
        return np.tile(axes, pairs[0]) if self.series == "alternating" else np.repeat(axes, pairs)


def grid_positions(rows: int, columns: int, *, leading: tuple[int, ...] = ()) -> Int[np.ndarray, "1 S A"]:
    """The positions of the patches of an image, row by row: the numbers `leading`, the row and the column."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    parts = [*(np.full_like(row, number) for number in leading), row, column]
    return np.stack(parts, axis=-1)[None]
