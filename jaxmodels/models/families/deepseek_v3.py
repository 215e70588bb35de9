"""DeepSeek-V3 and R1 (`model_type` "deepseek_v3"): latent attention, sigmoid routing in groups."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.rope import RopeStyle
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import deepseek, dense, hybrid


def read_config(reader: ConfigReader) -> Decoder:
    style: RopeStyle = "interleaved" if reader.flag("rope_interleave", True) else "half_split"
    attention, norm, experts = (
        deepseek.read_latent_attention(reader, style),
        dense.read_norm(reader),
        deepseek.read_experts(reader),
    )
    layers = deepseek.read_feed_forwards(
        reader, deepseek.read_sigmoid_router(reader, experts), experts, first_dense=3
    )
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = hybrid.first_of(config, LatentAttention)
    return (
        hybrid.write_decoder(config)
        | deepseek.write_latent_attention(attention)
        | deepseek.write_mixture(config)
        | {
            "architectures": ["DeepseekV3ForCausalLM"],
            "rope_interleave": attention.rope is None or attention.rope.style == "interleaved",
        }
    )


FAMILY = Family(
    model_type="deepseek_v3",
    summary="DeepSeek-V3, R1",
    read_config=read_config,
    write_config=write_config,
    weights=(*deepseek.FRAME_WEIGHTS, *deepseek.LATENT_ATTENTION_WEIGHTS),
    unused=dense.UNUSED,
)

# The same architecture under another `model_type`, with more experts and fewer heads.
KIMI_K2 = replace(FAMILY, model_type="kimi_k2", summary="Kimi K2")
