"""Noise schedules, spacings and levels: what is known of them, and what is refused."""

from typing import Any

import diffusers
import numpy as np
import pytest
from diffusion_schedulers import one_step

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    DPMPP,
    LCM,
    SCM,
    Betas,
    BetaSchedule,
    Euler,
    FixedShift,
    FlowEuler,
    FlowLevels,
    FlowSchedule,
    FlowTime,
    KarrasGrid,
    Spacing,
    TokenShift,
    UniPC,
)
from jaxmodels.decoding.diffusion.samplers.spacing import spaced_times

ULP = 6e-8  # of a float32 just below 1


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (BetaSchedule.LINEAR, diffusers.DDPMScheduler),
        (BetaSchedule.SCALED_LINEAR, diffusers.DDPMScheduler),
        (BetaSchedule.COSINE, diffusers.DDPMScheduler),
        (BetaSchedule.SIGMOID, diffusers.DDPMScheduler),
        (BetaSchedule.LAPLACE, diffusers.DDPMScheduler),
        (BetaSchedule.EXPONENTIAL, diffusers.HeunDiscreteScheduler),
    ],
)
@pytest.mark.parametrize("count", [10, 1000])
def test_products_are_those_of_diffusers(schedule: BetaSchedule, theirs: Any, count: int) -> None:
    scheduler = theirs(
        beta_schedule=schedule.value, beta_start=0.0001, beta_end=0.02, num_train_timesteps=count
    )
    ours = Betas(schedule=schedule, count=count).products
    np.testing.assert_allclose(ours, scheduler.alphas_cumprod.numpy(), rtol=2e-6, atol=2 * ULP)


def test_products_that_leave_nothing_of_the_data() -> None:
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    ours = Betas(zero_terminal_snr=True)
    np.testing.assert_allclose(ours.products, scheduler.alphas_cumprod.numpy(), rtol=0, atol=8 * ULP)
    assert ours.products[-1] == 0
    assert ours.sigmas[-1] == pytest.approx(2.0**12, rel=1e-6)


@pytest.mark.parametrize("steps", range(1, 1001, 37))
def test_trailing_times_end_before_the_data(steps: int) -> None:
    times = spaced_times(Spacing.TRAILING, steps, 1000)
    assert len(times) == steps
    assert times[0] == 999
    assert times[-1] >= 0


@pytest.mark.parametrize(
    ("sampler", "times"),
    [
        (DDIM(), [750, 500, 250, 0]),
        (DPMPP(), [999, 749, 500, 250]),
        (DPMPP(grid=KarrasGrid()), [999, 775, 301, 0]),
        (LCM(), [999, 759, 499, 259]),
    ],
)
def test_times_of_four_steps(sampler: Any, times: list[int]) -> None:
    np.testing.assert_array_equal(sampler.plan(4).times, times)


@pytest.mark.parametrize("solver", [DPMPP, UniPC])
@pytest.mark.parametrize(
    ("time", "times"), [(FlowTime.NOISE, [1, 0.75, 0.5, 0.25]), (FlowTime.DATA, [0, 0.25, 0.5, 0.75])]
)
def test_solvers_show_times_from_0_to_1_as_they_are(solver: Any, time: FlowTime, times: list[float]) -> None:
    flow = FlowSchedule(count=1, time=time, levels=FlowLevels.EVEN)
    made = solver(flow=flow, prediction=Prediction.FLOW).plan(4)
    np.testing.assert_allclose(made.times, times, atol=2e-6)


@pytest.mark.parametrize(
    ("schedule", "tokens", "sigmas"),
    [
        (FlowSchedule(shift=FixedShift(factor=3.0)), 0, [1, 0.8577, 0.6022, 0.0089]),
        (FlowSchedule(shift=FixedShift(factor=3.0), levels=FlowLevels.EVEN), 0, [1, 0.9, 0.75, 0.5]),
        (FlowSchedule(shift=TokenShift(), levels=FlowLevels.EVEN), 256, [1, 0.8318, 0.6225, 0.3547]),
        (
            FlowSchedule(shift=TokenShift(), levels=FlowLevels.EVEN, terminal=0.02),
            256,
            [1, 0.7446, 0.4267, 0.02],
        ),
    ],
    ids=["twice", "once", "tokens", "terminal"],
)
def test_levels_of_four_steps(schedule: FlowSchedule, tokens: int, sigmas: list[float]) -> None:
    np.testing.assert_allclose(schedule.sigmas(4, tokens), sigmas, atol=6e-5)


@pytest.mark.parametrize(
    ("sampler", "outputs", "canvases"),
    [
        (DDIM(), (0.5, 0.5, 0.5, 0.5), (2.9118, 6.6412, 8.7226, 8.718)),
        (DPMPP(), (0.5, 0.6, 0.7, 0.8), (5.055, 21.9078, 55.2857, 75.7963)),
        (UniPC(), (0.5, 0.6, 0.7, 0.8), (5.055, 21.865, 55.1404, 75.5951)),
    ],
    ids=["DDIM", "DPMPP", "UniPC"],
)
def test_canvases_of_four_steps(
    sampler: Any, outputs: tuple[float, ...], canvases: tuple[float, ...]
) -> None:
    x, plan = np.ones((1, 1, 1, 1), np.float32), sampler.plan(4)
    memory = sampler.begin(x)
    for call, (output, expected) in enumerate(zip(outputs, canvases, strict=True)):
        x, memory = one_step(sampler, plan, call, x, np.full_like(x, output), memory, None)
        assert x.item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: DDIM().plan(0), "steps must be a whole number >= 1 and <= 1000, got 0"),
        (lambda: DDIM().plan(1001), "steps must be a whole number >= 1 and <= 1000, got 1001"),
        (lambda: DPMPP(spacing=Spacing.LEADING).plan(1000), "<= 999, got 1000"),
        (lambda: LCM().plan(51), "steps must be a whole number >= 1 and <= 50, got 51"),
        (lambda: LCM(distilled=2000), "distilled must be a whole number >= 1 and <= 1000, got 2000"),
        (lambda: DDIM(offset=300).plan(4), "offset=300 begin at training step 1050, but the noise schedule"),
        (lambda: Betas(trained=(0.1,), count=2), "trained holds 1 betas, but count=2"),
        (lambda: Betas(first=0.0), "first must be a finite number > 0 and <= 1, got 0.0"),
        (lambda: Betas(schedule="cubic"), "'cubic' is not a valid BetaSchedule"),
        (lambda: FlowEuler(schedule=FlowSchedule(shift=TokenShift())).plan(4), "number of image tokens"),
        (lambda: FlowSchedule(levels=(1.0, 0.5)).sigmas(3, 0), "2 levels of its own, but steps=3"),
        (lambda: FlowSchedule(levels=(1.0, 0.0)), "each of the levels must be a finite number > 0"),
        (lambda: FlowSchedule(terminal=0.1).sigmas(1, 0), "terminal=0.1 cannot be reached in steps=1"),
        (lambda: SCM(first=2.0), "first must be a finite number > 0 and <= 1.5708, got 2.0"),
        (lambda: KarrasGrid(low=-1.0), "low must be a finite number > 0, got -1.0"),
        (lambda: Euler(offset=-1), "offset must be a whole number >= 0"),
        (lambda: DPMPP(order=4), "order must be a whole number >= 1 and <= 3, got 4"),
    ],
)
def test_what_is_out_of_range_is_named(make: Any, told: str) -> None:
    with pytest.raises(ValueError) as raised:
        make()
    assert told in str(raised.value)
