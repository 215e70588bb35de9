"""Times of a denoising process as features, and as a condition."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import embed_mlp, embed_mlp_spec
from jaxmodels.layers.spec import Params, ParamTree


def timestep_features(
    t: Num[Array, "..."], dim: int, *, freq_shift: float = 0.0, max_period: float = 10000.0
) -> Float[Array, "... F"]:
    """``[cos(t f), sin(t f)]`` with ``f_i = max_period ** (-i / (dim / 2 - freq_shift))``, in float32.

    Times are as the model was trained on them: 0 to 1000 for most, fractions allowed. With `freq_shift` 0 the
    frequencies are those of the official code of DiT and of nearly all models; `diffusers` has 1 in its DiT,
    as in "Denoising Diffusion Probabilistic Models". That is another function of t: it changes the features
    at t = 500 by up to 1.2. The frequencies are rounded where `diffusers` rounds them.
    """
    half = dim // 2
    exponents = np.float32(-np.log(max_period)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp((exponents / np.float32(half - freq_shift)).astype(np.float64)).astype(np.float32)
    angles = jnp.asarray(t, jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


@dataclass(frozen=True, kw_only=True)
class TimestepEmbedding:
    """A time as a vector of the model's width: ``out(silu(in(timestep_features(t))))``.

    Attributes:
        d_model: width of the result.
        features: number of features the time is made of.
        hidden: the width between the two projections; None for that of the result.
        freq_shift, max_period: see `timestep_features`.

    Raises:
        ValueError: `features` is odd, or leaves no frequency beside `freq_shift`.
    """

    d_model: int
    features: int = 256
    hidden: int | None = None
    freq_shift: float = 0.0
    max_period: float = 10000.0

    def __post_init__(self) -> None:
        if self.features < 2 or self.features % 2:
            raise ValueError(f"TimestepEmbedding: features must be positive and even, got {self.features}")
        if not 0 <= self.freq_shift < self.features // 2:
            raise ValueError(
                f"TimestepEmbedding: freq_shift must be from 0 to below features / 2 = {self.features // 2}, "
                f"got {self.freq_shift}"
            )

    def spec(self) -> ParamTree:
        return embed_mlp_spec(self.d_model, self.features, hidden=self.hidden)

    def flops(self) -> int:
        """FLOPs for one time."""
        hidden = self.d_model if self.hidden is None else self.hidden
        return 2 * hidden * (self.features + self.d_model)

    def __call__(self, params: Params, t: Num[Array, "..."]) -> Float[Array, "... D"]:
        made = timestep_features(t, self.features, freq_shift=self.freq_shift, max_period=self.max_period)
        return embed_mlp(params, made.astype(params["w_in"].dtype))
