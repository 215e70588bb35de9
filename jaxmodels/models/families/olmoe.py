"""OLMoE (`model_type` "olmoe"): norms across all heads of queries and keys, 64 experts."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, mixture, olmo


def read_config(reader: ConfigReader) -> Decoder:
    attention, clip = olmo.read_olmo_attention(reader), reader.cap("clip_qkv", None)
    attention = replace(attention, rope=dense.read_rope(reader, attention.head_dim), clip=clip)
    experts = mixture.read_experts(reader, "intermediate_size")
    router = mixture.read_router(reader, experts, 8, reader.flag("norm_topk_prob", False))
    norm = dense.read_norm(reader, default_eps=olmo.EPS)
    block = Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=MoE(router=router, experts=experts))
    return dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = dense.attentions(config)[0]
    return (
        dense.write_decoder(config)
        | mixture.write_qwen(config)
        | {
            "architectures": ["OlmoeForCausalLM"],
            "attention_bias": attention.qkv_bias,
            "clip_qkv": attention.clip,
        }
    )


FAMILY = Family(
    model_type="olmoe",
    summary="OLMoE-1B-7B",
    read_config=read_config,
    write_config=write_config,
    weights=mixture.WEIGHTS,
    unused=dense.UNUSED,
)
