"""Qwen2 and Qwen2.5 (`model_type` "qwen2"): biases on q, k and v; sliding windows in the upper layers."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    attention = Attention(**dense.read_attention(reader), qkv_bias=True)
    windows = dense.layer_windows(reader, reader.positive("num_hidden_layers"))
    return dense.read_decoder(reader, [replace(attention, sliding_window=w) for w in windows], mlp_bias=False)


def write_config(config: Decoder) -> dict[str, Any]:
    return dense.write_decoder(config) | dense.write_windows(config) | {"architectures": ["Qwen2ForCausalLM"]}


FAMILY = Family(
    model_type="qwen2",
    summary="Qwen2 and Qwen2.5",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
