"""Qwen3 dense models (`model_type` "qwen3"): per-head RMSNorm on queries and keys."""

from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, qwen


def read_config(reader: ConfigReader) -> Decoder:
    return qwen.read_dense(reader, qwen.read_normed_attention(reader, qwen.HEAD_DIM))


def write_config(config: Decoder) -> dict[str, Any]:
    return qwen.write_dense(config) | qwen.write_bias(config) | {"architectures": ["Qwen3ForCausalLM"]}


FAMILY = Family(
    model_type="qwen3",
    summary="Qwen3, dense",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
