"""Qwen3 dense models (`model_type` "qwen3"): per-head RMSNorm on queries and keys."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", False)
    shared = dense.read_attention(reader, default_head_dim=128)
    norm = RMSNorm(dim=shared["head_dim"], eps=reader.epsilon("rms_norm_eps", 1e-6), axis=None)
    attention = Attention(**shared, query_norm=norm, key_norm=norm, qkv_bias=bias, out_bias=bias)
    windows = dense.layer_windows(reader, reader.positive("num_hidden_layers"))
    return dense.read_decoder(reader, [replace(attention, sliding_window=w) for w in windows], mlp_bias=False)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = config.blocks[0].mixer
    assert isinstance(attention, Attention)
    return (
        dense.write_decoder(config)
        | dense.write_windows(config)
        | {"architectures": ["Qwen3ForCausalLM"], "attention_bias": attention.qkv_bias}
    )


FAMILY = Family(
    model_type="qwen3",
    summary="Qwen3, dense",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
