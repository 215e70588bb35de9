"""DualFast: what a sampler is told, and that it works within any."""

from typing import Any

import numpy as np
import pytest
from diffusion_schedulers import SHAPE, one_step

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import DDIM, DPMPP, LCM, DualFast, EarlierNoise, Euler, Sampler

OUTPUTS = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
NOISE = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)


def run(sampler: Sampler, outputs: Any) -> list[np.ndarray]:
    plan, x = sampler.plan(4), NOISE[0] * 1.0
    memory, canvases = sampler.begin(x), []
    for call in range(4):
        x, memory = one_step(sampler, plan, call, x, outputs[call], memory, NOISE[call])
        canvases.append(np.asarray(x))
    return canvases


@pytest.mark.parametrize("within", [DDIM(), Euler(), DPMPP(), LCM()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("earlier", EarlierNoise)
def test_the_sampler_within_is_told_corrected_noise(within: Sampler, earlier: EarlierNoise) -> None:
    told = OUTPUTS.copy()
    for call in range(1, 4):
        before = OUTPUTS[0] if earlier is EarlierNoise.FIRST else OUTPUTS[call - 1]
        told[call] = OUTPUTS[call] + 0.3 * (OUTPUTS[call] - before)
    found = run(DualFast(within=within, strength=0.3, earlier=earlier), OUTPUTS)
    for ours, expected in zip(found, run(within, told), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_without_strength_it_is_the_sampler_within() -> None:
    within = DDIM(prediction=Prediction.V)
    for ours, expected in zip(
        run(DualFast(within=within, strength=0.0), OUTPUTS), run(within, OUTPUTS), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength must be a finite number >= 0, got -1"):
        DualFast(within=DDIM(), strength=-1)
