"""GLM-4.5 and 4.6 (`model_type` "glm4_moe"): partly rotated attention, DeepSeek-V3's mixtures of experts."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import deepseek, dense, hybrid


def read_config(reader: ConfigReader) -> Decoder:
    norm = dense.read_norm(reader, default_eps=1e-5)
    attention = hybrid.read_attention(reader, default_partial_rotary_factor=0.5)
    head_norm = RMSNorm(dim=attention.head_dim, eps=norm.eps, axis=None)
    normed = head_norm if reader.flag("use_qk_norm", False) else None
    attention = replace(attention, query_norm=normed, key_norm=normed, out_bias=False)
    experts = deepseek.read_experts(reader)
    router = deepseek.read_sigmoid_router(reader, experts)
    layers = deepseek.read_feed_forwards(reader, router, experts, first_dense=1)
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = hybrid.first_of(config, Attention)
    return (
        hybrid.write_decoder(config)
        | hybrid.write_attention(attention)
        | deepseek.write_mixture(config)
        | {"architectures": ["Glm4MoeForCausalLM"], "use_qk_norm": attention.query_norm is not None}
    )


FAMILY = Family(
    model_type="glm4_moe",
    summary="GLM-4.5, 4.6",
    read_config=read_config,
    write_config=write_config,
    weights=(*deepseek.FRAME_WEIGHTS, *dense.ATTENTION_WEIGHTS),
    unused=dense.UNUSED,
)
