"""Every sampler against its scheduler of diffusers: times, inputs and canvases at every step."""

import dataclasses
from fnmatch import fnmatch
from functools import partial
from typing import Any

import diffusers
import pytest
from diffusion_schedulers import assert_same_run

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    DDPM,
    DPMPP,
    EDMDPMPP,
    LCM,
    SCM,
    TCD,
    Basis,
    BetaGrid,
    Betas,
    BetaSchedule,
    Clip,
    DynamicThreshold,
    EDMEuler,
    EDMSchedule,
    Euler,
    ExponentialGrid,
    FixedShift,
    FlowEuler,
    FlowHeun,
    FlowLevels,
    FlowSchedule,
    Heun,
    KarrasGrid,
    LastStep,
    Sampler,
    SecondOrder,
    Spacing,
    UniPC,
    Variance,
)

STEPS = (1, 4, 7, 20, 50)
PREDICTIONS = (Prediction.EPSILON, Prediction.V, Prediction.CLEAN)
BETAS = {
    "linear": (Betas(), {"beta_start": 0.0001, "beta_end": 0.02}),
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


def prediction_cases(ours: type, theirs: type, **shared: Any) -> list[Any]:
    """A case for each prediction."""
    return [
        case(kind.value, ours(prediction=kind, **shared), theirs, prediction_type=kind.value)
        for kind in PREDICTIONS
    ]


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SOLVER_FLOW = FlowSchedule(shift=FixedShift(factor=3.0), levels=FlowLevels.BELOW_ONE)
UNIPC_FLOW = FlowSchedule(shift=FixedShift(factor=3.0), levels=FlowLevels.BEFORE_LAST)
SHIFT3 = FlowSchedule(shift=FixedShift(factor=3.0))

DISCRETE = [
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
    *spacings(DDPM, diffusers.DDPMScheduler, clip_sample=False),
    case("clip", DDPM(bound=Clip(most=2.0)), diffusers.DDPMScheduler, clip_sample_range=2.0),
    *(
        case(
            kind.value,
            DDPM(variance=kind),
            diffusers.DDPMScheduler,
            clip_sample=False,
            variance_type=kind.value,
        )
        for kind in (Variance.SMALL_LOG, Variance.LARGE)
    ),
    *spacings(Euler, diffusers.EulerDiscreteScheduler),
    *grids(Euler, diffusers.EulerDiscreteScheduler),
    case(
        "ends-noisy", Euler(ends_clean=False), diffusers.EulerDiscreteScheduler, final_sigmas_type="sigma_min"
    ),
    case(
        "log-times",
        Euler(prediction=Prediction.V, log_times=True, grid=KarrasGrid(low=0.002, high=80.0)),
        diffusers.EulerDiscreteScheduler,
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=80.0,
    ),
    *spacings(Heun, diffusers.HeunDiscreteScheduler),
    *grids(Heun, diffusers.HeunDiscreteScheduler),
    case("clip", Heun(bound=Clip()), diffusers.HeunDiscreteScheduler, clip_sample=True),
]
SOLVERS = [
    *spacings(DPMPP, diffusers.DPMSolverMultistepScheduler),
    *grids(DPMPP, diffusers.DPMSolverMultistepScheduler),
    *(
        case(
            f"order{order}-{form}-{kind}-{last}",
            DPMPP(order=order, form=form, fresh_noise=kind.startswith("sde"), last=last),
            diffusers.DPMSolverMultistepScheduler,
            solver_order=order,
            solver_type=form.value,
            algorithm_type=kind,
            final_sigmas_type=last.value,
        )
        for order in (1, 2, 3)
        for form in SecondOrder
        for kind in ("dpmsolver++", "sde-dpmsolver++")
        for last in LastStep
    ),
    case("hard-end", DPMPP(easy_end=False), diffusers.DPMSolverMultistepScheduler, lower_order_final=False),
    case(
        "first-order-end",
        DPMPP(first_order_end=True, last=LastStep.NOISY),
        diffusers.DPMSolverMultistepScheduler,
        euler_at_final=True,
        final_sigmas_type="sigma_min",
    ),
    *(
        case(
            f"least-snr-{spacing}",
            DPMPP(noise=BETAS["cosine"][0], least_log_snr=-5.1, spacing=spacing),
            diffusers.DPMSolverMultistepScheduler,
            beta_schedule="squaredcos_cap_v2",
            lambda_min_clipped=-5.1,
            timestep_spacing=spacing.value,
        )
        for spacing in (Spacing.LINSPACE, Spacing.LEADING)
    ),
    case(
        "karras-cosine",
        DPMPP(noise=BETAS["cosine"][0], grid=KarrasGrid()),
        diffusers.DPMSolverMultistepScheduler,
        beta_schedule="squaredcos_cap_v2",
        use_karras_sigmas=True,
    ),
    case(
        "threshold",
        DPMPP(bound=DynamicThreshold(ratio=0.9, most=2.0)),
        diffusers.DPMSolverMultistepScheduler,
        thresholding=True,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=2.0,
    ),
    case(
        "flow",
        DPMPP(prediction=Prediction.FLOW, flow=SOLVER_FLOW),
        diffusers.DPMSolverMultistepScheduler,
        flow_shift=3.0,
        **FLOW,
    ),
    *spacings(UniPC, diffusers.UniPCMultistepScheduler),
    *grids(UniPC, diffusers.UniPCMultistepScheduler),
    *(
        case(
            f"order{order}-{basis}",
            UniPC(order=order, basis=basis, last=LastStep.NOISY),
            diffusers.UniPCMultistepScheduler,
            solver_order=order,
            solver_type=basis.value,
            final_sigmas_type="sigma_min",
        )
        for order in (1, 2, 3)
        for basis in Basis
    ),
    case(
        "hard-end",
        UniPC(order=3, easy_end=False, last=LastStep.NOISY),
        diffusers.UniPCMultistepScheduler,
        solver_order=3,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    ),
    case(
        "uncorrected",
        UniPC(uncorrected=(0, 2)),
        diffusers.UniPCMultistepScheduler,
        disable_corrector=[0, 2],
    ),
    case(
        "flow",
        UniPC(prediction=Prediction.FLOW, flow=UNIPC_FLOW),
        diffusers.UniPCMultistepScheduler,
        flow_shift=3.0,
        **FLOW,
    ),
    case(
        "flow-terminal",
        UniPC(prediction=Prediction.FLOW, flow=dataclasses.replace(UNIPC_FLOW, terminal=0.02)),
        diffusers.UniPCMultistepScheduler,
        flow_shift=3.0,
        shift_terminal=0.02,
        **FLOW,
    ),
    case(
        "flow-karras",
        UniPC(prediction=Prediction.FLOW, flow=UNIPC_FLOW, grid=KarrasGrid()),
        diffusers.UniPCMultistepScheduler,
        use_karras_sigmas=True,
        flow_shift=3.0,
        **FLOW,
    ),
]
DISTILLED = [
    *prediction_cases(LCM, diffusers.LCMScheduler),
    case("clip", LCM(bound=Clip()), diffusers.LCMScheduler, clip_sample=True),
    *prediction_cases(TCD, diffusers.TCDScheduler),
    case("sigma-data", SCM(), diffusers.SCMScheduler, sigma_data=1.0),
]
FLOWS = [
    case("plain", FlowEuler(), diffusers.FlowMatchEulerDiscreteScheduler),
    case("shift", FlowEuler(schedule=SHIFT3), diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0),
    *(
        case(
            name,
            FlowEuler(schedule=SHIFT3, grid=grid),
            diffusers.FlowMatchEulerDiscreteScheduler,
            shift=3.0,
            **theirs,
        )
        for name, (grid, theirs) in GRIDS.items()
    ),
    case(
        "renoises",
        FlowEuler(schedule=SHIFT3, renoises=True),
        diffusers.FlowMatchEulerDiscreteScheduler,
        shift=3.0,
        stochastic_sampling=True,
    ),
    case("plain", FlowHeun(), diffusers.FlowMatchHeunDiscreteScheduler),
    case("shift", FlowHeun(schedule=SHIFT3), diffusers.FlowMatchHeunDiscreteScheduler, shift=3.0),
]
EDMS = [
    *(
        case(
            f"{grid}-{kind}-{last}",
            EDMEuler(schedule=EDMSchedule(grid=GRIDS[grid][0]), prediction=kind, last=last),
            diffusers.EDMEulerScheduler,
            sigma_schedule=grid,
            prediction_type=name,
            final_sigmas_type=last.value,
        )
        for grid in ("karras", "exponential")
        for kind, name in ((Prediction.EDM, "epsilon"), (Prediction.V, "v_prediction"))
        for last in LastStep
    ),
    *(
        case(
            f"{grid}-{kind}-{last}-{algorithm}-{order}-{form}",
            EDMDPMPP(
                schedule=EDMSchedule(grid=GRIDS[grid][0]),
                prediction=kind,
                last=last,
                order=order,
                form=form,
                fresh_noise=algorithm.startswith("sde"),
            ),
            diffusers.EDMDPMSolverMultistepScheduler,
            sigma_schedule=grid,
            prediction_type=name,
            final_sigmas_type=last.value,
            solver_order=order,
            solver_type=form.value,
            algorithm_type=algorithm,
        )
        for grid in ("karras", "exponential")
        for kind, name in ((Prediction.EDM, "epsilon"), (Prediction.V, "v_prediction"))
        for last in LastStep
        for order, form, algorithm in (
            (1, SecondOrder.MIDPOINT, "dpmsolver++"),
            (2, SecondOrder.MIDPOINT, "dpmsolver++"),
            (2, SecondOrder.HEUN, "dpmsolver++"),
            (2, SecondOrder.MIDPOINT, "sde-dpmsolver++"),
            (3, SecondOrder.MIDPOINT, "dpmsolver++"),
        )
    ),
    case(
        "sigmas",
        EDMEuler(schedule=EDMSchedule(low=0.01, high=50.0, data=0.7, grid=KarrasGrid(rho=5.0))),
        diffusers.EDMEulerScheduler,
        sigma_min=0.01,
        sigma_max=50.0,
        sigma_data=0.7,
        rho=5.0,
    ),
]


# Where diffusers divides 0 by 0: a last level that is 1, and a last step that goes nowhere.
NAN_THERE = ("UniPC-flow-terminal-1", "EDMDPMPP-*-sigma_min-*-2-heun-*", "EDMDPMPP-*-sigma_min-*-3-*")
RUNS = [
    pytest.param(
        *each.values,
        steps,
        id=f"{each.id}-{steps}",
        marks=pytest.mark.sweep if steps == STEPS[-1] else each.marks,
    )
    for each in (*DISCRETE, *SOLVERS, *DISTILLED, *FLOWS, *EDMS)
    for steps in STEPS
    if not any(fnmatch(f"{each.id}-{steps}", pattern) for pattern in NAN_THERE)
]


@pytest.mark.parametrize(("ours", "theirs", "steps"), RUNS)
def test_every_step_is_that_of_diffusers(ours: Sampler, theirs: Any, steps: int) -> None:
    scheduler = theirs()
    arguments = {"intermediate_timesteps": None} if isinstance(ours, SCM) and steps != 2 else {}
    scheduler.set_timesteps(steps, **arguments)
    assert_same_run(ours, scheduler, steps)
