"""Samplers against diffusers where a run is asked for more than a number of steps: levels, tokens, fresh
noise."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusion_schedulers import SHAPE, assert_same_run, drawn, one_step

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    DDPM,
    DPMPP,
    SCM,
    TCD,
    Betas,
    Euler,
    FixedShift,
    FlowEuler,
    FlowLevels,
    FlowMapEuler,
    FlowSchedule,
    Sampler,
    ShiftForm,
    Spacing,
    TokenShift,
    UniPC,
    Variance,
)

STEPS = (1, 4, 7, 20, pytest.param(50, marks=pytest.mark.sweep))


def shifted(factor: float = 3.0, **schedule: Any) -> FlowSchedule:
    return FlowSchedule(shift=FixedShift(factor=factor), **schedule)


@pytest.mark.parametrize("steps", STEPS)
def test_levels_handed_over_are_shifted_once(steps: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    assert_same_run(FlowEuler(schedule=shifted(levels=FlowLevels.EVEN)), scheduler, steps)
    levels = tuple(np.linspace(0.9, 0.1, steps).tolist())
    scheduler.set_timesteps(sigmas=levels)
    assert_same_run(FlowEuler(schedule=shifted(levels=levels)), scheduler, steps)


@pytest.mark.parametrize("steps", STEPS[1:])
@pytest.mark.parametrize("form", ShiftForm)
@pytest.mark.parametrize("terminal", [None, 0.02])
@pytest.mark.parametrize("levels", [FlowLevels.EVEN, FlowLevels.TRAINED])
def test_shifts_by_the_number_of_tokens(
    levels: FlowLevels, terminal: float | None, form: ShiftForm, steps: int
) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=terminal, time_shift_type=form.value
    )
    mu = calculate_shift(1024)
    sigmas = np.linspace(1, 1 / steps, steps) if levels is FlowLevels.EVEN else None
    scheduler.set_timesteps(None if sigmas is not None else steps, sigmas=sigmas, mu=mu)
    schedule = FlowSchedule(shift=TokenShift(form=form), levels=levels, terminal=terminal)
    assert_same_run(FlowEuler(schedule=schedule), scheduler, steps, tokens=1024)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("ours", [DPMPP, UniPC])
def test_solvers_shift_by_the_number_of_tokens(ours: Any, steps: int) -> None:
    theirs = {DPMPP: diffusers.DPMSolverMultistepScheduler, UniPC: diffusers.UniPCMultistepScheduler}[ours]
    levels = FlowLevels.BELOW_ONE if ours is DPMPP else FlowLevels.BEFORE_LAST
    scheduler = theirs(use_dynamic_shifting=True, use_flow_sigmas=True, prediction_type="flow_prediction")
    scheduler.set_timesteps(steps, mu=calculate_shift(1024))
    flow = FlowSchedule(shift=TokenShift(), levels=levels)
    assert_same_run(ours(prediction=Prediction.FLOW, flow=flow), scheduler, steps, tokens=1024)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        (DDIM(eta=0.7), diffusers.DDIMScheduler(clip_sample=False), {"eta": 0.7}),
        (TCD(eta=0.0), diffusers.TCDScheduler(), {"eta": 0.0}),
        (TCD(eta=1.0), diffusers.TCDScheduler(), {"eta": 1.0}),
    ],
    ids=["DDIM", "TCD-0", "TCD-1"],
)
def test_fresh_noise_by_eta(ours: Sampler, theirs: Any, arguments: dict[str, float], steps: int) -> None:
    theirs.set_timesteps(steps)
    assert_same_run(ours, theirs, steps, step_arguments=arguments)


@pytest.mark.parametrize("steps", STEPS)
def test_ddpm_takes_its_variance_from_the_model(steps: int) -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(steps)
    twice = (*SHAPE[:3], 2 * SHAPE[3])
    assert_same_run(DDPM(variance=Variance.LEARNED_RANGE), scheduler, steps, outputs_shape=twice)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_flow_maps(factor: float, steps: int) -> None:
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=factor)
    scheduler.set_timesteps(steps)
    sampler = FlowMapEuler(schedule=shifted(factor, levels=FlowLevels.EVEN))
    plan, draw = sampler.plan(steps), np.random.default_rng(0)
    np.testing.assert_allclose(plan.times[:, 0], scheduler.timesteps, rtol=1e-6)
    np.testing.assert_allclose(plan.times[:, 1], 1000 * scheduler.sigmas[1:], rtol=1e-6)
    x = draw.normal(size=SHAPE).astype(np.float32)
    for call in range(steps):
        output = draw.normal(size=SHAPE).astype(np.float32)
        theirs = scheduler.step(torch.tensor(output), scheduler.timesteps[call], torch.tensor(x))[0].numpy()
        ours, _ = one_step(sampler, plan, call, x, output, (), None)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        x = theirs


def test_scm_keeps_canvases_in_units_of_the_data() -> None:
    scheduler = diffusers.SCMScheduler(sigma_data=0.5)
    scheduler.set_timesteps(2)
    sampler, draw = SCM(), np.random.default_rng(0)
    plan = sampler.plan(2)
    np.testing.assert_allclose(scheduler.timesteps, [1.5708, 1.3, 0], rtol=1e-6)
    np.testing.assert_allclose(plan.times, [1.5708, 1.3])
    x, output, noise = draw.normal(size=(3, *SHAPE)).astype(np.float32)
    with drawn(scheduler, torch.tensor(noise)):
        theirs = scheduler.step(torch.tensor(0.5 * output), scheduler.timesteps[0], torch.tensor(0.5 * x))[0]
    ours, _ = one_step(sampler, plan, 0, x, output, (), noise)
    np.testing.assert_allclose(0.5 * ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("prediction", "ours", "theirs", "config"),
    [
        (Prediction.V, DDIM, diffusers.DDIMScheduler, {"clip_sample": False}),
        (Prediction.V, DDPM, diffusers.DDPMScheduler, {"clip_sample": False}),
        (Prediction.V, Euler, diffusers.EulerDiscreteScheduler, {}),
        (Prediction.V, DPMPP, diffusers.DPMSolverMultistepScheduler, {}),
        (Prediction.V, UniPC, diffusers.UniPCMultistepScheduler, {}),
    ],
)
@pytest.mark.parametrize("steps", STEPS)
def test_schedules_that_leave_nothing_of_the_data(
    prediction: Prediction, ours: Any, theirs: Any, config: dict[str, Any], steps: int
) -> None:
    """Their square roots, which PyTorch rounds otherwise, make ``1 - a_t`` differ by up to 4e-7."""
    scheduler = theirs(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing", **config
    )
    scheduler.set_timesteps(steps)
    sampler = ours(prediction=prediction, noise=Betas(zero_terminal_snr=True), spacing=Spacing.TRAILING)
    assert_same_run(sampler, scheduler, steps, tolerance=1e-5)
