"""Granite 3 (`model_type` "granite"): Llama's shape with four multipliers."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", False)
    scale = reader.factor("attention_multiplier", 1.0)
    attention = Attention(**dense.read_attention(reader), qkv_bias=bias, out_bias=bias, scale=scale)
    norm, ffn = dense.read_norm(reader), dense.read_gated_mlp(reader, reader.flag("mlp_bias", False))
    residual = reader.factor("residual_multiplier", 1.0)
    block = Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn, residual_scale=residual)
    embed_scale = reader.factor("embedding_multiplier", 1.0)
    logit_scale = dense.reciprocal(reader.factor("logits_scaling", 1.0))
    config = dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)
    return replace(config, embed_scale=embed_scale, logit_scale=logit_scale)


def write_config(config: Decoder) -> dict[str, Any]:
    block, ffn = config.blocks[0], config.blocks[0].ffn
    attention = dense.attentions(config)[0]
    assert isinstance(block, Block) and isinstance(ffn, GatedMLP)
    return dense.write_decoder(config) | {
        "architectures": ["GraniteForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "mlp_bias": ffn.bias,
        "attention_multiplier": attention.scale,
        "residual_multiplier": block.residual_scale,
        "embedding_multiplier": config.embed_scale,
        "logits_scaling": dense.reciprocal(config.logit_scale),
    }


FAMILY = Family(
    model_type="granite",
    summary="Granite 3, dense",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
