"""Llama 1-3 (`model_type` "llama"): pre-norm, grouped-query attention, gated feed-forward."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", False)
    attention = Attention(**dense.read_attention(reader), qkv_bias=bias, out_bias=bias)
    layers = reader.positive("num_hidden_layers")
    return dense.read_decoder(reader, [attention] * layers, mlp_bias=reader.flag("mlp_bias", False))


def write_config(config: Decoder) -> dict[str, Any]:
    attention, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(attention, Attention) and isinstance(ffn, GatedMLP)
    return dense.write_decoder(config) | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "mlp_bias": ffn.bias,
    }


FAMILY = Family(
    model_type="llama",
    summary="Llama 1-3 and the many models of its shape",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
