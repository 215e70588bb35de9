"""GLM-4.7-Flash (`model_type` "glm4_moe_lite"): DeepSeek-V3's layers, with the dense ones listed by name."""

from typing import Any

from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.rope import RopeStyle
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import deepseek, dense, hybrid

DENSE, SPARSE = "dense", "sparse"


def read_config(reader: ConfigReader) -> Decoder:
    style: RopeStyle = "interleaved" if reader.flag("rope_interleave", True) else "half_split"
    attention = deepseek.read_latent_attention(reader, style)
    norm, experts = dense.read_norm(reader, default_eps=1e-5), deepseek.read_experts(reader)
    router = deepseek.read_sigmoid_router(reader, experts)
    listed = reader.values.get("mlp_layer_types") is not None
    layers = deepseek.read_feed_forwards(reader, router, experts, first_dense=0 if listed else 1)
    default = [SPARSE if isinstance(ffn, MoE) else DENSE for ffn in layers]
    types = reader.pattern("mlp_layer_types", (DENSE, SPARSE), len(layers), default)
    kinds = dict(zip(default, layers, strict=True))
    if DENSE in types:
        kinds[DENSE] = dense.read_gated_mlp(reader)
    if SPARSE not in kinds:
        raise ConfigError(f"{reader.name}: key 'mlp_layer_types' must hold a {SPARSE!r} layer, got {types}")
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=kinds[kind]) for kind in types]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = hybrid.first_of(config, LatentAttention)
    written = deepseek.write_mixture(config)
    del written["first_k_dense_replace"]
    return (
        hybrid.write_decoder(config)
        | deepseek.write_latent_attention(attention)
        | written
        | {
            "architectures": ["Glm4MoeLiteForCausalLM"],
            "rope_interleave": attention.rope is None or attention.rope.style == "interleaved",
            "mlp_layer_types": ["sparse" if isinstance(b.ffn, MoE) else "dense" for b in config.blocks],
        }
    )


FAMILY = Family(
    model_type="glm4_moe_lite",
    summary="GLM-4.7-Flash",
    read_config=read_config,
    write_config=write_config,
    weights=(*deepseek.FRAME_WEIGHTS, *deepseek.LATENT_ATTENTION_WEIGHTS),
    unused=dense.UNUSED,
)
