"""NVIDIA ModelOpt (https://github.com/NVIDIA/Model-Optimizer): FP8 weights, stored as in `scaled`.

The settings are in ``config.json``, or in ``hf_quant_config.json`` beside it.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checkpoints.quantized.scaled import Scaled
from jaxmodels.checks import shown
from jaxmodels.models.hf_config import ConfigError

ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
_MIXED = "MIXED_PRECISION"


def read_modelopt(settings: Mapping[str, Any], dtype: str) -> Scaled:
    """The format for a ``quantization_config``, or for the ``quantization`` of ``hf_quant_config.json``.

    Raises:
        ConfigError: weights are quantised by an algorithm that is not read.
    """
    layers = settings.get("quantized_layers")
    named = layers.values() if isinstance(layers, Mapping) else ()
    algorithms = {settings.get("quant_algo"), *(layer.get("quant_algo") for layer in named)} - {_MIXED}
    for algorithm in algorithms:
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"quant_algo {shown(algorithm)} is not read; expected one of {ALGORITHMS}")
    return Scaled((), dtype)
