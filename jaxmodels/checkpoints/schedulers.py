"""Samplers from and to ``scheduler_config.json``, as `diffusers` writes it.

Each class of schedulers is a table: which keys stand for which field of a sampler. Adding one is adding a
table.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints import scheduler_keys as keys
from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.scheduler_keys import Keys
from jaxmodels.checks import shown
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
    BetaSchedule,
    EDMEuler,
    Euler,
    FlowEuler,
    FlowHeun,
    FlowLevels,
    FlowMapEuler,
    FlowSchedule,
    FlowTime,
    Heun,
    LastStep,
    PeRFlow,
    PiFlowGrid,
    Sampler,
    SecondOrder,
    SecondTime,
    Spacing,
    UniPC,
    Variance,
    WindowOutput,
)
from jaxmodels.models.hf_config import ConfigError, ConfigReader

SCHEDULER_FILE = "scheduler_config.json"


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """One class of schedulers.

    Attributes:
        name: the class.
        library: what it is a class of.
        sampler: what it is read as.
        fields: the keys of each field.
        fixed: fields of the sampler that the class implies.
        expected: keys of which only these values are supported.
        unread: keys that the class has and does not use.
    """

    name: str
    library: str = "diffusers"
    sampler: type[Any]
    fields: Mapping[str, Keys]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read_scheduler(values: Mapping[str, Any]) -> Sampler:
    """The sampler that a ``scheduler_config.json`` describes.

    Raises:
        ConfigError: the class is not known, or a key is unknown or has a value that is not supported; the
            message names it and the value.
    """
    scheduler = _known(values.get("_class_name"))
    reader = ConfigReader(values, f"config of {scheduler.name}")
    for key, accepted in scheduler.expected.items():
        reader.expect(key, *accepted)
    reader.consume(
        "_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", *scheduler.unread
    )
    try:
        given = {name: keys_of.read(reader) for name, keys_of in scheduler.fields.items()}
        sampler: Sampler = scheduler.sampler(**given, **scheduler.fixed)
    except ConfigError:
        raise
    except ValueError as error:  # a sampler refuses its numbers
        raise ConfigError(f"{reader.name}: {error}") from error
    # What `diffusers` makes of another scheduler keeps the keys of that, and ignores them.
    unknown = {key: value for key, value in reader.unread().items() if key not in _every_key()}
    if unknown:
        told = ", ".join(f"{key!r} = {shown(value)}" for key, value in unknown.items())
        raise ConfigError(f"{reader.name}: these keys are not known: {told}")
    return sampler


@functools.cache
def _every_key() -> frozenset[str]:
    """The keys of all schedulers."""
    found: set[str] = set()
    for scheduler in SCHEDULERS.values():
        sampler = scheduler.sampler(**scheduler.fixed)
        found.update(scheduler.expected, scheduler.unread)
        for name, keys_of in scheduler.fields.items():
            found.update(keys_of.write(getattr(sampler, name)))
    return frozenset(found)


def write_scheduler(sampler: Sampler) -> dict[str, Any]:
    """The ``scheduler_config.json`` of a sampler: `read_scheduler` gives `sampler` back.

    Raises:
        ConfigError: there is no class for it, or none that can say all of it.
    """
    candidates = [scheduler for scheduler in SCHEDULERS.values() if scheduler.sampler is type(sampler)]
    if not candidates:
        kinds = sorted({scheduler.sampler.__name__ for scheduler in SCHEDULERS.values()})
        raise ConfigError(
            f"a sampler of class {type(sampler).__name__} has no scheduler class; those that have one are: "
            f"{', '.join(kinds)}"
        )
    lost: dict[str, list[str]] = {}
    for scheduler in candidates:
        values: dict[str, Any] = {"_class_name": scheduler.name}
        for name, keys_of in scheduler.fields.items():
            values |= keys_of.write(getattr(sampler, name))
        again = read_scheduler(values)
        if again == sampler:
            return values
        lost[scheduler.name] = _different(sampler, again)
    nearest = min(lost, key=lambda name: len(lost[name]))
    raise ConfigError(f"{nearest} cannot express this sampler: {', '.join(lost[nearest])} would be lost")


def scheduler_class(sampler: Sampler) -> tuple[str, str]:
    """The library and the class that a pipeline's index names for a sampler; raises as `write_scheduler`."""
    scheduler = SCHEDULERS[write_scheduler(sampler)["_class_name"]]
    return scheduler.library, scheduler.name


