"""What the keys of a ``scheduler_config.json`` say of a sampler: groups of keys, each for one of its
fields."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers import (
    BetaGrid,
    Betas,
    BetaSchedule,
    Clip,
    DynamicThreshold,
    EDMSchedule,
    ExponentialGrid,
    FixedShift,
    FlowLevels,
    FlowSchedule,
    KarrasGrid,
    Segments,
    ShiftForm,
    TokenShift,
)
from jaxmodels.models.hf_config import ConfigError, ConfigReader, json_number


@dataclass(frozen=True)
class Keys:
    """The keys that one field of a sampler is read from and written to.

    Attributes:
        read: the field's value; absent keys mean what `diffusers` takes for them.
        write: the keys and their values.
    """

    read: Callable[[ConfigReader], Any]
    write: Callable[[Any], Mapping[str, Any]]


def flag(key: str, *, default: bool) -> Keys:
    """A key that is true or false."""
    return Keys(lambda reader: reader.flag(key, default), lambda value: {key: value})


def whole_number(key: str, default: int) -> Keys:
    """A key that counts."""
    return Keys(lambda reader: reader.take_or(key, int, default), lambda value: {key: value})


def real(key: str, default: float) -> Keys:
    """A key that is a number."""
    return Keys(lambda reader: reader.take_or(key, float, default), lambda value: {key: value})


def choice(key: str, values: Mapping[str, Any], default: str) -> Keys:
    """A key that is one of several texts, each of which means a value."""

    def read(reader: ConfigReader) -> Any:
        text = reader.take_or(key, str, default)
        if text not in values:
            raise ConfigError(
                f"{reader.name}: key {key!r} has the value {text!r}, which is not supported; supported: "
                f"{', '.join(map(repr, values))}"
            )
        return values[text]

    def write(value: Any) -> Mapping[str, Any]:
        texts = [text for text, meant in values.items() if meant == value]
        if not texts:
            raise ConfigError(f"{key!r} cannot express {value}; it can be: {', '.join(map(repr, values))}")
        return {key: texts[0]}

    return Keys(read, write)


def named(key: str, values: type[StrEnum], default: StrEnum) -> Keys:
    """A key whose texts are those of an enumeration."""
    return choice(key, {value.value: value for value in values}, default.value)


def prediction(*kinds: Prediction) -> Keys:
    """The key of what the model's output is: one of these, the first by default."""
    return choice("prediction_type", {kind.value: kind for kind in kinds}, kinds[0].value)


def betas(first: float, last: float, schedule: BetaSchedule, *schedules: BetaSchedule) -> Keys:
    """A noise schedule, with the defaults of a class and the other schedules that it knows."""
    kinds = (schedule, *schedules)
    shape = choice("beta_schedule", {kind.value: kind for kind in kinds}, schedule.value)

    def read(reader: ConfigReader) -> Betas:
        trained = reader.optional("trained_betas", list)
        count = reader.positive_or("num_train_timesteps", 1000)
        return Betas(
            schedule=shape.read(reader),
            first=reader.take_or("beta_start", float, first),
            last=reader.take_or("beta_end", float, last),
            count=count,
            trained=None if trained is None else tuple(trained),
            zero_terminal_snr=reader.flag("rescale_betas_zero_snr", False),
        )

    def write(value: Betas) -> Mapping[str, Any]:
        written = {
            "beta_start": value.first,
            "beta_end": value.last,
            "num_train_timesteps": value.count,
            "trained_betas": None if value.trained is None else list(value.trained),
            **shape.write(value.schedule),
        }
        return written | ({"rescale_betas_zero_snr": True} if value.zero_terminal_snr else {})

    return Keys(read, write)


def clip(*, default: bool) -> Keys:
    """Clean data cut at a value, or as they are."""

    def read(reader: ConfigReader) -> Clip | None:
        most = reader.take_or("clip_sample_range", float, 1.0)
        return Clip(most=most) if reader.flag("clip_sample", default) else None

    def write(value: Any) -> Mapping[str, Any]:
        if value is not None and not isinstance(value, Clip):
            raise ConfigError(f"'clip_sample' cannot express bound={value}")
        return {"clip_sample": value is not None} | (
            {} if value is None else {"clip_sample_range": value.most}
        )

    return Keys(read, write)


