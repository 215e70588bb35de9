"""PeRFlow's windows: their times, what a step across one does, and that paths inside are straight."""

import numpy as np
import pytest
from diffusion_schedulers import SHAPE, one_step

from jaxmodels.decoding.diffusion.samplers import PeRFlow, WindowOutput


def test_first_windows_take_the_steps_that_are_left() -> None:
    np.testing.assert_array_equal(PeRFlow().plan(6).times, [1000, 875, 750, 625, 500, 250])
    np.testing.assert_array_equal(PeRFlow(windows=3).plan(3).times, [1000, 666, 333])


@pytest.mark.parametrize("output", [WindowOutput.DDIM_NOISE, WindowOutput.DIFFUSED_NOISE])
def test_a_step_across_a_window_takes_the_noise_away(output: WindowOutput) -> None:
    sampler, draw = PeRFlow(output=output), np.random.default_rng(0)
    plan, products = sampler.plan(4), sampler.noise.products
    x, noise = draw.normal(size=(2, *SHAPE)).astype(np.float32)
    for call, (begin, end) in enumerate([(999, 749), (749, 499), (499, 249), (249, 0)]):
        noisy, clear = products[begin], products[end]
        if output is WindowOutput.DDIM_NOISE:  # DDIM's step from one to the other
            clean = (x - np.sqrt(1 - noisy) * noise) / np.sqrt(noisy)
            expected = np.sqrt(clear) * clean + np.sqrt(1 - clear) * noise
        else:  # x = g * end + sqrt(1 - g^2) * noise, solved for the end
            kept = np.sqrt(noisy / clear)
            expected = (x - np.sqrt(1 - kept**2) * noise) / kept
        found, _ = one_step(sampler, plan, call, x, noise, (), None)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", [WindowOutput.DDIM_NOISE, WindowOutput.DIFFUSED_NOISE])
@pytest.mark.parametrize("steps", [8, 20])
def test_paths_inside_a_window_are_straight(output: WindowOutput, steps: int) -> None:
    sampler, draw = PeRFlow(output=output), np.random.default_rng(1)
    start, noise = draw.normal(size=(2, *SHAPE)).astype(np.float32)
    across, _ = one_step(sampler, sampler.plan(4), 0, start, noise, (), None)
    plan, x = sampler.plan(steps), start
    for call in range(steps // 4):
        x, _ = one_step(sampler, plan, call, x, noise, (), None)
    np.testing.assert_allclose(x, across, rtol=1e-4, atol=1e-4)


def test_a_velocity_is_followed_as_it_is() -> None:
    sampler = PeRFlow(output=WindowOutput.VELOCITY)
    x, velocity = np.random.default_rng(2).normal(size=(2, *SHAPE)).astype(np.float32)
    found, _ = one_step(sampler, sampler.plan(6), 0, x, velocity, (), None)
    np.testing.assert_allclose(found, x - 0.125 * velocity, rtol=1e-5, atol=1e-6)


def test_fewer_steps_than_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps of 4 windows must be a whole number >= 4.*got 3"):
        PeRFlow().plan(3)
