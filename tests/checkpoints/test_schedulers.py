"""Scheduler configurations: as diffusers writes them, as it reads ours, as published, and what is refused."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusion_schedulers import assert_same_run

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.schedulers import (
    SCHEDULERS,
    load_scheduler,
    read_scheduler,
    save_scheduler,
    scheduler_class,
    write_scheduler,
)
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    FlowEuler,
    FlowLevels,
    FlowMapEuler,
    FlowSchedule,
    FlowTime,
    PeRFlow,
    SecondTime,
    TokenShift,
    WindowOutput,
)
from jaxmodels.models.hf_config import ConfigError

ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
WRITTEN = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    (
        "DDIMScheduler",
        {
            "clip_sample": False,
            "thresholding": True,
            "sample_max_value": 2.0,
            "dynamic_thresholding_ratio": 0.9,
        },
    ),
    ("DDIMScheduler", {**ZERO_SNR, "clip_sample": False}),
    (
        "DDIMScheduler",
        {"num_train_timesteps": 8, "trained_betas": [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]},
    ),
    ("DDPMScheduler", {"variance_type": "fixed_large", "beta_schedule": "sigmoid"}),
    ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_min": 0.01, "sigma_max": 20.0}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "timestep_spacing": "leading"}),
    ("HeunDiscreteScheduler", {"beta_schedule": "exp"}),
    ("HeunDiscreteScheduler", {"clip_sample": True, "use_beta_sigmas": True}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "solver_type": "heun", "euler_at_final": True}),
    (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
    ),
    (
        "UniPCMultistepScheduler",
        {"disable_corrector": [0], "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    ),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True, "sigma_min": 0.01, "sigma_max": 20.0}),
    (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "shift_terminal": 0.02, "prediction_type": "flow_prediction"},
    ),
    ("LCMScheduler", {"timestep_scaling": 5.0, "original_inference_steps": 100, "clip_sample": True}),
    ("TCDScheduler", {"original_inference_steps": 100}),
    ("SCMScheduler", {}),
    ("EDMEulerScheduler", {"sigma_max": 60.0, "rho": 5.0}),
    ("EDMDPMSolverMultistepScheduler", {"sigma_schedule": "exponential", "prediction_type": "v_prediction"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"use_exponential_sigmas": True, "stochastic_sampling": True}),
    ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.05}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}),
    ("FlowMapEulerDiscreteScheduler", {"shift": 5.0}),
    ("PiflowScheduler", {"shift": 3.0, "n_grid": 3, "num_policy_substeps": 64}),
]


def times_of(scheduler: Any) -> tuple[np.ndarray, np.ndarray]:
    arguments = {"intermediate_timesteps": None} if "SCM" in type(scheduler).__name__ else {}
    scheduler.set_timesteps(7, **arguments)
    return scheduler.timesteps.numpy(), np.asarray(getattr(scheduler, "sigmas", 0.0))


@pytest.mark.parametrize(("name", "config"), WRITTEN)
def test_what_diffusers_writes_is_read_and_written_again(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    scheduler = getattr(diffusers, name)(**config)
    scheduler.save_pretrained(tmp_path / "theirs")
    sampler = load_scheduler(tmp_path / "theirs")
    times, sigmas = times_of(scheduler)
    # These have other canvases, two times and other outputs.
    if name not in ("SCMScheduler", "FlowMapEulerDiscreteScheduler", "PiflowScheduler"):
        assert_same_run(sampler, scheduler, 7)
    save_scheduler(sampler, tmp_path / "ours")
    assert load_scheduler(tmp_path / "ours") == sampler
    assert scheduler_class(sampler) == ("diffusers", name)
    again = getattr(diffusers, name).from_pretrained(tmp_path / "ours")
    for ours, theirs in zip(times_of(again), (times, sigmas), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    told = ("_use_default_values", "_diffusers_version")
    unlike = {
        key: (value, again.config.get(key))
        for key, value in scheduler.config.items()
        if key not in told and again.config.get(key) != value
    }
    assert unlike == {}


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if SCHEDULERS[name].library == "diffusers"])
def test_absent_keys_mean_what_they_mean_there(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    sampler = read_scheduler({"_class_name": name})
    assert sampler == read_scheduler(json.loads(scheduler.to_json_string()))


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (
            {
                "_diffusers_version": "0.30.0.dev0",
                "base_image_seq_len": 256,
                "base_shift": 0.5,
                "max_image_seq_len": 4096,
                "max_shift": 1.15,
                "num_train_timesteps": 1000,
                "shift": 3.0,
                "use_dynamic_shifting": True,
            },
            4096,
        ),
        ({"_diffusers_version": "0.29.0.dev0", "num_train_timesteps": 1000, "shift": 3.0}, 0),
    ],
    ids=["FLUX.1-dev", "SD3-medium"],
)
def test_published_configurations(config: dict[str, Any], tokens: int) -> None:
    values = {"_class_name": "FlowMatchEulerDiscreteScheduler", **config}
    sampler = read_scheduler(values)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(values)
    scheduler.set_timesteps(7, mu=1.15 if tokens else None)
    assert_same_run(sampler, scheduler, 7, tokens=tokens)
    assert isinstance(sampler, FlowEuler)
    assert isinstance(sampler.schedule.shift, TokenShift) == bool(tokens)
    assert read_scheduler(write_scheduler(sampler)) == sampler


@pytest.mark.parametrize(
    "sampler",
    [
        FlowMapEuler(schedule=FlowSchedule(count=1, levels=FlowLevels.EVEN), second=SecondTime.SPAN),
        read_scheduler({"_class_name": "ShortcutScheduler"}),
        PeRFlow(windows=5, output=WindowOutput.DIFFUSED_NOISE),
        read_scheduler({"_class_name": "MeanFlowScheduler", "stochastic_sampling": True}),
    ],
)
def test_samplers_that_diffusers_lacks(sampler: Any) -> None:
    assert scheduler_class(sampler)[0] != "diffusers"
    assert read_scheduler(write_scheduler(sampler)) == sampler


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {"_class_name": "PNDMScheduler"},
            "'PNDMScheduler'; the schedulers are: DDIMScheduler, DDPMScheduler",
        ),
        ({}, "'_class_name' is None; the schedulers are"),
        (
            {"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"},
            "'flow_prediction', which is not",
        ),
        ({"_class_name": "SCMScheduler", "prediction_type": "epsilon"}, "supported: 'trigflow'"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
            "'flow_prediction' needs noise levels of flow matching",
        ),
        (
            {
                "_class_name": "UniPCMultistepScheduler",
                "prediction_type": "v_prediction",
                "use_flow_sigmas": True,
            },
            "'v_prediction' cannot be read",
        ),
        (
            {"_class_name": "DDIMScheduler", "timestep_spacing": "uniform"},
            "'uniform', which is not supported",
        ),
        (
            {"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]},
            "trained holds 2 betas, but count=1000 training steps",
        ),
        ({"_class_name": "DDIMScheduler", "eta_max": 1.0}, "these keys are not known: 'eta_max' = 1.0"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 0}, "'num_train_timesteps' must be a whole"),
        (
            {"_class_name": "DDIMScheduler", "beta_end": 2.0},
            "last must be a finite number > 0 and <= 1, got 2.0",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
            "only one of 'use_karras_sigmas', 'use_beta_sigmas'",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "sigma_min": 0.1},
            "'sigma_min' and 'sigma_max' are 0.1 and None",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"},
            "supported: 'linear'",
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "'sde-dpmsolver++'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned"}, "supported: None"),
        ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "supported: True"),
        (
            {"_class_name": "UniPCMultistepScheduler", "shift_terminal": 0.1},
            "only where 'use_flow_sigmas' is true",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "lower_order_final": False}, "cannot end at clean data"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "supported: False"),
    ],
)
def test_what_is_not_supported_is_named(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_scheduler(config)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (DDIM(eta=0.5), "DDIMScheduler cannot express this sampler: eta=0.5 would be lost"),
        (
            FlowEuler(schedule=FlowSchedule(levels=FlowLevels.EVEN, time=FlowTime.DATA)),
            "schedule.time=<FlowTime.DATA: 'data'>, schedule.levels=<FlowLevels.EVEN: 'even'> would be lost",
        ),
        (object(), "a sampler of class object has no scheduler class"),
    ],
)
def test_what_no_class_can_say_is_not_written(sampler: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        save_scheduler(sampler, tmp_path)
    assert told in str(raised.value)


def test_a_directory_without_a_scheduler(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json"):
        load_scheduler(tmp_path)
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "LMSDiscreteScheduler"}')
    with pytest.raises(CheckpointError, match=r"LMSDiscreteScheduler.*TCDScheduler, UniPCMultistepScheduler"):
        load_scheduler(tmp_path)
