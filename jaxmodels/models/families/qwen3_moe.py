"""Qwen3 mixtures of experts (`model_type` "qwen3_moe"): Qwen3's attention, many small experts."""

from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.readers import dense, mixture, qwen


def write_config(config: Decoder) -> dict[str, Any]:
    return qwen.write_mixture(config) | {"architectures": ["Qwen3MoeForCausalLM"]}


FAMILY = Family(
    model_type="qwen3_moe",
    summary="Qwen3-30B-A3B, Qwen3-235B-A22B",
    read_config=qwen.read_mixture,
    write_config=write_config,
    inert=("max_window_layers",),
    weights=mixture.WEIGHTS,
    unused=dense.UNUSED,
)