def threshold() -> Keys:
    """Clean data cut at a quantile, or as they are."""

    def read(reader: ConfigReader) -> DynamicThreshold | None:
        ratio = reader.take_or("dynamic_thresholding_ratio", float, 0.995)
        most = reader.take_or("sample_max_value", float, 1.0)
        return DynamicThreshold(ratio=ratio, most=most) if reader.flag("thresholding", False) else None

    def write(value: Any) -> Mapping[str, Any]:
        if value is None:
            return {"thresholding": False}
        if not isinstance(value, DynamicThreshold):
            raise ConfigError(f"'thresholding' cannot express bound={value}")
        return {
            "thresholding": True,
            "dynamic_thresholding_ratio": value.ratio,
            "sample_max_value": value.most,
        }

    return Keys(read, write)


def bound(*, clips: bool) -> Keys:
    """Clean data cut at a quantile, at a value, or as they are; clips: what is meant where no key says it."""
    quantile, value_of = threshold(), clip(default=clips)

    def read(reader: ConfigReader) -> Any:
        cut, held = value_of.read(reader), quantile.read(reader)
        return cut if held is None else held

    def write(value: Any) -> Mapping[str, Any]:
        if isinstance(value, DynamicThreshold):
            return {"clip_sample": False, **quantile.write(value)}
        return {"thresholding": False, **value_of.write(value)}

    return Keys(read, write)


_GRIDS = {
    "use_karras_sigmas": KarrasGrid,
    "use_exponential_sigmas": ExponentialGrid,
    "use_beta_sigmas": BetaGrid,
}


def grid(*, has_ends: bool) -> Keys:
    """Where noise levels lie; has_ends: whether the class knows other ends than those of its noise
    schedule."""

    def read(reader: ConfigReader) -> Any:
        chosen = [key for key in _GRIDS if reader.flag(key, False)]
        if len(chosen) > 1:
            raise ConfigError(f"{reader.name}: only one of {', '.join(map(repr, chosen))} can be true")
        ends = {}
        if has_ends:
            low, high = reader.optional("sigma_min", float), reader.optional("sigma_max", float)
            ends = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
        if ends and not chosen:
            raise ConfigError(
                f"{reader.name}: keys 'sigma_min' and 'sigma_max' are {low} and {high}, which mean something "
                f"only where one of these is true: {', '.join(map(repr, _GRIDS))}"
            )
        return _GRIDS[chosen[0]](**ends) if chosen else None

    def write(value: Any) -> Mapping[str, Any]:
        written: dict[str, Any] = {key: type(value) is kind for key, kind in _GRIDS.items()}
        if has_ends and value is not None:
            written |= {"sigma_min": value.low, "sigma_max": value.high}
        return written

    return Keys(read, write)


def flow(levels: FlowLevels, *, tokens: bool, terminal: bool) -> Keys:
    """Levels of flow matching in their own class.

    Args:
        levels: which levels the class shifts.
        tokens: whether it can shift by the number of image tokens.
        terminal: whether it can stretch levels to a last one.
    """

    def read(reader: ConfigReader) -> FlowSchedule:
        shift: Any = FixedShift(factor=reader.factor("shift", 1.0))
        if tokens:
            shift = _token_shift(reader) if reader.flag("use_dynamic_shifting", False) else shift
            reader.consume(
                "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"
            )
        return FlowSchedule(
            count=reader.positive_or("num_train_timesteps", 1000),
            shift=shift,
            levels=levels,
            terminal=(reader.optional("shift_terminal", float) or None) if terminal else None,
        )

    def write(value: FlowSchedule) -> Mapping[str, Any]:
        written: dict[str, Any] = {"num_train_timesteps": value.count}
        if isinstance(value.shift, FixedShift):
            written["shift"] = value.shift.factor
        if tokens:
            written |= _shift_keys(value.shift)
        return written | ({"shift_terminal": value.terminal} if terminal else {})

    return Keys(read, write)


def _token_shift(reader: ConfigReader) -> TokenShift:
    return TokenShift(
        low=reader.take_or("base_shift", float, 0.5),
        high=reader.take_or("max_shift", float, 1.15),
        fewest=reader.take_or("base_image_seq_len", int, 256),
        most=reader.take_or("max_image_seq_len", int, 4096),
        form=named("time_shift_type", ShiftForm, ShiftForm.EXPONENTIAL).read(reader),
    )


