"""Rotary position embeddings (https://arxiv.org/abs/2104.09864): full, partial, and every published scaling.

A `Rope` turns positions into cosines and sines once per window; `apply_rope` rotates queries and keys by them
in every layer. A scaling decides the frequencies. Those that depend on the sequence length
(`DynamicNTKScaling`, `LongRopeScaling`) read it per row, as data, so one compiled program serves every length.

Feature dimension R below is `rotary_dim`.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

RopeStyle = Literal["half_split", "interleaved"]
Frequencies: TypeAlias = "tuple[Float[np.ndarray | Array, '#B R/2'], float]"


@struct.dataclass
class Rotations:
    """The rotation of each token and feature pair, both ``f32[B, S, R/2]``, attention factor included."""

    cos: Float[Array, "B S R/2"]
    sin: Float[Array, "B S R/2"]


class RopeScaling(Protocol):
    """Chooses the angular frequencies of the feature pairs."""

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        """Radians per position of each feature pair, and the factor that multiplies cosines and sines.

        `lengths[b]` is the number of tokens of row b so far. Scalings that ignore it give one row for all.
        """
        ...


def unscaled_frequencies(rotary_dim: int, theta: float) -> Float[np.ndarray, " R/2"]:
    """``theta ** (-2 i / R)``, rounded to float32 where the code that trained the checkpoints rounds it."""
    return np.float32(1.0) / _wavelengths(rotary_dim, theta)


@dataclass(frozen=True)
class Unscaled:
    """The original frequencies."""

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        return unscaled_frequencies(rotary_dim, theta)[None], 1.0


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Every frequency divided by `factor` (https://arxiv.org/abs/2306.15595)."""

    factor: float

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        return unscaled_frequencies(rotary_dim, theta)[None] / np.float32(self.factor), 1.0