def load_scheduler(directory: str | Path) -> Sampler:
    """The sampler of a directory that holds a ``scheduler_config.json``.

    Raises:
        CheckpointError: the file is missing or corrupt, or what it says is not supported; see
            `read_scheduler`.
    """
    file = Path(directory) / SCHEDULER_FILE
    values = read_json_object(file)
    try:
        return read_scheduler(values)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def save_scheduler(sampler: Sampler, directory: str | Path) -> None:
    """Writes ``scheduler_config.json`` into a directory, which is made if need be.

    Raises:
        CheckpointError: no class can say all of the sampler, or the file cannot be written.
    """
    try:
        values = write_scheduler(sampler)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    Path(directory).mkdir(parents=True, exist_ok=True)
    replace_file(Path(directory) / SCHEDULER_FILE, json.dumps(values, indent=2, sort_keys=True) + "\n")


def _known(name: object) -> Scheduler:
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise ConfigError(
            f"config: key '_class_name' is {shown(name)}; the schedulers are: {', '.join(sorted(SCHEDULERS))}"
        )
    return SCHEDULERS[name]


def _different(one: Any, other: Any, within: str = "") -> list[str]:
    """The fields in which two dataclasses of a type differ, as ``name=value`` of the first."""
    found = []
    for each in fields(one):
        mine, theirs = getattr(one, each.name), getattr(other, each.name)
        if mine == theirs:
            continue
        if is_dataclass(mine) and type(mine) is type(theirs):
            found += _different(mine, theirs, f"{within}{each.name}.")
        else:
            found.append(f"{within}{each.name}={shown(mine)}")
    return found


_DISCRETE = (Prediction.EPSILON, Prediction.CLEAN, Prediction.V)
_LINEAR = (BetaSchedule.LINEAR, BetaSchedule.SCALED_LINEAR, BetaSchedule.COSINE)
_SCALED = (BetaSchedule.SCALED_LINEAR, BetaSchedule.LINEAR, BetaSchedule.COSINE)
_EDM_PREDICTION = keys.choice(
    "prediction_type", {"epsilon": Prediction.EDM, "v_prediction": Prediction.V}, "epsilon"
)
_LAST = keys.named("final_sigmas_type", LastStep, LastStep.CLEAN)
_ENDS_CLEAN = keys.choice("final_sigmas_type", {"zero": True, "sigma_min": False}, "zero")
_OFFSET = keys.whole_number("steps_offset", 0)


def _spacing(default: Spacing) -> Keys:
    return keys.named("timestep_spacing", Spacing, default)


_MULTISTEP = {
    "order": keys.whole_number("solver_order", 2),
    "form": keys.named("solver_type", SecondOrder, SecondOrder.MIDPOINT),
    "fresh_noise": keys.choice(
        "algorithm_type", {"dpmsolver++": False, "sde-dpmsolver++": True}, "dpmsolver++"
    ),
    "easy_end": keys.flag("lower_order_final", default=True),
    "first_order_end": keys.flag("euler_at_final", default=False),
    "last": _LAST,
}


