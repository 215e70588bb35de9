"""Qwen2 and Qwen2.5 (`model_type` "qwen2"): biases on q, k and v; sliding windows in the upper layers."""

from dataclasses import replace
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


def read_mimo(reader: ConfigReader) -> Decoder:
    reader.expect("attention_bias", True)
    return read_config(reader)


def write_mimo(config: Decoder) -> dict[str, Any]:
    return qwen.write_dense(config) | {"architectures": ["MiMoForCausalLM"], "attention_bias": True}


# The same layers under another `model_type`. Its module for multi-token prediction is beside the model.
MIMO = replace(FAMILY, model_type="mimo", summary="MiMo-7B", read_config=read_mimo, write_config=write_mimo)