@dataclass(frozen=True, kw_only=True)
class DynamicNTKScaling:
    """`theta` grows with the length of the row once that exceeds `max_position_embeddings`.

    It becomes ``theta * (factor * length / max_position_embeddings - (factor - 1)) ** (R / (R - 2))``; see
    https://arxiv.org/abs/2309.00071, section 3.3.
    """

    factor: float
    max_position_embeddings: int

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        if rotary_dim <= 2:
            raise ValueError(f"DynamicNTKScaling: rotary_dim must be more than 2, got {rotary_dim}")
        longest = jnp.maximum(lengths, self.max_position_embeddings).astype(jnp.float32)
        growth = self.factor * longest / self.max_position_embeddings - (self.factor - 1.0)
        # theta' ** -e = theta ** -e * growth ** (-e R / (R - 2)): exact for rows that are not too long.
        exponents = _exponents(rotary_dim) * np.float32(-rotary_dim / (rotary_dim - 2))
        return unscaled_frequencies(rotary_dim, theta)[None] * growth[:, None] ** exponents, 1.0


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.

    A wavelength is low-frequency above ``original_max_position_embeddings / low_freq_factor`` positions and
    high-frequency below ``original_max_position_embeddings / high_freq_factor`` (https://arxiv.org/abs/2407.21783).
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        if self.low_freq_factor == self.high_freq_factor:
            raise ValueError(
                f"Llama3Scaling: low_freq_factor and high_freq_factor are both {self.low_freq_factor}, must differ"
            )

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        inv_freq = unscaled_frequencies(rotary_dim, theta)
        context, low, high = (
            self.original_max_position_embeddings,
            self.low_freq_factor,
            self.high_freq_factor,
        )
        wavelength = 2 * math.pi / inv_freq
        kept = (context / wavelength - low) / (high - low)
        between = (1 - kept) * inv_freq / self.factor + kept * inv_freq
        scaled = np.where(wavelength > context / low, inv_freq / self.factor, between)
        return np.where(wavelength < context / high, inv_freq, scaled)[None], 1.0


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (https://arxiv.org/abs/2309.00071): a ramp over the pairs from kept to divided frequencies.

    The ramp runs between the pairs that turn `beta_fast` and `beta_slow` times within
    `original_max_position_embeddings`, rounded outwards if `truncate`. Without `attention_factor` it is derived
    from `factor`, `mscale` and `mscale_all_dim`; without `factor`, that is ``max_position_embeddings`` over the
    original.
    """

    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        _check_extension("YarnScaling", self.factor, self.max_position_embeddings)
        for key in ("beta_fast", "beta_slow"):
            if getattr(self, key) <= 0:
                raise ValueError(f"YarnScaling: {key} must be positive, got {getattr(self, key)}")

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        factor = _extension(self.factor, self.max_position_embeddings, self.original_max_position_embeddings)
        wavelengths = _wavelengths(rotary_dim, theta)
        low, high = self._ramp_bounds(rotary_dim, theta)
        ramp = (np.arange(rotary_dim // 2, dtype=np.float32) - low) / (high - low)
        kept = 1 - np.clip(ramp, 0, 1)
        inv_freq = 1 / (factor * wavelengths) * (1 - kept) + 1 / wavelengths * kept
        return inv_freq[None], self._attention_factor(factor)

    def _ramp_bounds(self, rotary_dim: int, theta: float) -> tuple[float, float]:
        def pair_turning(times: float) -> float:
            period = self.original_max_position_embeddings / (2 * math.pi * times)
            return rotary_dim * math.log(period) / (2 * math.log(theta))

        low, high = pair_turning(self.beta_fast), pair_turning(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary_dim - 1)
        return low, high if high != low else high + 0.001

    def _attention_factor(self, factor: float) -> float:
        def temperature(mscale: float) -> float:
            return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return temperature(self.mscale) / temperature(self.mscale_all_dim)
        return temperature(1.0)


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """LongRoPE (https://arxiv.org/abs/2402.13753): one searched divisor per feature pair.

    A row uses `long_factor` once it is longer than `original_max_position_embeddings`, else `short_factor`.
    Without `attention_factor` it is derived from `factor`; without `factor`, that is ``max_position_embeddings``
    over the original.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None
    max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        _check_extension("LongRopeScaling", self.factor, self.max_position_embeddings)

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        wavelengths = _wavelengths(rotary_dim, theta)
        for key in ("short_factor", "long_factor"):
            if len(getattr(self, key)) != rotary_dim // 2:
                raise ValueError(
                    f"LongRopeScaling: {key} must have rotary_dim / 2 = {rotary_dim // 2} entries, "
                    f"got {len(getattr(self, key))}"
                )
        short = 1 / (np.asarray(self.short_factor, np.float32) * wavelengths)
        long = 1 / (np.asarray(self.long_factor, np.float32) * wavelengths)
        is_long = lengths[:, None] > self.original_max_position_embeddings
        return jnp.where(is_long, long, short), self._attention_factor()

    def _attention_factor(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        original = self.original_max_position_embeddings
        factor = _extension(self.factor, self.max_position_embeddings, original)
        return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


@dataclass(frozen=True, kw_only=True)
class ProportionalScaling:
    """Only the fastest `partial_rotary_factor` of the pairs turn, every frequency divided by `factor`.

    Unlike a partial `rotary_dim`, the pairs that stand still are spread over both halves of the head.
    """

    partial_rotary_factor: float = 1.0
    factor: float = 1.0

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, " B"]) -> Frequencies:
        turning = int(self.partial_rotary_factor * rotary_dim // 2)
        inv_freq = unscaled_frequencies(rotary_dim, theta) / np.float32(self.factor)
        return np.where(np.arange(rotary_dim // 2) < turning, inv_freq, np.float32(0))[None], 1.0


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary embedding of the first `rotary_dim` features of each head; the rest carry no position.

    `style` says which features form a pair: "half_split" (i, i + R/2) as in GPT-NeoX and Llama, "interleaved"
    (2i, 2i + 1) as in GPT-J and Cohere.

    Raises:
        ValueError: `rotary_dim` is not positive and even, `theta` is not more than 1, or `style` is unknown.
    """

    rotary_dim: int
    theta: float = 10000.0
    scaling: RopeScaling = Unscaled()
    style: RopeStyle = "half_split"

    def __post_init__(self) -> None:
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"Rope: rotary_dim must be a positive even number, got {self.rotary_dim}")
        if not self.theta > 1:
            raise ValueError(f"Rope: theta must be more than 1, got {self.theta}")
        _check_style(self.style)

    def rotations(self, positions: Int[Array, "B S"], lengths: Int[Array, " B"]) -> Rotations:
        """The rotations of a window of tokens at `positions`.

        `lengths[b]` counts the tokens of row b so far, this window included. With a scaling that depends on
        it, keys already in a cache keep the rotation of the length at which they were written.
        """
        inv_freq, attention_factor = self.scaling.frequencies(self.rotary_dim, self.theta, lengths)
        angles = positions.astype(jnp.float32)[..., None] * inv_freq[:, None, :]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        if attention_factor != 1.0:
            cos, sin = cos * attention_factor, sin * attention_factor
        return Rotations(cos=cos, sin=sin)


def apply_rope(x: Float[Array, "B S N H"], rotations: Rotations, style: RopeStyle) -> Float[Array, "B S N H"]:
    """Rotates the first R features of every head, in float32; the result has ``x.dtype``.

    Raises:
        ValueError: `style` is unknown, or heads have fewer than R features.
    """
    _check_style(style)
    half = rotations.cos.shape[-1]
    if x.shape[-1] < 2 * half:
        raise ValueError(
            f"apply_rope: heads of {x.shape[-1]} features cannot hold a rotary_dim of {2 * half}"
        )
    cos, sin = rotations.cos[:, :, None, :], rotations.sin[:, :, None, :]
    rotated, rest = x[..., : 2 * half].astype(jnp.float32), x[..., 2 * half :]
    if style == "half_split":
        a, b = rotated[..., :half], rotated[..., half:]
        y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        y = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(rotated.shape)
    y = y.astype(x.dtype)
    return jnp.concatenate([y, rest], axis=-1) if rest.shape[-1] else y


def _check_style(style: str) -> None:
    if style not in ("half_split", "interleaved"):
        raise ValueError(f"style must be 'half_split' or 'interleaved', got {style!r}")


def _exponents(rotary_dim: int) -> Float[np.ndarray, " R/2"]:
    return np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)


def _wavelengths(rotary_dim: int, theta: float) -> Float[np.ndarray, " R/2"]:
    """``theta ** (2 i / R)``: positions per radian."""
    return np.power(np.float64(np.float32(theta)), _exponents(rotary_dim).astype(np.float64)).astype(
        np.float32
    )


def _check_extension(name: str, factor: float | None, max_positions: int | None) -> None:
    if (factor is None) == (max_positions is None):
        raise ValueError(
            f"{name}: exactly one of factor and max_position_embeddings must be given, "
            f"got {factor} and {max_positions}"
        )


def _extension(factor: float | None, max_positions: int | None, original: int) -> float:
    """How many times longer the context is than the one trained on first."""
    if factor is not None:
        return factor
    assert max_positions is not None  # checked at construction
    return max_positions / original
