"""Mistral (`model_type` "mistral"): Llama's shape with one sliding window for all layers."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    attention = Attention(**dense.read_attention(reader), sliding_window=dense.read_window(reader))
    return dense.read_decoder(reader, [attention] * reader.positive("num_hidden_layers"), mlp_bias=False)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = config.blocks[0].mixer
    assert isinstance(attention, Attention)
    return dense.write_decoder(config) | {
        "architectures": ["MistralForCausalLM"],
        "sliding_window": attention.sliding_window,
    }


FAMILY = Family(
    model_type="mistral",
    summary="Mistral 7B and its successors",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
