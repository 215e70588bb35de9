"""LLaDA2.0 and 2.1 (`model_type` "llada2_moe"): DeepSeek-V3's mixtures of experts behind partly rotated
attention; tokens see their block of 32 and all earlier ones.

Source: https://arxiv.org/abs/2512.15745 and the configuration and modeling files of
inclusionAI/LLaDA2.0-mini. The published configurations hold neither the length of a block nor the mask token;
their defaults here are those of the models' generate method.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SigmoidTopK
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import deepseek, dense, filling, hybrid, mixture

MASK_TOKEN, BLOCK = 156_895, 32
OFF = (
    "norm_head", "norm_softmax", "use_bias", "use_sliding_window", "using_split_qkv_in_self_attention",
)  # fmt: skip

QKV = "model.layers.{i}.attention.query_key_value"
ATTENTION_WEIGHTS = (
    Weight("blocks/{i}/mixer/w_q", f"{QKV}.weight", "(n h) d -> n h d"),
    Weight("blocks/{i}/mixer/w_k", f"{QKV}.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_v", f"{QKV}.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/b_q", f"{QKV}.bias", "(n h) -> n h"),
    Weight("blocks/{i}/mixer/b_k", f"{QKV}.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/b_v", f"{QKV}.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/w_o", "model.layers.{i}.attention.dense.weight", "d (n h) -> d n h"),
    Weight("blocks/{i}/mixer/query_norm/scale", "model.layers.{i}.attention.query_layernorm.weight"),
    Weight("blocks/{i}/mixer/key_norm/scale", "model.layers.{i}.attention.key_layernorm.weight"),
)
FRAME_WEIGHTS = dense.replace_rows(
    deepseek.FRAME_WEIGHTS,
    (
        Weight("embed/weight", "model.word_embeddings.weight"),
        Weight("blocks/{i}/ffn/router/selection_bias", "model.layers.{i}.mlp.gate.expert_bias"),
    ),
)


def read_config(reader: ConfigReader) -> Decoder:
    _check_switches(reader)
    norm = dense.read_norm(reader, default_eps=1e-5)
    attention, layers = _read_attention(reader, norm), _read_feed_forwards(reader)
    blocks = [Block(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn) for ffn in layers]
    config = dense.finish_decoder(reader, blocks, norm)
    return replace(
        config,
        mask=filling.read_block_causal(reader, BLOCK),
        filling=filling.read_filling(reader, config.vocab_size, MASK_TOKEN),
    )


def _check_switches(reader: ConfigReader) -> None:
    for key in OFF:
        reader.expect(key, False)
    reader.expect("use_rmsnorm", True)
    reader.expect("moe_router_enable_expert_bias", True)
    reader.expect("score_function", "sigmoid")
    reader.expect("norm_topk_prob", True)
    reader.consume("sliding_window")  # of no meaning where it is not in use


def _read_attention(reader: ConfigReader, norm: RMSNorm) -> Attention:
    heads = dense.read_heads(reader)
    rope = dense.read_partial_rope(reader, heads["head_dim"], default_factor=0.5)
    reader.expect_same("rotary_dim", "head_dim * partial_rotary_factor", rope.rotary_dim)
    normed = replace(norm, dim=heads["head_dim"], axis=None) if reader.flag("use_qk_norm", True) else None
    return Attention(
        **heads,
        rope=rope,
        query_norm=normed,
        key_norm=normed,
        qkv_bias=reader.flag("use_qkv_bias", False),
    )


def _read_feed_forwards(reader: ConfigReader) -> list[GatedMLP | MoE]:
    experts = mixture.read_experts(reader, "moe_intermediate_size")
    for key in ("n_group", "topk_group"):
        reader.positive(key)  # a file without them would still have groups
    groups, kept = deepseek.read_groups(reader, experts, "num_experts")
    top_k = reader.positive_or("num_experts_per_tok", 2)
    router = SigmoidTopK(
        d_model=experts.d_model,
        num_experts=experts.num_experts,
        top_k=top_k,
        renormalise=top_k > 1,  # as in the modeling file, which does not read `norm_topk_prob`
        scale=reader.factor("routed_scaling_factor", 2.5),
        num_groups=groups,
        top_groups=kept,
    )
    shared = reader.take_or("num_shared_experts", int, 0)
    mixed = MoE(router=router, experts=experts, shared=_shared(experts, shared) if shared else None)
    return deepseek.dense_first(reader, mixed, first_dense=0)


def _shared(experts: GatedExperts, count: int) -> GatedMLP:
    """One feed-forward as wide as `count` experts."""
    return GatedMLP(d_model=experts.d_model, d_ff=count * experts.d_ff, activation=experts.activation)


def write_config(config: Decoder) -> dict[str, Any]:
    attention, layer = hybrid.first_of(config, Attention), hybrid.first_of(config, MoE)
    router, experts, shared = layer.router, layer.experts, layer.shared
    if not isinstance(router, SigmoidTopK) or not isinstance(experts, GatedExperts):
        raise ConfigError(f"the 'llada2_moe' layout holds sigmoid routers and gated experts, not {layer}")
    written = hybrid.write_decoder(config) | hybrid.write_attention(attention)
    written.pop("attention_bias")
    plain = [block.ffn for block in config.blocks if isinstance(block.ffn, GatedMLP)]
    return {
        **written,
        **filling.write_filling(config),
        **filling.write_block_causal(config),
        "architectures": ["LLaDA2MoeModelLM"],
        "hidden_act": experts.activation,
        "use_bias": False,
        "use_qkv_bias": attention.qkv_bias,
        "use_qk_norm": attention.query_norm is not None,
        "first_k_dense_replace": len(plain),
        **({"intermediate_size": plain[0].d_ff} if plain else {}),
        "moe_intermediate_size": experts.d_ff,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": router.top_k,
        "num_shared_experts": 0 if shared is None else shared.d_ff // experts.d_ff,
        "moe_router_enable_expert_bias": True,
        **deepseek.write_router(router),
        "norm_topk_prob": True,
    }


FAMILY = Family(
    model_type="llada2_moe",
    summary="LLaDA2.0 and 2.1, mini and flash",
    read_config=read_config,
    write_config=write_config,
    inert=("max_window_layers", "output_dropout", "router_dtype"),
    weights=(*FRAME_WEIGHTS, *ATTENTION_WEIGHTS),
    unused=dense.UNUSED,
)
