"""The frequencies of rotary position embeddings: the original ones and the ways to stretch them.

Those that depend on the sequence length (`DynamicNTKScaling`, `LongRopeScaling`) read it as data, so that one
compiled program serves every length. The others are constants.

Feature dimension R below is `rotary_dim`. Arithmetic is in float32, in the order of the code that trained the
checkpoints, because a rounding of a frequency grows with the position it is multiplied by.
"""

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Frequencies: TypeAlias = tuple[Float[np.ndarray | Array, "*#L {rotary_dim}//2"], float]


class RopeScaling(Protocol):
    """Chooses the angular frequencies of the feature pairs."""

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        """Radians per position of each feature pair, and the factor that multiplies cosines and sines.

        `lengths` are numbers of tokens of sequences, each of which has frequencies of its own. Scalings that
        ignore them give one row for all.
        """
        ...


def unscaled_frequencies(rotary_dim: int, theta: float) -> Float[np.ndarray, " {rotary_dim}//2"]:
    """``theta ** (-2 i / R)``, rounded to float32 where the code that trained the checkpoints rounds it."""
    return np.float32(1.0) / _wavelengths(rotary_dim, theta)


@dataclass(frozen=True)
class Unscaled:
    """The original frequencies."""

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        return unscaled_frequencies(rotary_dim, theta)[None], 1.0


UNSCALED = Unscaled()


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Every frequency divided by `factor` (https://arxiv.org/abs/2306.15595)."""

    factor: float

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        return unscaled_frequencies(rotary_dim, theta)[None] / np.float32(self.factor), 1.0


@dataclass(frozen=True, kw_only=True)
class DynamicNTKScaling:
    """`theta` grows with the length of the row once that exceeds `max_position_embeddings`.

    It becomes ``theta * (factor * length / max_position_embeddings - (factor - 1)) ** (R / (R - 2))``; see
    https://arxiv.org/abs/2309.00071, section 3.3.
    """

    factor: float
    max_position_embeddings: int

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        if rotary_dim <= 2:
            raise ValueError(f"DynamicNTKScaling: rotary_dim must be more than 2, got {rotary_dim}")
        longest = jnp.maximum(lengths, self.max_position_embeddings).astype(jnp.float32)
        growth = self.factor * longest / self.max_position_embeddings - (self.factor - 1.0)
        # theta' ** -e = theta ** -e * growth ** (-e R / (R - 2)): exact for rows that are not too long.
        exponents = _exponents(rotary_dim) * np.float32(-rotary_dim / (rotary_dim - 2))
        return unscaled_frequencies(rotary_dim, theta)[None] * growth[..., None] ** exponents, 1.0


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
                f"Llama3Scaling: high_freq_factor must differ from low_freq_factor={self.low_freq_factor}"
            )

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        inv_freq = unscaled_frequencies(rotary_dim, theta)
        context = self.original_max_position_embeddings
        low, high = self.low_freq_factor, self.high_freq_factor
        wavelength = 2 * math.pi / inv_freq
        kept = (context / wavelength - low) / (high - low)
        between = (1 - kept) * inv_freq / self.factor + kept * inv_freq
        scaled = np.where(wavelength > context / low, inv_freq / self.factor, between)
        return np.where(wavelength < context / high, inv_freq, scaled)[None], 1.0


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (https://arxiv.org/abs/2309.00071): a ramp over the pairs from kept to divided frequencies.

    The ramp runs between the pairs that turn `beta_fast` and `beta_slow` times within
    `original_max_position_embeddings`, rounded outwards if `truncate`. `attention_factor` is derived from
    `factor`, `mscale` and `mscale_all_dim` unless given; `max_position_embeddings` may stand for `factor`.
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

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
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

    @property
    def logit_factor(self) -> float:
        """What latent attention multiplies its logits by: the square of the temperature at `mscale_all_dim`.

        It is the part of the temperature that `mscale_all_dim` takes out of cosines and sines.
        """
        factor = _extension(self.factor, self.max_position_embeddings, self.original_max_position_embeddings)
        return _temperature(factor, self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    def _attention_factor(self, factor: float) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _temperature(factor, self.mscale) / _temperature(factor, self.mscale_all_dim)
        return _temperature(factor, 1.0)


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """LongRoPE (https://arxiv.org/abs/2402.13753): one searched divisor per feature pair.

    A row uses `long_factor` once it is longer than `original_max_position_embeddings`, else `short_factor`.
    `attention_factor` is derived from `factor` unless given; `max_position_embeddings` may stand for
    `factor`.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None
    max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        _check_extension("LongRopeScaling", self.factor, self.max_position_embeddings)

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        wavelengths = _wavelengths(rotary_dim, theta)
        for key in ("short_factor", "long_factor"):
            if len(getattr(self, key)) != rotary_dim // 2:
                raise ValueError(
                    f"LongRopeScaling: {key} must have rotary_dim / 2 = {rotary_dim // 2} entries, "
                    f"got {len(getattr(self, key))}"
                )
        short = 1 / (np.asarray(self.short_factor, np.float32) * wavelengths)
        long = 1 / (np.asarray(self.long_factor, np.float32) * wavelengths)
        is_long = lengths[..., None] > self.original_max_position_embeddings
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

    def frequencies(self, rotary_dim: int, theta: float, lengths: Int[Array, "*L"]) -> Frequencies:
        turning = int(self.partial_rotary_factor * rotary_dim // 2)
        inv_freq = unscaled_frequencies(rotary_dim, theta) / np.float32(self.factor)
        return np.where(np.arange(rotary_dim // 2) < turning, inv_freq, np.float32(0))[None], 1.0


def _exponents(rotary_dim: int) -> Float[np.ndarray, " {rotary_dim}//2"]:
    return np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)


def _wavelengths(rotary_dim: int, theta: float) -> Float[np.ndarray, " {rotary_dim}//2"]:
    """``theta ** (2 i / R)``: positions per radian."""
    exponents = _exponents(rotary_dim).astype(np.float64)  # float64 rounds the power itself correctly
    return np.power(np.float64(np.float32(theta)), exponents).astype(np.float32)


def _temperature(factor: float, mscale: float) -> float:
    """YaRN's ``1 + 0.1 * mscale * ln(factor)``, the temperature for a context `factor` times as long."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


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
