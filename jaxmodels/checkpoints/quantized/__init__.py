"""Checkpoints whose weights are stored in few bits, read as if they had never been quantised.

`config.json` says by which method (`methods.py`, one file each); which weights are quantised shows in the
tensors. A weight is decoded when it is read, to the dtype that `config.json` gives the model. Models whose
weights are held in few bits are written by `writing`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.quantized.format import Format, InputsFirst, decoded
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checks import shown
from jaxmodels.models.hf_config import ConfigError

KEY = "quantization_config"
# The key under which older files of compressed-tensors have it.
_OTHER_KEY = "compression_config"

# Files that hold the settings where `config.json` does not: the method, and the key they are under, if any.
_OTHER_FILES: Mapping[str, tuple[str, str | None]] = {
    "hf_quant_config.json": ("modelopt", "quantization"),
    "quantize_config.json": ("gptq", None),
}
# Models of transformers whose layers keep inputs before outputs (`Conv1D`), and the methods that store those
# as they store all others.
_INPUTS_FIRST = ("gpt2",)
_OUTPUTS_FIRST_METHODS = ("bitsandbytes", "gptq")

_DTYPES = ("float32", "bfloat16", "float16")
_DEFAULT_DTYPE = "bfloat16"


def without_quantization(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the key that says how weights are stored.

    Raises:
        ConfigError: they are stored in a way that is not read.
    """
    format_of(values)
    return {key: value for key, value in values.items() if key not in (KEY, _OTHER_KEY)}


def dequantized(tensors: TensorReader, directory: Path, values: Mapping[str, Any]) -> TensorReader:
    """The tensors of a checkpoint, with one weight in place of the parts of each that is quantised.

    Args:
        tensors: as they are stored.
        directory: that they are in.
        values: of its ``config.json``.

    Raises:
        ConfigError: they are stored in a way that is not read.
        CheckpointError: a part of a weight is missing, or parts do not fit each other.
    """
    form = format_of(with_settings(directory, values))
    return tensors if form is None else decoded(tensors, form)


def with_settings(directory: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration with the key that says how weights are stored, from another file where it lacks it."""
    if values.get(KEY) is not None or values.get(_OTHER_KEY) is not None:
        return values
    for name, (method, key) in _OTHER_FILES.items():
        if (directory / name).is_file():
            found = read_json_object(directory / name)
            settings = found if key is None else found.get(key, {})
            return {**values, KEY: {**settings, "quant_method": method}}
    return values


def format_of(values: Mapping[str, Any]) -> Format | None:
    """How the weights of a configuration are quantised; None where they are not.

    Raises:
        ConfigError: in a way that is not read.
    """
    settings = values.get(KEY) if values.get(KEY) is not None else values.get(_OTHER_KEY)
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise ConfigError(f"key {KEY!r} must be an object with 'quant_method', got {shown(settings)}")
    from jaxmodels.checkpoints.quantized.methods import METHODS  # which other checkpoints start without

    method = _method(settings)
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(
            f"key {KEY!r}: weights quantised by quant_method {shown(method)} are not read; use a checkpoint "
            f"that is not quantised (many libraries can save one dequantised), or by one of {list(METHODS)}"
        )
    dtype = values.get("dtype") or values.get("torch_dtype")
    try:
        form = METHODS[method](settings, str(dtype) if dtype in _DTYPES else _DEFAULT_DTYPE)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"key {KEY!r}, quant_method {method!r}: {error}") from error
    turned = values.get("model_type") in _INPUTS_FIRST and method in _OUTPUTS_FIRST_METHODS
    return InputsFirst(form) if turned else form


def _method(settings: Mapping[str, Any]) -> Any:
    """The method; files from before the key `quant_method` name it otherwise."""
    if "quant_method" not in settings and (settings.get("load_in_8bit") or settings.get("load_in_4bit")):
        return "bitsandbytes"
    if "quant_method" not in settings and "config_groups" in settings:
        return "compressed-tensors"
    return settings.get("quant_method")


__all__ = ["KEY", "dequantized", "format_of", "with_settings", "without_quantization"]
