"""Attention logits that depend on how far apart two tokens are: the learned bias of T5."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.attend import Bias
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """A learned number for each head and distance, key's position less query's, added to the logits
    (https://arxiv.org/abs/1910.10683).

    Distances share buckets, half of which are for keys behind the query. Of each half the first half hold
    one distance each, the others ever wider ranges up to `max_distance`, whose bucket holds all beyond.

    Attributes:
        num_heads: each with a number of its own.
        num_buckets: a multiple of 4.
        max_distance: above ``num_buckets / 4``.

    Raises:
        ValueError: the buckets are no multiple of 4, or `max_distance` is not above the exact ones.
    """

    num_heads: int
    num_buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(f"RelativeBias: num_buckets={self.num_buckets} must be a multiple of 4")
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"RelativeBias: max_distance={self.max_distance} must be above num_buckets / 4 = "
                f"{self.num_buckets // 4}, up to which each distance has a bucket of its own"
            )

    def spec(self) -> ParamTree:
        return {"weight": Param((self.num_buckets, self.num_heads), (None, "heads"), Normal(0.02))}

    def buckets(self) -> Int[np.ndarray, " D"]:
        """The bucket of each distance from ``-max_distance`` to `max_distance`; those beyond have that of the
        nearest of these. In float32, as the published code computes them."""
        half = self.num_buckets // 2
        exact = half // 2
        distances = np.arange(-self.max_distance, self.max_distance + 1)
        far = np.abs(distances)
        times = np.maximum(far, exact).astype(np.float32) / np.float32(exact)
        share = np.log(times) / np.float32(math.log(self.max_distance / exact))
        wide = np.minimum(exact + (share * np.float32(half - exact)).astype(np.int32), half - 1)
        return np.where(far < exact, far, wide) + np.where(distances > 0, half, 0)

    def of(self, params: Params, positions: Int[Array, " S"]) -> Bias:
        """What `attend` adds for a sequence whose tokens, in every row, are at these positions."""
        by_distance = params["weight"].astype(jnp.float32)[self.buckets()]

        def bias(q0: int | Array, q_size: int, k0: int | Array, k_size: int) -> Float[Array, "1 N 1 S T"]:
            queries = lax.dynamic_slice_in_dim(positions, q0, q_size)
            keys = lax.dynamic_slice_in_dim(positions, k0, k_size)
            distances = jnp.clip(keys[None, :] - queries[:, None], -self.max_distance, self.max_distance)
            found = by_distance[distances + self.max_distance]
            return jnp.transpose(found, (2, 0, 1))[None, :, None]

        return bias