_DDIM = Scheduler(
    name="DDIMScheduler",
    sampler=DDIM,
    fields={
        "noise": keys.betas(0.0001, 0.02, *_LINEAR),
        "prediction": keys.prediction(*_DISCRETE),
        "spacing": _spacing(Spacing.LEADING),
        "offset": _OFFSET,
        "bound": keys.bound(clips=True),
        "ends_clean": keys.flag("set_alpha_to_one", default=True),
    },
)
_DDPM = Scheduler(
    name="DDPMScheduler",
    sampler=DDPM,
    fields={
        "noise": keys.betas(0.0001, 0.02, *_LINEAR, BetaSchedule.SIGMOID, BetaSchedule.LAPLACE),
        "prediction": keys.prediction(*_DISCRETE),
        "spacing": _spacing(Spacing.LEADING),
        "offset": _OFFSET,
        "bound": keys.bound(clips=True),
        "variance": keys.named("variance_type", Variance, Variance.SMALL),
    },
)
_EULER = Scheduler(
    name="EulerDiscreteScheduler",
    sampler=Euler,
    fields={
        "noise": keys.betas(0.0001, 0.02, *_LINEAR),
        "prediction": keys.prediction(*_DISCRETE),
        "spacing": _spacing(Spacing.LINSPACE),
        "offset": _OFFSET,
        "grid": keys.grid(has_ends=True),
        "ends_clean": _ENDS_CLEAN,
        "log_times": keys.choice("timestep_type", {"discrete": False, "continuous": True}, "discrete"),
    },
    expected={"interpolation_type": ("linear",)},
)
_HEUN = Scheduler(
    name="HeunDiscreteScheduler",
    sampler=Heun,
    fields={
        "noise": keys.betas(0.00085, 0.012, *_LINEAR, BetaSchedule.EXPONENTIAL),
        "prediction": keys.prediction(*_DISCRETE),
        "spacing": _spacing(Spacing.LINSPACE),
        "offset": _OFFSET,
        "grid": keys.grid(has_ends=False),
        "bound": keys.clip(default=False),
    },
)
_DPMPP = Scheduler(
    name="DPMSolverMultistepScheduler",
    sampler=DPMPP,
    fields={
        "noise": keys.betas(0.0001, 0.02, *_LINEAR),
        "prediction": keys.prediction(*_DISCRETE, Prediction.FLOW),
        "spacing": _spacing(Spacing.LINSPACE),
        "offset": _OFFSET,
        "grid": keys.grid(has_ends=False),
        "flow": keys.solver_flow(FlowLevels.BELOW_ONE, terminal=False),
        "least_log_snr": keys.least_log_snr(),
        "bound": keys.threshold(),
        **_MULTISTEP,
    },
    # Of an output with a variance, diffusers takes the first 3 channels, whatever the canvas has.
    expected={"use_lu_lambdas": (False, None), "variance_type": (None,)},
)
_UNIPC = Scheduler(
    name="UniPCMultistepScheduler",
    sampler=UniPC,
    fields={
        "noise": keys.betas(0.0001, 0.02, *_LINEAR),
        "prediction": keys.prediction(*_DISCRETE, Prediction.FLOW),
        "spacing": _spacing(Spacing.LINSPACE),
        "offset": _OFFSET,
        "grid": keys.grid(has_ends=True),
        "flow": keys.solver_flow(FlowLevels.BEFORE_LAST, terminal=True),
        "order": keys.whole_number("solver_order", 2),
        "basis": keys.named("solver_type", Basis, Basis.BH2),
        "easy_end": keys.flag("lower_order_final", default=True),
        "uncorrected": keys.calls("disable_corrector"),
        "last": _LAST,
        "bound": keys.threshold(),
    },
    expected={"predict_x0": (True,), "solver_p": (None,)},
)
_LCM = Scheduler(
    name="LCMScheduler",
    sampler=LCM,
    fields={
        "noise": keys.betas(0.00085, 0.012, *_SCALED),
        "prediction": keys.prediction(*_DISCRETE),
        "distilled": keys.whole_number("original_inference_steps", 50),
        "time_scale": keys.real("timestep_scaling", 10.0),
        "bound": keys.bound(clips=False),
    },
    unread=("set_alpha_to_one", "steps_offset", "timestep_spacing"),
)
_TCD = Scheduler(
    name="TCDScheduler",
    sampler=TCD,
    fields={
        "noise": keys.betas(0.00085, 0.012, *_SCALED),
        "prediction": keys.prediction(*_DISCRETE),
        "distilled": keys.whole_number("original_inference_steps", 50),
    },
    unread=(
        "clip_sample",
        "clip_sample_range",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "set_alpha_to_one",
        "steps_offset",
        "thresholding",
        "timestep_scaling",
        "timestep_spacing",
    ),
)
_SCM = Scheduler(
    name="SCMScheduler",
    sampler=SCM,
    fields={
        "prediction": keys.choice("prediction_type", {"trigflow": Prediction.V}, "trigflow"),
        "count": keys.whole_number("num_train_timesteps", 1000),
    },
    expected={"sigma_data": (0.5,)},
)
_EDM_EULER = Scheduler(
    name="EDMEulerScheduler",
    sampler=EDMEuler,
    fields={"schedule": keys.edm(), "prediction": _EDM_PREDICTION, "last": _LAST},
)
_EDM_DPMPP = Scheduler(
    name="EDMDPMSolverMultistepScheduler",
    sampler=EDMDPMPP,
    fields={"schedule": keys.edm(), "prediction": _EDM_PREDICTION, **_MULTISTEP},
    expected={"thresholding": (False,)},
    unread=("dynamic_thresholding_ratio", "sample_max_value"),
)
_FLOW_EULER = Scheduler(
    name="FlowMatchEulerDiscreteScheduler",
    sampler=FlowEuler,
    fields={
        "schedule": keys.flow(FlowLevels.TRAINED, tokens=True, terminal=True),
        "grid": keys.grid(has_ends=False),
        "renoises": keys.flag("stochastic_sampling", default=False),
    },
    expected={"invert_sigmas": (False,)},
)
_FLOW_HEUN = Scheduler(
    name="FlowMatchHeunDiscreteScheduler",
    sampler=FlowHeun,
    fields={"schedule": keys.flow(FlowLevels.TRAINED, tokens=False, terminal=False)},
)
_FLOW_MAP = Scheduler(
    name="FlowMapEulerDiscreteScheduler",
    sampler=FlowMapEuler,
    fields={"schedule": keys.flow(FlowLevels.EVEN, tokens=False, terminal=False)},
)
_MEAN_FLOW = Scheduler(
    name="MeanFlowScheduler",
    library="jaxmodels",
    sampler=FlowMapEuler,
    fields={"renoises": keys.flag("stochastic_sampling", default=False)},
    fixed={"schedule": FlowSchedule(count=1, levels=FlowLevels.EVEN), "second": SecondTime.SPAN},
)
_SHORTCUT = Scheduler(
    name="ShortcutScheduler",
    library="jaxmodels",
    sampler=FlowMapEuler,
    fields={},
    fixed={
        "schedule": FlowSchedule(count=1, levels=FlowLevels.EVEN, time=FlowTime.DATA),
        "prediction": Prediction.FLOW_TO_DATA,
        "second": SecondTime.HALVINGS,
    },
)
_PIFLOW = Scheduler(
    name="PiflowScheduler",
    sampler=PiFlowGrid,
    fields={"segments": keys.segments(), "points": keys.whole_number("n_grid", 10)},
)
_PERFLOW = Scheduler(
    name="PeRFlowScheduler",
    library="scheduler_perflow",
    sampler=PeRFlow,
    fields={
        "noise": keys.betas(0.00085, 0.012, *_SCALED),
        "windows": keys.whole_number("num_time_windows", 4),
        "output": keys.named("prediction_type", WindowOutput, WindowOutput.DDIM_NOISE),
    },
    expected={"t_noise": (1,), "t_clean": (0,), "rescale_betas_zero_snr": (False,)},
    unread=("set_alpha_to_one",),
)
# Of SiT and DDT, whose codes keep their samplers in the arguments of a command.
_FLOW_TO_DATA = Scheduler(
    name="FlowToDataEulerScheduler",
    library="jaxmodels",
    sampler=FlowEuler,
    fields={"renoises": keys.flag("stochastic_sampling", default=False)},
    fixed={
        "schedule": FlowSchedule(count=1, levels=FlowLevels.EVEN, time=FlowTime.DATA),
        "prediction": Prediction.FLOW_TO_DATA,
    },
)
SCHEDULERS: Mapping[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        _DDIM, _DDPM, _EULER, _HEUN, _DPMPP, _UNIPC, _LCM, _TCD, _SCM, _EDM_EULER, _EDM_DPMPP, _FLOW_EULER,
        _FLOW_HEUN, _FLOW_MAP, _FLOW_TO_DATA, _PIFLOW, _PERFLOW, _MEAN_FLOW, _SHORTCUT,
    )
}  # fmt: skip
