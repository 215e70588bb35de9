"""The stages of Pyramidal Flow: levels and times of the published scheduler, and what a jump makes of
noise."""

import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_schedulers import SHAPE, one_step

from jaxmodels.decoding.diffusion.samplers import FixedShift
from jaxmodels.decoding.diffusion.samplers.pyramid_stage import PyramidSchedule, PyramidStage, block_noise


def published(schedule: PyramidSchedule, stage: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and levels of a stage, as the published scheduler computes them: tables of all training steps."""
    count, factor = schedule.count, schedule.shift.factor
    even = np.linspace(1, count, count)[::-1] / count
    sigmas = factor * even / (1 + (factor - 1) * even)
    starts, ends = [], []
    for each in range(schedule.stages):
        begin, end = (int(schedule.cuts[at] * count) for at in (each, each + 1))
        start = sigmas[begin]
        if each:
            kept = 1 - start
            start = 1 - kept / (np.sqrt(1 + 1 / schedule.spread) * (1 - kept) + kept)
        starts.append(start)
        ends.append(sigmas[end] if end < count else 0.0)
    distances = np.array(starts) - np.array(ends)
    low = distances[:stage].sum() / distances.sum()
    high = 1.0 if stage == schedule.stages - 1 else distances[: stage + 1].sum() / distances.sum()
    times = sigmas * count
    inside = np.linspace(times[int(low * count)], times[min(int(high * count), count - 1)], count + 1)[:-1]
    levels = np.linspace(1, 0, count + 1)[:-1]
    return np.linspace(inside[0], inside[-1], steps), np.linspace(levels[0], levels[-1], steps)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_stages_are_those_of_the_published_scheduler(steps: int, factor: float, stage: int) -> None:
    schedule = PyramidSchedule(shift=FixedShift(factor=factor))
    plan = PyramidStage(schedule=schedule, stage=stage).plan(steps)
    times, sigmas = published(schedule, stage, steps)
    np.testing.assert_allclose(plan.times, times, rtol=1e-9)
    np.testing.assert_allclose(plan.sigma, sigmas, rtol=1e-9)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("spread", [1 / 3, 0.2])
def test_a_jump_leaves_independent_noise(stage: int, spread: float) -> None:
    """The covariance of a block, from the canvases that each unit of noise makes."""
    schedule = PyramidSchedule(spread=spread)
    canvas, blocks = schedule.jump_factors(stage)
    level = 1 - int(schedule.cuts[stage] * 1000) / 1000
    small = level * np.ones((1, 1, 1, 1))  # one unit of noise at the end of the stage before
    none = jnp.zeros((1, 2, 2, 1))
    enlarged = np.asarray(schedule.jump(jnp.asarray(small), stage, none)).reshape(4)
    units = np.stack([np.asarray(block_noise(jnp.eye(4)[i].reshape(1, 2, 2, 1), spread)) for i in range(4)])
    units = units.reshape(4, 4)
    np.testing.assert_allclose(units.T @ units, (1 + spread) * np.eye(4) - spread, atol=1e-6)
    covariance = np.outer(enlarged, enlarged) + blocks**2 * units.T @ units
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(4), atol=1e-6)
    np.testing.assert_allclose(np.sqrt(covariance[0, 0]), 1 - canvas * (1 - level), rtol=1e-6)


def test_factors_of_thirds() -> None:
    schedule = PyramidSchedule(count=3000)
    np.testing.assert_allclose(schedule.jump_factors(1), (0.6, 0.6928), atol=1e-4)
    np.testing.assert_allclose(schedule.jump_factors(2), (0.75, 0.4330), atol=1e-4)


def test_a_stage_follows_its_velocity() -> None:
    x, first, second = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    sampler = PyramidStage(stage=1)
    plan, at = sampler.plan(2), x
    for call, velocity in enumerate((first, second)):
        at, _ = one_step(sampler, plan, call, at, velocity, (), None)
    np.testing.assert_allclose(at, x - 0.999 * first - 0.001 * second, rtol=1e-4, atol=1e-5)


def test_bad_stages() -> None:
    with pytest.raises(ValueError, match=r"stage must be a whole number >= 0 and <= 2, got 3"):
        PyramidStage(stage=3)
    with pytest.raises(ValueError, match=r"cuts must rise from 0 to 1, got \(0\.0, 0\.7, 0\.5, 1\.0\)"):
        PyramidSchedule(cuts=(0.0, 0.7, 0.5, 1.0))
    with pytest.raises(
        ValueError, match=r"noise of stage 1 must have twice.*\[2, 4, 4, 3\], got \[2, 4, 4, 3\]"
    ):
        PyramidSchedule().jump(jnp.zeros((2, 4, 4, 3)), 1, jnp.zeros((2, 4, 4, 3)))
