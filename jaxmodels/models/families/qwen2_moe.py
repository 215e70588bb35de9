"""Qwen1.5-MoE and Qwen2-57B-A14B (`model_type` "qwen2_moe"): a shared expert behind a gate."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, mixture


def _windows(reader: ConfigReader, layers: int) -> list[int | None]:
    """Each layer's sliding window; without `use_sliding_window` checkpoints carry a window of 0."""
    window = reader.nullable("sliding_window", int, dense.DEFAULT_WINDOW) or None
    last = reader.take_or("max_window_layers", int, 28)
    slides = reader.flag("use_sliding_window", False)
    default = [dense.SLIDING if slides and i % 2 == 0 and i < last else dense.FULL for i in range(layers)]
    return dense.windows_of(dense.read_layer_types(reader, default), window if slides else None)


def read_config(reader: ConfigReader) -> Decoder:
    attention = Attention(**dense.read_attention(reader), qkv_bias=reader.flag("qkv_bias", True))
    windows = _windows(reader, reader.positive("num_hidden_layers"))
    experts = mixture.read_experts(reader, "moe_intermediate_size")
    shared = GatedMLP(
        d_model=experts.d_model,
        d_ff=reader.positive("shared_expert_intermediate_size"),
        activation=experts.activation,
    )
    router = mixture.read_router(reader, experts, 4, reader.flag("norm_topk_prob", False))
    layer = MoE(router=router, experts=experts, shared=shared, shared_gate=True)
    norm = dense.read_norm(reader)
    blocks = [
        Block(mixer_norm=norm, mixer=replace(attention, sliding_window=window), ffn_norm=norm, ffn=ffn)
        for window, ffn in zip(windows, mixture.read_feed_forwards(reader, layer), strict=True)
    ]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    layer = mixture.mixtures(config)[0]
    written = dense.write_decoder(config) | dense.write_windows(config) | mixture.write_qwen(config)
    written.pop("intermediate_size", None)
    return (
        written
        | mixture.write_sparse_layers(config)
        | {
            "architectures": ["Qwen2MoeForCausalLM"],
            "qkv_bias": dense.attentions(config)[0].qkv_bias,
            "moe_intermediate_size": layer.experts.d_ff,
            "shared_expert_intermediate_size": 0 if layer.shared is None else layer.shared.d_ff,
        }
    )


FAMILY = Family(
    model_type="qwen2_moe",
    summary="Qwen1.5-MoE and Qwen2-57B-A14B",
    read_config=read_config,
    write_config=write_config,
    weights=(*mixture.WEIGHTS, *mixture.SHARED_EXPERT_WEIGHTS),
    unused=dense.UNUSED,
)
