"""Granite 3 mixtures of experts (`model_type` "granitemoe"): Granite's multipliers, top-k before softmax."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, mixture


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", False)
    scale = reader.factor("attention_multiplier", 1.0)
    attention = Attention(**dense.read_attention(reader), qkv_bias=bias, out_bias=bias, scale=scale)
    experts = mixture.read_experts(reader, "intermediate_size")
    router = mixture.read_router(reader, experts, 2, renormalise=True)
    norm = dense.read_norm(reader)
    block = Block(
        mixer_norm=norm,
        mixer=attention,
        ffn_norm=norm,
        ffn=MoE(router=router, experts=experts),
        residual_scale=reader.factor("residual_multiplier", 1.0),
    )
    embed_scale = reader.factor("embedding_multiplier", 1.0)
    logit_scale = dense.reciprocal(reader.factor("logits_scaling", 1.0))
    config = dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)
    return replace(config, embed_scale=embed_scale, logit_scale=logit_scale)


def write_config(config: Decoder) -> dict[str, Any]:
    block, attention = config.blocks[0], dense.attentions(config)[0]
    layer = mixture.mixtures(config)[0]
    assert isinstance(block, Block)
    return dense.write_decoder(config) | {
        "architectures": ["GraniteMoeForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "attention_multiplier": attention.scale,
        "residual_multiplier": block.residual_scale,
        "embedding_multiplier": config.embed_scale,
        "logits_scaling": dense.reciprocal(config.logit_scale),
        "num_local_experts": layer.experts.num_experts,
        "num_experts_per_tok": layer.router.top_k,
    }


FAMILY = Family(
    model_type="granitemoe",
    summary="Granite 3 mixtures of experts",
    read_config=read_config,
    write_config=write_config,
    weights=(
        *dense.ENDS_WEIGHTS,
        *dense.PRE_NORM_WEIGHTS,
        *dense.ATTENTION_WEIGHTS,
        *mixture.GRANITE_WEIGHTS,
    ),
    unused=dense.UNUSED,
)
