"""An image's latents as a sum over scales: the residual quantisation of VAR."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.resample import area_matrix, cubic_matrix, resampled
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree
from jaxmodels.models.autoencoders.vq import nearest_code


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Codes of an image at several scales, from coarse to fine, that share a codebook.

    The vectors of a scale's codes, enlarged to the size of the latents, pass a small convolution, of which
    they keep a share as they were; the latents are the sum of what all scales add. What is missing to them
    is reduced to the next scale, where the nearest codes are chosen. Source: Tian et al. 2024 (VAR,
    https://arxiv.org/abs/2404.02905) and its code.

    Attributes:
        sides: codes in each row and column of each scale, rising; the last is that of the latents.
        num_codes: entries of the codebook.
        code_width: numbers of an entry, and of a latent place.
        num_refinements: convolutions; each scale goes by the one that lies nearest to it.
        refinement_share: how much of the convolution is in what a scale adds.

    Raises:
        ValueError: fewer than two scales, or sides that do not rise.
    """

    sides: tuple[int, ...]
    num_codes: int
    code_width: int
    num_refinements: int = 4
    refinement_share: float = 0.5

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in itertools.pairwise((0, *self.sides)))
        if len(self.sides) < 2 or not rising:
            raise ValueError(f"Pyramid: sides must be at least two, and rise, got {self.sides}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each scale."""
        return tuple(side**2 for side in self.sides)

    @property
    def side(self) -> int:
        """Height and width of the latents."""
        return self.sides[-1]

    def spec(self) -> ParamTree:
        conv = self._refinement.spec()
        codebook = Param((self.num_codes, self.code_width), ("vocab", None), Normal(1 / self.num_codes))
        return {
            "codebook": {"weight": codebook},
            "refine": {str(i): conv for i in range(self.num_refinements)},
        }

    def refinement_of(self, scale: int) -> int:
        """The number of the convolution that a scale goes by; of two as near the first, in the rounding of
        the published code."""
        count = self.num_refinements
        edge = 1 / 3 / count if count == 4 else 1 / 2 / count
        ticks = np.linspace(edge, 1 - edge, count)
        return int(np.argmin(np.abs(ticks - scale / (len(self.sides) - 1))))

    def split(self, codes: Int[Array, "B L"]) -> list[Int[Array, "B N"]]:
        """The codes of each scale of all scales' one behind the other."""
        return list(jnp.split(codes, list(itertools.accumulate(self.sizes))[:-1], axis=1))

    def add(
        self, params: Params, found: Float[Array, "B P P C"], scale: int, codes: Int[Array, "B N"]
    ) -> Float[Array, "B P P C"]:
        """The latents with what the codes of a scale add to those `found` so far."""
        side = self.sides[scale]
        vectors = params["codebook"]["weight"][codes].reshape(-1, side, side, self.code_width)
        return found + self._made(params, vectors.astype(found.dtype), scale)

    def shown(self, found: Float[Array, "B P P C"], scale: int) -> Float[Array, "B N C"]:
        """The latents found so far as a model of codes is shown them in front of a scale."""
        reduced = resampled(found, area_matrix(self.side, self.sides[scale]))
        return reduced.reshape(found.shape[0], -1, self.code_width)

    def steps(
        self, params: Params, latents: Float[Array, "B P P C"]
    ) -> Iterator[tuple[Int[Array, "B N"], Float[Array, "B N C"], Float[Array, "B P P C"]]]:
        """The codes of each scale, what was missing at their places, and the latents found with them."""
        latents = latents.astype(jnp.float32)
        found = jnp.zeros_like(latents)
        for scale in range(len(self.sides)):
            missing = self.shown(latents - found, scale)
            codes = nearest_code(missing, params["codebook"]["weight"])
            found = self.add(params, found, scale, codes)
            yield codes, missing, found

    def codes(self, params: Params, latents: Float[Array, "B P P C"]) -> Int[Array, "B L"]:
        """The codes of all scales, one scale behind the other."""
        return jnp.concatenate([codes for codes, *_ in self.steps(params, latents)], axis=1)

    def latents(self, params: Params, codes: Int[Array, "B L"]) -> Float[Array, "B P P C"]:
        """The latents that the codes of all scales stand for, f32."""
        return self._found(params, self.split(codes))[-1]

    def inputs(self, params: Params, codes: Int[Array, "B L"]) -> Float[Array, "B M C"]:
        """What a model of codes is shown in front of all scales but the first, f32."""
        before = self._found(params, self.split(codes)[:-1])
        return jnp.concatenate([self.shown(found, i + 1) for i, found in enumerate(before)], axis=1)

    def empty(self, batch: int) -> Float[Array, "B P P C"]:
        """The latents of no scale."""
        return jnp.zeros((batch, self.side, self.side, self.code_width), jnp.float32)

    def _found(self, params: Params, codes: list[Int[Array, "B N"]]) -> list[Float[Array, "B P P C"]]:
        """The latents behind each scale."""
        found = [self.empty(codes[0].shape[0])]
        for scale, each in enumerate(codes):
            found.append(self.add(params, found[-1], scale, each))
        return found[1:]

    def _made(self, params: Params, vectors: Float[Array, "B Q Q C"], scale: int) -> Float[Array, "B P P C"]:
        large = resampled(vectors, cubic_matrix(self.sides[scale], self.side))
        if not self.num_refinements:
            return large
        conv = params["refine"][str(self.refinement_of(scale))]
        share = self.refinement_share
        weights = {name: weight.astype(large.dtype) for name, weight in conv.items()}
        return (1 - share) * large + share * self._refinement(weights, large)

    @property
    def _refinement(self) -> Conv2D:
        return Conv2D(in_channels=self.code_width, out_channels=self.code_width)
