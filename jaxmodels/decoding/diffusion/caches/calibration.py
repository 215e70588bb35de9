"""What caches are told about a model: measured in runs that leave nothing out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.encoder_sharing import (
    ENCODER,
    encoder_blocks,
    sharing_mask,
    similarities,
)
from jaxmodels.decoding.diffusion.caches.outputs import Outputs, no_outputs, predict_recording
from jaxmodels.decoding.diffusion.driver import Asked, Denoise, Run, first_carry, further_calls
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass


def magcache_ratios(policy: Denoise, denoiser: Denoiser, params: Params, asked: Asked) -> np.ndarray:
    """f32[N], the ratios that `MagCache` goes by: how long the tokens' residuals of all blocks are against
    those of the step before, on average. The first is 1.

    Args:
        policy: the run to measure; it needs no cache.
        denoiser: the model.
        params: its parameters.
        asked: some images. Published ratios were measured with one.

    Raises:
        ValueError, NotFinite: see `Denoise.run`.
    """
    measured = kept_along(replace(policy, cache=Magnitudes()), denoiser, params, asked)
    ratios = np.array([kept.ratio for kept in measured], np.float32)
    ratios[0] = 1
    return ratios


def encoder_mask(
    policy: Denoise, denoiser: Denoiser, params: Params, asked: Asked, computed: int
) -> np.ndarray:
    """bool[N], the `computed` steps in which `EncoderSharing` best runs the encoder, see `sharing_mask`.

    Args:
        policy, denoiser, params: see `magcache_ratios`.
        asked: some images. The published code takes 8.
        computed: in how many steps the encoder runs.

    Raises:
        ValueError: the model has no encoder, or `computed` is not from 1 to N; see `Denoise.run`.
        NotFinite: see `Denoise.run`.
    """
    encoder_blocks(denoiser)
    recorded = kept_along(replace(policy, cache=EncoderRecord()), denoiser, params, asked)
    found = np.stack([np.asarray(kept[ENCODER]) for kept in recorded])
    return sharing_mask(similarities(found.reshape(len(found), -1, found.shape[-1])), computed)


def kept_along(policy: Denoise, denoiser: Denoiser, params: Params, asked: Asked) -> Iterator[Any]:
    """What a run's cache keeps behind each call of the model.

    Raises:
        ValueError, NotFinite: see `Denoise.run`.
    """
    tables = policy.prepare(denoiser, asked)
    calls = len(tables.calls.number)
    carry = first_carry(policy, params, asked, tables.part(0, 1), denoiser=denoiser)
    for call in range(calls):
        part = tables.part(call, call + 1)
        carry, blocks = further_calls(policy, params, asked, part, carry, denoiser=denoiser)
        Run(carry.x, blocks, carry.broken).check(calls)
        yield carry.kept


@struct.dataclass
class Magnitude:
    """What `Magnitudes` keeps of a step.

    Attributes:
        residual: [B, S, D], what all blocks added to the stream.
        ratio: f32[], the mean over tokens of its length against that of the step before.
    """

    residual: jax.Array
    ratio: jax.Array


@dataclass(frozen=True)
class Magnitudes:
    """A `StepCache` that leaves nothing out, and keeps how the lengths of residuals change."""

    def rows(self, denoiser: Denoiser, plan: Plan) -> None:
        """Nothing."""

    def begin(self, step: Step) -> Magnitude:
        """No residual."""
        residual = jax.eval_shape(lambda step: step.embed().hidden, step)
        return Magnitude(jnp.zeros(residual.shape, jnp.float32), jnp.float32(1))

    def denoise(
        self, step: Step, row: None, state: Magnitude
    ) -> tuple[Float[Array, "B H W C"], Magnitude, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        before, blocks = step.embed(), step.denoiser.num_blocks
        after = step.run(before, range(blocks))
        residual = (after.hidden - before.hidden).astype(jnp.float32)
        now, then = (jnp.linalg.norm(of, axis=-1) for of in (residual, state.residual))
        return step.finish(after), Magnitude(residual, (now / (then + 1e-8)).mean()), jnp.float32(blocks)


@dataclass(frozen=True)
class EncoderRecord:
    """A `StepCache` that leaves nothing out, and keeps what the encoder found."""

    def rows(self, denoiser: Denoiser, plan: Plan) -> None:
        """Nothing."""

    def begin(self, step: Step) -> Outputs:
        """Nothing found."""
        return no_outputs(step, (ENCODER,))

    def denoise(
        self, step: Step, row: None, state: Outputs
    ) -> tuple[Float[Array, "B H W C"], Outputs, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        prediction, found = predict_recording(step, (ENCODER,))
        return prediction, found, jnp.float32(step.denoiser.num_blocks)


for _cache in (Magnitudes, EncoderRecord):
    register_dataclass(_cache, [], [])