def _shift_keys(shift: Any) -> Mapping[str, Any]:
    if not isinstance(shift, TokenShift):
        return {"use_dynamic_shifting": False}
    return {
        "use_dynamic_shifting": True,
        "base_shift": shift.low,
        "max_shift": shift.high,
        "base_image_seq_len": shift.fewest,
        "max_image_seq_len": shift.most,
        "time_shift_type": shift.form.value,
    }


def solver_flow(levels: FlowLevels, *, terminal: bool) -> Keys:
    """Levels of flow matching in a multistep solver, None where it has those of its noise schedule."""

    def read(reader: ConfigReader) -> FlowSchedule | None:
        by_tokens, last = reader.flag("use_dynamic_shifting", False), None
        reader.expect("time_shift_type", "exponential")
        factor = reader.factor("flow_shift", 1.0)
        if terminal:
            last = reader.optional("shift_terminal", float) or None
        if not reader.flag("use_flow_sigmas", False):
            for key, given in (("use_dynamic_shifting", by_tokens), ("shift_terminal", last)):
                if given:
                    raise ConfigError(
                        f"{reader.name}: key {key!r} is {given}, which means something only where "
                        "'use_flow_sigmas' is true"
                    )
            return None
        return FlowSchedule(
            count=reader.positive_or("num_train_timesteps", 1000),
            shift=TokenShift() if by_tokens else FixedShift(factor=factor),
            levels=levels,
            terminal=last,
        )

    def write(value: FlowSchedule | None) -> Mapping[str, Any]:
        if value is None:
            return {"use_flow_sigmas": False}
        shift = value.shift
        return {
            "use_flow_sigmas": True,
            "use_dynamic_shifting": isinstance(shift, TokenShift),
            "flow_shift": shift.factor if isinstance(shift, FixedShift) else 1.0,
            **({"shift_terminal": value.terminal} if terminal else {}),
        }

    return Keys(read, write)


def least_log_snr() -> Keys:
    """The least log SNR that is visited, None for all, which is written as minus infinity."""

    def read(reader: ConfigReader) -> float | None:
        if reader.values.get("lambda_min_clipped") in (-math.inf, json_number(-math.inf)):
            reader.consume("lambda_min_clipped")
            return None
        return reader.optional("lambda_min_clipped", float)

    return Keys(read, lambda value: {} if value is None else {"lambda_min_clipped": value})


def calls(key: str) -> Keys:
    """A list of numbers of calls."""

    def read(reader: ConfigReader) -> tuple[int, ...]:
        given = reader.take_or(key, list, [])
        return tuple(whole(f"{reader.name}: each of {key!r}", call) for call in given)

    return Keys(read, lambda value: {key: list(value)})


def edm() -> Keys:
    """The noise levels of EDM."""
    grids = {"karras": KarrasGrid(), "exponential": ExponentialGrid()}

    def read(reader: ConfigReader) -> EDMSchedule:
        grid: Any = choice("sigma_schedule", grids, "karras").read(reader)
        rho = reader.factor("rho", 7.0)
        return EDMSchedule(
            low=reader.take_or("sigma_min", float, 0.002),
            high=reader.take_or("sigma_max", float, 80.0),
            data=reader.take_or("sigma_data", float, 0.5),
            grid=KarrasGrid(rho=rho) if isinstance(grid, KarrasGrid) else grid,
            count=reader.positive_or("num_train_timesteps", 1000),
        )

    def write(value: EDMSchedule) -> Mapping[str, Any]:
        written = {
            "sigma_min": value.low,
            "sigma_max": value.high,
            "sigma_data": value.data,
            "num_train_timesteps": value.count,
            "sigma_schedule": "exponential" if isinstance(value.grid, ExponentialGrid) else "karras",
        }
        return written | ({"rho": value.grid.rho} if isinstance(value.grid, KarrasGrid) else {})

    return Keys(read, write)


def segments() -> Keys:
    """How pi-Flow cuts time."""

    def read(reader: ConfigReader) -> Segments:
        return Segments(
            count=reader.positive_or("num_train_timesteps", 1000),
            shift=FixedShift(factor=reader.factor("shift", 5.0)),
            last_length=reader.factor("final_step_size_scale", 0.5),
            small_steps=reader.positive_or("num_policy_substeps", 128),
            least=reader.factor("eps", 1e-6),
        )

    def write(value: Segments) -> Mapping[str, Any]:
        return {
            "num_train_timesteps": value.count,
            "shift": value.shift.factor,
            "final_step_size_scale": value.last_length,
            "num_policy_substeps": value.small_steps,
            "eps": value.least,
        }

    return Keys(read, write)
