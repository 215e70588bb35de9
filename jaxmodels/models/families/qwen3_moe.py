"""Qwen3 mixtures of experts (`model_type` "qwen3_moe"): Qwen3's attention, many small experts."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, mixture


def read_config(reader: ConfigReader) -> Decoder:
    bias, norm = reader.flag("attention_bias", False), dense.read_norm(reader)
    heads = dense.read_attention(reader)
    head_norm = RMSNorm(dim=heads["head_dim"], eps=norm.eps, axis=None)
    window = dense.read_window(reader)
    attention = Attention(
        **heads,
        query_norm=head_norm,
        key_norm=head_norm,
        qkv_bias=bias,
        out_bias=bias,
        sliding_window=window if reader.flag("use_sliding_window", False) else None,
    )
    experts = mixture.read_experts(reader, "moe_intermediate_size")
    reader.expect("shared_expert_intermediate_size", 0, None)
    reader.expect("use_qk_norm", True)
    router = mixture.read_router(reader, experts, 8, reader.flag("norm_topk_prob", False))
    layers = mixture.read_feed_forwards(reader, MoE(router=router, experts=experts))
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = dense.attentions(config)[0]
    written = dense.write_decoder(config) | mixture.write_qwen(config)
    written.pop("intermediate_size", None)
    return (
        written
        | mixture.write_sparse_layers(config)
        | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": attention.qkv_bias,
            "sliding_window": attention.sliding_window,
            "use_sliding_window": attention.sliding_window is not None,
            "moe_intermediate_size": mixture.mixtures(config)[0].experts.d_ff,
        }
    )


FAMILY = Family(
    model_type="qwen3_moe",
    summary="Qwen3-30B-A3B, Qwen3-235B-A22B",
    read_config=read_config,
    write_config=write_config,
    inert=("max_window_layers",),
    weights=mixture.WEIGHTS,
    unused=dense.UNUSED,
)
