"""Qwen2 and Qwen2.5 (`model_type` "qwen2"): biases on q, k and v; sliding windows in the upper layers."""

from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, qwen


def read_config(reader: ConfigReader) -> Decoder:
    return qwen.read_dense(reader, qwen.read_plain_attention(reader))


def write_config(config: Decoder) -> dict[str, Any]:
    return qwen.write_dense(config) | {"architectures": ["Qwen2ForCausalLM"]}


FAMILY = Family(
    model_type="qwen2",
    summary="Qwen2 and Qwen2.5",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
