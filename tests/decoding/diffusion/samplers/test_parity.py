"""Every sampler against its scheduler of diffusers: times, inputs and canvases at every step."""

from functools import partial
from typing import Any

import diffusers
import pytest
from diffusion_schedulers import assert_same_run

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    BetaGrid,
    Betas,
    BetaSchedule,
    Clip,
    DynamicThreshold,
    Euler,
    ExponentialGrid,
    KarrasGrid,
    Sampler,
    Spacing,
)

STEPS = (1, 4, 7, 20, 50)
PREDICTIONS = (Prediction.EPSILON, Prediction.V, Prediction.CLEAN)
BETAS = {
    "linear": (Betas(), {}),
    "scaled": (
        Betas(schedule=BetaSchedule.SCALED_LINEAR, first=0.00085, last=0.012),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "cosine": (Betas(schedule=BetaSchedule.COSINE), {"beta_schedule": "squaredcos_cap_v2"}),
}
GRIDS = {
    "karras": (KarrasGrid(), {"use_karras_sigmas": True}),
    "exponential": (ExponentialGrid(), {"use_exponential_sigmas": True}),
    "beta": (BetaGrid(), {"use_beta_sigmas": True}),
}


def case(name: str, ours: Sampler, theirs: type, *marks: Any, **their_config: Any) -> Any:
    return pytest.param(
        ours, partial(theirs, **their_config), id=f"{type(ours).__name__}-{name}", marks=marks
    )


def spacings(ours: type, theirs: type, **their_config: Any) -> list[Any]:
    """A case for each spacing, prediction and noise schedule."""
    rows = []
    for spacing in Spacing:
        for prediction in PREDICTIONS:
            for name, (noise, their_noise) in BETAS.items():
                essential = name == "linear" and prediction is Prediction.EPSILON
                row = case(
                    f"{spacing}-{prediction}-{name}",
                    ours(noise=noise, spacing=spacing, prediction=prediction),
                    theirs,
                    *(() if essential else (pytest.mark.sweep,)),
                    timestep_spacing=spacing.value,
                    prediction_type=prediction.value,
                    **their_noise,
                    **their_config,
                )
                rows.append(row)
    return rows


def grids(ours: type, theirs: type) -> list[Any]:
    """A case for each grid of noise levels."""
    return [case(name, ours(grid=grid), theirs, **their_grid) for name, (grid, their_grid) in GRIDS.items()]


CASES = [
    *spacings(DDIM, diffusers.DDIMScheduler, clip_sample=False),
    case("clip", DDIM(bound=Clip()), diffusers.DDIMScheduler),
    case(
        "threshold",
        DDIM(bound=DynamicThreshold(ratio=0.9, most=2.0)),
        diffusers.DDIMScheduler,
        thresholding=True,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=2.0,
    ),
    case(
        "first-alpha",
        DDIM(ends_clean=False, offset=1),
        diffusers.DDIMScheduler,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ),
    *spacings(Euler, diffusers.EulerDiscreteScheduler),
    *grids(Euler, diffusers.EulerDiscreteScheduler),
    case(
        "ends-noisy", Euler(ends_clean=False), diffusers.EulerDiscreteScheduler, final_sigmas_type="sigma_min"
    ),
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("ours", "theirs"), CASES)
def test_every_step_is_that_of_diffusers(ours: Sampler, theirs: Any, steps: int) -> None:
    scheduler = theirs()
    scheduler.set_timesteps(steps)
    assert_same_run(ours, scheduler, steps)
