"""DeepSeek-V2 (`model_type` "deepseek_v2"): latent attention, softmax routing, perhaps in groups."""

from typing import Any

from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, SoftmaxTopK
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import deepseek, dense, hybrid, mixture


def read_config(reader: ConfigReader) -> Decoder:
    attention, norm = deepseek.read_latent_attention(reader, "interleaved"), dense.read_norm(reader)
    experts, bias = deepseek.read_experts(reader), reader.flag("mlp_bias", False)
    layers = deepseek.read_feed_forwards(reader, _read_router(reader, experts), experts, 0, bias)
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    return dense.finish_decoder(reader, blocks, norm)


def _read_router(reader: ConfigReader, experts: GatedExperts) -> SoftmaxTopK:
    reader.expect("scoring_func", "softmax")
    reader.expect("norm_topk_prob", False)  # transformers' code does not read it
    reader.expect("topk_method", "greedy", "group_limited_greedy", None)
    in_groups = reader.values.get("topk_method") == "group_limited_greedy"
    groups, kept = deepseek.read_groups(reader, experts)
    return SoftmaxTopK(
        d_model=experts.d_model,
        num_experts=experts.num_experts,
        top_k=reader.positive("num_experts_per_tok"),
        renormalise=False,
        scale=reader.factor("routed_scaling_factor", 1.0),
        num_groups=groups if in_groups else 1,
        top_groups=kept if in_groups else 1,
    )


def write_config(config: Decoder) -> dict[str, Any]:
    router = mixture.mixtures(config)[0].router
    in_groups = isinstance(router, SoftmaxTopK) and router.num_groups > 1
    feed_forwards = [mixture.mixtures(config)[0].shared, *(block.ffn for block in config.blocks)]
    return (
        hybrid.write_decoder(config)
        | deepseek.write_latent_attention(hybrid.first_of(config, LatentAttention))
        | deepseek.write_mixture(config)
        | {
            "architectures": ["DeepseekV2ForCausalLM"],
            "mlp_bias": any(isinstance(ffn, GatedMLP) and ffn.bias for ffn in feed_forwards),
            "topk_method": "group_limited_greedy" if in_groups else "greedy",
        }
    )


FAMILY = Family(
    model_type="deepseek_v2",
    summary="DeepSeek-V2, V2-Lite",
    read_config=read_config,
    write_config=write_config,
    weights=(*deepseek.FRAME_WEIGHTS, *deepseek.LATENT_ATTENTION_WEIGHTS),
    unused=dense.UNUSED,
)
