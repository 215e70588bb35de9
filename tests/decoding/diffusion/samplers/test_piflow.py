"""pi-Flow: the grid's policy against diffusers, the mixture's against what is known of Gaussian data."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_piflow import PiflowScheduler
from diffusion_schedulers import SHAPE, one_step

from jaxmodels.decoding.diffusion.samplers import FixedShift, PiFlowGrid, PiFlowMixture, Segments
from jaxmodels.decoding.diffusion.samplers.piflow import posterior_mean

MEAN, DEVIATION = 2.0, 0.5  # of data in one dimension


@pytest.mark.parametrize("steps", [2, 4, 7, 20])
@pytest.mark.parametrize(("factor", "points"), [(5.0, 10), (1.0, 3)])
def test_the_grid_follows_diffusers(factor: float, points: int, steps: int) -> None:
    scheduler = PiflowScheduler(shift=factor, n_grid=points)
    scheduler.set_timesteps(steps)
    sampler = PiFlowGrid(segments=Segments(shift=FixedShift(factor=factor)), points=points)
    plan, draw = sampler.plan(steps), np.random.default_rng(0)
    np.testing.assert_allclose(plan.times, scheduler.timesteps, rtol=1e-5)
    x = draw.normal(size=SHAPE).astype(np.float32)
    for call in range(steps):
        output = draw.normal(size=(*SHAPE[:3], points * SHAPE[3])).astype(np.float32)
        theirs = scheduler.step(torch.tensor(output), scheduler.timesteps[call], torch.tensor(x))[0].numpy()
        ours, _ = one_step(sampler, plan, call, x, output, (), None)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(np.abs(theirs).max(), 1.0))
        x = theirs


def test_one_segment_follows_diffusers_in_float64() -> None:
    """In float32 the 128 times that it counts down end at another level than 1e-6."""
    scheduler = PiflowScheduler()
    scheduler.set_timesteps(1)
    scheduler._piflow_raw_timesteps = scheduler._piflow_raw_timesteps.double()
    scheduler.sigmas = scheduler.sigmas.double()
    draw = np.random.default_rng(0)
    x, output = draw.normal(size=SHAPE), draw.normal(size=(*SHAPE[:3], 10 * SHAPE[3]))
    theirs = scheduler._policy_step(torch.tensor(output), torch.tensor(x), 0).numpy()
    ours, _ = one_step(PiFlowGrid(), PiFlowGrid().plan(1), 0, np.float32(x), np.float32(output), (), None)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_levels_of_four_segments() -> None:
    np.testing.assert_allclose(PiFlowGrid().plan(4).sigma, [1, 0.9259, 0.7895, 0.4545], atol=5e-5)


def clean_of(x: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """Mean and variance of the data of a canvas, where the data are Gaussian."""
    spread = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
    mean = MEAN + (1 - sigma) * DEVIATION**2 / spread * (x - (1 - sigma) * MEAN)
    return mean, DEVIATION**2 * sigma**2 / spread


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.7), (0.9, 0.1), (0.5, 0.4999)])
def test_a_mixture_is_narrowed_down_to_what_gaussian_data_are(before: float, after: float) -> None:
    x = np.array([-1.0, 0.3, 2.0]).reshape(1, 1, 3, 1)
    mean, variance = clean_of(x, before)
    at = np.array([0.4, 1.9, 2.2]).reshape(1, 1, 3, 1)
    found = posterior_mean(
        jnp.asarray(at),
        jnp.asarray(after),
        jnp.asarray(x),
        jnp.asarray(before),
        jnp.asarray(np.stack([mean, mean], axis=-2)),
        jnp.full((1, 1, 3, 1), variance),
        jnp.zeros((1, 1, 3, 2)),
    )
    np.testing.assert_allclose(found, clean_of(at, after)[0], rtol=2e-5)


def test_weights_are_those_of_bayes() -> None:
    """Two components, each of which alone would give a mean: they are weighed by how likely the canvas is."""
    x, before, at, after = 0.2, 0.8, 0.9, 0.3
    means, weights, variance = np.array([-1.0, 1.5]), np.array([0.3, 0.7]), 0.2
    grid = np.linspace(-8, 8, 400_001)
    prior = (weights * np.exp(-((grid[:, None] - means) ** 2) / (2 * variance))).sum(1)
    log_ratio = (x - (1 - before) * grid) ** 2 / (2 * before**2) - (at - (1 - after) * grid) ** 2 / (
        2 * after**2
    )
    posterior = prior * np.exp(log_ratio - log_ratio.max())
    found = posterior_mean(
        jnp.full((1, 1, 1, 1), at),
        jnp.asarray(after),
        jnp.full((1, 1, 1, 1), x),
        jnp.asarray(before),
        jnp.asarray(means.reshape(1, 1, 1, 2, 1)),
        jnp.full((1, 1, 1, 1), variance),
        jnp.log(jnp.asarray(weights)).reshape(1, 1, 1, 2),
    )
    np.testing.assert_allclose(found.item(), (grid * posterior).sum() / posterior.sum(), rtol=1e-4)


def test_the_mixture_s_path_is_that_of_gaussian_data() -> None:
    """One call tells all of Gaussian data: any number of calls ends where the exact path does."""
    sampler = PiFlowMixture(segments=Segments(small_steps=4000, last_length=1.0), components=1)
    x = start = np.array([-1.0, 0.3, 1.7], np.float32).reshape(1, 1, 3, 1)
    plan = sampler.plan(2)
    for call in range(2):
        sigma = plan.sigma[call]
        mean, variance = clean_of(np.asarray(x), sigma)
        output = np.concatenate(
            [(x - mean) / sigma, np.zeros_like(x), np.full_like(x, np.log(np.sqrt(variance) / sigma))], -1
        )
        x, _ = one_step(sampler, plan, call, x, output, (), None)
    np.testing.assert_allclose(x, MEAN + DEVIATION * start, atol=3e-3)


@pytest.mark.parametrize("sampler", [PiFlowGrid(points=3), PiFlowMixture(components=3)])
def test_other_numbers_of_channels_are_refused(sampler: PiFlowGrid | PiFlowMixture) -> None:
    expected = 9 if isinstance(sampler, PiFlowGrid) else 13
    with pytest.raises(ValueError, match=f"gives {expected} channels for canvases of 3, got 3"):
        one_step(sampler, sampler.plan(4), 0, np.zeros(SHAPE), np.zeros(SHAPE), (), None)
