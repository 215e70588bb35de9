"""Encoder sharing: what the encoder of a decoupled model found is kept for several steps."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.outputs import Choosing, Outputs, no_outputs, predict
from jaxmodels.decoding.diffusion.caches.schedules import check_steps, flags
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass

ENCODER = "encoder"


@dataclass(frozen=True, eq=False)
class EncoderSharing:
    """A `StepCache` for DDT (https://arxiv.org/abs/2504.05741) that runs the encoder in the steps of a mask;
    in the others the decoder goes by what it found last, and by the time of then, which is part of that.

    Attributes:
        compute: bool[N], the steps in which the encoder runs, see `sharing_mask` and `even_mask`.

    Raises:
        ValueError: it is no such mask, or leaves out the first step; when used, the model has no encoder.
    """

    compute: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute", flags("compute", self.compute))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The mask.

        Raises:
            ValueError: it is for another number of calls than the plan has.
        """
        check_steps("compute: the mask", len(self.compute), plan.calls)
        return self.compute

    def begin(self, step: Step) -> Outputs:
        """Nothing found.

        Raises:
            ValueError: the model has no encoder.
        """
        encoder_blocks(step.denoiser)
        return no_outputs(step, (ENCODER,))

    def denoise(
        self, step: Step, row: Bool[Array, ""], state: Outputs
    ) -> tuple[Float[Array, "B H W C"], Outputs, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        choosing = Choosing({ENCODER: row}, state)
        prediction = predict(step, choosing)
        encoder, blocks = encoder_blocks(step.denoiser), step.denoiser.num_blocks
        return prediction, choosing.kept, jnp.where(row, float(blocks), float(blocks - encoder))


def encoder_blocks(denoiser: Denoiser) -> int:
    """How many blocks a model's encoder has.

    Raises:
        ValueError: it has no encoder.
    """
    count = getattr(denoiser, "num_encoder_blocks", None)
    if count is None:
        raise ValueError(f"an encoder can be shared in a DDT, but the model is a {type(denoiser).__name__}")
    return count


def even_mask(steps: int, interval: int) -> np.ndarray:
    """bool[steps], one step of every `interval`."""
    return np.arange(whole("steps", steps, low=1)) % whole("interval", interval, low=1) == 0


def similarities(found: Float[np.ndarray, "N T D"]) -> Float[np.ndarray, "N N"]:
    """The mean cosine similarity over tokens between what the encoder found in each two steps of a run."""
    found = np.asarray(found, np.float64)
    found = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
    return np.einsum("ntd,mtd->nm", found, found) / found.shape[1]


def sharing_mask(similarity: Float[np.ndarray, "N N"], computed: int) -> np.ndarray:
    """bool[N], the `computed` steps in which the encoder is best run: those for which the steps between them
    are most similar to the last one before them, in sum, by dynamic programming, as in the published code.

    Raises:
        ValueError: `computed` is not from 1 to N.
    """
    steps = len(similarity)
    computed = whole("computed", computed, low=1, high=steps)
    # errors[j, i]: of the steps j to i - 1, if j is the last one computed.
    errors = np.full((steps, steps + 1), np.inf)
    for j in range(steps):
        errors[j, j + 1 :] = np.cumsum(1 - similarity[j:, j])
    # best[i]: the least error of the first i steps with so many computed ones, the last of which is
    # last[-1][i].
    best, last = errors[0], []
    for _ in range(computed - 1):
        sums = best[:steps, None] + errors
        sums[0] = np.inf  # the first step is computed already
        last.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    end, mask = steps, np.zeros(steps, bool)
    for choice in reversed(last):
        end = choice[end]
        mask[end] = True
    mask[0] = True
    return mask


register_dataclass(EncoderSharing, ["compute"], [])
