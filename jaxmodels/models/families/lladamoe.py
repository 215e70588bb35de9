"""LLaDA-MoE (`model_type` "lladamoe"): Qwen3's mixtures of experts under keys of its own; all tokens see all.

Source: https://arxiv.org/abs/2509.24389 and the configuration and modeling files of
inclusionAI/LLaDA-MoE-7B-A1B-Base. The published files share the `model_type` "llada" with the dense models
and are told by their experts; tools that register classes locally call them "lladamoe".
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, filling, mixture

# That of the models' card; it is no key of their configurations.
MASK_TOKEN = 156_895


def is_lladamoe(values: Mapping[str, Any]) -> bool:
    """Whether a configuration of the dense models' `model_type` has experts."""
    keys = ("num_experts", "expert_intermediate_size")
    return values.get("model_type") == "llada" and any(key in values for key in keys)


def read_config(reader: ConfigReader) -> Decoder:
    _check_switches(reader)
    norm = dense.read_norm(reader, default_eps=1e-5)
    attention = _read_attention(reader, norm)
    layers = _read_feed_forwards(reader)
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    config = dense.finish_decoder(reader, blocks, norm)
    return replace(
        config, mask=BIDIRECTIONAL, filling=filling.read_filling(reader, config.vocab_size, MASK_TOKEN)
    )


def _check_switches(reader: ConfigReader) -> None:
    reader.take("qk_layernorm", bool)  # off where it is absent
    reader.expect("qk_layernorm", True)
    reader.expect("clip_qkv", None)
    reader.expect("moe_router_enable_expert_bias", False, None)
    reader.expect("moe_router_score_function", "softmax", None)
    reader.expect("shared_expert_intermediate_size", None)
    # The modeling file reads none of these: it takes experts' weights from the softmax as they are.
    reader.expect("norm_topk_prob", False, None)
    reader.expect("routed_scaling_factor", 1, None)
    reader.expect("router_num_group", 1, None)
    reader.expect("router_topk_group", 1, None)


def _read_attention(reader: ConfigReader, norm: RMSNorm) -> Attention:
    heads = dense.read_equal_heads(reader, "hidden_size", "num_attention_heads")
    num_kv_heads = reader.positive_or("num_key_value_heads", heads["num_heads"])
    reader.check_divides("num_key_value_heads", num_kv_heads, "num_attention_heads", heads["num_heads"])
    bias = reader.flag("attention_bias", False)
    normed = replace(norm, dim=heads["head_dim"], axis=None)
    return Attention(
        **heads | {"num_kv_heads": num_kv_heads},
        rope=dense.read_rope(reader, heads["head_dim"]),
        query_norm=normed,
        key_norm=normed,
        qkv_bias=bias,
        out_bias=bias,
    )


def _read_feed_forwards(reader: ConfigReader) -> list[MoE | GatedMLP]:
    """A mixture in the layers that `moe_layer_freq` marks by 1, a dense feed-forward in the others."""
    layers = reader.positive("num_hidden_layers")
    experts = mixture.read_experts(reader, "expert_intermediate_size")
    mixed = MoE(router=mixture.read_router(reader, experts, 8, renormalise=False), experts=experts)
    sparse = reader.pattern("moe_layer_freq", (0, 1), layers)
    if all(sparse):
        reader.consume("dense_intermediate_size")  # the size of layers that there are none of
        return [mixed] * layers
    d_ff = reader.count("dense_intermediate_size")
    if d_ff is None:
        raise ConfigError(
            f"{reader.name}: key 'dense_intermediate_size' is missing; 'moe_layer_freq' has dense layers"
        )
    plain = GatedMLP(d_model=experts.d_model, d_ff=d_ff, activation=experts.activation)
    return [mixed if is_sparse else plain for is_sparse in sparse]


def write_config(config: Decoder) -> dict[str, Any]:
    attention = dense.attentions(config)[0]
    written = dense.write_decoder(config) | mixture.write_qwen(config) | filling.write_filling(config)
    for key in ("intermediate_size", "head_dim", "norm_topk_prob"):
        written.pop(key)
    plain = [block.ffn.d_ff for block in config.blocks if isinstance(block.ffn, GatedMLP)]
    return written | {
        "model_type": "llada",
        "architectures": ["LLaDAMoEModelLM"],
        "attention_bias": attention.qkv_bias,
        "qk_layernorm": True,
        "expert_intermediate_size": mixture.mixtures(config)[0].experts.d_ff,
        "moe_layer_freq": [int(isinstance(block.ffn, MoE)) for block in config.blocks],
        **({"dense_intermediate_size": plain[0]} if plain else {}),
    }


FAMILY = Family(
    model_type="lladamoe",
    summary="LLaDA-MoE-7B-A1B",
    read_config=read_config,
    write_config=write_config,
    weights=mixture.WEIGHTS,
    unused=dense.UNUSED,
    claims=is_lladamoe,
)
